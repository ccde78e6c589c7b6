"""The torch engines: each runs a task through the steps of `torchref.step`."""

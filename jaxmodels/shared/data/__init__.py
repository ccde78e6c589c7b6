"""Data sets as numpy, framework-free: see `images`, `reviews`, `text` and `series`."""

"""Data sets as numpy, framework-free: loaded and split by `images`, `reviews` and `text`."""

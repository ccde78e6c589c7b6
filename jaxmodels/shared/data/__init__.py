"""Data sets as numpy, framework-free: `images` loads and splits, `batches` orders and augments."""

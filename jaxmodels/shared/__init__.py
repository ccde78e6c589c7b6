"""Everything both frameworks share: configs, tasks, data, weights, metrics, reports.

Nothing below this package imports jax or torch, so either side runs without the other.
"""

"""Every figure and page that a run, a forecast or an inspection leaves."""

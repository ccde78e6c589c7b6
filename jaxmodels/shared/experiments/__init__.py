"""Many trainings at once: studies, searches, cross-validation, and tables of runs."""

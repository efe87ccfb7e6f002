"""Whole runs: the demo, the validation, an evaluation, and what starts the real program."""

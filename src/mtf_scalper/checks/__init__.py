"""Checks of a run and of a machine: facts, what is expected of them, and verdicts."""

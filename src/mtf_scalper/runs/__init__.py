"""Whole runs of the unmodified freqtrade program: the demo and the validation."""

"""Run records: the folder that every run leaves, written while it runs and read by others."""

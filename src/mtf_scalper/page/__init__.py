"""The page of a run: what its record says, as one HTML file, or live while the run works."""

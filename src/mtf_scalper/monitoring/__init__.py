"""What a run used and whether it did what it claims: process samples and checks."""

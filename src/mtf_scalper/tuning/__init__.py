"""The search over settings: its space, its trials, the study that keeps them, and what they say."""

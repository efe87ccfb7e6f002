"""What a policy's trades are worth: baselines under the same rules, and the report."""

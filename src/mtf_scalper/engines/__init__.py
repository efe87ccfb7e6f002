"""What runs many independent tasks: processes of this machine, or a cluster."""

"""Walk-forward: windows learned one after the other, whose policies trade in turn."""

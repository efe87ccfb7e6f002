"""The simulated account: rules of a trade, step rewards and the reference environment."""

"""Markets: validated arrays, features, classic signals and synthetic candles."""

"""Markets that are made up: candles with and without something to learn, and files of them."""

"""The faces that freqtrade loads; the only code here that imports freqtrade."""

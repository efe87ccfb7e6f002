"""The faces that freqtrade loads, and what translates between freqtrade and the rest."""

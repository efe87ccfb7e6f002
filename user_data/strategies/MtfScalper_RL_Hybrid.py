"""Face of the hybrid strategy for ``--strategy MtfScalper_RL_Hybrid``."""

from mtf_scalper.freqai.strategy import HybridStrategy


class MtfScalper_RL_Hybrid(HybridStrategy):  # noqa: N801 - the name on the command line
    """freqtrade finds a class only where its module is the file; change attributes here."""

"""Face of the model for ``--freqaimodel MtfScalperRLModel``."""

from mtf_scalper.freqai import model


class MtfScalperRLModel(model.MtfScalperRLModel):
    """freqtrade finds a class only where its module is the file."""

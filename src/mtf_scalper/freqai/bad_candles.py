"""Candles that no exchange can have traded, such as one with a price of zero, in a running bot.

freqtrade 2026.9 takes them as they come, and keeps the lowest low that was told of a candle even
where the exchange corrects it. One would end the analysis of its pair for as long as indicators
look back on it, more than a week of 5m, and its trainings for as long as a window holds it. So
there is no opinion on such a candle while it is the last one; afterwards it counts as missing, and
has the flat candle in its place that freqtrade puts there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pandas as pd
from freqtrade.data.dataprovider import DataProvider

from mtf_scalper.market.candles import flatten_bad_candles

logger = logging.getLogger(__name__)


class BadCandles:
    """Flattens bad candles, and tells each once."""

    def __init__(self) -> None:
        self._told: dict[str, pd.Timestamp] = {}

    def flatten(self, candles: pd.DataFrame, pair: str) -> pd.DataFrame:
        """Return the candles that a bot is about to analyse; a bad last one stays as it is.

        Parameters
        ----------
        candles : DataFrame
        pair : str
        """
        flat = candles.copy()
        dates = flatten_bad_candles(flat, but_last=True)
        if not len(dates):
            return candles
        if self._told.get(pair) != dates[-1]:
            self._told[pair] = dates[-1]
            logger.warning(
                "%s: candles with prices that no market can have count as missing, up to now %d; "
                "the last one is that of %s",
                pair,
                len(dates),
                f"{dates[-1]:%Y-%m-%d %H:%M}",
            )
        return flat


def flatten_others(provider: DataProvider, others: Iterable[tuple[str, str]]) -> None:
    """Flatten bad candles of other pairs and timeframes where freqtrade keeps them.

    Whoever asks for them gets a copy of these: features, and the classic rule.

    Parameters
    ----------
    provider : DataProvider
    others : iterable of (pair, timeframe)
    """
    for pair, timeframe in others:
        kept = provider.ohlcv(pair, timeframe, copy=False)
        if len(kept):
            flatten_bad_candles(kept)

"""What is evaluated: settings and rules of a configuration and its strategy, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mtf_scalper.market.candles import BASE_TIMEFRAME, timeframe_delta
from mtf_scalper.market.signals import EntryThresholds
from mtf_scalper.market.stored import FEE_RATE
from mtf_scalper.market.terms import PairTerms
from mtf_scalper.market.timeframes import SETTLED_CANDLES, entry_timeframes, warmup_candles
from mtf_scalper.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what is learned and traded, the candles aside.

    Attributes
    ----------
    settings : Settings
        With the rules of a trade; ``validation_share`` is the part of a window that chooses the
        weights.
    pairs : tuple of str
    thresholds : EntryThresholds
        Of the classic entries.
    max_leverage : float
    fee_rate : float
        Per side.
    timeframes : tuple of str
    periods : tuple of int
        FreqAI's ``include_timeframes`` and ``indicator_periods_candles``.
    timeframe : str
        The base, which is traded.
    startup_candles : int or None
        freqtrade's ``startup_candle_count``; by default as many as indicators need.
    terms : callable, optional
        From a pair to what the exchange asks of whoever trades it.
    data_format : str or None
        freqtrade's ``dataformat_ohlcv``; None for that of the files which there are.
    made_by : mapping
        What models depend on besides the settings, see ``freqai.config.made_by``; empty where
        there is no strategy.
    """

    settings: Settings
    pairs: tuple[str, ...]
    thresholds: EntryThresholds = field(default_factory=EntryThresholds)
    max_leverage: float = 3.0
    fee_rate: float = FEE_RATE
    timeframes: tuple[str, ...] = ("5m", "15m", "1h")
    periods: tuple[int, ...] = (10, 20)
    timeframe: str = BASE_TIMEFRAME
    startup_candles: int | None = None
    terms: Callable[[str], PairTerms] | None = None
    data_format: str | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def longest_trade(self) -> int:
        """Candles from a decision to the last open that its trade may be closed at.

        A day where the rules set no limit.
        """
        longest = self.settings.rules.max_trade_duration_candles
        a_day = pd.Timedelta(days=1) // self.candle
        return max(a_day, 1) if longest is None else longest + 1

    @property
    def candle(self) -> pd.Timedelta:
        """Duration of one candle of the base."""
        return timeframe_delta(self.timeframe)

    @property
    def warmup(self) -> pd.Timedelta:
        """Time before a training's first candle in which indicators of any timeframe settle."""
        entry = entry_timeframes(self.timeframe, self.timeframes)
        candles = warmup_candles(entry) if self.startup_candles is None else self.startup_candles
        longest = max(map(timeframe_delta, (*entry, *self.timeframes)))
        return max(candles * self.candle, (SETTLED_CANDLES + 1) * longest)

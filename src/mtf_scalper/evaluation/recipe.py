"""What is evaluated: settings and rules of a configuration and its strategy, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mtf_scalper.market.recorded import FEE_RATE
from mtf_scalper.market.signals import EntryThresholds
from mtf_scalper.market.terms import PairTerms
from mtf_scalper.settings import Settings

__all__ = ["Recipe"]


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
    exit_threshold : float
        Probability from which an exit is taken.
    fee_rate : float
        Per side.
    timeframes : tuple of str
    periods : tuple of int
        FreqAI's ``include_timeframes`` and ``indicator_periods_candles``.
    terms : callable, optional
        From a pair to what the exchange asks of whoever trades it.
    data_format : str or None
        freqtrade's ``dataformat_ohlcv``; None for that of the files which there are.
    """

    settings: Settings
    pairs: tuple[str, ...]
    thresholds: EntryThresholds = field(default_factory=EntryThresholds)
    max_leverage: float = 3.0
    exit_threshold: float = 0.5
    fee_rate: float = FEE_RATE
    timeframes: tuple[str, ...] = ("5m", "15m", "1h")
    periods: tuple[int, ...] = (10, 20)
    terms: Callable[[str], PairTerms] | None = None
    data_format: str | None = None

    @property
    def longest_trade(self) -> int:
        """Candles from a decision to the last open that its trade may be closed at.

        A day where the rules set no limit.
        """
        longest = self.settings.rules.max_trade_duration_candles
        return 288 if longest is None else longest + 1

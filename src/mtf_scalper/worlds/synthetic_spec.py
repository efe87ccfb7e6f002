"""All that decides a synthetic market, apart from the dates."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from decimal import Decimal

from mtf_scalper.errors import SettingsError

_PAIR = re.compile(r"[A-Z0-9]+/[A-Z0-9]+:[A-Z0-9]+")


def _require(valid: bool, key: str, value: object, rule: str) -> None:
    if not valid:
        raise SettingsError(f"{key}: {value} must be {rule}")


@dataclass(frozen=True, kw_only=True)
class PairSpec:
    """What sets one pair apart.

    Attributes
    ----------
    pair : str
        Name as ccxt spells a linear future: ``BASE/QUOTE:SETTLE``.
    start_price : float
        Open of the first candle, in quote currency.
    tick_size : float
        Price step in quote currency.
    candle_volume : float
        Typical volume of a 5m candle, in base currency.
    relative_volatility : float
        Volatility as a multiple of `SyntheticSpec.volatility`.

    Raises
    ------
    SettingsError
        A value is out of range; the message names it.
    """

    pair: str
    start_price: float
    tick_size: float
    candle_volume: float
    relative_volatility: float = 1.0

    def __post_init__(self) -> None:
        if not _PAIR.fullmatch(self.pair):
            raise SettingsError(f"pair: {self.pair!r} is not a future like 'BTC/USDT:USDT'")
        for key in ("start_price", "tick_size", "candle_volume", "relative_volatility"):
            _require(getattr(self, key) > 0, f"{self.pair} {key}", getattr(self, key), "above 0")
        _require(
            self.start_price >= 1000 * self.tick_size,
            f"{self.pair} tick_size",
            self.tick_size,
            "at most a thousandth of start_price",
        )


_BTC = PairSpec(pair="BTC/USDT:USDT", start_price=60_000.0, tick_size=0.1, candle_volume=900.0)
_ETH = PairSpec(
    pair="ETH/USDT:USDT",
    start_price=2_500.0,
    tick_size=0.01,
    candle_volume=12_000.0,
    relative_volatility=1.2,
)


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """All that decides a synthetic market, apart from the dates.

    Attributes
    ----------
    seed : int
        Not negative. Two markets differ in every random draw when seed, pair or start differ.
    pairs : tuple of PairSpec
        Pairs that a data directory is written for.
    signal_strength : float
        Expected return of a candle inside a leg, in units of its volatility, 0 to 1. 0 leaves
        nothing to predict; see the module for what the signal is.
    leg_hours : float
        Mean life of a leg or of a sideways stretch.
    trend_share : float
        Share of time spent in legs, 0 to 1; the rest is sideways.
    volatility : float
        Root mean square of the log return of one 5m candle without jumps and drift, at
        ``relative_volatility`` 1.
    volatility_clustering : float
        Standard deviation of the log of the volatility around its daily pattern.
    daily_seasonality : float
        Amplitude of the daily pattern of the log volatility (peak at 14:30 UTC).
    jump_probability : float
        Probability that a candle holds a jump.
    jump_scale : float
        Standard deviation of a jump in units of the candle's volatility.
    market_correlation : float
        Correlation between the noise of any two pairs, 0 to 1.

    Raises
    ------
    SettingsError
        A value is out of range; the message names it.
    """

    seed: int = 42
    pairs: tuple[PairSpec, ...] = (_BTC, _ETH)
    signal_strength: float = 0.25
    leg_hours: float = 6.0
    trend_share: float = 0.75
    volatility: float = 0.0013
    volatility_clustering: float = 0.5
    daily_seasonality: float = 0.3
    jump_probability: float = 0.002
    jump_scale: float = 4.0
    market_correlation: float = 0.6

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        names = [each.pair for each in self.pairs]
        _require(bool(names), "pairs", names, "at least one pair")
        _require(len(set(names)) == len(names), "pairs", names, "without repetition")
        for key in ("signal_strength", "trend_share", "jump_probability", "market_correlation"):
            _require(0 <= getattr(self, key) <= 1, key, getattr(self, key), "between 0 and 1")
        _require(self.leg_hours >= 0.5, "leg_hours", self.leg_hours, "0.5 or more")
        _require(0 < self.volatility <= 0.05, "volatility", self.volatility, "in (0, 0.05]")
        for key in ("volatility_clustering", "daily_seasonality"):
            _require(0 <= getattr(self, key) <= 1.5, key, getattr(self, key), "between 0 and 1.5")
        _require(0 <= self.jump_scale <= 20, "jump_scale", self.jump_scale, "between 0 and 20")

    def for_pair(self, pair: str) -> PairSpec:
        """Return the entry of ``pair`` in ``pairs``, or what `pair_spec` derives from its name."""
        return next((each for each in self.pairs if each.pair == pair), None) or pair_spec(pair)


def pair_spec(pair: str) -> PairSpec:
    """Return the known spec of BTC and ETH, or one derived from the name of any other pair.

    Derived prices lie between 0.1 and 500, with a tick of five to six significant digits and
    about 15 million quote units traded per candle.

    Raises
    ------
    SettingsError
        The name is not of the form ``BASE/QUOTE:SETTLE``.
    """
    for known in (_BTC, _ETH):
        if known.pair == pair:
            return known
    share = int.from_bytes(hashlib.sha256(pair.encode()).digest()[:4], "big") / 2**32
    digits = 5 - math.floor(math.log10(0.1 * 5000**share))
    start_price = round(0.1 * 5000**share, digits)
    return PairSpec(
        pair=pair,
        start_price=start_price,
        tick_size=float(Decimal(1).scaleb(-digits)),
        candle_volume=15e6 / start_price,
        relative_volatility=1.6,
    )

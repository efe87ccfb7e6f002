"""Which timeframes the classic rule looks at, and how many candles have to come before a decision.

The shortest timeframe is the base: what is traded, one row per candle. The classic rule looks at it
and at two longer ones. freqtrade loads as many candles before the first decision as the strategy's
``startup_candle_count`` says, of *every* timeframe of FreqAI's ``include_timeframes`` that many of
its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import pandas as pd

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.candles import timeframe_delta

SETTLED_CANDLES: Final = 200
"""Candles after which EMA21, RSI14, ATR14 and ADX14 have forgotten where their candles began.

ADX forgets slowest: it smooths twice, each time keeping 13/14 of what it was, so that a candle 200
back weighs less than 200 * (13/14)**200 = 7e-5 of one. Measured on BTC and SOL: within 0.001.
"""

SETTLED_BASE_CANDLES: Final = 1600
"""The same for EMA200 of the base: (199/201)**1400 = 8e-7 of the error that it begins with."""

MOST_STARTUP_CANDLES: Final = 2494
"""freqtrade asks an exchange five times at most; Binance's futures give 499 candles a time, one of
them unfinished."""

_COMMON: Final = ("15m", "1h", "4h", "1d")
_KEY: Final = "freqai.feature_parameters.include_timeframes"


def entry_timeframes(base: str, included: Iterable[str] | None = None) -> tuple[str, str, str]:
    """Return the base and the two longer timeframes that the classic rule looks at.

    They are the two shortest of `included` that are longer than the base. Where there are fewer,
    the shortest of 15m, 1h, 4h and 1d that fit take their place.

    Parameters
    ----------
    base
        The strategy's timeframe.
    included
        FreqAI's ``include_timeframes``; nothing is known of them where it is left out.

    Raises
    ------
    SettingsError
        Names the key: if one of them is no multiple of the base, if there are not two, or if one
        that takes a missing one's place would need more candles of the base than can be had.
    """
    base_delta = _delta(base, "timeframe")
    named = list(dict.fromkeys(each for each in included or () if each != base))
    longer = sorted(named, key=_length)[:2]
    for timeframe in longer:
        _check_multiple(timeframe, base)
    for timeframe in _COMMON:
        delta = timeframe_delta(timeframe)
        fits = delta > base_delta and delta % base_delta == pd.Timedelta(0)
        if len(longer) < 2 and fits and timeframe not in longer:
            _check_affordable(timeframe, base, included)
            longer.append(timeframe)
    if len(longer) < 2:
        raise SettingsError(
            f"{_KEY}: {list(included or ())} has fewer than two timeframes above the base "
            f"{base!r}, which the classic rule looks at; add two, or choose a shorter 'timeframe'"
        )
    first, second = sorted(longer, key=_length)
    return base, first, second


def warmup_candles(timeframes: Sequence[str]) -> int:
    """Return the base candles after which all indicators are those of the full history to 0.005.

    Longer candles are made from the base's, so there have to be enough of those for the longest
    timeframe, one more because the first may be a part. Where that is more than an exchange gives
    at once, only the base's own indicators are counted: the longer timeframes then begin with
    candles of their own, of which freqtrade loads as many.

    Parameters
    ----------
    timeframes
        Of :func:`entry_timeframes`; the first is the base.
    """
    longest = max(candles_per(timeframe, timeframes[0]) for timeframe in timeframes)
    whole = (SETTLED_CANDLES + 1) * longest
    return max(whole, SETTLED_BASE_CANDLES) if _can_be_had(whole) else SETTLED_BASE_CANDLES


def check_multiples(base: str, included: Iterable[str]) -> None:
    """Refuse timeframes that cannot be made from candles of the base.

    Raises
    ------
    SettingsError
        Names the key and the timeframe.
    """
    _delta(base, "timeframe")
    for timeframe in included:
        _check_multiple(timeframe, base)


def candles_per(timeframe: str, base: str) -> int:
    """Return the candles of the base in one of a longer timeframe."""
    return int(timeframe_delta(timeframe) // timeframe_delta(base))


def _can_be_had(candles: int) -> bool:
    return candles <= MOST_STARTUP_CANDLES


def _check_affordable(timeframe: str, base: str, included: Iterable[str] | None) -> None:
    needed = (SETTLED_CANDLES + 1) * candles_per(timeframe, base)
    if included is not None and not _can_be_had(needed):
        raise SettingsError(
            f"{_KEY}: {list(included)} has fewer than two timeframes above the base {base!r}, and "
            f"{timeframe!r} would need {needed} candles of {base!r}; add {timeframe!r} to it"
        )


def _check_multiple(timeframe: str, base: str) -> None:
    delta = _delta(timeframe, _KEY)
    if delta % timeframe_delta(base) != pd.Timedelta(0) or delta < timeframe_delta(base):
        raise SettingsError(f"{_KEY}: {timeframe!r} is not a multiple of the timeframe {base!r}")


def _delta(timeframe: str, key: str) -> pd.Timedelta:
    try:
        return timeframe_delta(timeframe)
    except ValueError:
        raise SettingsError(
            f"{key}: {timeframe!r} is not a whole number of minutes, hours or days"
        ) from None


def _length(timeframe: str) -> float:
    """Return the length in seconds; weeks and months are longer than all others."""
    try:
        return timeframe_delta(timeframe).total_seconds()
    except ValueError:
        return math.inf

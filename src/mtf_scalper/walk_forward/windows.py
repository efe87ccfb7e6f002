"""Rolling windows, as FreqAI makes them: a month to learn on, the week after it to trade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.candles import BASE_TIMEFRAME, timeframe_delta


@dataclass(frozen=True)
class Window:
    """Candles to learn on, then candles to trade; all ends are exclusive and in UTC.

    Attributes
    ----------
    train_from, train_to : Timestamp
        Between ``train_to`` and ``test_from`` lies the embargo.
    test_from, test_to : Timestamp
    """

    train_from: pd.Timestamp
    train_to: pd.Timestamp
    test_from: pd.Timestamp
    test_to: pd.Timestamp

    @property
    def name(self) -> str:
        """First day of the test, ``YYYYMMDD``."""
        return f"{self.test_from:%Y%m%d}"


def parse_timerange(timerange: str) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the two days of ``YYYYMMDD-YYYYMMDD``, UTC.

    Raises
    ------
    SettingsError
        If it is written otherwise, or ends before it begins.
    """
    parts = timerange.split("-")
    if len(parts) != 2 or not all(len(part) == 8 and part.isdigit() for part in parts):
        raise SettingsError(f"timerange {timerange!r} is not of the form 20241001-20250101")
    try:
        start, stop = (pd.Timestamp(f"{p[:4]}-{p[4:6]}-{p[6:]}", tz="UTC") for p in parts)
    except ValueError:
        raise SettingsError(f"timerange {timerange!r}: there is no such day") from None
    if stop <= start:
        raise SettingsError(f"timerange {timerange!r} ends before it begins")
    return start, stop


def rolling_windows(
    start: pd.Timestamp,
    stop: pd.Timestamp,
    *,
    train_days: int,
    test_days: int,
    embargo_candles: int = 0,
    timeframe: str = BASE_TIMEFRAME,
) -> list[Window]:
    """Return windows whose tests follow each other without a gap from ``start`` to ``stop``.

    Parameters
    ----------
    start, stop : Timestamp
        UTC; the last test is shorter where the period is no whole number of tests.
    train_days, test_days : int
    embargo_candles : int
        Candles at the end of the training days that are not learned on. Training markets end
        where they are cut, and a trade that is open there is closed, so that not even without an
        embargo anything of the test is seen. But trades that are decided in the last candles are
        judged by prices that the first trades of the test go on from; as many candles as the
        longest trade lasts keep the two apart (Lopez de Prado 2018, *Advances in financial machine
        learning*, 7.4).
    timeframe : str
        Of the candles.

    Raises
    ------
    SettingsError
        If nothing would be left to learn on.
    """
    embargo = embargo_candles * timeframe_delta(timeframe)
    train, test = pd.Timedelta(days=train_days), pd.Timedelta(days=test_days)
    if train_days < 1 or test_days < 1 or embargo_candles < 0 or embargo >= train:
        raise SettingsError(
            f"train_days {train_days}, test_days {test_days} and embargo_candles {embargo_candles} "
            "leave nothing to learn on or to trade"
        )
    windows = []
    while start < stop:
        windows.append(Window(start - train, start - embargo, start, min(start + test, stop)))
        start += test
    return windows


def window_days(windows: Sequence[Window], window: Window) -> slice:
    """Return the days of a window's test, counted from the first test on."""
    first = windows[0].test_from
    return slice((window.test_from - first).days, (window.test_to - first).days)

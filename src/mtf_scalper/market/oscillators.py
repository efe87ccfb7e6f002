"""RSI and MFI that stand in the middle where there is nothing to compare.

TA-Lib gives 0, the bearish extreme, to what never moved and to money that never flowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import talib
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_MIDDLE = 50.0


def rsi(close: Floats, period: int) -> Floats:
    """Return TA-Lib's RSI, and 50 as long as the close has not moved since the first candle.

    Parameters
    ----------
    close
        Shape ``(T,)``, price.
    period
        In candles, at least 2.

    Returns
    -------
    ndarray of float64, shape (T,)
        0 to 100; NaN in the first `period` rows.
    """
    found = talib.RSI(close, timeperiod=period)
    unmoved = np.logical_and.accumulate(close == close[:1])
    return np.where(np.isnan(found) | ~unmoved, found, _MIDDLE)


def mfi(high: Floats, low: Floats, close: Floats, volume: Floats, period: int) -> Floats:
    """Return TA-Lib's MFI, and 50 where no money moved within the period.

    Parameters
    ----------
    high, low, close
        Shape ``(T,)``, price.
    volume
        Shape ``(T,)``, at least 0.
    period
        In candles, at least 2.

    Returns
    -------
    ndarray of float64, shape (T,)
        0 to 100; NaN in the first `period` rows.
    """
    found = talib.MFI(high, low, close, volume, timeperiod=period)
    price = (high + low + close) / 3.0
    flows = np.concatenate([[False], (np.diff(price) != 0.0) & (volume[1:] > 0.0)])[: len(price)]
    moved = np.zeros(len(price), dtype=np.bool_)
    if len(price) >= period:
        moved[period - 1 :] = sliding_window_view(flows, period).any(axis=-1)
    return np.where(np.isnan(found) | moved, found, _MIDDLE)

"""Where the price is inside a candle that is still forming.

Candles tell four prices and not when they were. Here the price goes from the open to the nearer
extreme, from there to the other one and on to the close, evenly and a third of the time each; what
a client has seen of a candle when it closes is the candle as recorded.
"""

from __future__ import annotations

import numpy as np

from mtf_scalper.exchange.store import Candles


def formed_part(candle: Candles, now_ms: int, decimals: int) -> Candles:
    """Return what is known at ``now_ms`` of one candle that has opened and not closed.

    Parameters
    ----------
    candle
        One row.
    now_ms
        Milliseconds since 1970.
    decimals
        Of the prices inside the candle.

    Returns
    -------
    Candles
        One row: the open, the extremes so far, the latest price as its close, and the part of the
        volume that goes with the time.
    """
    opened, high, low, close = (
        float(column[0]) for column in (candle.open, candle.high, candle.low, candle.close)
    )
    first, second = (low, high) if opened - low <= high - opened else (high, low)
    share = min(max((now_ms - int(candle.open_ms[0])) / candle.interval_ms, 0.0), 1.0)
    corners = (opened, first, second, close)
    third = min(int(share * 3), 2)
    start, end = corners[third], corners[third + 1]
    exact = start + (end - start) * (share * 3 - third)
    latest = min(max(round(exact, decimals), low), high)
    seen = (*corners[: third + 1], latest)
    columns = (opened, max(seen), min(seen), latest, float(candle.volume[0]) * share)
    return Candles(
        candle.interval_ms,
        candle.open_ms,
        *(np.array([value], dtype=np.float64) for value in columns),
    )

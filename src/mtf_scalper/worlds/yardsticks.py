"""Toy markets on which anybody can say what has to be learned, and on which public agents fail.

- *Leaked futures*: the features are the next returns. Who does not trade these near the optimum
  in hindsight cannot trade anything.
- *Noisy sine*: the log of the price is a sine and noise.
- *Slopes and sines*: stretches of random length that rise, fall or swing, and noise.

The features of the last two are ordinary ones of past closes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market

Floats = NDArray[np.float64]

FEE_RATE: Final = 0.0005
VOLATILITY: Final = 0.004
"""Standard deviation of a candle's log return where futures are leaked."""
N_LEAKED: Final = 5
"""Next returns that are features there."""
NOISE: Final = 0.002
"""Standard deviation of what is added to the log price of the others."""
AMPLITUDE: Final = 0.03
PERIOD: Final = 60.0
_LAGS: Final = (1, 2, 3, 5, 8, 13, 21, 34)


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A market, and what who knows the signal would hold.

    Attributes
    ----------
    market : Market
    sides : ndarray of int8, shape (T,)
        By row, the side of the next candle's move without the noise: 1, -1, or 0 for none.
    """

    market: Market
    sides: NDArray[np.int8]


def leaked_market(seed: int, n_candles: int) -> Market:
    """Return a random walk whose features at row t are the returns of the next five steps.

    The first is that from ``open[t + 1]`` to ``open[t + 2]``, which a position taken at row ``t``
    gets; beyond the end they are 0.
    """
    rng = np.random.default_rng(seed)
    ohlc = _candles(np.cumsum(rng.normal(0.0, VOLATILITY, n_candles)))
    steps = np.diff(np.log(ohlc[:, 0]), append=np.log(ohlc[-1, 3]))
    later = np.concatenate([steps, np.zeros(N_LEAKED)])
    leaked = [later[k : k + n_candles] for k in range(1, N_LEAKED + 1)]
    features = np.column_stack(leaked).astype(np.float32)
    return Market(features=features, ohlc=ohlc, fee_rate=FEE_RATE, pair="leaked")


def sine_market(seed: int, n_candles: int) -> Yardstick:
    """Return a sine of 60 candles and 3%, with noise of 0.2%, from a random phase on."""
    rng = np.random.default_rng(seed)
    clean = AMPLITUDE * np.sin(2.0 * np.pi * (np.arange(n_candles) / PERIOD + rng.random()))
    return _noisy(clean, rng, "sine")


def slopes_market(seed: int, n_candles: int) -> Yardstick:
    """Return stretches of 40 to 160 candles, each a slope up, one down or a sine, with noise.

    Slopes move by 0.05 to 0.15% a candle, sines by 1 to 3% around their start, with periods of 24
    to 80 candles.
    """
    rng = np.random.default_rng(seed)
    stretches: list[Floats] = []
    level, total = 0.0, 0
    while total < n_candles:
        ages = np.arange(1.0, rng.integers(40, 160) + 1)
        form = int(rng.integers(3))
        if form == 2:
            period = int(rng.integers(24, 80))
            moved = rng.uniform(0.01, 0.03) * np.sin(2.0 * np.pi * ages / period)
        else:
            moved = (1.0, -1.0)[form] * rng.uniform(0.0005, 0.0015) * ages
        stretches.append(np.asarray(level + moved, dtype=np.float64))
        level, total = float(stretches[-1][-1]), total + len(ages)
    return _noisy(np.concatenate(stretches)[:n_candles], rng, "slopes and sines")


def _noisy(clean: Floats, rng: np.random.Generator, name: str) -> Yardstick:
    prices = clean + rng.normal(0.0, NOISE, len(clean))
    market = Market(features=_ordinary(prices), ohlc=_candles(prices), fee_rate=FEE_RATE, pair=name)
    sides = np.sign(np.diff(clean, append=clean[-1])).astype(np.int8)
    return Yardstick(market, sides)


def _candles(prices: Floats) -> Floats:
    """Return candles that close at log prices and open where the last one closed."""
    close = 100.0 * np.exp(prices)
    opened = np.concatenate([close[:1], close[:-1]])
    return np.column_stack([opened, np.maximum(opened, close), np.minimum(opened, close), close])


def _ordinary(prices: Floats) -> NDArray[np.float32]:
    """Return returns over several spans, lagged returns and the last one's change, (T, 12)."""

    def past(values: Floats, lag: int, before: float) -> Floats:
        return np.concatenate([np.full(lag, before), values[:-lag]])

    last = prices - past(prices, 1, prices[0])
    spans = [prices - past(prices, lag, prices[0]) for lag in _LAGS]
    lagged = [past(last, lag, 0.0) for lag in (1, 2, 3)]
    return np.column_stack([*spans, *lagged, np.diff(last, prepend=0.0)]).astype(np.float32)

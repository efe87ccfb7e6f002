"""Intervals of figures by the stationary bootstrap over days.

Days are drawn in blocks of random length, so that a resample keeps what days next to each other
have in common (Politis and Romano 1994, *The stationary bootstrap*). How long blocks have to be is
read off the data (Politis and White 2004, corrected by Patton, Politis and White 2009).
Everything that belongs to a day is drawn together: returns of agent and baselines stay paired, and
trades stay with their day, which is coarser and safer than drawing trades one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.optional import library

LEAST_DAYS: Final = 14
"""Days under which no interval is given: so few tell nothing about their own spread."""

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """An estimate and the 95% interval around it; ``low`` and ``high`` are None where unknown."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Return it for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def block_length(series: Floats) -> float:
    """Return the mean block length that suits the columns: the median of what suits each.

    Not the longest: it is the luckiest estimate of many, and resamples of long blocks spread less
    than the data do, so that tests would reject too often.

    Parameters
    ----------
    series : ndarray of float64, shape (D,) or (D, K)

    Returns
    -------
    float
        Between 1 and a quarter of the days; 1 where nothing varies.
    """
    columns = series.reshape(len(series), -1)
    varying = columns[:, columns.std(axis=0) > 1e-12]
    if varying.shape[1] == 0 or len(series) < LEAST_DAYS:
        return 1.0
    wanted = library("arch.bootstrap").optimal_block_length(varying)["stationary"].to_numpy()
    return float(np.clip(np.nan_to_num(np.nanmedian(wanted), nan=1.0), 1.0, len(series) / 4))


def resampled_rows(n_days: int, block: float, n_draws: int, seed: int) -> Rows:
    """Return which days each resample consists of; int64, shape (n_draws, n_days)."""
    numbers = np.arange(n_days, dtype=np.int64)
    drawn = library("arch.bootstrap").StationaryBootstrap(block, numbers, seed=seed)
    return np.stack([positional[0] for positional, _ in drawn.bootstrap(n_draws)])


def interval_of(
    estimate: float, resamples: Floats, n_blocks: float, level: float = 0.95
) -> Interval:
    """Return an estimate with the expanded percentile interval of its resamples.

    Resamples of few days spread less than the days do, and know their spread less well: of
    fourteen, plain percentiles of 95% hold the truth 84% of the time. So the percentiles are those
    that would give Student's interval, were the days normal (Hesterberg 2015, *What teachers should
    know about the bootstrap*), blocks counting as days.

    Parameters
    ----------
    estimate : float
        NaN becomes None.
    resamples : ndarray of float64, shape (n_draws,)
        The figure on resampled days. Draws on which it is not defined are left out; where half of
        them or more are, there is no interval. None at all for too few days.
    n_blocks : float
        Days over the mean length of a block; above 1.
    level : float
    """
    value = None if np.isnan(estimate) else float(estimate)
    defined = resamples[np.isfinite(resamples)]
    if value is None or len(defined) <= len(resamples) / 2 or not len(defined):
        return Interval(value)
    freedom = n_blocks - 1.0
    student = library("scipy.stats").t.isf((1.0 - level) / 2, freedom)
    tail = NormalDist().cdf(-student * np.sqrt(n_blocks / freedom))
    low, high = np.quantile(defined, (tail, 1.0 - tail))
    return Interval(value, float(low), float(high))

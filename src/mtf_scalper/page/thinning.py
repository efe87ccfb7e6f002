"""Fewer points that draw the same picture: nothing is smoothed, no peak is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MAX_POINTS = 1500
"""Points of a line; twice as many as most screens have columns for a plot."""


def extremes(values: NDArray[np.float64], limit: int = MAX_POINTS) -> NDArray[np.int64]:
    """Return the rows to draw: of every bucket the first, lowest, highest and last one.

    A line through them fills the same pixels as one through all rows, if a bucket is no wider than
    a pixel (M4 aggregation: Jugel et al. 2014, *M4: a visualization-oriented time series data
    aggregation*).

    Parameters
    ----------
    values : ndarray of float64, shape (N,)
        NaN counts as neither lowest nor highest.
    limit : int
        Most rows to return, at least 4.

    Returns
    -------
    ndarray of int64, shape (M,)
        Rising, M at most ``limit``; all rows where there are no more.
    """
    n_rows = len(values)
    if n_rows <= limit:
        return np.arange(n_rows)
    edges = np.linspace(0, n_rows, limit // 4 + 1).astype(np.int64)
    starts = edges[:-1]
    kept = [starts, edges[1:] - 1]
    for fill, pick in ((np.inf, np.argmin), (-np.inf, np.argmax)):
        filled = np.where(np.isnan(values), fill, values)
        kept.append(
            np.array(
                [
                    begin + pick(filled[begin:end])
                    for begin, end in zip(starts, edges[1:], strict=True)
                ]
            )
        )
    return np.unique(np.concatenate(kept))


def rounded(values: Any, digits: int = 6) -> list[float | None]:
    """Return numbers with ``digits`` significant digits, None where JSON has no word for one."""
    return [
        None if not np.isfinite(value) else float(f"{value:.{digits}g}")
        for value in np.asarray(values, dtype=np.float64).tolist()
    ]


def milliseconds(dates: pd.Series) -> NDArray[np.int64]:
    """Return dates as milliseconds since the epoch, UTC; shape (N,)."""
    return np.asarray(dates.to_numpy(dtype="datetime64[ms]").astype(np.int64))


def times(moments: NDArray[np.int64]) -> Any:
    """Return times for a plot: ``{start, step, n}`` where they are regular, else all of them."""
    steps = np.diff(moments)
    if len(moments) > 2 and (steps == steps[0]).all():
        return {"start": int(moments[0]), "step": int(steps[0]), "n": len(moments)}
    return moments.tolist()

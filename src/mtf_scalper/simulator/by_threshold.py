"""Decisions by one number a candle and two thresholds: the plain way to trade a forecast."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.simulator.types import Action, Side

ACTIONS_BY_SIDE: Final = (
    (Side.LONG, 1.0, Action.LONG_ENTER, Action.LONG_EXIT),
    (Side.SHORT, -1.0, Action.SHORT_ENTER, Action.SHORT_EXIT),
)
"""Sides, their sign, and their actions."""


def decide_by_threshold(
    first_row: int, forecast: NDArray[np.float64], enter: float, leave: float
) -> NDArray[np.int8]:
    """Return what is decided by row and ``side + 1``, shape (T, 3), for ``play_decided``.

    A long is entered where the forecast exceeds ``enter``, and left where it falls below ``leave``;
    a short at the negatives. Whoever executes it takes the first valid action where this one is
    not: none where there is no entry, and every classic entry with ``entry="always"``.

    Parameters
    ----------
    first_row : int
        From which on decisions are made.
    forecast : ndarray of float64, shape (T - first_row,)
    enter, leave : float
    """
    decisions = np.zeros((first_row + len(forecast), 3), dtype=np.int8)
    own = decisions[first_row:]
    for side, sign, enters, leaves in ACTIONS_BY_SIDE:
        own[sign * forecast > enter, Side.FLAT + 1] = enters
        own[sign * forecast < leave, side + 1] = leaves
    return decisions

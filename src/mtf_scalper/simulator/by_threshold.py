"""Decisions by one number a candle and two thresholds: the plain way to trade a forecast."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.playback import valid_actions
from mtf_scalper.simulator.prepared import PreparedMarket
from mtf_scalper.simulator.types import Action, Side

ACTIONS_BY_SIDE: Final = (
    (Side.LONG, 1.0, Action.LONG_ENTER, Action.LONG_EXIT),
    (Side.SHORT, -1.0, Action.SHORT_ENTER, Action.SHORT_EXIT),
)
"""Sides, their sign, and their actions."""


def decide_by_threshold(
    prepared: PreparedMarket, forecast: NDArray[np.float64], enter: float, leave: float
) -> NDArray[np.int8]:
    """Return what is decided by row and ``side + 1``, shape (T, 3).

    A long is entered where the forecast exceeds ``enter``, and left where it falls below ``leave``;
    a short at the negatives. With ``entry="always"`` every classic entry is taken.

    Parameters
    ----------
    prepared : PreparedMarket
    forecast : ndarray of float64, shape (T - first row,)
        From the first row at which a decision is made.
    enter, leave : float
    """
    first = prepared.first_row
    decisions = np.zeros((len(prepared), 3), dtype=np.int8)
    valid = valid_actions(prepared)[first:, Side.FLAT + 1]
    is_taken = prepared.rules.entry is EntryMode.ALWAYS
    own = decisions[first:]
    for side, sign, enters, leaves in ACTIONS_BY_SIDE:
        wanted = is_taken | (sign * forecast > enter)
        own[wanted & valid[:, enters], Side.FLAT + 1] = enters
        own[sign * forecast < leave, side + 1] = leaves
    return decisions

"""What the agent wants, by candle: from the columns that FreqAI predicted.

A candle without a prediction has no opinion: nothing is entered on it, and nobody decides to leave.
FreqAI writes such candles as zeros (while no model is there, after a gap, after a start) or as
missing values.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.freqai import columns
from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.masks import action_mask, masked_probabilities
from mtf_scalper.simulator.types import Action, Side

_EXITS = {Side.LONG: Action.LONG_EXIT, Side.SHORT: Action.SHORT_EXIT}
_MASKS = {
    side: np.array([action in (Action.NEUTRAL, exit_) for action in Action])
    for side, exit_ in _EXITS.items()
}


def probabilities(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the model's probabilities, shape (T, 5); zeros where it made no prediction."""
    names = list(columns.PROBABILITIES)
    if not {*names, "do_predict"} <= set(frame.columns):
        return np.zeros((len(frame), len(names)))
    found = frame[names].to_numpy(dtype=np.float64)
    valid = (frame["do_predict"].to_numpy() == 1) & np.isfinite(found).all(axis=1)
    return np.where(valid[:, None], found, 0.0)


def predicted(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Return where there is a prediction, shape (T,)."""
    return np.asarray(probabilities(frame).sum(axis=1) > 0.0)


def entry_actions(
    frame: pd.DataFrame,
    long: NDArray[np.bool_],
    short: NDArray[np.bool_],
    entry: EntryMode,
    can_short: bool,
) -> NDArray[np.int_]:
    """Return what the agent does without a position, shape (T,); neutral without a prediction.

    Parameters
    ----------
    frame : DataFrame, T rows
    long, short : ndarray of bool, shape (T,)
        Where the classic rule fires.
    entry : EntryMode
    can_short : bool
    """
    by_signal = np.stack(
        [
            action_mask(
                Side.FLAT,
                entry=entry,
                can_short=can_short,
                signal_long=bool(code & 1),
                signal_short=bool(code & 2),
            )
            for code in range(4)
        ]
    )
    masks = by_signal[long.astype(int) + 2 * short.astype(int)]
    chosen = masked_probabilities(probabilities(frame), masks).argmax(axis=1)
    return np.where(predicted(frame), chosen, int(Action.NEUTRAL))


def exit_chances(frame: pd.DataFrame, side: Side) -> NDArray[np.float64]:
    """Return the probability of leaving a position, shape (T,); 0 without a prediction."""
    found = probabilities(frame)
    masks = np.broadcast_to(_MASKS[side], found.shape)
    leave = masked_probabilities(found, masks)[:, _EXITS[side]]
    return np.where(predicted(frame), leave, 0.0)


def exit_chance(chances: NDArray[np.float64], side: Side) -> float:
    """Return the probability of leaving, of the five probabilities of one prediction."""
    return float(masked_probabilities(chances, _MASKS[side])[_EXITS[side]])

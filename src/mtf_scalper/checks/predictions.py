"""What is wrong with saved predictions, and how much they vary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.records.check import CannotTellError
from mtf_scalper.simulator.types import N_ACTIONS, Action

_ACTION, _CONFIDENCE = "&-action", "&-action_confidence"
_PROBABILITIES = [f"&-prob_{action.name.lower()}" for action in Action]
_TOLERANCE = 1e-4  # probabilities are float32 sums
_LEAST_DEVIATION = 1e-4


@dataclass(frozen=True)
class Variety:
    """How much predictions vary over the rows with a full window.

    Attributes
    ----------
    actions : int
        Number of different actions.
    confidence_deviation : float
        Standard deviation of the confidence.
    """

    actions: int
    confidence_deviation: float

    @property
    def is_constant(self) -> bool:
        """Whether action or confidence are one and the same everywhere."""
        return self.actions < 2 or self.confidence_deviation < _LEAST_DEVIATION


def invalid_values(frame: pd.DataFrame, window: int) -> str:
    """Return the first thing wrong with saved predictions, nothing if all is well.

    Parameters
    ----------
    frame : DataFrame
        As FreqAI saved it.
    window : int
        Candles of a full window; only the rows before the first one may be without a prediction.
    """
    action, confidence, probabilities = _arrays(frame)
    everything = np.column_stack([action, confidence, probabilities])
    if not np.isfinite(everything).all():
        return f"{int((~np.isfinite(everything)).any(axis=1).sum())} rows hold NaN or infinity"
    sums = probabilities.sum(axis=1)
    missing = sums == 0.0
    if missing[window - 1 :].any():
        return f"{int(missing[window - 1 :].sum())} rows with a full window have no prediction"
    made = ~missing
    if not made.any():
        return "no row has a prediction"
    if np.abs(sums[made] - 1.0).max() > _TOLERANCE or probabilities.min() < 0.0:
        return "the probabilities of a row do not sum to 1"
    if not np.isin(action, np.arange(N_ACTIONS)).all():
        return "an action is none of freqtrade's five"
    chosen = probabilities[np.arange(len(action)), action.astype(np.int64)]
    # Which entries could be compared depends on the classic rule; an exit has one alternative.
    leaves = made & np.isin(action, (Action.LONG_EXIT, Action.SHORT_EXIT))
    if (chosen[leaves] < probabilities[leaves, Action.NEUTRAL]).any():
        return "an exit is not the most probable action in its position"
    if np.abs(confidence - chosen)[made].max() > _TOLERANCE or confidence[missing].any():
        return "the confidence is not the probability of the action"
    return ""


def variety(frame: pd.DataFrame) -> Variety:
    """Return how much saved predictions vary over the rows that have one."""
    action, confidence, probabilities = _arrays(frame)
    made = probabilities.sum(axis=1) != 0.0
    if not made.any():
        return Variety(0, 0.0)
    return Variety(len(np.unique(action[made])), float(np.std(confidence[made])))


def _arrays(
    frame: pd.DataFrame,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    saved = sum(name in frame.columns for name in _PROBABILITIES)
    if saved != N_ACTIONS:
        raise CannotTellError(f"{saved} of {N_ACTIONS} probability columns were saved")
    for name in (_ACTION, _CONFIDENCE):
        if name not in frame.columns:
            raise CannotTellError(f"the column {name} was not saved")
    values = frame[[_ACTION, _CONFIDENCE, *_PROBABILITIES]].to_numpy(dtype=np.float64)
    return values[:, 0], values[:, 1], values[:, 2:]

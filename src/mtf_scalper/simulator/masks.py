"""Which actions are valid where, and what a policy's probabilities mean under that mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.settings import EntryMode
from mtf_scalper.simulator.types import N_ACTIONS, Action


def action_mask(
    side: int,
    *,
    entry: EntryMode,
    can_short: bool,
    signal_long: bool,
    signal_short: bool,
    can_enter: bool = True,
) -> NDArray[np.bool_]:
    """Return which of the five actions are valid.

    Flat: {0, 1, 3}; long: {0, 2}; short: {0, 4}. Under ``EntryMode.CLASSIC`` 1 and 3 are valid
    only where the classic rule fired, under ``EntryMode.ALWAYS`` they are also the only valid
    actions there. ``can_short=False`` removes 3; ``can_enter=False`` (the last candle) both.

    Returns
    -------
    ndarray of bool, shape (5,)
    """
    mask = np.zeros(N_ACTIONS, dtype=np.bool_)
    mask[Action.NEUTRAL] = True
    if side > 0:
        mask[Action.LONG_EXIT] = True
    elif side < 0:
        mask[Action.SHORT_EXIT] = True
    elif can_enter:
        anywhere = entry is EntryMode.ANY
        mask[Action.LONG_ENTER] = anywhere or signal_long
        mask[Action.SHORT_ENTER] = can_short and (anywhere or signal_short)
        if entry is EntryMode.ALWAYS and mask[1:].any():
            mask[Action.NEUTRAL] = False
    return mask


def masked_probabilities(
    probabilities: NDArray[np.floating], mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the policy's probabilities given that only valid actions can be taken.

    Parameters
    ----------
    probabilities : ndarray, shape (..., 5)
    mask : ndarray of bool, shape (..., 5)
        At least one action is valid in every row.
    """
    kept = np.where(mask, probabilities, 0.0).astype(np.float64)
    total = kept.sum(axis=-1, keepdims=True)
    uniform = mask / mask.sum(axis=-1, keepdims=True)
    return np.where(total > 0.0, kept / np.where(total > 0.0, total, 1.0), uniform)


def masked_action(
    probabilities: NDArray[np.floating], mask: NDArray[np.bool_], exit_confidence: float = 0.5
) -> int:
    """Return the action that a policy takes under the mask.

    An exit is taken where its masked probability exceeds ``exit_confidence`` (0.5 is the most
    probable valid action); elsewhere the most probable valid action is taken.

    Parameters
    ----------
    probabilities : ndarray, shape (5,)
    mask : ndarray of bool, shape (5,)
    exit_confidence : float
        In [0, 1].
    """
    masked = masked_probabilities(probabilities, mask)
    for action in (Action.LONG_EXIT, Action.SHORT_EXIT):
        if mask[action]:
            return int(action if masked[action] > exit_confidence else Action.NEUTRAL)
    return int(np.argmax(masked))


def confidence(members: NDArray[np.float64], actions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how sure an ensemble is of actions: their mean probability less its deviation.

    Parameters
    ----------
    members : ndarray of float64, shape (n_members, T, 5)
        From ``Policy.member_probabilities``.
    actions : ndarray of int64, shape (T,)

    Returns
    -------
    ndarray of float64, shape (T,)
        In [0, 1]; one member disagrees with nobody, and its probability is returned as it is.
    """
    chosen = np.take_along_axis(members, actions[None, :, None], axis=2)[:, :, 0]
    return np.asarray(np.maximum(chosen.mean(axis=0) - chosen.std(axis=0), 0.0))

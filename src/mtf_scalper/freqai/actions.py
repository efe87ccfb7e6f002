"""From a policy's probabilities to columns that can be traded on: one action per position.

Outputs of the network are compared only where the agent had the choice between them: entries with
each other and with staying out, an exit with staying in. The largest of all five is no decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.freqai import columns
from mtf_scalper.rollouts.freqtrade_kernels import moves_of, valid_moves
from mtf_scalper.settings import EntryMode, Fills, Settings, TradeRules
from mtf_scalper.simulator.masks import action_mask, confidence, masked_probabilities
from mtf_scalper.simulator.types import Action, Side, five_actions

SIDES = (Side.FLAT, Side.LONG, Side.SHORT)
"""Order of ``columns.BY_POSITION``."""

Signals = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def signals_of(frame: pd.DataFrame) -> Signals:
    """Return where the strategy's classic rule proposes a long and a short, each of shape (T,)."""
    none = np.zeros(len(frame), dtype=np.bool_)
    long, short = (
        frame[name].fillna(False).to_numpy(dtype=np.bool_) if name in frame.columns else none
        for name in (columns.ENTRY_LONG, columns.ENTRY_SHORT)
    )
    return long, short


def prediction_frame(
    members: Sequence[NDArray[np.float64]], signals: Signals, settings: Settings
) -> pd.DataFrame:
    """Return ``columns.PREDICTIONS``, shape (T, 10); zeros in rows without a prediction.

    Parameters
    ----------
    members : sequence of three ndarrays of float64, shape (n_members, T, 5)
        From ``Policy.member_probabilities``, for an agent in each of ``SIDES``; NaN in rows without
        a full window. Equal where the agent does not see its position.
    signals : two ndarrays of bool, shape (T,)
        From ``signals_of``.
    settings : Settings
    """
    members = [np.nan_to_num(each, nan=0.0) for each in members]
    means = [each.mean(axis=0) for each in members]
    is_made = means[0].sum(axis=1) > 0.0
    actions = actions_by_position(means, signals, settings)
    actions[~is_made] = 0
    if settings.fills is Fills.FREQTRADE_ENV:
        codes = means[0][:, _places(settings.n_actions)].argmax(axis=1)
    else:
        codes = position_free(actions, means)
    codes[~is_made] = 0
    source = np.select([codes == Action.LONG_EXIT, codes == Action.SHORT_EXIT], [1, 2], 0)
    if settings.fills is Fills.FREQTRADE_ENV:
        source[:] = 0
    places = np.asarray(_places(settings.n_actions))[codes]
    sure = np.choose(source, [confidence(each, places) for each in members])
    frame = pd.DataFrame(means[0], columns=list(columns.PROBABILITIES))
    frame.insert(0, columns.ACTION, codes.astype(np.float64))
    frame.insert(1, columns.CONFIDENCE, sure)
    for index, name in enumerate(columns.BY_POSITION):
        frame[name] = actions[:, index].astype(np.float64)
    return frame


def actions_by_position(
    probabilities: Sequence[NDArray[np.float64]], signals: Signals, settings: Settings
) -> NDArray[np.int64]:
    """Return what the agent does in each of ``SIDES``, shape (T, 3), in its environment's codes.

    The most probable action among those that are valid in the position: with ``fills`` "backtest"
    the action masks of ``simulator.masks``, with "freqtrade_env" what freqtrade's environment of
    ``n_actions`` calls valid. An action that changes nothing there is 0.

    Parameters
    ----------
    probabilities : sequence of three ndarrays of float64, shape (T, 5)
    signals, settings
        See ``prediction_frame``.
    """
    if settings.fills is Fills.FREQTRADE_ENV:
        return _freqtrade_actions(probabilities, settings)
    masks = _flat_masks(settings.rules, signals)
    flat = masked_probabilities(probabilities[0], masks).argmax(axis=1)
    found = [flat]
    for chances, leave in zip(probabilities[1:], _EXITS, strict=True):
        leaves = chances[:, leave] > chances[:, Action.NEUTRAL]
        found.append(np.where(leaves, leave, Action.NEUTRAL))
    return np.stack(found, axis=1).astype(np.int64)


def position_free(
    actions: NDArray[np.int64], probabilities: Sequence[NDArray[np.float64]]
) -> NDArray[np.int64]:
    """Return one action per row for a strategy that knows of no position, shape (T,).

    freqtrade's ``ReinforcementLearner`` writes the most probable action at the state of an agent
    without a position. So an entry of the flat agent comes first; where it stays out, the exit of
    the long or of the short agent, of two the one that is more probable beside staying in.

    Parameters
    ----------
    actions : ndarray of int64, shape (T, 3)
        From ``actions_by_position``.
    probabilities : sequence of three ndarrays of float64, shape (T, 5)
    """
    long, short = (
        chances[:, leave] / np.maximum(chances[:, leave] + chances[:, Action.NEUTRAL], 1e-300)
        for chances, leave in zip(probabilities[1:], _EXITS, strict=True)
    )
    flat, leaves_long, leaves_short = actions[:, 0], actions[:, 1] > 0, actions[:, 2] > 0
    is_long = leaves_long & (~leaves_short | (long >= short))
    exits = np.select(
        [is_long, leaves_short], [int(Action.LONG_EXIT), int(Action.SHORT_EXIT)], default=0
    )
    return np.where(flat > 0, flat, exits).astype(np.int64)


_EXITS = (Action.LONG_EXIT, Action.SHORT_EXIT)


def _flat_masks(rules: TradeRules, signals: Signals) -> NDArray[np.bool_]:
    """Return the masks of an agent without a position, shape (T, 5)."""
    by_signal = np.stack(
        [
            action_mask(
                Side.FLAT,
                entry=rules.entry or EntryMode.ANY,
                can_short=rules.can_short,
                signal_long=bool(code & 1),
                signal_short=bool(code & 2),
            )
            for code in range(4)
        ]
    )
    masks: NDArray[np.bool_] = by_signal[signals[0].astype(int) + 2 * signals[1].astype(int)]
    return masks


def _places(n_actions: int) -> list[int]:
    """Return in which of the five columns each of an environment's actions stands."""
    five = five_actions(n_actions)
    return [five.index(action) for action in range(n_actions)]


def _freqtrade_actions(
    probabilities: Sequence[NDArray[np.float64]], settings: Settings
) -> NDArray[np.int64]:
    moves = moves_of(settings.n_actions, settings.rules.can_short)
    valid = valid_moves(moves)
    found = []
    for chances, side in zip(probabilities, SIDES, strict=True):
        own = np.where(valid[side + 1], chances[:, _places(settings.n_actions)], -1.0)
        action = own.argmax(axis=1)
        found.append(np.where(moves["target"][side + 1][action] == side, 0, action))
    return np.stack(found, axis=1).astype(np.int64)


def describe_codes(settings: Settings) -> Mapping[int, str]:
    """Return the names of an environment's actions, by code."""
    return _NAMES[settings.n_actions]


_NAMES: dict[int, dict[int, str]] = {
    5: dict(enumerate(("Neutral", "Long_enter", "Long_exit", "Short_enter", "Short_exit"))),
    4: dict(enumerate(("Neutral", "Exit", "Long_enter", "Short_enter"))),
    3: dict(enumerate(("Neutral", "Buy", "Sell"))),
}
"""freqtrade's, from Base5ActionRLEnv, Base4ActionRLEnv and Base3ActionRLEnv (2026.9)."""

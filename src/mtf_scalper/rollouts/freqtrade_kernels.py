"""freqtrade's own training environments, compiled: all of them advance one tick in one call.

What ``Base5ActionRLEnv`` and its variants with 4 and 3 actions do with an action is a small table
per position, made once by ``moves_of``; ``step`` looks it up. Everything that runs per step stands
in this one file, because numba's cache on disk does not notice edits in other files.

Time. freqtrade counts ticks. At tick ``k`` the agent sees the rows ``k - window .. k - 1``; its
action is executed at ``open[k + 1]``. The last row that it sees is therefore ``row = k - 1``, and
its order fills at ``open[row + 2]``, one candle later than in freqtrade's backtester.

Reward. freqtrade has a default for five actions only, ``ReinforcementLearner.MyRLEnv``. Unchanged
it also works with 3 actions where shorts are off; with 4, and with 3 and shorts, its numbers mean
other actions and it fails at the first entry. There the same reward is given by the part that an
action plays: an entry is rewarded as an entry, an exit (a turn from one side to the other too) as
an exit. Whether an action is valid is always said by the environment itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.types import Action, five_actions

MAX_TRADE_DURATION = 300
"""freqtrade's default of ``max_trade_duration_candles``."""
MAX_TRAINING_DRAWDOWN = 0.8
"""freqtrade's default of ``max_training_drawdown_pct``."""

NO_TRADE = -1
INVALID, NOTHING, IDLE, HOLD, ENTER, EXIT = range(6)

MOVE = np.dtype([(name, np.int64) for name in ("kind", "target", "executed")])
"""What an action does in a position: ``kind`` decides the reward, ``target`` is the side after it,
``executed`` is which of freqtrade's five actions took place (Neutral where nothing did)."""

STATE = np.dtype(
    [
        *((name, np.int64) for name in ("row", "first_row", "side", "last_trade_tick")),
        *((name, np.float64) for name in ("total_reward", "total_profit")),
        ("total_unrealized_profit", np.float64),
    ]
)
"""State of one environment; ``last_trade_tick`` is -1 without a position."""

OUTCOME = np.dtype(
    [
        *((name, np.float64) for name in ("reward", "total_reward", "total_profit")),
        *((name, np.float64) for name in ("total_unrealized_profit", "current_profit_pct")),
        ("position", np.float64),
        *((name, np.int64) for name in ("row", "tick", "trade_duration", "action", "executed")),
        *((name, np.bool_) for name in ("terminated", "truncated")),
    ]
)
"""What one step did to one environment, before a restart, under freqtrade's names.

``row`` is the last row seen after the step. ``position`` is freqtrade's: 0 short, 0.5 none, 1 long.
``action`` is the one of the n that was chosen, ``executed`` the one of the five that took place: a
turn from one side to the other, with 3 actions, counts as the exit.
"""

RULES = np.dtype(
    [
        *((name, np.int64) for name in ("end_tick", "max_trade_duration", "max_episode_steps")),
        ("compound_trades", np.bool_),
        *((name, np.float64) for name in ("fee_rate", "min_total_profit")),
        *((name, np.float64) for name in ("good_profit", "win_reward_factor")),
    ]
)
"""Settings as numbers."""


def moves_of(n_actions: int, can_short: bool) -> NDArray[np.void]:
    """Return what each action does in each position: shape (3, n_actions) of ``MOVE``.

    The first index is the side (-1, 0, 1) plus 1. ``can_short`` has an effect with 3 actions only,
    as in freqtrade: without it Sell never opens a short, with it an exit turns to the other side.
    """
    moves = np.zeros((3, n_actions), MOVE)
    for side in (-1, 0, 1):
        for action in range(n_actions):
            moves[side + 1, action] = _move(n_actions, can_short, side, action)
    return moves


def _move(n_actions: int, can_short: bool, side: int, action: int) -> tuple[int, int, int]:
    part = _part(n_actions, side, action)
    is_entry = part in (Action.LONG_ENTER, Action.SHORT_ENTER)
    if n_actions == 3:
        is_valid = can_short or part != Action.SHORT_ENTER
    else:
        # An exit of the other side passes as valid, and does nothing.
        is_valid = part == Action.NEUTRAL or is_entry == (side == 0)
    if not is_valid:
        return INVALID, side, Action.NEUTRAL
    if side == 0:
        target = {Action.LONG_ENTER: 1, Action.SHORT_ENTER: -1}.get(part, 0)
        return (ENTER if is_entry else IDLE), target, part
    if part == Action.NEUTRAL:
        return HOLD, side, Action.NEUTRAL
    if part == _own_exit(side):
        return EXIT, (-side if n_actions == 3 and can_short else 0), part
    return NOTHING, side, Action.NEUTRAL


def _part(n_actions: int, side: int, action: int) -> Action:
    """Return which of the five the action is meant as: an exit where there is one to make."""
    parts = [Action(part) for part, it in enumerate(five_actions(n_actions)) if it == action]
    if side != 0 and _own_exit(side) in parts:
        return _own_exit(side)
    others = [part for part in parts if part not in (Action.LONG_EXIT, Action.SHORT_EXIT)]
    return (others or parts)[0]


def _own_exit(side: int) -> Action:
    return Action.LONG_EXIT if side > 0 else Action.SHORT_EXIT


def valid_moves(moves: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return where freqtrade's ``_is_valid`` is true: shape of ``moves``."""
    valid: NDArray[np.bool_] = moves["kind"] != INVALID
    return valid


def rules_of(market: Market, settings: Settings, compound_trades: bool) -> NDArray[np.void]:
    """Return settings as the kernel reads them: shape (1,) of ``RULES``."""
    rules, parameters = settings.rules, settings.reward_parameters
    drawdown = rules.max_training_drawdown
    values = {
        "end_tick": len(market) - 1,
        "max_trade_duration": rules.max_trade_duration_candles or MAX_TRADE_DURATION,
        "max_episode_steps": settings.max_episode_steps or len(market),
        "compound_trades": compound_trades,
        "fee_rate": market.fee_rate,
        "min_total_profit": 1 - (MAX_TRAINING_DRAWDOWN if drawdown is None else drawdown),
        "good_profit": parameters.profit_aim * parameters.rr,
        "win_reward_factor": parameters.win_reward_factor,
    }
    numbers = np.zeros(1, RULES)
    for name, value in values.items():
        numbers[name] = value
    return numbers


@njit(cache=True, error_model="numpy")
def start_episodes(states: NDArray[np.void], rows: NDArray[np.int64]) -> None:
    """Start an episode in every environment ``e`` that has seen ``rows[e]`` last."""
    for env in range(len(rows)):
        _start(states[env], rows[env])


@njit(cache=True, error_model="numpy")
def step(
    opens: NDArray[np.float64],
    moves: NDArray[np.void],
    rules: NDArray[np.void],
    states: NDArray[np.void],
    actions: NDArray[np.int64],
    restart_rows: NDArray[np.int64],
    outcomes: NDArray[np.void],
) -> int:
    """Advance every environment by one tick; restart those whose episode ended.

    Parameters
    ----------
    opens : ndarray of float64, shape (T,)
    moves : ndarray of MOVE, shape (3, n_actions)
    rules : ndarray of RULES, shape (1,)
    states : ndarray of STATE, shape (N,)
        Read and overwritten.
    actions : ndarray of int64, shape (N,)
    restart_rows : ndarray of int64, shape (N,)
        Last row of the window with which an environment starts again after its episode.
    outcomes : ndarray of OUTCOME, shape (N,)
        Overwritten.

    Returns
    -------
    int
        Environments whose episode ended.

    Raises
    ------
    IndexError
        If there is no such action; nothing has been advanced then.
    """
    for env in range(len(actions)):
        if actions[env] < 0 or actions[env] >= moves.shape[1]:
            raise IndexError("an action lies outside of the action space")
    ended = 0
    for env in range(len(actions)):
        state, outcome = states[env], outcomes[env]
        outcome.action = actions[env]
        _step_one(opens, rules[0], moves[state.side + 1, actions[env]], state, outcome)
        if outcome.terminated or outcome.truncated:
            _start(state, restart_rows[env])
            ended += 1
    return ended


@njit(cache=True, error_model="numpy")
def _start(state: Any, row: int) -> None:
    state.row = row
    state.first_row = row
    state.side = 0
    state.last_trade_tick = NO_TRADE
    state.total_reward = 0.0
    state.total_profit = 1.0
    state.total_unrealized_profit = 1.0


@njit(cache=True, error_model="numpy")
def _step_one(opens: Any, rules: Any, move: Any, state: Any, outcome: Any) -> None:
    state.row += 1
    tick = state.row + 1
    profit = _profit(opens, rules, state, tick)
    # Without a position it is the total profit: the exit made them equal.
    if state.side != 0:
        if rules.compound_trades:
            state.total_unrealized_profit = state.total_profit * (1.0 + profit)
        else:
            state.total_unrealized_profit = state.total_profit + profit
    outcome.reward = _reward(rules, move.kind, tick - state.last_trade_tick, profit)
    state.total_reward += outcome.reward
    if move.kind == EXIT:
        state.total_profit = state.total_unrealized_profit
    if move.kind == ENTER or move.kind == EXIT:
        state.side = move.target
        state.last_trade_tick = tick if move.target != 0 else NO_TRADE
    least = min(state.total_profit, state.total_unrealized_profit)
    outcome.terminated = tick == rules.end_tick or least < rules.min_total_profit
    lived = state.row - state.first_row
    outcome.truncated = not outcome.terminated and lived >= rules.max_episode_steps
    outcome.executed = move.executed
    outcome.row = state.row
    outcome.tick = tick
    outcome.total_reward = state.total_reward
    outcome.total_profit = state.total_profit
    outcome.total_unrealized_profit = state.total_unrealized_profit
    outcome.position = 0.5 * (state.side + 1)
    outcome.trade_duration = tick - state.last_trade_tick if state.side != 0 else 0
    outcome.current_profit_pct = _profit(opens, rules, state, tick)


@njit(cache=True, error_model="numpy")
def _profit(opens: Any, rules: Any, state: Any, tick: int) -> float:
    """Return the profit ratio of the position at a tick's open, after both fees."""
    if state.side == 0:
        return 0.0
    with_fee = 1.0 + float(rules.fee_rate)
    price, entry_price = float(opens[tick]), float(opens[state.last_trade_tick])
    if state.side > 0:
        cost = entry_price * with_fee
        return (price / with_fee - cost) / cost
    proceeds = entry_price / with_fee
    return (proceeds - price * with_fee) / proceeds


@njit(cache=True, error_model="numpy")
def _reward(rules: Any, kind: int, trade_duration: int, profit: float) -> float:
    if kind == INVALID:
        return -2.0
    if kind == ENTER:
        return 25.0
    if kind == IDLE:
        return -1.0
    if kind == HOLD:
        return -trade_duration / float(rules.max_trade_duration)
    if kind == NOTHING:
        return 0.0
    factor: float = 150.0 if trade_duration <= rules.max_trade_duration else 50.0
    if profit > rules.good_profit:
        factor *= rules.win_reward_factor
    return profit * factor

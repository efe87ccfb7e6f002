"""The reference environment, compiled: all environments advance one candle in one call.

Everything that runs per step stands in this one file, because numba's cache on disk does not notice
edits in other files. What each part means is said in ``reference.py`` and ``exits.py``; that both
agree is a test. Nothing here allocates: the caller owns all arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, RewardName, Settings
from mtf_scalper.simulator.observation import age_limit

__all__ = [
    "EXIT_CODES",
    "OUTCOME",
    "STATE",
    "candles_of",
    "gather_windows",
    "observe",
    "roi_ladder_of",
    "rules_of",
    "start_episodes",
    "step",
]

EQUITY_FLOOR = 1e-6
PROFIT_UNIT = 0.02
STATE_LIMIT = 10.0
N_STATE = 5
N_ACTIONS = 5

NEUTRAL, LONG_ENTER, LONG_EXIT, SHORT_ENTER, SHORT_EXIT = range(5)
ALWAYS, CLASSIC, ANY = range(3)
LOG_RETURN, EXIT_QUALITY, FREQTRADE_EXAMPLE, USER_REWARD = range(4)
(
    STAY,
    AGENT,
    MAX_DURATION,
    EMERGENCY,
    BREAK_EVEN,
    STOP_LOSS,
    LIQUIDATION,
    ROI,
    END_OF_DATA,
) = range(9)
EXIT_CODES = {
    AGENT: "agent_exit",
    MAX_DURATION: "max_duration",
    EMERGENCY: "emergency_loss",
    BREAK_EVEN: "break_even",
    STOP_LOSS: "stop_loss",
    LIQUIDATION: "liquidation",
    ROI: "roi",
    END_OF_DATA: "force_exit",
}
"""freqtrade's exit reasons by the codes that the kernel writes; 0 is no exit."""


CANDLE = np.dtype(
    [
        *((name, np.float64) for name in ("open", "high", "low", "close")),
        *((name, np.float64) for name in ("leverage", "funding", "tick_size")),
        *((name, np.bool_) for name in ("entry_long", "entry_short")),
    ]
)
"""One row of a market; see ``Market``."""

STATE = np.dtype(
    [
        *((name, np.int64) for name in ("row", "first_row", "side", "open_row")),
        *((name, np.float64) for name in ("open_rate", "leverage", "best_rate", "worst_rate")),
        *((name, np.float64) for name in ("funding_paid", "equity", "closed_equity")),
    ]
)
"""State of one environment; fields of a trade mean nothing while ``side`` is 0."""

OUTCOME = np.dtype(
    [
        *((name, np.float64) for name in ("reward", "log_return", "equity")),
        *((name, np.int64) for name in ("row", "side", "executed")),
        *((name, np.bool_) for name in ("terminated", "truncated")),
        *((name, np.int64) for name in ("exit_code", "trade_side", "open_row")),
        *((name, np.float64) for name in ("open_rate", "close_rate", "leverage", "profit_ratio")),
        ("is_valid", np.bool_),
        *((name, np.int64) for name in ("side_before", "age_candles")),
        *((name, np.float64) for name in ("profit", "best_profit", "worst_profit")),
    ]
)
"""What one step did to one environment; ``row``, ``equity`` and ``side`` before a restart. The
fields from ``exit_code`` to ``profit_ratio`` describe the trade that closed, where ``exit_code`` is
not 0; those from ``is_valid`` on are what a user's reward needs besides, written only for it."""

RULES = np.dtype(
    [
        *((name, np.int64) for name in ("entry", "max_duration", "timeframe_minutes", "reward")),
        *((name, np.int64) for name in ("age_limit", "max_episode_steps")),
        ("can_short", np.bool_),
        *((name, np.float64) for name in ("fee_rate", "stoploss", "emergency_loss")),
        *((name, np.float64) for name in ("break_even_trigger", "break_even_floor")),
        *((name, np.float64) for name in ("maintenance_margin_rate", "liquidation_buffer")),
        *((name, np.float64) for name in ("min_equity", "rr", "profit_aim", "win_reward_factor")),
    ]
)
"""Settings as numbers; a rule that is off has a value that never applies."""


def candles_of(market: Market) -> NDArray[np.void]:
    """Return a market as the kernel reads it: shape (T,) of ``CANDLE``."""
    candles = np.zeros(len(market), CANDLE)
    for column, name in enumerate(("open", "high", "low", "close")):
        candles[name] = market.ohlc[:, column]
    for name in ("leverage", "funding", "tick_size", "entry_long", "entry_short"):
        candles[name] = getattr(market, name)
    return candles


def rules_of(market: Market, settings: Settings) -> NDArray[np.void]:
    """Return settings as the kernel reads them: shape (1,) of ``RULES``."""
    rules, parameters = settings.rules, settings.reward_parameters
    drawdown = rules.max_training_drawdown
    values = {
        "entry": list(EntryMode).index(rules.entry),
        "max_duration": rules.max_trade_duration_candles or 0,
        "timeframe_minutes": market.timeframe_minutes,
        "reward": _reward_code(settings),
        "age_limit": age_limit(settings),
        "max_episode_steps": settings.max_episode_steps or len(market),
        "can_short": rules.can_short,
        "fee_rate": market.fee_rate,
        "stoploss": math.nan if rules.stoploss is None else abs(rules.stoploss),
        "emergency_loss": -math.inf if rules.emergency_loss is None else rules.emergency_loss,
        "break_even_trigger": rules.break_even_trigger or math.inf,
        "break_even_floor": rules.break_even_floor,
        "maintenance_margin_rate": rules.maintenance_margin_rate,
        "liquidation_buffer": rules.liquidation_buffer,
        "min_equity": -math.inf if drawdown is None else 1.0 - drawdown,
        "rr": parameters.rr,
        "profit_aim": parameters.profit_aim,
        "win_reward_factor": parameters.win_reward_factor,
    }
    numbers = np.zeros(1, RULES)
    for name, value in values.items():
        numbers[name] = value
    return numbers


def _reward_code(settings: Settings) -> int:
    known = list(RewardName)
    return known.index(RewardName(settings.reward)) if settings.reward in known else USER_REWARD


def roi_ladder_of(settings: Settings) -> NDArray[np.float64]:
    """Return the ROI ladder: rows of minutes and ratio, minutes increasing; shape (R, 2)."""
    ladder = sorted(settings.rules.minimal_roi.items())
    return np.array(ladder, dtype=np.float64).reshape(len(ladder), 2)


@njit(cache=True, error_model="numpy")
def start_episodes(states: NDArray[np.void], rows: NDArray[np.int64]) -> None:
    """Start an episode at ``rows[e]`` in every environment ``e``."""
    for env in range(len(rows)):
        _start(states[env], rows[env])


@njit(cache=True, error_model="numpy")
def gather_windows(
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    extras: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Copy the windows that end at ``rows``, and ``extras`` behind them, to ``out``.

    Parameters
    ----------
    features : ndarray of float32, shape (T, F)
    rows : ndarray of int64, shape (N,)
    extras : ndarray of float32, shape (N, E)
    out : ndarray of float32, shape (N, window * F + E)
    """
    n_features = features.shape[1]
    length = out.shape[1] - extras.shape[1]
    flat = features.reshape(-1)
    for env in range(len(rows)):
        end = (rows[env] + 1) * n_features
        for column in range(length):
            out[env, column] = flat[end - length + column]
        for column in range(extras.shape[1]):
            out[env, length + column] = extras[env, column]


@njit(cache=True, error_model="numpy")
def observe(
    candles: NDArray[np.void],
    rules: NDArray[np.void],
    states: NDArray[np.void],
    extras: NDArray[np.float32],
) -> None:
    """Write what every agent sees besides the window to ``extras``, float32 of shape (N, E).

    E is 5, the action mask, or 10, the position's state before it.
    """
    for env in range(len(states)):
        _observe(candles, rules[0], states[env], extras, env)


@njit(cache=True, error_model="numpy")
def step(
    candles: NDArray[np.void],
    roi: NDArray[np.float64],
    rules: NDArray[np.void],
    states: NDArray[np.void],
    actions: NDArray[np.int64],
    restart_rows: NDArray[np.int64],
    outcomes: NDArray[np.void],
    extras: NDArray[np.float32],
    last_extras: NDArray[np.float32],
) -> int:
    """Advance every environment by one candle; restart those whose episode ended.

    Parameters
    ----------
    candles, roi, rules
        From ``candles_of``, ``roi_ladder_of`` and ``rules_of``.
    states : ndarray of STATE, shape (N,)
        Read and overwritten.
    actions : ndarray of int64, shape (N,)
    restart_rows : ndarray of int64, shape (N,)
        Decision row at which an environment starts again after its episode.
    outcomes : ndarray of OUTCOME, shape (N,)
        Overwritten.
    extras : ndarray of float32, shape (N, E)
        Overwritten with what the agents see now, see ``observe``.
    last_extras : ndarray of float32, shape (N, E)
        Overwritten, where an episode ended, with what was seen at its end.

    Returns
    -------
    int
        Environments whose episode ended or in which a trade closed.
    """
    events = 0
    for env in range(len(actions)):
        state, outcome = states[env], outcomes[env]
        _step_one(candles, roi, rules[0], state, actions[env], outcome)
        _observe(candles, rules[0], state, extras, env)
        ended = outcome.terminated or outcome.truncated
        if ended:
            last_extras[env] = extras[env]
            _start(state, restart_rows[env])
            _observe(candles, rules[0], state, extras, env)
        if ended or outcome.exit_code != STAY:
            events += 1
    return events


@njit(cache=True, error_model="numpy")
def _start(state: Any, row: int) -> None:
    state.row = row
    state.first_row = row
    state.side = 0
    state.equity = 1.0
    state.closed_equity = 1.0


# Rows of ``extras`` are written by index: a view of a row would be counted as a reference.
@njit(cache=True, error_model="numpy")
def _observe(candles: Any, rules: Any, state: Any, extras: NDArray[np.float32], env: int) -> None:
    mask = extras.shape[1] - N_ACTIONS
    if mask > 0:
        _position_state(candles, rules, state, extras, env)
    side = state.side
    neutral, long, short = True, False, False
    if side == 0:
        neutral, long, short = _entries(candles, rules, state.row)
    extras[env, mask + NEUTRAL] = neutral
    extras[env, mask + LONG_ENTER] = long
    extras[env, mask + LONG_EXIT] = side > 0
    extras[env, mask + SHORT_ENTER] = short
    extras[env, mask + SHORT_EXIT] = side < 0


@njit(cache=True, error_model="numpy")
def _position_state(
    candles: Any, rules: Any, state: Any, extras: NDArray[np.float32], env: int
) -> None:
    side, row = state.side, state.row
    profit, age, best, worst = 0.0, 0.0, 0.0, 0.0
    if side != 0:
        profit = _in_units(_profit(rules, state, side, candles[row].close, False))
        age = min((row + 1 - state.open_row) / rules.age_limit, STATE_LIMIT)
        best = _in_units(_profit(rules, state, side, state.best_rate, False))
        worst = _in_units(_profit(rules, state, side, state.worst_rate, False))
    extras[env, 0] = side
    extras[env, 1] = profit
    extras[env, 2] = age
    extras[env, 3] = best
    extras[env, 4] = worst


@njit(cache=True, error_model="numpy")
def _in_units(profit: float) -> float:
    return max(-STATE_LIMIT, min(STATE_LIMIT, profit / PROFIT_UNIT))


@njit(cache=True, error_model="numpy")
def _step_one(candles: Any, roi: Any, rules: Any, state: Any, action: int, outcome: Any) -> None:
    last_row = len(candles) - 1
    side_before = state.side
    executed, is_valid = _executed(candles, rules, side_before, state.row, action)
    state.row += 1
    row = state.row
    if executed in (LONG_ENTER, SHORT_ENTER):
        _enter(candles, state, 1 if executed == LONG_ENTER else -1)
    held = state.side
    outcome.exit_code = STAY
    profit, age = 0.0, 0
    if held != 0:
        agent_exits = executed in (LONG_EXIT, SHORT_EXIT)
        _live_through(candles, roi, rules, state, agent_exits, outcome)
        age = row - state.open_row
        if outcome.exit_code != STAY:
            profit = outcome.profit_ratio
        else:
            profit = _profit(rules, state, held, candles[row + 1].open, True)
    equity = state.closed_equity
    if state.side != 0:
        equity *= max(1.0 + profit, EQUITY_FLOOR)
    log_return = math.log(equity / state.equity) if equity != state.equity else 0.0
    state.equity = equity
    outcome.executed = executed
    outcome.log_return = log_return
    outcome.row = row
    outcome.equity = equity
    outcome.side = state.side
    ruined = state.side == 0 and equity <= EQUITY_FLOOR
    outcome.terminated = row == last_row or equity <= rules.min_equity or ruined
    lived = row - state.first_row
    outcome.truncated = not outcome.terminated and lived >= rules.max_episode_steps
    if rules.reward == LOG_RETURN:
        outcome.reward = log_return
        return
    best, worst = 0.0, 0.0
    if held != 0:
        best = max(_profit(rules, state, held, state.best_rate, False), profit)
        worst = min(_profit(rules, state, held, state.worst_rate, False), profit)
    closed = outcome.exit_code != STAY
    if rules.reward == USER_REWARD:
        outcome.is_valid = is_valid
        outcome.side_before = side_before
        outcome.age_candles = age
        outcome.profit = profit
        outcome.best_profit = best
        outcome.worst_profit = worst
        return
    outcome.reward = _reward(rules, action, is_valid, side_before, closed, profit, best, worst, age)


@njit(cache=True, error_model="numpy")
def _executed(candles: Any, rules: Any, side: int, row: int, action: int) -> tuple[int, bool]:
    """Return the action itself if it is valid, else the first valid one; and whether it was."""
    if side > 0:
        is_valid = action in (NEUTRAL, LONG_EXIT)
        return (action if is_valid else NEUTRAL), is_valid
    if side < 0:
        is_valid = action in (NEUTRAL, SHORT_EXIT)
        return (action if is_valid else NEUTRAL), is_valid
    neutral, long, short = _entries(candles, rules, row)
    is_valid = (
        (action == NEUTRAL and neutral)
        or (action == LONG_ENTER and long)
        or (action == SHORT_ENTER and short)
    )
    if is_valid:
        return action, True
    if neutral:
        return NEUTRAL, False
    return (LONG_ENTER if long else SHORT_ENTER), False


@njit(cache=True, error_model="numpy")
def _entries(candles: Any, rules: Any, row: int) -> tuple[bool, bool, bool]:
    """Return whether staying flat, a long and a short entry are valid without a position."""
    can_enter = row + 2 < len(candles)
    anywhere = rules.entry == ANY
    long = can_enter and (anywhere or candles[row].entry_long)
    short = can_enter and rules.can_short and (anywhere or candles[row].entry_short)
    return not (rules.entry == ALWAYS and (long or short)), long, short


@njit(cache=True, error_model="numpy")
def _enter(candles: Any, state: Any, side: int) -> None:
    row = state.row
    rate = candles[row].open
    state.side = side
    state.open_row = row
    state.open_rate = rate
    state.leverage = candles[row - 1].leverage
    state.best_rate = rate
    state.worst_rate = rate
    state.funding_paid = 0.0


@njit(cache=True, error_model="numpy")
def _live_through(
    candles: Any, roi: Any, rules: Any, state: Any, agent_exits: bool, outcome: Any
) -> None:
    """Charge funding, look for the exit that comes first, and close the trade at it."""
    row, side = state.row, state.side
    state.funding_paid += side * candles[row].funding
    rate, code = _find_exit(candles, roi, rules, state, agent_exits)
    if code == STAY:
        high, low = candles[row].high, candles[row].low
        if side > 0:
            state.best_rate = max(state.best_rate, high)
            state.worst_rate = min(state.worst_rate, low)
        else:
            state.best_rate = min(state.best_rate, low)
            state.worst_rate = max(state.worst_rate, high)
        return
    rate = _round_to_tick(rate, candles[row].tick_size, 0)
    profit = _profit(rules, state, side, rate, True)
    outcome.exit_code = code
    outcome.trade_side = side
    outcome.open_row = state.open_row
    outcome.open_rate = state.open_rate
    outcome.close_rate = rate
    outcome.leverage = state.leverage
    outcome.profit_ratio = profit
    state.closed_equity *= max(1.0 + profit, EQUITY_FLOOR)
    state.side = 0


@njit(cache=True, error_model="numpy")
def _find_exit(
    candles: Any, roi: Any, rules: Any, state: Any, agent_exits: bool
) -> tuple[float, int]:
    row = state.row
    opened = candles[row].open
    if agent_exits:
        return opened, AGENT
    code = _safety_exit(rules, state, opened)
    if code != STAY:
        return opened, code
    rate, code = _stop(candles, rules, state)
    if code != STAY:
        return rate, code
    rate, code = _take_profit(candles, roi, rules, state)
    if code != STAY:
        return rate, code
    return opened, (END_OF_DATA if row == len(candles) - 1 else STAY)


@njit(cache=True, error_model="numpy")
def _safety_exit(rules: Any, state: Any, opened: float) -> int:
    side = state.side
    age = state.row - state.open_row
    profit = _profit(rules, state, side, opened, True)
    if profit < rules.emergency_loss:
        return EMERGENCY
    best = _profit(rules, state, side, state.best_rate, False)
    if age > 0 and best >= rules.break_even_trigger and profit <= rules.break_even_floor:
        return BREAK_EVEN
    if rules.max_duration > 0 and age >= rules.max_duration:
        return MAX_DURATION
    return STAY


@njit(cache=True, error_model="numpy")
def _stop(candles: Any, rules: Any, state: Any) -> tuple[float, int]:
    row, side = state.row, state.side
    open_rate, leverage = state.open_rate, state.leverage
    worst = candles[row].low if side > 0 else candles[row].high
    if not math.isnan(rules.stoploss):
        price = open_rate * (1.0 - side * rules.stoploss / leverage)
        price = _round_to_tick(price, candles[row].tick_size, side)
        if side * (price - worst) >= 0.0:
            return _stop_fill(candles, row, side, price), STOP_LOSS
    bare = open_rate * (1.0 - side / leverage) / (1.0 - side * rules.maintenance_margin_rate)
    price = max(0.0, bare + side * abs(open_rate - bare) * rules.liquidation_buffer)
    if price > 0.0 and side * (price - worst) >= 0.0:
        return _stop_fill(candles, row, side, price), LIQUIDATION
    return 0.0, STAY


@njit(cache=True, error_model="numpy")
def _stop_fill(candles: Any, row: int, side: int, price: float) -> float:
    beyond = price > candles[row].high if side > 0 else price < candles[row].low
    return candles[row].open if beyond else price


@njit(cache=True, error_model="numpy")
def _take_profit(candles: Any, roi: Any, rules: Any, state: Any) -> tuple[float, int]:
    row, side = state.row, state.side
    age_minutes = (row - state.open_row) * rules.timeframe_minutes
    rung = -1
    for index in range(len(roi)):
        if roi[index, 0] <= age_minutes:
            rung = index
    if rung < 0:
        return 0.0, STAY
    opened, high, low = candles[row].open, candles[row].high, candles[row].low
    rung_minutes, ratio = roi[rung, 0], roi[rung, 1]
    if _profit(rules, state, side, high if side > 0 else low, True) <= ratio:
        return 0.0, STAY
    on_a_candle = rung_minutes % rules.timeframe_minutes == 0
    if ratio == -1.0 and on_a_candle:
        return opened, ROI
    open_value = state.open_rate * (1.0 + side * rules.fee_rate)
    target = (1.0 + side * ratio / state.leverage) * open_value
    target += side * state.funding_paid
    rate = target / (1.0 - side * rules.fee_rate)
    is_new = age_minutes > 0 and age_minutes == rung_minutes and on_a_candle
    if is_new and side * (opened - rate) > 0.0:
        return opened, ROI
    return min(max(rate, low), high), ROI


@njit(cache=True, error_model="numpy")
def _profit(rules: Any, state: Any, side: int, rate: float, with_funding: bool) -> float:
    open_value = state.open_rate * (1.0 + side * rules.fee_rate)
    funding = state.funding_paid if with_funding else 0.0
    close_value = rate * (1.0 - side * rules.fee_rate) - side * funding
    return _round_8(side * (close_value / open_value - 1.0) * state.leverage)


@njit(cache=True, error_model="numpy")
def _round_8(value: float) -> float:
    return math.floor(value * 1e8 + 0.5) / 1e8


@njit(cache=True, error_model="numpy")
def _round_to_tick(price: float, tick_size: float, direction: int) -> float:
    if tick_size <= 0.0:
        return price
    per_unit = float(math.floor(1.0 / tick_size + 0.5))
    if per_unit < 1.0 or abs(per_unit * tick_size - 1.0) > 1e-9:
        per_unit = 0.0
    steps = math.floor(price / tick_size + 0.5)
    nearest = steps / per_unit if per_unit > 0.0 else steps * tick_size
    if direction * (price - nearest) <= 0.0:
        return nearest
    steps += direction
    return steps / per_unit if per_unit > 0.0 else steps * tick_size


@njit(cache=True, error_model="numpy")
def _reward(
    rules: Any,
    action: int,
    is_valid: bool,
    side_before: int,
    closed: bool,
    profit: float,
    best: float,
    worst: float,
    age: int,
) -> float:
    if rules.reward == EXIT_QUALITY:
        return _exit_quality(rules, profit, best, worst) if closed else 0.0
    return _freqtrade_example(rules, action, is_valid, side_before, profit, age)


@njit(cache=True, error_model="numpy")
def _exit_quality(rules: Any, profit: float, best: float, worst: float) -> float:
    aim = rules.profit_aim
    sunk = max(0.0, -worst) / aim
    drawdown_control = 1.0 - 2.0 * min(1.0, sunk)
    exit_timing = _clip(profit / max(best, 0.1 * aim))
    risk_reward = _clip(profit / max(-worst, 0.1 * aim) / rules.rr)
    quality: float = (
        0.35 * math.tanh(profit / aim)
        + 0.25 * drawdown_control
        + 0.20 * exit_timing
        + 0.20 * risk_reward
    )
    return quality


@njit(cache=True, error_model="numpy")
def _freqtrade_example(
    rules: Any, action: int, is_valid: bool, side_before: int, profit: float, age: int
) -> float:
    if not is_valid:
        return -2.0
    if side_before == 0:
        return 25.0 if action in (LONG_ENTER, SHORT_ENTER) else -1.0
    if action == NEUTRAL:
        return -age / float(rules.age_limit)
    factor = 100.0 * (1.5 if age <= rules.age_limit else 0.5)
    if profit > rules.profit_aim * rules.rr:
        factor *= rules.win_reward_factor
    return profit * factor


@njit(cache=True, error_model="numpy")
def _clip(value: float) -> float:
    return max(-1.0, min(1.0, value))

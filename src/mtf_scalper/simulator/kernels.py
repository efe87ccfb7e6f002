"""The reference environment, compiled: all environments advance one candle in one call.

Everything that runs per step stands in this one file, because numba's cache on disk does not notice
edits in other files. What each part means is said in ``reference.py`` and ``exits.py``; that both
agree is a test. Nothing here allocates: the caller owns all arrays.

What makes it fast:

- Functions within the loop take records, not arrays, where they can. numba counts references to an
  array in every function that takes one, even an inlined one, and each count costs as much as the
  arithmetic of a step.
- Whether a rule may force an exit is told by a few products (``_may_be_forced``); the rules
  themselves are asked only then.
- Actions are random while an agent learns, and a processor guesses branches on them wrongly.
  Conditions are joined by ``&`` and ``|``; branches are left where they save much or are rare.
- Observations and logarithms have loops of their own: divisions follow upon each other there in a
  short piece of code, so that the processor works on several environments at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.market.market import LIQUIDATIONS, Market
from mtf_scalper.settings import EntryMode, RewardName, Settings
from mtf_scalper.simulator.masks import entry_mode
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
MARGIN = 1e-6
NEAR_HALF = 0.499_999
SERIES_LIMIT = 0.05

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
    TRAILING_STOP,
) = range(10)
EXIT_CODES = {
    AGENT: "agent_exit",
    MAX_DURATION: "max_duration",
    EMERGENCY: "emergency_loss",
    BREAK_EVEN: "break_even",
    STOP_LOSS: "stop_loss",
    LIQUIDATION: "liquidation",
    ROI: "roi",
    END_OF_DATA: "force_exit",
    TRAILING_STOP: "trailing_stop_loss",
}
"""freqtrade's exit reasons by the codes that the kernel writes; 0 is no exit."""


CANDLE = np.dtype(
    [
        *((name, np.float64) for name in ("open", "high", "low", "close")),
        *((name, np.float64) for name in ("leverage", "funding", "tick_size", "exit_rate")),
        *((name, np.float64) for name in ("liquidation_long", "liquidation_short")),
        ("funding_between", np.float64),
        *((name, np.bool_) for name in ("entry_long", "entry_short")),
    ]
)
"""One row of a market; see ``Market``. ``exit_rate`` is its open as the price of an exit."""

STATE = np.dtype(
    [
        *((name, np.int64) for name in ("row", "first_row", "side", "open_row")),
        *((name, np.float64) for name in ("open_rate", "leverage", "best_rate", "worst_rate")),
        *((name, np.float64) for name in ("funding_paid", "equity", "closed_equity")),
        *((name, np.float64) for name in ("tick_size", "stop", "liquidation")),
        *((name, np.int64) for name in ("has_trailed", "order_code", "order_row")),
        ("order_rate", np.float64),
    ]
)
"""State of one environment; fields of a trade mean nothing while ``side`` is 0. ``tick_size`` is
that of the entry, ``liquidation`` the multiple of the open rate that the market gives there. A stop
that does not trail is not kept but worked out where it may have been reached. ``order_rate`` is the
price of an exit that no candle has reached yet, 0 where there is none."""

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
        *((name, np.bool_) for name in ("trailing", "trailing_only", "is_liquidated")),
        *((name, np.float64) for name in ("trailing_positive", "trailing_offset", "exit_timeout")),
        *((name, np.bool_) for name in ("enters_last", "always_fills")),
    ]
)
"""Settings as numbers; a rule that is off has a value that never applies. With ``always_fills`` an
exit never waits for a candle that reaches its price."""


def candles_of(market: Market) -> NDArray[np.void]:
    """Return a market as the kernel reads it: shape (T,) of ``CANDLE``."""
    candles = np.zeros(len(market), CANDLE)
    for column, name in enumerate(("open", "high", "low", "close")):
        candles[name] = market.ohlc[:, column]
    names = ("leverage", "funding", "funding_between", "tick_size", "entry_long", "entry_short")
    for name in (*names, *LIQUIDATIONS):
        candles[name] = getattr(market, name)
    _round_opens(candles)
    return candles


@njit(cache=True, error_model="numpy")
def _round_opens(candles: NDArray[np.void]) -> None:
    for row in range(len(candles)):
        candle = candles[row]
        candle.exit_rate = _round_to_tick(candle.open, candle.tick_size, 0)


def rules_of(market: Market, settings: Settings) -> NDArray[np.void]:
    """Return settings as the kernel reads them: shape (1,) of ``RULES``."""
    rules, parameters = settings.rules, settings.reward_parameters
    drawdown = rules.max_training_drawdown
    values = {
        "entry": list(EntryMode).index(entry_mode(rules, market)),
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
        "is_liquidated": rules.is_liquidated,
        "liquidation_buffer": rules.liquidation_buffer,
        "trailing": rules.trailing_stop,
        "trailing_only": rules.trailing_only_offset_is_reached,
        "trailing_positive": rules.trailing_stop_positive or math.nan,
        "trailing_offset": rules.trailing_stop_positive_offset,
        "exit_timeout": rules.exit_timeout_minutes or math.inf,
        "enters_last": market.ends_early,
        "always_fills": False,
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
    rule = rules[0]
    for index in range(len(states)):
        env: Any = np.uint64(index)
        _observe(candles, rule, states[env], extras, env)


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
    rule = rules[0]
    last_row = len(candles) - 1
    lowest = math.inf
    for rung in range(len(roi)):
        lowest = min(lowest, roi[rung, 1])
    events = 0
    for index in range(len(actions)):
        # Of an index with a sign numba asks every time whether it counts from the end.
        env: Any = np.uint64(index)
        state, outcome = states[env], outcomes[env]
        action, row = actions[env], state.row + 1
        is_last = row == last_row
        decided, candle = candles[np.uint64(row - 1)], candles[np.uint64(row)]
        following = candles[np.uint64(min(row + 1, last_row))]
        side_before = state.side
        entries = _entries(decided, rule, (not is_last) | rule.enters_last)
        executed, is_valid = _executed(side_before, entries, action)
        state.row = row
        if (side_before == 0) and (executed != NEUTRAL):
            _enter(decided, candle, rule, state, 1 if executed == LONG_ENTER else -1)
        side = state.side
        if side == 0:
            outcome.exit_code = STAY
            outcome.equity = outcome.log_return = state.equity
        else:
            code, rate = STAY, following.open
            state.funding_paid += side * candle.funding
            if side_before != 0:
                state.funding_paid += side * candle.funding_between
            if rule.trailing:
                _trail(candle, rule, state)
            if (executed == LONG_EXIT) | (executed == SHORT_EXIT):
                code, rate = AGENT, candle.exit_rate
                if state.tick_size != candle.tick_size:
                    rate = _round_to_tick(candle.open, state.tick_size, 0)
            elif _may_be_forced(candle, rule, state, lowest) | is_last:
                code, price = _find_exit(candle, roi, rule, state, is_last)
                if code != STAY:
                    rate = _round_to_tick(price, state.tick_size, 0)
            if (code != STAY) | (state.order_rate > 0.0):
                code, rate = _filled(candle, following, rule, state, is_last, code, rate)
            _mark(candle, rule, state, code, rate, outcome)
        outcome.executed = executed
        ended = _note_end(rule, state, is_last, outcome)
        if rule.reward != LOG_RETURN:
            _reward(rule, state, action, is_valid, side_before, side, outcome)
        events += ended | (outcome.exit_code != STAY)
        if ended:
            _observe(candles, rule, state, last_extras, env)
            _start(state, restart_rows[env])
    observe(candles, rules, states, extras)
    _write_log_returns(rules, outcomes)
    return events


@njit(cache=True, error_model="numpy", forceinline=True)
def _start(state: Any, row: int) -> None:
    state.row = row
    state.first_row = row
    state.side = 0
    state.equity = 1.0
    state.closed_equity = 1.0


# numba itself inlines this one, so that ``extras`` is not counted. Its rows are written by index: a
# view of a row would be counted too.
@njit(cache=True, error_model="numpy", inline="always")
def _observe(candles: Any, rules: Any, state: Any, extras: NDArray[np.float32], env: int) -> None:
    side, row = state.side, state.row
    candle = candles[np.uint64(row)]
    mask = extras.shape[1] - N_ACTIONS
    if mask > 0:
        profit, age, best, worst = _position_state(candle.close, rules, state)
        extras[env, 0] = side
        extras[env, 1] = profit
        extras[env, 2] = age
        extras[env, 3] = best
        extras[env, 4] = worst
    neutral, long, short = _entries(candle, rules, row + 2 < len(candles) + rules.enters_last)
    is_flat = side == 0
    extras[env, mask + NEUTRAL] = neutral | (not is_flat)
    extras[env, mask + LONG_ENTER] = long & is_flat
    extras[env, mask + LONG_EXIT] = side > 0
    extras[env, mask + SHORT_ENTER] = short & is_flat
    extras[env, mask + SHORT_EXIT] = side < 0


@njit(cache=True, error_model="numpy", forceinline=True)
def _position_state(close: float, rules: Any, state: Any) -> tuple[float, float, float, float]:
    side = state.side
    if side == 0:
        return 0.0, 0.0, 0.0, 0.0
    open_value = state.open_rate * (1.0 + side * rules.fee_rate)
    kept = 1.0 - side * rules.fee_rate
    leverage = state.leverage
    age = min((state.row + 1 - state.open_row) / rules.age_limit, STATE_LIMIT)
    profit = side * (close * kept / open_value - 1.0) * leverage
    best = side * (state.best_rate * kept / open_value - 1.0) * leverage
    worst = side * (state.worst_rate * kept / open_value - 1.0) * leverage
    return _in_units(profit), age, _in_units(best), _in_units(worst)


@njit(cache=True, error_model="numpy", forceinline=True)
def _in_units(profit: float) -> float:
    """Return a profit, rounded to 8 digits, as the network sees it.

    The product differs from the quotient by ``PROFIT_UNIT`` in the last digit of a double; as
    float32 they are one number, for multiples of 1e-8 lie farther from its roundings than that.
    """
    units: float = np.floor(profit * 1e8 + 0.5) * (1.0 / (1e8 * PROFIT_UNIT))
    return max(-STATE_LIMIT, min(STATE_LIMIT, units))


@njit(cache=True, error_model="numpy", forceinline=True)
def _executed(side: int, entries: tuple[bool, bool, bool], action: int) -> tuple[int, bool]:
    """Return the action itself if it is valid, else the first valid one; and whether it was."""
    neutral, long, short = entries
    is_flat = side == 0
    neutral |= not is_flat
    is_valid = (
        ((action == NEUTRAL) & neutral)
        | ((action == LONG_ENTER) & long & is_flat)
        | ((action == SHORT_ENTER) & short & is_flat)
        | ((action == LONG_EXIT) & (side > 0))
        | ((action == SHORT_EXIT) & (side < 0))
    )
    first = NEUTRAL if neutral else (LONG_ENTER if long else SHORT_ENTER)
    return (action if is_valid else first), is_valid


@njit(cache=True, error_model="numpy", forceinline=True)
def _entries(candle: Any, rules: Any, can_enter: bool) -> tuple[bool, bool, bool]:
    """Return whether staying flat, a long and a short entry are valid without a position."""
    anywhere = rules.entry == ANY
    long = can_enter & (anywhere | candle.entry_long)
    short = can_enter & rules.can_short & (anywhere | candle.entry_short)
    return not ((rules.entry == ALWAYS) & (long | short)), long, short


@njit(cache=True, error_model="numpy", forceinline=True)
def _enter(decided: Any, candle: Any, rules: Any, state: Any, side: int) -> None:
    rate, leverage, tick_size = candle.open, decided.leverage, candle.tick_size
    state.side = side
    state.open_row = state.row
    state.open_rate = rate
    state.leverage = leverage
    state.best_rate = rate
    state.worst_rate = rate
    state.funding_paid = 0.0
    state.tick_size = tick_size
    state.has_trailed = 0
    state.order_rate = 0.0
    state.liquidation = decided.liquidation_long if side > 0 else decided.liquidation_short
    if rules.trailing:
        state.stop = _first_stop(rules, state)


@njit(cache=True, error_model="numpy", forceinline=True)
def _mark(candle: Any, rules: Any, state: Any, code: int, rate: float, outcome: Any) -> None:
    """Mark the account at a rate: that of the exit, or the next open as if it were one."""
    side = state.side
    profit = _profit(rules, state, side, rate, True)
    equity = state.closed_equity * max(1.0 + profit, EQUITY_FLOOR)
    outcome.log_return = state.equity
    outcome.equity = equity
    state.equity = equity
    outcome.exit_code = code
    outcome.profit = profit
    if code == STAY:
        best, worst = _best_and_worst(candle, side)
        state.best_rate = side * max(side * state.best_rate, side * best)
        state.worst_rate = side * min(side * state.worst_rate, side * worst)
        return
    outcome.trade_side = side
    outcome.open_row = state.open_row
    outcome.open_rate = state.open_rate
    outcome.close_rate = rate
    outcome.leverage = state.leverage
    outcome.profit_ratio = profit
    state.closed_equity = equity
    state.side = 0


@njit(cache=True, error_model="numpy", forceinline=True)
def _best_and_worst(candle: Any, side: int) -> tuple[float, float]:
    """Return the prices inside a candle that are best and worst for a side."""
    high, low = candle.high, candle.low
    return (high, low) if side > 0 else (low, high)


@njit(cache=True, error_model="numpy")
def _write_log_returns(rules: NDArray[np.void], outcomes: NDArray[np.void]) -> None:
    """Write the log returns; until now the field held the equity before the step."""
    is_reward = rules[0].reward == LOG_RETURN
    for index in range(len(outcomes)):
        outcome = outcomes[np.uint64(index)]
        log_return = _log_ratio(outcome.equity, outcome.log_return)
        outcome.log_return = log_return
        if is_reward:
            outcome.reward = log_return


@njit(cache=True, error_model="numpy", forceinline=True)
def _log_ratio(numerator: float, denominator: float) -> float:
    """Return the log of a ratio: log(a / b) = 2 artanh((a - b) / (a + b)).

    Near 1 by the series of artanh, of which nothing is left out that a double would show.
    """
    part = (numerator - denominator) / (numerator + denominator)
    if abs(part) > SERIES_LIMIT:
        return math.log(numerator / denominator)
    square = part * part
    series = 1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9 + square * (1 / 11))))
    return 2.0 * (part + part * square * series)


@njit(cache=True, error_model="numpy", forceinline=True)
def _note_end(rules: Any, state: Any, is_last: bool, outcome: Any) -> bool:
    """Note where the step has led to; return whether the episode ends there."""
    row, side, equity = state.row, state.side, state.equity
    is_ruined = (equity <= rules.min_equity) | ((side == 0) & (equity <= EQUITY_FLOOR))
    terminated = is_last | is_ruined
    truncated = (not terminated) & (row - state.first_row >= rules.max_episode_steps)
    outcome.row = row
    outcome.side = side
    outcome.terminated = terminated
    outcome.truncated = truncated
    return bool(terminated | truncated)


@njit(cache=True, error_model="numpy", forceinline=True)
def _may_be_forced(candle: Any, rules: Any, state: Any, lowest_roi: float) -> bool:
    """Return False only where no rule forces an exit, by comparisons without a division.

    Profit ratios are compared as products with what was paid, prices as losses; ``MARGIN`` is far
    more than what rounding does to either.
    """
    side, leverage, open_rate = state.side, state.leverage, state.open_rate
    best, worst = _best_and_worst(candle, side)
    paid = open_rate * (1.0 + side * rules.fee_rate)
    kept = side * leverage * (1.0 - side * rules.fee_rate)
    owed = side * leverage * (paid + side * state.funding_paid)
    at_open = candle.open * kept - owed
    at_best = best * kept - owed
    at_best_before = state.best_rate * kept - side * leverage * paid
    emergency = at_open < (rules.emergency_loss + MARGIN) * paid
    break_even = (at_best_before >= (rules.break_even_trigger - MARGIN) * paid) & (
        at_open <= (rules.break_even_floor + MARGIN) * paid
    )
    age = state.row - state.open_row
    too_old = (rules.max_duration > 0) & (age >= rules.max_duration)
    takes_profit = at_best > (lowest_roi - MARGIN) * paid
    # Distances from the entry in shares of the stake; both prices are rounded by up to a tick.
    stop = math.inf if math.isnan(rules.stoploss) else rules.stoploss
    loss = (side * (open_rate - worst) + state.tick_size + MARGIN * open_rate) * leverage
    stopped = loss >= min(stop, _liquidation_distance(rules, state)) * open_rate
    stopped |= rules.trailing & (side * (state.stop - worst) >= 0.0)
    return bool(emergency | break_even | too_old | takes_profit | stopped)


@njit(cache=True, error_model="numpy", forceinline=True)
def _liquidation_distance(rules: Any, state: Any) -> float:
    side, leverage, multiple = state.side, state.leverage, state.liquidation
    rate = rules.maintenance_margin_rate
    margin = 1.0 - rate * leverage
    distance = margin * (1.0 - rules.liquidation_buffer) * (1.0 - rate)
    distance = distance if margin > 0.0 else -math.inf
    given = math.inf if multiple == 0.0 else side * (1.0 - multiple) * leverage
    distance = distance if math.isnan(multiple) else given
    return distance if rules.is_liquidated else math.inf


@njit(cache=True, error_model="numpy")
def _liquidation_price(rules: Any, state: Any) -> float:
    if not rules.is_liquidated:
        return 0.0
    side, rate = state.side, state.open_rate
    price = rate * state.liquidation
    if math.isnan(state.liquidation):
        bare = rate * (1.0 - side / state.leverage) / (1.0 - side * rules.maintenance_margin_rate)
        price = max(0.0, bare + side * abs(rate - bare) * rules.liquidation_buffer)
    rounded: float = _round_to_tick(price, state.tick_size, 0)
    return rounded


@njit(cache=True, error_model="numpy")
def _first_stop(rules: Any, state: Any) -> float:
    side = state.side
    price = state.open_rate * (1.0 - side * rules.stoploss / state.leverage)
    rounded: float = _round_to_tick(price, state.tick_size, side)
    return rounded


@njit(cache=True, error_model="numpy")
def _find_exit(
    candle: Any, roi: NDArray[np.float64], rules: Any, state: Any, is_last: bool
) -> tuple[int, float]:
    """Return the exit that the rules force, if any, and its price."""
    opened = candle.open
    code = _safety_exit(rules, state, opened)
    if code != STAY:
        return code, opened
    code, rate = _stop(candle, rules, state)
    if code != STAY:
        return code, rate
    code, rate = _take_profit(candle, roi, rules, state)
    if code != STAY:
        return code, rate
    if rules.trailing and state.has_trailed != 0 and _is_reached(candle, state.side, state.stop):
        return TRAILING_STOP, _trailing_fill(candle, rules, state)
    return (END_OF_DATA if is_last else STAY), opened


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
def _stop(candle: Any, rules: Any, state: Any) -> tuple[int, float]:
    side = state.side
    if not math.isnan(rules.stoploss):
        price = state.stop if rules.trailing else _first_stop(rules, state)
        if _is_reached(candle, side, price):
            # A stop that has trailed comes after ROI, and before liquidation is asked for.
            code = STAY if rules.trailing and state.has_trailed != 0 else STOP_LOSS
            return code, _stop_fill(candle, side, price)
    price = _liquidation_price(rules, state)
    if price > 0.0 and _is_reached(candle, side, price):
        return LIQUIDATION, _stop_fill(candle, side, price)
    return STAY, 0.0


@njit(cache=True, error_model="numpy", forceinline=True)
def _is_reached(candle: Any, side: int, price: float) -> bool:
    return bool(price >= candle.low if side > 0 else price <= candle.high)


@njit(cache=True, error_model="numpy")
def _trail(candle: Any, rules: Any, state: Any) -> None:
    side = state.side
    if _is_reached(candle, side, state.stop):
        return
    best, _ = _best_and_worst(candle, side)
    profit = _profit(rules, state, side, best, True)
    if rules.trailing_only & (profit < rules.trailing_offset):
        return
    distance = _trailing_distance(rules, profit)
    price = best * (1.0 - side * distance / state.leverage)
    price = _round_to_tick(price, state.tick_size, side)
    if side * (price - state.stop) > 0.0:
        state.stop = price
        state.has_trailed = 1


@njit(cache=True, error_model="numpy", forceinline=True)
def _trailing_distance(rules: Any, profit: float) -> float:
    is_positive = (not math.isnan(rules.trailing_positive)) & (profit > rules.trailing_offset)
    distance: float = rules.trailing_positive if is_positive else rules.stoploss
    return distance


@njit(cache=True, error_model="numpy")
def _trailing_fill(candle: Any, rules: Any, state: Any) -> float:
    side, leverage = state.side, state.leverage
    price: float = _stop_fill(candle, side, state.stop)
    beyond = state.stop > candle.high if side > 0 else state.stop < candle.low
    if beyond or state.row != state.open_row:
        return price
    if rules.trailing_only and not math.isnan(rules.trailing_positive):
        share = 1.0 + side * rules.trailing_offset - side * rules.trailing_positive / leverage
    else:
        best, _ = _best_and_worst(candle, side)
        distance = _trailing_distance(rules, _profit(rules, state, side, best, True))
        share = 1.0 - side * distance / leverage
    price = candle.open * share
    inside: float = max(candle.low, price) if side > 0 else min(candle.high, price)
    return inside


@njit(cache=True, error_model="numpy")
def _filled(
    candle: Any, following: Any, rules: Any, state: Any, is_last: bool, code: int, rate: float
) -> tuple[int, float]:
    """Place the order of an exit, and return code and price of the one that this candle fills."""
    if rules.always_fills:
        return code, rate
    age_minutes = (state.row - state.order_row) * rules.timeframe_minutes
    if state.order_rate > 0.0 and age_minutes >= rules.exit_timeout:
        state.order_rate = 0.0
    if code not in (STAY, END_OF_DATA):
        if state.order_rate != rate:
            state.order_rate = rate
            state.order_row = state.row
        state.order_code = code
    # No order has the rate 0, and no price is as low.
    if candle.low <= state.order_rate <= candle.high:
        return state.order_code, state.order_rate
    if is_last:
        return END_OF_DATA, _round_to_tick(candle.open, state.tick_size, 0)
    return STAY, following.open


@njit(cache=True, error_model="numpy")
def _stop_fill(candle: Any, side: int, price: float) -> float:
    beyond = price > candle.high if side > 0 else price < candle.low
    return candle.open if beyond else price


@njit(cache=True, error_model="numpy")
def _take_profit(candle: Any, roi: Any, rules: Any, state: Any) -> tuple[int, float]:
    side = state.side
    age_minutes = (state.row - state.open_row) * rules.timeframe_minutes
    rung = -1
    for index in range(len(roi)):
        if roi[index, 0] <= age_minutes:
            rung = index
    if rung < 0:
        return STAY, 0.0
    opened, high, low = candle.open, candle.high, candle.low
    rung_minutes, ratio = roi[rung, 0], roi[rung, 1]
    if _profit(rules, state, side, high if side > 0 else low, True) <= ratio:
        return STAY, 0.0
    on_a_candle = rung_minutes % rules.timeframe_minutes == 0
    if ratio == -1.0 and on_a_candle:
        return ROI, opened
    open_value = state.open_rate * (1.0 + side * rules.fee_rate)
    target = (1.0 + side * ratio / state.leverage) * open_value
    target += side * state.funding_paid
    rate = target / (1.0 - side * rules.fee_rate)
    is_new = age_minutes > 0 and age_minutes == rung_minutes and on_a_candle
    if is_new and side * (opened - rate) > 0.0:
        return ROI, opened
    return ROI, min(max(rate, low), high)


@njit(cache=True, error_model="numpy", forceinline=True)
def _profit(rules: Any, state: Any, side: int, rate: float, with_funding: bool) -> float:
    open_value = state.open_rate * (1.0 + side * rules.fee_rate)
    funding = state.funding_paid if with_funding else 0.0
    close_value = rate * (1.0 - side * rules.fee_rate) - side * funding
    return _round_8(side * (close_value / open_value - 1.0) * state.leverage)


@njit(cache=True, error_model="numpy", forceinline=True)
def _round_8(value: float) -> float:
    rounded: float = np.floor(value * 1e8 + 0.5) / 1e8
    return rounded


@njit(cache=True, error_model="numpy")
def _round_to_tick(price: float, tick_size: float, direction: int) -> float:
    if tick_size <= 0.0:
        return price
    per_unit = float(math.floor(1.0 / tick_size + 0.5))
    if per_unit < 1.0 or abs(per_unit * tick_size - 1.0) > 1e-9:
        per_unit = 0.0
    shifted = price / tick_size + 0.5
    steps = math.floor(shifted)
    if abs(shifted - steps - 0.5) > NEAR_HALF:
        steps = _half_up(price, tick_size, per_unit, steps)
    nearest = steps / per_unit if per_unit > 0.0 else steps * tick_size
    if direction * (price - nearest) <= 0.0:
        return nearest
    steps += direction
    return steps / per_unit if per_unit > 0.0 else steps * tick_size


@njit(cache=True, error_model="numpy")
def _half_up(price: float, tick_size: float, per_unit: float, steps: int) -> int:
    for middle in (steps + 1, steps):
        half = (2 * middle - 1) / (2.0 * per_unit)
        if per_unit == 0.0:
            half = (middle - 0.5) * tick_size
        if price >= half:
            return middle
    return steps - 1


@njit(cache=True, error_model="numpy")
def _reward(
    rules: Any,
    state: Any,
    action: int,
    is_valid: bool,
    side_before: int,
    held: int,
    outcome: Any,
) -> None:
    """Write a reward other than the default, or what a user's reward needs."""
    profit, best, worst, age = 0.0, 0.0, 0.0, 0
    if held != 0:
        profit = outcome.profit
        best = max(_profit(rules, state, held, state.best_rate, False), profit)
        worst = min(_profit(rules, state, held, state.worst_rate, False), profit)
        age = state.row - state.open_row
    if rules.reward == EXIT_QUALITY:
        closed = outcome.exit_code != STAY
        outcome.reward = _exit_quality(rules, profit, best, worst) if closed else 0.0
    elif rules.reward == FREQTRADE_EXAMPLE:
        outcome.reward = _freqtrade_example(rules, action, is_valid, side_before, profit, age)
    outcome.is_valid = is_valid
    outcome.side_before = side_before
    outcome.age_candles = age
    outcome.profit = profit
    outcome.best_profit = best
    outcome.worst_profit = worst


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

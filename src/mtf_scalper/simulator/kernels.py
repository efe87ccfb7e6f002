"""The reference environment, compiled: all environments advance one candle in one call.

The order of a trade's life is that of ``reference.py``, and that both agree is a test; prices and
profits are those of ``exits.py``, compiled. Nothing here allocates: the caller owns all arrays.

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

from mtf_scalper.jit import compiled, njit
from mtf_scalper.market.market import LIQUIDATIONS, Market
from mtf_scalper.settings import EntryMode, RewardName, Settings
from mtf_scalper.simulator import exits, observation
from mtf_scalper.simulator.exits import (
    AGENT,
    END_OF_DATA,
    EQUITY_FLOOR,
    LIQUIDATION,
    ROI,
    STAY,
    STOP_LOSS,
    TRAILING_STOP,
)
from mtf_scalper.simulator.observation import STATE_LIMIT, age_limit
from mtf_scalper.simulator.types import N_ACTIONS

(
    _best_and_worst,
    _is_reached,
    _liquidation_price,
    _profit_ratio,
    _roi_fill,
    _roi_rate,
    _round_to_tick,
    _rung_after,
    _safety_exit,
    _slipped,
    _stop_fill,
    _stop_price,
    _trailed_stop,
    _trailing_fill,
) = compiled(
    exits,
    "best_and_worst",
    "is_reached",
    "liquidation_price",
    "profit_ratio",
    "roi_fill",
    "roi_rate",
    "round_to_tick",
    "rung_after",
    "safety_exit",
    "slipped",
    "stop_fill",
    "stop_price",
    "trailed_stop",
    "trailing_fill",
    inlined=(
        *("profit_ratio", "round_to_8_digits", "best_and_worst", "is_reached", "roi_rate"),
        "slipped",
    ),
)
(_in_units,) = compiled(observation, "in_units", inlined=("in_units",))

MARGIN = 1e-6
SERIES_LIMIT = 0.05

NEUTRAL, LONG_ENTER, LONG_EXIT, SHORT_ENTER, SHORT_EXIT = range(5)
ALWAYS, CLASSIC, ANY = range(3)

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
        *((name, np.float64) for name in ("fee_rate", "min_equity")),
        *((name, np.int64) for name in ("entry", "timeframe_minutes", "age_limit")),
        *((name, np.int64) for name in ("max_episode_steps", "last_row")),
        ("lowest_roi", np.float64),
        *exits.RULES.descr,
        *((name, np.bool_) for name in ("enters_last", "always_fills", "is_log_return")),
    ]
)
"""Settings and terms of a market as numbers; a rule that is off has a value that never applies.
With ``always_fills`` an exit never waits for a candle that reaches its price."""


Terms = tuple[NDArray[np.void], NDArray[np.float64], NDArray[np.void]]
"""A market and its rules as the kernel reads them: candles, ROI ladder and rules. One plain tuple
passes into compiled code sooner than three arrays do."""


def terms_of(market: Market, settings: Settings) -> Terms:
    """Return a market, and the settings that it is traded under, as the kernel reads them.

    Their rules say where the agent may enter; the limits of a training's episodes do not apply.
    """
    return candles_of(market), exits.roi_ladder_of(settings.rules), rules_of(market, settings)


def terms_with(terms: Terms, **values: float) -> Terms:
    """Return terms with other values of fields of ``RULES``."""
    candles, roi, rules = terms
    rules = rules.copy()
    for name, value in values.items():
        rules[name] = value
    return candles, roi, rules


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
    numbers = exits.numbers_of(settings.rules, RULES)
    assert settings.rules.entry is not None
    values = {
        "entry": list(EntryMode).index(settings.rules.entry),
        "timeframe_minutes": market.timeframe_minutes,
        "age_limit": age_limit(settings),
        "max_episode_steps": len(market),
        "last_row": len(market) - 1,
        "lowest_roi": min(settings.rules.minimal_roi.values(), default=math.inf),
        "fee_rate": market.fee_rate,
        "min_equity": -math.inf,
        "enters_last": market.ends_early,
        "is_log_return": settings.reward == RewardName.LOG_RETURN,
    }
    for name, value in values.items():
        numbers[name] = value
    return numbers


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
def observe(terms: Terms, states: NDArray[np.void], extras: NDArray[np.float32]) -> None:
    """Write what every agent sees besides the window to ``extras``, float32 of shape (N, E).

    E is 5, the action mask, or 10, the position's state before it.
    """
    candles, _, rules = terms
    rule = rules[0]
    for index in range(len(states)):
        env: Any = np.uint64(index)
        _observe(candles, rule, states[env], extras, env)


@njit(cache=True, error_model="numpy")
def step(
    terms: Terms,
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
    terms : tuple
        From ``terms_of``.
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
    candles, roi, rules = terms
    rule = rules[0]
    last_row = len(candles) - 1
    events = 0
    for index in range(len(actions)):
        # Of an index with a sign numba asks every time whether it counts from the end.
        env: Any = np.uint64(index)
        state, outcome = states[env], outcomes[env]
        row = state.row
        decided, candle = candles[np.uint64(row)], candles[np.uint64(row + 1)]
        following = candles[np.uint64(min(row + 2, last_row))]
        code, price = STAY, 0.0
        if begin(decided, candle, rule, state, actions[env], outcome):
            code, price = find_exit(candle, roi, rule, state)
        ended = settle(candle, following, rule, state, code, price, outcome)
        events += ended | (outcome.exit_code != STAY)
        if ended:
            _observe(candles, rule, state, last_extras, env)
            _start(state, restart_rows[env])
    observe(terms, states, extras)
    _write_log_returns(rules, outcomes)
    return events


@njit(cache=True, error_model="numpy", forceinline=True)
def begin(decided: Any, candle: Any, rule: Any, state: Any, action: int, outcome: Any) -> bool:
    """Begin a step: execute a decision, pay funding and move the stop.

    A step is ``begin``, ``find_exit`` where that returned True, and ``settle``; three functions,
    so that none that is inlined takes an array.

    Parameters
    ----------
    decided, candle : record of CANDLE
        That at whose close the decision was made, and the next one.
    rule : record of RULES
    state : record of STATE
        Read and overwritten, as is ``outcome``.
    action : int
    outcome : record of OUTCOME

    Returns
    -------
    bool
        Whether a rule may force an exit.
    """
    state.row += 1
    is_last = state.row == rule.last_row
    side_before = state.side
    entries = _entries(decided, rule, (not is_last) | rule.enters_last)
    executed, is_valid = _executed(side_before, entries, action)
    if (side_before == 0) and (executed != NEUTRAL):
        _enter(decided, candle, rule, state, 1 if executed == LONG_ENTER else -1)
    outcome.executed = executed
    if not rule.is_log_return:
        outcome.is_valid = is_valid
        outcome.side_before = side_before
    side = state.side
    if side == 0:
        return False
    state.funding_paid += side * candle.funding
    if side_before != 0:
        state.funding_paid += side * candle.funding_between
    if rule.trailing_stop:
        _trail(candle, rule, state)
    if (executed == LONG_EXIT) | (executed == SHORT_EXIT):
        return False
    return bool(_may_be_forced(candle, rule, state) | is_last)


@njit(cache=True, error_model="numpy", forceinline=True)
def settle(
    candle: Any,
    following: Any,
    rule: Any,
    state: Any,
    code: int,
    price: float,
    outcome: Any,
) -> bool:
    """End a step: fill what is to be filled and mark the account.

    Parameters
    ----------
    candle, following : record of CANDLE
        That of the step, and the next one; at the end the last one once more.
    rule, state, outcome
        As in ``begin``. Of the outcome all but the reward is overwritten; ``log_return`` is the
        equity before, see ``log_ratio``.
    code, price : int, float
        From ``find_exit``, ``STAY`` where it was not asked.

    Returns
    -------
    bool
        Whether the episode ends here.
    """
    side, is_last, executed = state.side, state.row == rule.last_row, outcome.executed
    if side == 0:
        outcome.exit_code = STAY
        outcome.equity = outcome.log_return = state.equity
    else:
        rate = following.open
        if (executed == LONG_EXIT) | (executed == SHORT_EXIT):
            code, rate = AGENT, candle.exit_rate
            if state.tick_size != candle.tick_size:
                rate = _round_to_tick(candle.open, state.tick_size, 0)
        elif code != STAY:
            rate = _round_to_tick(price, state.tick_size, 0)
        if (code != STAY) | (state.order_rate > 0.0):
            code, rate = _filled(candle, following, rule, state, is_last, code, rate)
        _mark(candle, rule, state, code, rate, outcome)
    ended = _note_end(rule, state, is_last, outcome)
    if not rule.is_log_return:
        _describe(rule, state, side, outcome)
    return ended


@njit(cache=True, error_model="numpy", forceinline=True)
def _start(state: Any, row: int) -> None:
    state.row = row
    state.first_row = row
    state.side = 0
    state.equity = 1.0
    state.closed_equity = 1.0


# numba itself inlines these two, so that ``extras`` is not counted. Its rows are written by index:
# a view of a row would be counted too.
@njit(cache=True, error_model="numpy", inline="always")
def observe_position(
    candle: Any, rules: Any, state: Any, extras: NDArray[np.float32], env: int
) -> None:
    """Write what an agent sees of its position at the close of ``candle`` to ``extras[env]``."""
    profit, age, best, worst = _position_state(candle.close, rules, state)
    extras[env, 0] = state.side
    extras[env, 1] = profit
    extras[env, 2] = age
    extras[env, 3] = best
    extras[env, 4] = worst


@njit(cache=True, error_model="numpy", inline="always")
def _observe(candles: Any, rules: Any, state: Any, extras: NDArray[np.float32], env: int) -> None:
    side, row = state.side, state.row
    candle = candles[np.uint64(row)]
    mask = extras.shape[1] - N_ACTIONS
    if mask > 0:
        observe_position(candle, rules, state, extras, env)
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
    if rules.trailing_stop:
        state.stop = _first_stop(rules, state)


@njit(cache=True, error_model="numpy", forceinline=True)
def _mark(candle: Any, rules: Any, state: Any, code: int, rate: float, outcome: Any) -> None:
    """Mark the account at a rate: that of the exit, or the next open as if it were one."""
    side = state.side
    rate = _slipped(side, rate, rules.slippage_bps)
    profit = _profit(rules, state, side, rate, True)
    equity = state.closed_equity * max(1.0 + profit, EQUITY_FLOOR)
    outcome.log_return = state.equity
    outcome.equity = equity
    state.equity = equity
    outcome.exit_code = code
    outcome.profit = profit
    if code == STAY:
        best, worst = _best_and_worst(side, candle.high, candle.low)
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


@njit(cache=True, error_model="numpy")
def _write_log_returns(rules: NDArray[np.void], outcomes: NDArray[np.void]) -> None:
    """Write the log returns; until now the field held the equity before the step."""
    is_reward = rules[0].is_log_return
    for index in range(len(outcomes)):
        outcome = outcomes[np.uint64(index)]
        log_return = log_ratio(outcome.equity, outcome.log_return)
        outcome.log_return = log_return
        if is_reward:
            outcome.reward = log_return


@njit(cache=True, error_model="numpy", forceinline=True)
def log_ratio(numerator: float, denominator: float) -> float:
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
def _may_be_forced(candle: Any, rules: Any, state: Any) -> bool:
    """Return False only where no rule forces an exit, by comparisons without a division.

    Profit ratios are compared as products with what was paid, prices as losses; ``MARGIN`` is far
    more than what rounding does to either.
    """
    side, leverage, open_rate = state.side, state.leverage, state.open_rate
    best, worst = _best_and_worst(side, candle.high, candle.low)
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
    too_old = age >= rules.max_trade_duration_candles
    takes_profit = at_best > (rules.lowest_roi - MARGIN) * paid
    # Distances from the entry in shares of the stake; both prices are rounded by up to a tick.
    stop = math.inf if math.isnan(rules.stoploss) else -rules.stoploss
    loss = (side * (open_rate - worst) + state.tick_size + MARGIN * open_rate) * leverage
    stopped = loss >= min(stop, _liquidation_distance(rules, state)) * open_rate
    stopped |= rules.trailing_stop & (side * (state.stop - worst) >= 0.0)
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
def _first_stop(rules: Any, state: Any) -> float:
    stop: float = _stop_price(
        state.side, state.open_rate, state.leverage, rules.stoploss, state.tick_size
    )
    return stop


@njit(cache=True, error_model="numpy")
def find_exit(candle: Any, roi: NDArray[np.float64], rules: Any, state: Any) -> tuple[int, float]:
    """Return the exit that the rules force, if any, and its price."""
    side, opened = state.side, candle.open
    profit = _profit(rules, state, side, opened, True)
    best = _profit(rules, state, side, state.best_rate, False)
    code = _safety_exit(
        state.row - state.open_row,
        profit,
        best,
        rules.emergency_loss,
        rules.break_even_trigger,
        rules.break_even_floor,
        rules.max_trade_duration_candles,
    )
    if code != STAY:
        return code, opened
    code, rate = _stop(candle, rules, state)
    if code != STAY:
        return code, rate
    code, rate = _take_profit(candle, roi, rules, state)
    if code != STAY:
        return code, rate
    has_trailed = rules.trailing_stop and state.has_trailed != 0
    if has_trailed and _is_reached(side, state.stop, candle.high, candle.low):
        best = _best_profit(candle, rules, state)
        is_new = state.row == state.open_row
        rate = _trailing_fill(candle, rules, side, state.stop, is_new, best, state.leverage)
        return TRAILING_STOP, rate
    return (END_OF_DATA if state.row == rules.last_row else STAY), opened


@njit(cache=True, error_model="numpy")
def _stop(candle: Any, rules: Any, state: Any) -> tuple[int, float]:
    side, opened, high, low = state.side, candle.open, candle.high, candle.low
    if not math.isnan(rules.stoploss):
        price = state.stop if rules.trailing_stop else _first_stop(rules, state)
        if _is_reached(side, price, high, low):
            # A stop that has trailed comes after ROI, and before liquidation is asked for.
            code = STAY if rules.trailing_stop and state.has_trailed != 0 else STOP_LOSS
            return code, _stop_fill(side, price, opened, high, low)
    price = _liquidation_price(
        rules, side, state.open_rate, state.leverage, state.liquidation, state.tick_size
    )
    if price > 0.0 and _is_reached(side, price, high, low):
        return LIQUIDATION, _stop_fill(side, price, opened, high, low)
    return STAY, 0.0


@njit(cache=True, error_model="numpy")
def _trail(candle: Any, rules: Any, state: Any) -> None:
    moved = _trailed_stop(
        candle,
        rules,
        state.side,
        state.stop,
        _best_profit(candle, rules, state),
        state.leverage,
        state.tick_size,
    )
    if moved != state.stop:
        state.stop = moved
        state.has_trailed = 1


@njit(cache=True, error_model="numpy")
def _filled(
    candle: Any, following: Any, rules: Any, state: Any, is_last: bool, code: int, rate: float
) -> tuple[int, float]:
    """Place the order of an exit, and return code and price of the one that this candle fills."""
    if rules.always_fills:
        return code, rate
    age_minutes = (state.row - state.order_row) * rules.timeframe_minutes
    if state.order_rate > 0.0 and age_minutes >= rules.exit_timeout_minutes:
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
def _take_profit(candle: Any, roi: Any, rules: Any, state: Any) -> tuple[int, float]:
    side, minutes = state.side, rules.timeframe_minutes
    age_minutes = (state.row - state.open_row) * minutes
    rung = _rung_after(roi, age_minutes)
    if rung < 0 or _best_profit(candle, rules, state) <= roi[rung, 1]:
        return STAY, 0.0
    ratio = roi[rung, 1]
    rate = _roi_rate(
        side, state.open_rate, ratio, rules.fee_rate, state.leverage, state.funding_paid
    )
    return ROI, _roi_fill(candle, side, rate, roi[rung, 0], ratio, age_minutes, minutes)


@njit(cache=True, error_model="numpy", forceinline=True)
def _profit(rules: Any, state: Any, side: int, rate: float, with_funding: bool) -> float:
    funding = state.funding_paid if with_funding else 0.0
    profit: float = _profit_ratio(
        side, state.open_rate, rate, rules.fee_rate, state.leverage, funding
    )
    return profit


@njit(cache=True, error_model="numpy", forceinline=True)
def _best_profit(candle: Any, rules: Any, state: Any) -> float:
    """Return the profit at the candle's best price, funding included."""
    best, _ = _best_and_worst(state.side, candle.high, candle.low)
    profit: float = _profit(rules, state, state.side, best, True)
    return profit


@njit(cache=True, error_model="numpy")
def _describe(rules: Any, state: Any, held: int, outcome: Any) -> None:
    """Write what a reward other than the default needs of the trade of this step."""
    profit, best, worst, age = 0.0, 0.0, 0.0, 0
    if held != 0:
        profit = outcome.profit
        best = max(_profit(rules, state, held, state.best_rate, False), profit)
        worst = min(_profit(rules, state, held, state.worst_rate, False), profit)
        age = state.row - state.open_row
    outcome.age_candles = age
    outcome.profit = profit
    outcome.best_profit = best
    outcome.worst_profit = worst

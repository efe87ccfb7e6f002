"""The arithmetic of a leveraged trade and of its forced exits, as freqtrade's backtester has it.

Every function is pure, works on plain numbers and stands here once: the reference environment and
the freqtrade strategy call it as it is, ``kernels.py`` compiles it (``jit.compiled``).
``side`` is +1 for long and -1 for short; ``funding_paid`` is in quote currency per unit of base
currency, positive where the trade paid it. ``candle`` is a record with ``open``, ``high`` and
``low``, and ``rules`` one of ``RULES``; what is asked in every candle takes numbers.
"""

from __future__ import annotations

import math
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.settings import TradeRules

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
"""freqtrade's exit reasons by their codes; ``STAY`` is no exit."""

EQUITY_FLOOR = 1e-6
"""Share of equity that is left after a trade that lost its whole stake: logs stay finite."""
NEAR_HALF = 0.499_999
"""Farther than this from a step, in steps, a price counts as one in the middle of two."""

RULES = np.dtype(
    [
        ("max_trade_duration_candles", np.int64),
        *((name, np.float64) for name in ("stoploss", "emergency_loss", "break_even_trigger")),
        *((name, np.float64) for name in ("break_even_floor", "maintenance_margin_rate")),
        *((name, np.float64) for name in ("liquidation_buffer", "trailing_stop_positive")),
        *((name, np.float64) for name in ("trailing_stop_positive_offset", "exit_timeout_minutes")),
        ("slippage_bps", np.float64),
        *((name, np.bool_) for name in ("can_short", "is_liquidated", "trailing_stop")),
        ("trailing_only_offset_is_reached", np.bool_),
    ]
)
"""``TradeRules`` as numbers, under their names; see ``numbers_of``."""

_OFF = {
    "max_trade_duration_candles": np.iinfo(np.int64).max,
    "stoploss": math.nan,
    "emergency_loss": -math.inf,
    "break_even_trigger": math.inf,
    "trailing_stop_positive": math.nan,
    "exit_timeout_minutes": math.inf,
}
"""Values with which a rule never applies."""


def numbers_of(rules: TradeRules, dtype: np.dtype[np.void] = RULES) -> NDArray[np.void]:
    """Return rules as numbers, shape (1,) of ``dtype``, which has the fields of ``RULES``."""
    numbers = np.zeros(1, dtype)
    for name in RULES.names or ():
        value = getattr(rules, name)
        numbers[name] = _OFF[name] if value is None else value
    return numbers


def safety_limits(rules: TradeRules) -> tuple[float, float, float, int]:
    """Return the rules as ``safety_exit`` takes them, after the trade's own numbers."""
    numbers = numbers_of(rules)[0]
    names = ("emergency_loss", "break_even_trigger", "break_even_floor")
    loss, trigger, least = (float(numbers[name]) for name in names)
    return loss, trigger, least, int(numbers["max_trade_duration_candles"])


def roi_ladder_of(rules: TradeRules) -> NDArray[np.float64]:
    """Return the ROI ladder: rows of minutes and ratio, minutes increasing; shape (R, 2)."""
    ladder = sorted(rules.minimal_roi.items())
    return np.array(ladder, dtype=np.float64).reshape(len(ladder), 2)


def slipped(side: int, rate: float, slippage_bps: float) -> float:
    """Return what an exit at market gets of a rate: ``rate (1 - side bps / 10000)``."""
    return rate * (1.0 - side * slippage_bps / 10_000.0)


def profit_ratio(
    side: int,
    open_rate: float,
    rate: float,
    fee_rate: float,
    leverage: float,
    funding_paid: float = 0.0,
) -> float:
    """Return the profit of a trade closed at ``rate`` as a share of its stake.

    With ``V_open = open_rate (1 + side fee)`` and ``V_close = rate (1 - side fee) - side funding``
    (the signed funding that this side paid) it is ``side (V_close / V_open - 1) leverage``, rounded
    to 8 digits; freqtrade's ``LocalTrade.calc_profit_ratio``.
    """
    open_value = open_rate * (1.0 + side * fee_rate)
    close_value = rate * (1.0 - side * fee_rate) - side * funding_paid
    return round_to_8_digits(side * (close_value / open_value - 1.0) * leverage)


def round_to_8_digits(value: float) -> float:
    """Round to multiples of 1e-8, half up."""
    return floor(value * 1e8 + 0.5) / 1e8


def round_to_tick(price: float, tick_size: float, direction: int = 0) -> float:
    """Round a price to the exchange's step: down (-1), to the nearest (0) or up (+1).

    Down and up leave only a price alone whose shortest decimal text lies on the step, as freqtrade
    does, which rounds that text: 1526.2700000000002 goes up to 1526.28.
    """
    if tick_size <= 0.0:
        return price
    # Dividing by a whole number of steps per unit gives the very price that the decimals stand for.
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


def _half_up(price: float, tick_size: float, per_unit: float, steps: int) -> int:
    """Return the nearest number of steps where a price lies all but in the middle of two.

    ccxt rounds the price's shortest decimal text, half up: 0.63745 goes to 0.6375, though the
    double of that name lies below the middle. That double is the middle's own.
    """
    for middle in (steps + 1, steps):
        half = (middle - 0.5) * tick_size
        if per_unit > 0.0:
            half = (2 * middle - 1) / (2.0 * per_unit)
        if price >= half:
            return middle
    return steps - 1


def best_and_worst(side: int, high: float, low: float) -> tuple[float, float]:
    """Return the prices inside a candle that are best and worst for a side."""
    return (high, low) if side > 0 else (low, high)


def is_reached(side: int, price: float, high: float, low: float) -> bool:
    """Return whether a candle has reached a stop at ``price``."""
    return price >= low if side > 0 else price <= high


def stop_price(
    side: int, open_rate: float, leverage: float, stoploss: float, tick_size: float
) -> float:
    """Return the stoploss price: ``stoploss`` is a share of the stake, so leverage divides it.

    Rounded towards the entry, as freqtrade's ``adjust_stop_loss`` does.
    """
    price = open_rate * (1.0 - side * abs(stoploss) / leverage)
    return round_to_tick(price, tick_size, side)


def stop_fill(side: int, price: float, opened: float, high: float, low: float) -> float:
    """Return the price of a stop at ``price``: the open where the candle lies beyond it."""
    return opened if _is_beyond(side, price, high, low) else price


def _is_beyond(side: int, price: float, high: float, low: float) -> bool:
    return price > high if side > 0 else price < low


def trailed_stop(
    candle: Any,
    rules: Any,
    side: int,
    stop: float,
    best_profit: float,
    leverage: float,
    tick_size: float,
) -> float:
    """Return where a trailing stop stands after the best price of ``candle``.

    It stays where it is in a candle that has reached it, below the offset under
    ``trailing_only_offset_is_reached``, and wherever it would lie farther from the price.
    freqtrade's ``ft_stoploss_adjust`` and ``adjust_stop_loss``.

    Parameters
    ----------
    candle, rules, side
        See the head of this file.
    stop : float
        Where it stood before.
    best_profit : float
        Profit ratio at the candle's best price, funding included.
    leverage, tick_size : float
    """
    if is_reached(side, stop, candle.high, candle.low):
        return stop
    offset = rules.trailing_stop_positive_offset
    if rules.trailing_only_offset_is_reached and best_profit < offset:
        return stop
    best, _ = best_and_worst(side, candle.high, candle.low)
    distance = _trailing_distance(rules, best_profit)
    moved = round_to_tick(best * (1.0 - side * distance / leverage), tick_size, side)
    return moved if side * (moved - stop) > 0.0 else stop


def _trailing_distance(rules: Any, best_profit: float) -> float:
    """Return the distance at which a stop trails, a share of the stake above zero."""
    positive = rules.trailing_stop_positive
    is_positive = best_profit > rules.trailing_stop_positive_offset and not math.isnan(positive)
    distance: float = positive if is_positive else abs(rules.stoploss)
    return distance


def trailing_fill(
    candle: Any,
    rules: Any,
    side: int,
    stop: float,
    is_entry_candle: bool,
    best_profit: float,
    leverage: float,
) -> float:
    """Return the price of an exit at a trailing stop; parameters as in ``trailed_stop``.

    In the candle of the entry freqtrade takes the worst course: the price moves just far enough to
    raise the stop and turns. Its offset there is a share of the price and not of the stake, so that
    with leverage the exit may lie where the candle has not been; the order then waits.
    """
    opened, high, low = candle.open, candle.high, candle.low
    if _is_beyond(side, stop, high, low) or not is_entry_candle:
        return stop_fill(side, stop, opened, high, low)
    positive = rules.trailing_stop_positive
    if rules.trailing_only_offset_is_reached and not math.isnan(positive):
        share = 1.0 + side * rules.trailing_stop_positive_offset - side * positive / leverage
    else:
        share = 1.0 - side * _trailing_distance(rules, best_profit) / leverage
    inside: float = max(low, opened * share) if side > 0 else min(high, opened * share)
    return inside


def liquidation_price(
    rules: Any,
    side: int,
    open_rate: float,
    leverage: float,
    multiple: float = math.nan,
    tick_size: float = 0.0,
) -> float:
    """Return the price at which freqtrade takes an isolated position for liquidated, 0 for never.

    ``multiple`` of the open rate, the buffer included. Where it is NaN, Binance's isolated formula
    with the rules' maintenance margin rate ``m``: ``open (1 - side / leverage) / (1 - side m)``,
    moved towards the entry by the buffer. Rounded to the nearest step, as freqtrade's
    ``set_liquidation_price`` does.
    """
    if not rules.is_liquidated:
        return 0.0
    price = open_rate * multiple
    if math.isnan(multiple):
        bare = open_rate * (1.0 - side / leverage) / (1.0 - side * rules.maintenance_margin_rate)
        price = max(0.0, bare + side * abs(open_rate - bare) * rules.liquidation_buffer)
    return round_to_tick(price, tick_size, 0)


def rung_after(roi: NDArray[np.float64], age_minutes: int) -> int:
    """Return the row of the ROI ladder that holds for a trade of this age, -1 for none."""
    rung = -1
    for index in range(len(roi)):
        if roi[index, 0] <= age_minutes:
            rung = index
    return rung


def roi_rate(
    side: int,
    open_rate: float,
    ratio: float,
    fee_rate: float,
    leverage: float,
    funding_paid: float,
) -> float:
    """Return the price at which a trade has the profit ``ratio``: ``profit_ratio`` turned round."""
    open_value = open_rate * (1.0 + side * fee_rate)
    target = (1.0 + side * ratio / leverage) * open_value + side * funding_paid
    return target / (1.0 - side * fee_rate)


def roi_fill(
    candle: Any,
    side: int,
    rate: float,
    rung_minutes: float,
    ratio: float,
    age_minutes: int,
    timeframe_minutes: int,
) -> float:
    """Return the price of a take-profit inside a candle that has reached ``rate``.

    The rate that yields exactly the rung's ratio, kept inside the candle; the open instead where
    the rung holds from this candle on and the open is already better, or where the rung is -1
    (leave at any price).
    """
    opened: float = candle.open
    on_a_candle = rung_minutes % timeframe_minutes == 0
    if ratio == -1.0 and on_a_candle:
        return opened
    is_new = age_minutes > 0 and age_minutes == rung_minutes and on_a_candle
    if is_new and side * (opened - rate) > 0.0:
        return opened
    inside: float = min(max(rate, candle.low), candle.high)
    return inside


def safety_exit(
    age_candles: int,
    profit: float,
    best_profit: float,
    emergency_loss: float,
    break_even_trigger: float,
    break_even_floor: float,
    max_trade_duration_candles: int,
) -> int:
    """Return the code of the exit that the rules demand at a candle's open, or ``STAY``.

    Parameters
    ----------
    age_candles : int
        Candles since the entry.
    profit : float
        Profit ratio of the trade at this open.
    best_profit : float
        Best profit ratio inside the candles that have closed since the entry (not this one, whose
        high and low are still unknown at its open).
    emergency_loss, break_even_trigger, break_even_floor, max_trade_duration_candles
        From ``safety_limits``.
    """
    if profit < emergency_loss:
        return EMERGENCY
    if age_candles > 0 and best_profit >= break_even_trigger and profit <= break_even_floor:
        return BREAK_EVEN
    return MAX_DURATION if age_candles >= max_trade_duration_candles else STAY

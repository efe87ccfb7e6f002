"""The arithmetic of a leveraged trade and of its forced exits, as freqtrade's backtester has it.

Every function is pure and works on plain numbers, so that the environment and the freqtrade
strategy call the very same code. ``side`` is +1 for long and -1 for short; ``funding_paid`` is in
quote currency per unit of base currency, positive where the trade paid it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mtf_scalper.settings import TradeRules
from mtf_scalper.simulator.types import ExitReason

__all__ = [
    "liquidation_price",
    "profit_ratio",
    "roi_at",
    "roi_fill",
    "round_to_tick",
    "safety_exit",
    "stop_fill",
    "stop_price",
    "trailed_stop",
    "trailing_distance",
    "trailing_fill",
]

_NEAR_HALF = 0.499_999
"""Farther than this from a step, in steps, a price counts as one in the middle of two."""


def profit_ratio(
    side: int,
    open_rate: float,
    rate: float,
    *,
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
    return math.floor(side * (close_value / open_value - 1.0) * leverage * 1e8 + 0.5) / 1e8


def round_to_tick(price: float, tick_size: float, direction: int = 0) -> float:
    """Round a price to the exchange's step: down (-1), to the nearest (0) or up (+1).

    Down and up leave only a price alone whose shortest decimal text lies on the step, as freqtrade
    does, which rounds that text: 1526.2700000000002 goes up to 1526.28.
    """
    if tick_size <= 0.0:
        return price
    # Dividing by a whole number of steps per unit gives the very price that the decimals stand for.
    per_unit = math.floor(1.0 / tick_size + 0.5)
    if per_unit < 1 or abs(per_unit * tick_size - 1.0) > 1e-9:
        per_unit = 0
    shifted = price / tick_size + 0.5
    steps = math.floor(shifted)
    if abs(shifted - steps - 0.5) > _NEAR_HALF:
        steps = _half_up(price, tick_size, per_unit, steps)
    nearest = steps / per_unit if per_unit else steps * tick_size
    if direction * (price - nearest) <= 0.0:
        return nearest
    steps += direction
    return steps / per_unit if per_unit else steps * tick_size


def _half_up(price: float, tick_size: float, per_unit: int, steps: int) -> int:
    """Return the nearest number of steps where a price lies all but in the middle of two.

    ccxt rounds the price's shortest decimal text, half up: 0.63745 goes to 0.6375, though the
    double of that name lies below the middle. That double is the middle's own.
    """
    for middle in (steps + 1, steps):
        half = (2 * middle - 1) / (2 * per_unit) if per_unit else (middle - 0.5) * tick_size
        if price >= half:
            return middle
    return steps - 1


def stop_price(
    side: int, open_rate: float, leverage: float, stoploss: float, tick_size: float
) -> float:
    """Return the stoploss price: ``stoploss`` is a share of the stake, so leverage divides it.

    Rounded towards the entry, as freqtrade's ``adjust_stop_loss`` does.
    """
    return round_to_tick(open_rate * (1.0 - side * abs(stoploss) / leverage), tick_size, side)


def trailed_stop(
    side: int,
    stop: float,
    candle: tuple[float, float, float, float],
    rules: TradeRules,
    *,
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
    side : int
    stop : float
        Where it stood before.
    candle : tuple of float
        Open, high, low, close.
    rules : TradeRules
    best_profit : float
        Profit ratio at the candle's best price, funding included.
    leverage, tick_size : float
    """
    _, high, low, _ = candle
    best, worst = (high, low) if side > 0 else (low, high)
    if side * (stop - worst) >= 0.0:
        return stop
    if rules.trailing_only_offset_is_reached and best_profit < rules.trailing_stop_positive_offset:
        return stop
    distance = trailing_distance(rules, best_profit)
    moved = round_to_tick(best * (1.0 - side * distance / leverage), tick_size, side)
    return moved if side * (moved - stop) > 0.0 else stop


def trailing_distance(rules: TradeRules, best_profit: float) -> float:
    """Return the distance at which a stop trails, a share of the stake above zero."""
    positive, offset = rules.trailing_stop_positive, rules.trailing_stop_positive_offset
    assert rules.stoploss is not None
    return abs(rules.stoploss) if positive is None or best_profit <= offset else positive


def trailing_fill(
    side: int,
    stop: float,
    candle: tuple[float, float, float, float],
    rules: TradeRules,
    *,
    is_entry_candle: bool,
    best_profit: float,
    leverage: float,
) -> float:
    """Return the price of an exit at a trailing stop.

    In the candle of the entry freqtrade takes the worst course: the price moves just far enough to
    raise the stop and turns. Its offset there is a share of the price and not of the stake, so that
    with leverage the exit may lie where the candle has not been; the order then waits.
    """
    opened, high, low, _ = candle
    price = stop_fill(side, stop, candle)
    beyond = stop > high if side > 0 else stop < low
    if beyond or not is_entry_candle:
        return price
    positive = rules.trailing_stop_positive
    if rules.trailing_only_offset_is_reached and positive is not None:
        share = 1.0 + side * rules.trailing_stop_positive_offset - side * positive / leverage
    else:
        share = 1.0 - side * trailing_distance(rules, best_profit) / leverage
    return max(low, opened * share) if side > 0 else min(high, opened * share)


def liquidation_price(
    side: int,
    open_rate: float,
    leverage: float,
    rules: TradeRules,
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
    if not math.isnan(multiple):
        return round_to_tick(open_rate * multiple, tick_size)
    bare = open_rate * (1.0 - side / leverage) / (1.0 - side * rules.maintenance_margin_rate)
    buffered = bare + side * abs(open_rate - bare) * rules.liquidation_buffer
    return round_to_tick(max(0.0, buffered), tick_size)


def roi_at(minimal_roi: Mapping[int, float], minutes: int) -> tuple[int, float] | None:
    """Return the rung ``(minutes, ratio)`` of the ROI ladder in force after ``minutes``."""
    reached = [rung for rung in minimal_roi if rung <= minutes]
    return (max(reached), minimal_roi[max(reached)]) if reached else None


def roi_fill(
    side: int,
    open_rate: float,
    candle: tuple[float, float, float, float],
    *,
    rung: tuple[int, float],
    age_minutes: int,
    timeframe_minutes: int,
    fee_rate: float,
    leverage: float,
    funding_paid: float,
) -> float:
    """Return the price of a take-profit inside ``candle`` (open, high, low, close).

    The rate that yields exactly the rung's ratio, kept inside the candle; the open instead where
    the rung came into force with this candle and the open is already better, or where the rung is
    -1 (leave at any price).
    """
    opened, high, low, _ = candle
    rung_minutes, ratio = rung
    on_a_candle = rung_minutes % timeframe_minutes == 0
    if ratio == -1.0 and on_a_candle:
        return opened
    open_value = open_rate * (1.0 + side * fee_rate)
    target = (1.0 + side * ratio / leverage) * open_value + side * funding_paid
    rate = target / (1.0 - side * fee_rate)
    is_new = age_minutes > 0 and age_minutes == rung_minutes and on_a_candle
    if is_new and side * (opened - rate) > 0.0:
        return opened
    return min(max(rate, low), high)


def stop_fill(side: int, price: float, candle: tuple[float, float, float, float]) -> float:
    """Return the price of a stop at ``price``: the open where the candle lies beyond it."""
    opened, high, low, _ = candle
    beyond = price > high if side > 0 else price < low
    return opened if beyond else price


def safety_exit(
    rules: TradeRules, *, age_candles: int, profit: float, best_profit: float
) -> ExitReason | None:
    """Return the exit that the rules demand at a candle's open, if any.

    Parameters
    ----------
    rules : TradeRules
    age_candles : int
        Candles since the entry.
    profit : float
        Profit ratio of the trade at this open.
    best_profit : float
        Best profit ratio inside the candles that have closed since the entry (not this one, whose
        high and low are still unknown at its open).
    """
    if rules.emergency_loss is not None and profit < rules.emergency_loss:
        return ExitReason.EMERGENCY
    if (
        rules.break_even_trigger is not None
        and age_candles > 0
        and best_profit >= rules.break_even_trigger
        and profit <= rules.break_even_floor
    ):
        return ExitReason.BREAK_EVEN
    duration = rules.max_trade_duration_candles
    if duration is not None and age_candles >= duration:
        return ExitReason.MAX_DURATION
    return None

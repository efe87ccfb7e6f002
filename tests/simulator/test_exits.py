"""The arithmetic of exits, against figures worked out beside each call."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtf_scalper.settings import TradeRules
from mtf_scalper.simulator.exits import (
    BREAK_EVEN,
    EMERGENCY,
    MAX_DURATION,
    STAY,
    liquidation_price,
    numbers_of,
    profit_ratio,
    roi_fill,
    roi_ladder_of,
    roi_rate,
    round_to_tick,
    rung_after,
    safety_exit,
    safety_limits,
    stop_fill,
    stop_price,
)
from mtf_scalper.simulator.kernels import CANDLE

LONG, SHORT = 1, -1


def record_of(rules: TradeRules) -> np.record:
    return numbers_of(rules).view(np.recarray)[0]


def candle_of(prices: tuple[float, float, float, float]) -> np.record:
    """Return a candle as compiled code reads it: open, high, low, close."""
    candle = np.zeros(1, CANDLE)
    for name, price in zip(("open", "high", "low", "close"), prices, strict=True):
        candle[name] = price
    return candle.view(np.recarray)[0]


@pytest.mark.parametrize(
    ("side", "rate", "funding", "expected"),
    [
        # Bought for 100 + 0.1, sold for 110 - 0.11; three times the stake's result.
        (LONG, 110.0, 0.0, (109.89 / 100.1 - 1.0) * 3.0),
        (LONG, 90.0, 0.0, (89.91 / 100.1 - 1.0) * 3.0),
        # Sold for 100 - 0.1, bought back for 90 + 0.09.
        (SHORT, 90.0, 0.0, (1.0 - 90.09 / 99.9) * 3.0),
        (SHORT, 110.0, 0.0, (1.0 - 110.11 / 99.9) * 3.0),
        # 0.5 of funding paid, and received.
        (LONG, 110.0, 0.5, (109.39 / 100.1 - 1.0) * 3.0),
        (SHORT, 90.0, 0.5, (1.0 - 90.59 / 99.9) * 3.0),
        (SHORT, 90.0, -0.5, (1.0 - 89.59 / 99.9) * 3.0),
    ],
)
def test_profit_ratio(side, rate, funding, expected) -> None:
    profit = profit_ratio(side, 100.0, rate, fee_rate=0.001, leverage=3.0, funding_paid=funding)
    assert profit == pytest.approx(expected, abs=1e-8)


def test_profit_ratio_is_rounded_as_freqtrade_stores_it() -> None:
    profit = profit_ratio(LONG, 3.0, 4.0, fee_rate=0.0, leverage=1.0)
    assert profit == 0.33333333


@pytest.mark.parametrize(
    ("price", "direction", "expected"),
    [
        (96.66667, -1, 96.6),
        (96.66667, 0, 96.7),
        (96.66667, 1, 96.7),
        (96.64, 0, 96.6),
        (96.6, -1, 96.6),
        (96.6, 1, 96.6),
    ],
)
def test_round_to_tick(price, direction, expected) -> None:
    assert round_to_tick(price, 0.1, direction) == expected


def test_without_a_tick_prices_stay_as_they_are() -> None:
    assert round_to_tick(96.66667, 0.0, 1) == 96.66667


@given(
    ticks=st.floats(1.0, 1e8),
    tick=st.sampled_from([1e-8, 1e-5, 0.001, 0.01, 0.1, 0.5, 1.0]),
    direction=st.sampled_from([-1, 0, 1]),
)
def test_rounding_moves_less_than_a_tick_and_the_right_way(ticks, tick, direction) -> None:
    price = ticks * tick
    rounded = round_to_tick(price, tick, direction)
    slack = 1e-5 * tick
    assert abs(rounded - price) <= tick * (0.5 if direction == 0 else 1.0) + slack
    if direction:
        assert direction * (rounded - price) >= -slack
    assert round_to_tick(rounded, tick, direction) == rounded


@pytest.mark.parametrize(
    ("side", "leverage", "tick", "expected"),
    [
        (LONG, 1.0, 0.0, 90.0),
        (SHORT, 1.0, 0.0, 110.0),
        (LONG, 5.0, 0.0, 98.0),
        (SHORT, 5.0, 0.0, 102.0),
        # 96.667 and 103.333 go to the tick nearer to the entry.
        (LONG, 3.0, 0.1, 96.7),
        (SHORT, 3.0, 0.1, 103.3),
    ],
)
def test_the_stoploss_is_a_share_of_the_stake(side, leverage, tick, expected) -> None:
    assert stop_price(side, 100.0, leverage, -0.10, tick) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("side", "leverage", "expected"),
    [
        # 100 * 0.9 / 0.996 = 90.361446, a twentieth of the way back to 100.
        (LONG, 10.0, 90.3614458 + 0.05 * 9.6385542),
        # 100 * 1.1 / 1.004 = 109.561753, a twentieth of the way back to 100.
        (SHORT, 10.0, 109.5617530 - 0.05 * 9.5617530),
        # Without leverage a long owes nothing: only the buffer is left.
        (LONG, 1.0, 5.0),
        (SHORT, 1.0, 199.2031873 - 0.05 * 99.2031873),
    ],
)
def test_liquidation_price(side, leverage, expected) -> None:
    rules = record_of(TradeRules(maintenance_margin_rate=0.004, liquidation_buffer=0.05))
    assert liquidation_price(rules, side, 100.0, leverage) == pytest.approx(expected, abs=1e-6)


@given(side=st.sampled_from([LONG, SHORT]), leverage=st.floats(1.0, 50.0))
def test_liquidation_lies_on_the_losing_side_and_never_beyond_the_stake(side, leverage) -> None:
    price = liquidation_price(record_of(TradeRules()), side, 100.0, leverage)
    assert price >= 0.0
    assert side * (100.0 - price) > 0.0
    assert side * (100.0 - price) <= 100.0 / leverage + 1e-9


@pytest.mark.parametrize(
    ("minutes", "rung"),
    [(0, (0, 0.04)), (29, (0, 0.04)), (30, (30, 0.02)), (59, (30, 0.02)), (600, (60, 0.01))],
)
def test_the_rung_that_holds_is_the_latest_one_reached(minutes, rung) -> None:
    ladder = roi_ladder_of(TradeRules(minimal_roi={60: 0.01, 0: 0.04, 30: 0.02}))
    assert tuple(ladder[rung_after(ladder, minutes)]) == rung


def test_no_rung_holds_before_the_first_one() -> None:
    assert rung_after(roi_ladder_of(TradeRules(minimal_roi={30: 0.02})), 29) == -1
    assert rung_after(roi_ladder_of(TradeRules()), 100) == -1


FEE_RATE, LEVERAGE, TIMEFRAME_MINUTES = 0.001, 2.0, 5


@pytest.mark.parametrize(
    ("side", "candle", "rung", "age", "funding", "expected"),
    [
        # 4% at leverage 2 is 2% of the price: V_open * 1.02, out of which the fee is paid.
        (LONG, (101, 104, 100, 103), (0, 0.04), 5, 0.0, 1.02 * 100.1 / 0.999),
        (SHORT, (99, 100, 96, 97), (0, 0.04), 5, 0.0, 0.98 * 99.9 / 1.001),
        # Funding paid has to be earned first; funding received is earned already.
        (LONG, (101, 104, 100, 103), (0, 0.04), 5, 0.3, (1.02 * 100.1 + 0.3) / 0.999),
        (SHORT, (99, 100, 96, 97), (0, 0.04), 5, -0.3, (0.98 * 99.9 + 0.3) / 1.001),
        # A rung that came into force with this candle, and an open that is better already.
        (LONG, (103, 104, 102, 103), (10, 0.02), 10, 0.0, 103.0),
        (SHORT, (97, 98, 96, 97), (10, 0.02), 10, 0.0, 97.0),
        # The same rung one candle later: the whole candle is better, its worst price counts.
        (LONG, (103, 104, 102.5, 103), (10, 0.02), 15, 0.0, 102.5),
        (SHORT, (97, 97.5, 96, 97), (10, 0.02), 15, 0.0, 97.5),
        # A rung that does not fall on a candle's open.
        (LONG, (103, 104, 102.5, 103), (7, 0.02), 10, 0.0, 102.5),
        (SHORT, (97, 97.5, 96, 97), (7, 0.02), 10, 0.0, 97.5),
        # A new rung whose rate is still beyond the open.
        (LONG, (100.5, 102, 100, 102), (10, 0.02), 10, 0.0, 1.01 * 100.1 / 0.999),
        (SHORT, (99.5, 100, 98, 98), (10, 0.02), 10, 0.0, 0.99 * 99.9 / 1.001),
        # Leave at any price.
        (LONG, (95, 96, 94, 95), (10, -1.0), 20, 0.0, 95.0),
        (SHORT, (105, 106, 104, 105), (10, -1.0), 20, 0.0, 105.0),
    ],
)
def test_roi_fill(side, candle, rung, age, funding, expected) -> None:
    minutes, ratio = rung
    rate = roi_rate(side, 100.0, ratio, FEE_RATE, LEVERAGE, funding)
    rate = roi_fill(candle_of(candle), side, rate, minutes, ratio, age, TIMEFRAME_MINUTES)
    assert rate == pytest.approx(expected, abs=1e-9)


@given(
    side=st.sampled_from([LONG, SHORT]),
    ratio=st.floats(0.0, 0.5),
    leverage=st.floats(1.0, 50.0),
    fee_rate=st.floats(0.0, 0.01),
    funding=st.floats(-1.0, 1.0),
)
def test_the_roi_rate_yields_the_ratio(side, ratio, leverage, fee_rate, funding) -> None:
    rate = roi_rate(side, 100.0, ratio, fee_rate, leverage, funding)
    rate = roi_fill(candle_of((100.0, math.inf, 0.0, 100.0)), side, rate, 0, ratio, 5, 5)
    earned = profit_ratio(
        side, 100.0, rate, fee_rate=fee_rate, leverage=leverage, funding_paid=funding
    )
    assert earned == pytest.approx(ratio, abs=2e-8)


@pytest.mark.parametrize(
    ("side", "candle", "expected"),
    [
        (LONG, (98, 99, 94, 96), 95.0),
        (LONG, (93, 94, 92, 93), 93.0),
        (LONG, (93, 95, 92, 93), 95.0),
        (SHORT, (102, 106, 101, 104), 105.0),
        (SHORT, (107, 108, 106, 107), 107.0),
        (SHORT, (107, 108, 105, 107), 105.0),
    ],
)
def test_a_stop_fills_at_its_price_unless_the_candle_lies_beyond_it(side, candle, expected) -> None:
    assert stop_fill(side, 95.0 if side > 0 else 105.0, *map(float, candle[:3])) == expected


LIMITS = safety_limits(
    TradeRules(
        emergency_loss=-0.03,
        break_even_trigger=0.02,
        break_even_floor=0.001,
        max_trade_duration_candles=48,
    )
)


@pytest.mark.parametrize(
    ("age", "profit", "best", "expected"),
    [
        (10, 0.0, 0.01, STAY),
        (10, -0.03, 0.0, STAY),
        (10, -0.0301, 0.0, EMERGENCY),
        (0, -0.0301, 0.0, EMERGENCY),
        (10, 0.001, 0.02, BREAK_EVEN),
        (10, 0.0011, 0.02, STAY),
        (10, 0.001, 0.0199, STAY),
        (0, 0.0, 0.02, STAY),
        (47, 0.01, 0.02, STAY),
        (48, 0.01, 0.02, MAX_DURATION),
        (49, 0.01, 0.02, MAX_DURATION),
        (48, 0.0, 0.02, BREAK_EVEN),
        (48, -0.5, 0.02, EMERGENCY),
    ],
)
def test_safety_exit(age, profit, best, expected) -> None:
    assert safety_exit(age, profit, best, *LIMITS) == expected


def test_rules_that_are_off_demand_nothing() -> None:
    assert safety_exit(10_000, -9.0, 9.0, *safety_limits(TradeRules())) == STAY

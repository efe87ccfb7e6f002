"""Hand-drawn candles and the trades that they must lead to, one table row per way out.

Every table has a window of one candle, so that row 0 can decide; the entry fills at 100 at the
open of row 1. Fees are 0.1% per side and leverage is 2 unless a case says otherwise: a long costs
100 * 1.001 = 100.1 and a short brings 100 * 0.999 = 99.9 per unit. Expected profits are written
out with these figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Action, ExitReason, Side

LONG, SHORT = Side.LONG, Side.SHORT
ENTER = {LONG: Action.LONG_ENTER, SHORT: Action.SHORT_ENTER}
LEAVE = {LONG: Action.LONG_EXIT, SHORT: Action.SHORT_EXIT}
START = [(100, 101, 99, 100), (100, 101, 99, 100)]


@dataclass(frozen=True)
class Case:
    """Candles from row 2 on, the rules, and the one trade that comes of them."""

    name: str
    side: Side
    candles: list[tuple[float, float, float, float]]
    reason: ExitReason
    close_row: int
    close_rate: float
    profit: float
    rules: dict[str, Any] = field(default_factory=dict)
    exit_at: int | None = None
    leverage: float = 2.0
    tick_size: float = 0.0
    funding: tuple[float, ...] = ()


CASES = [
    Case(
        "the agent leaves at the next open",
        LONG,
        [(101, 103, 100, 102), (104, 105, 103, 104), (104, 104, 104, 104)],
        ExitReason.AGENT,
        close_row=3,
        close_rate=104.0,
        profit=(104 * 0.999 / 100.1 - 1) * 2,
        exit_at=2,
    ),
    Case(
        "the agent leaves at the next open",
        SHORT,
        [(99, 100, 97, 98), (96, 97, 95, 96), (96, 96, 96, 96)],
        ExitReason.AGENT,
        close_row=3,
        close_rate=96.0,
        profit=(1 - 96 * 1.001 / 99.9) * 2,
        exit_at=2,
    ),
    Case(
        "funding is due at the opens of rows 1 to 3, entry and exit included",
        LONG,
        [(101, 103, 100, 102), (104, 105, 103, 104), (104, 104, 104, 104)],
        ExitReason.AGENT,
        close_row=3,
        close_rate=104.0,
        profit=((104 * 0.999 - 0.07) / 100.1 - 1) * 2,
        exit_at=2,
        funding=(5.0, 0.01, 0.02, 0.04, 5.0),
    ),
    Case(
        "a short receives what a long pays",
        SHORT,
        [(99, 100, 97, 98), (96, 97, 95, 96), (96, 96, 96, 96)],
        ExitReason.AGENT,
        close_row=3,
        close_rate=96.0,
        profit=(1 - (96 * 1.001 - 0.07) / 99.9) * 2,
        exit_at=2,
        funding=(5.0, 0.01, 0.02, 0.04, 5.0),
    ),
    # 10% of the stake at leverage 2 are 5% of the price.
    Case(
        "stoploss inside the candle",
        LONG,
        [(98, 99, 94, 96), (96, 97, 95, 96)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=95.0,
        profit=(95 * 0.999 / 100.1 - 1) * 2,
        rules={"stoploss": -0.10},
    ),
    Case(
        "stoploss inside the candle",
        SHORT,
        [(102, 106, 101, 104), (104, 105, 103, 104)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=105.0,
        profit=(1 - 105 * 1.001 / 99.9) * 2,
        rules={"stoploss": -0.10},
    ),
    Case(
        "stoploss touched to the tick",
        LONG,
        [(98, 99, 95, 96), (96, 97, 96, 96)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=95.0,
        profit=(95 * 0.999 / 100.1 - 1) * 2,
        rules={"stoploss": -0.10},
    ),
    Case(
        "a candle wholly beyond the stop fills at its open",
        LONG,
        [(93, 94, 92, 93), (93, 94, 92, 93)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=93.0,
        profit=(93 * 0.999 / 100.1 - 1) * 2,
        rules={"stoploss": -0.10},
    ),
    Case(
        "a candle wholly beyond the stop fills at its open",
        SHORT,
        [(107, 108, 106, 107), (107, 108, 106, 107)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=107.0,
        profit=(1 - 107 * 1.001 / 99.9) * 2,
        rules={"stoploss": -0.10},
    ),
    # freqtrade's backtester is kind here: the candle opened beyond the stop and came back to it.
    Case(
        "a candle that opens beyond the stop and reaches it fills at the stop",
        LONG,
        [(93, 96, 92, 93), (93, 94, 92, 93)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=95.0,
        profit=(95 * 0.999 / 100.1 - 1) * 2,
        rules={"stoploss": -0.10},
    ),
    Case(
        "a candle that opens beyond the stop and reaches it fills at the stop",
        SHORT,
        [(107, 108, 104, 107), (107, 108, 106, 107)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=105.0,
        profit=(1 - 105 * 1.001 / 99.9) * 2,
        rules={"stoploss": -0.10},
    ),
    # 10% at leverage 3: 96.667, rounded towards the entry.
    Case(
        "the stop stands on a price that the exchange has",
        LONG,
        [(98, 99, 96, 97), (97, 98, 96, 97)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=96.7,
        profit=(96.7 * 0.999 / 100.1 - 1) * 3,
        rules={"stoploss": -0.10},
        leverage=3.0,
        tick_size=0.1,
    ),
    Case(
        "the stop stands on a price that the exchange has",
        SHORT,
        [(102, 104, 101, 103), (103, 104, 102, 103)],
        ExitReason.STOP_LOSS,
        close_row=2,
        close_rate=103.3,
        profit=(1 - 103.3 * 1.001 / 99.9) * 3,
        rules={"stoploss": -0.10},
        leverage=3.0,
        tick_size=0.1,
    ),
    # 100 * 0.9 / 0.996 = 90.361446 and a twentieth of the way back: 90.843373.
    Case(
        "liquidation",
        LONG,
        [(92, 93, 90, 91), (91, 92, 90, 91)],
        ExitReason.LIQUIDATION,
        close_row=2,
        close_rate=90.8433735,
        profit=(90.8433735 * 0.999 / 100.1 - 1) * 10,
        leverage=10.0,
    ),
    # 100 * 1.1 / 1.004 = 109.561753 and a twentieth of the way back: 109.083665.
    Case(
        "liquidation",
        SHORT,
        [(108, 110, 107, 109), (109, 110, 108, 109)],
        ExitReason.LIQUIDATION,
        close_row=2,
        close_rate=109.0836653,
        profit=(1 - 109.0836653 * 1.001 / 99.9) * 10,
        leverage=10.0,
    ),
    Case(
        "a candle wholly beyond the liquidation fills at its open",
        LONG,
        [(85, 86, 84, 85), (85, 86, 84, 85)],
        ExitReason.LIQUIDATION,
        close_row=2,
        close_rate=85.0,
        profit=(85 * 0.999 / 100.1 - 1) * 10,
        leverage=10.0,
    ),
    Case(
        "a candle wholly beyond the liquidation fills at its open",
        SHORT,
        [(115, 116, 114, 115), (115, 116, 114, 115)],
        ExitReason.LIQUIDATION,
        close_row=2,
        close_rate=115.0,
        profit=(1 - 115 * 1.001 / 99.9) * 10,
        leverage=10.0,
    ),
    # 5% at leverage 2 are 2.5% of the best price, which is 104 (96 for the short) before row 3.
    Case(
        "a trailing stop inside the candle",
        LONG,
        [(103, 104, 102.5, 103), (103, 103.5, 101, 101.5), (101, 102, 100, 101)],
        ExitReason.TRAILING_STOP,
        close_row=3,
        close_rate=104 * 0.975,
        profit=(104 * 0.975 * 0.999 / 100.1 - 1) * 2,
        rules={"stoploss": -0.05, "trailing_stop": True},
    ),
    Case(
        "a trailing stop inside the candle",
        SHORT,
        [(97, 97.5, 96, 97), (97, 99, 96.5, 98.5), (99, 100, 98, 99)],
        ExitReason.TRAILING_STOP,
        close_row=3,
        close_rate=96 * 1.025,
        profit=(1 - 96 * 1.025 * 1.001 / 99.9) * 2,
        rules={"stoploss": -0.05, "trailing_stop": True},
    ),
    # Row 1 reaches 101: (101 * 0.999 / 100.1 - 1) * 2 is 1.6% of profit, which arms a stop at
    # 101 * 0.995, and row 1 has been lower. freqtrade then asks for 100 * (1 + 0.0155 - 0.01 / 2),
    # in which the offset is not divided by the leverage: no candle before row 3 has been there.
    Case(
        "an order of the entry's candle waits for a candle that reaches it",
        LONG,
        [(100.8, 100.9, 100.6, 100.8), (101, 101.2, 100.9, 101), (101, 102, 100, 101)],
        ExitReason.TRAILING_STOP,
        close_row=3,
        close_rate=101.05,
        profit=(101.05 * 0.999 / 100.1 - 1) * 2,
        rules={
            "stoploss": -0.10,
            "trailing_stop": True,
            "trailing_stop_positive": 0.01,
            "trailing_stop_positive_offset": 0.0155,
            "trailing_only_offset_is_reached": True,
        },
    ),
    # 4% at leverage 2 are 2% of what was paid, and the fee of the exit.
    Case(
        "take-profit inside the candle",
        LONG,
        [(101, 104, 100, 103), (103, 104, 102, 103)],
        ExitReason.ROI,
        close_row=2,
        close_rate=1.02 * 100.1 / 0.999,
        profit=0.04,
        rules={"minimal_roi": {0: 0.04}},
    ),
    Case(
        "take-profit inside the candle",
        SHORT,
        [(99, 100, 96, 97), (97, 98, 96, 97)],
        ExitReason.ROI,
        close_row=2,
        close_rate=0.98 * 99.9 / 1.001,
        profit=0.04,
        rules={"minimal_roi": {0: 0.04}},
    ),
    Case(
        "funding has to be earned before the take-profit",
        LONG,
        [(101, 104, 100, 103), (103, 104, 102, 103)],
        ExitReason.ROI,
        close_row=2,
        close_rate=(1.02 * 100.1 + 0.5) / 0.999,
        profit=0.04,
        rules={"minimal_roi": {0: 0.04}},
        funding=(0.0, 0.0, 0.5, 0.0),
    ),
    Case(
        "funding received counts towards the take-profit",
        SHORT,
        [(99, 100, 96, 97), (97, 98, 96, 97)],
        ExitReason.ROI,
        close_row=2,
        close_rate=(0.98 * 99.9 + 0.5) / 1.001,
        profit=0.04,
        rules={"minimal_roi": {0: 0.04}},
        funding=(0.0, 0.0, 0.5, 0.0),
    ),
    # Rows 1, 2 and 3 are 0, 5 and 10 minutes after the entry.
    Case(
        "a rung that begins with a candle leaves at a better open",
        LONG,
        [(102, 103, 101, 103), (103, 104, 102, 103), (103, 104, 102, 103)],
        ExitReason.ROI,
        close_row=3,
        close_rate=103.0,
        profit=(103 * 0.999 / 100.1 - 1) * 2,
        rules={"minimal_roi": {0: 0.50, 10: 0.02}},
    ),
    Case(
        "a rung that begins with a candle leaves at a better open",
        SHORT,
        [(98, 99, 97, 97), (97, 98, 96, 97), (97, 98, 96, 97)],
        ExitReason.ROI,
        close_row=3,
        close_rate=97.0,
        profit=(1 - 97 * 1.001 / 99.9) * 2,
        rules={"minimal_roi": {0: 0.50, 10: 0.02}},
    ),
    Case(
        "a rung that begins with a candle waits for its rate inside it",
        LONG,
        [(100, 101, 99, 100), (100.5, 102, 100, 102), (102, 102, 102, 102)],
        ExitReason.ROI,
        close_row=3,
        close_rate=1.01 * 100.1 / 0.999,
        profit=0.02,
        rules={"minimal_roi": {0: 0.50, 10: 0.02}},
    ),
    Case(
        "a rung that begins with a candle waits for its rate inside it",
        SHORT,
        [(100, 101, 99, 100), (99.5, 100, 98, 98), (98, 98, 98, 98)],
        ExitReason.ROI,
        close_row=3,
        close_rate=0.99 * 99.9 / 1.001,
        profit=0.02,
        rules={"minimal_roi": {0: 0.50, 10: 0.02}},
    ),
    Case(
        "a rung that began between two candles fills at the worst price of a better candle",
        LONG,
        [(102, 103, 101, 103), (103, 104, 102.5, 103), (103, 104, 102, 103)],
        ExitReason.ROI,
        close_row=3,
        close_rate=102.5,
        profit=(102.5 * 0.999 / 100.1 - 1) * 2,
        rules={"minimal_roi": {0: 0.50, 7: 0.02}},
    ),
    Case(
        "a rung that began between two candles fills at the worst price of a better candle",
        SHORT,
        [(98, 99, 97, 97), (97, 97.5, 96, 97), (97, 98, 96, 97)],
        ExitReason.ROI,
        close_row=3,
        close_rate=97.5,
        profit=(1 - 97.5 * 1.001 / 99.9) * 2,
        rules={"minimal_roi": {0: 0.50, 7: 0.02}},
    ),
    Case(
        "a rung of -1 leaves at its open, at a loss too",
        LONG,
        [(99, 100, 98, 98), (98, 99, 97, 98), (98, 99, 97, 98)],
        ExitReason.ROI,
        close_row=3,
        close_rate=98.0,
        profit=(98 * 0.999 / 100.1 - 1) * 2,
        rules={"minimal_roi": {0: 0.50, 10: -1.0}},
    ),
    Case(
        "a rung of -1 leaves at its open, at a loss too",
        SHORT,
        [(101, 102, 100, 102), (102, 103, 101, 102), (102, 103, 101, 102)],
        ExitReason.ROI,
        close_row=3,
        close_rate=102.0,
        profit=(1 - 102 * 1.001 / 99.9) * 2,
        rules={"minimal_roi": {0: 0.50, 10: -1.0}},
    ),
    Case(
        "maximum duration, counted from the entry's candle",
        LONG,
        [(101, 102, 100, 101), (101, 102, 100, 101), (102, 103, 101, 102), (99, 99, 99, 99)],
        ExitReason.MAX_DURATION,
        close_row=4,
        close_rate=102.0,
        profit=(102 * 0.999 / 100.1 - 1) * 2,
        rules={"max_trade_duration_candles": 3},
    ),
    Case(
        "maximum duration, counted from the entry's candle",
        SHORT,
        [(101, 102, 100, 101), (101, 102, 100, 101), (102, 103, 101, 102), (99, 99, 99, 99)],
        ExitReason.MAX_DURATION,
        close_row=4,
        close_rate=102.0,
        profit=(1 - 102 * 1.001 / 99.9) * 2,
        rules={"max_trade_duration_candles": 3},
    ),
    # At 98 the long has lost 4.4% of its stake, the short at 102 4.4% too; 99 and 101 are 2.4%.
    Case(
        "emergency loss at an open",
        LONG,
        [(99, 99, 97, 98), (98, 100, 97, 99), (99, 100, 98, 99)],
        ExitReason.EMERGENCY,
        close_row=3,
        close_rate=98.0,
        profit=(98 * 0.999 / 100.1 - 1) * 2,
        rules={"emergency_loss": -0.03},
    ),
    Case(
        "emergency loss at an open",
        SHORT,
        [(101, 103, 101, 102), (102, 103, 100, 101), (101, 102, 100, 101)],
        ExitReason.EMERGENCY,
        close_row=3,
        close_rate=102.0,
        profit=(1 - 102 * 1.001 / 99.9) * 2,
        rules={"emergency_loss": -0.03},
    ),
    # 103 was 5.6% in profit inside row 2, 97 for the short; the open of row 3 gives it all back.
    Case(
        "break-even protection, armed by an earlier candle",
        LONG,
        [(100.1, 103, 100, 101), (100.1, 104, 100, 103), (103, 104, 102, 103)],
        ExitReason.BREAK_EVEN,
        close_row=3,
        close_rate=100.1,
        profit=(100.1 * 0.999 / 100.1 - 1) * 2,
        rules={"break_even_trigger": 0.04},
    ),
    Case(
        "break-even protection, armed by an earlier candle",
        SHORT,
        [(99.9, 100, 97, 99), (99.9, 100, 96, 97), (97, 98, 96, 97)],
        ExitReason.BREAK_EVEN,
        close_row=3,
        close_rate=99.9,
        profit=(1 - 99.9 * 1.001 / 99.9) * 2,
        rules={"break_even_trigger": 0.04},
    ),
    Case(
        "break-even protection with a floor above zero",
        LONG,
        [(102, 103, 101, 102), (101, 104, 100, 103), (103, 104, 102, 103)],
        ExitReason.BREAK_EVEN,
        close_row=3,
        close_rate=101.0,
        profit=(101 * 0.999 / 100.1 - 1) * 2,
        rules={"break_even_trigger": 0.04, "break_even_floor": 0.02},
    ),
    Case(
        "the end of the data, at the open of the last candle",
        LONG,
        [(101, 103, 100, 102), (102, 110, 90, 105)],
        ExitReason.END_OF_DATA,
        close_row=3,
        close_rate=102.0,
        profit=(102 * 0.999 / 100.1 - 1) * 2,
    ),
    Case(
        "the end of the data, at the open of the last candle",
        SHORT,
        [(101, 103, 100, 102), (102, 110, 90, 105)],
        ExitReason.END_OF_DATA,
        close_row=3,
        close_rate=102.0,
        profit=(1 - 102 * 1.001 / 99.9) * 2,
    ),
    Case(
        "the agent may still leave at the open of the last candle",
        LONG,
        [(101, 103, 100, 102), (102, 110, 90, 105)],
        ExitReason.AGENT,
        close_row=3,
        close_rate=102.0,
        profit=(102 * 0.999 / 100.1 - 1) * 2,
        exit_at=2,
    ),
]


def play(make_market: Any, tiny_settings: Any, case: Case) -> tuple[ReferenceEnv, list[dict]]:
    candles = [*START, *case.candles]
    market = make_market(
        candles,
        fee_rate=0.001,
        leverage=case.leverage,
        tick_size=case.tick_size,
        funding=np.array(case.funding) if case.funding else 0.0,
    )
    settings = tiny_settings(window_size=1, rules={"entry": "any", **case.rules})
    env = ReferenceEnv(market, settings)
    env.reset()
    infos, terminated = [], False
    while not terminated:
        action = ENTER[case.side] if env.row == 0 else Action.NEUTRAL
        if env.row == case.exit_at:
            action = LEAVE[case.side]
        _, _, terminated, truncated, info = env.step(action)
        assert not truncated
        infos.append(info)
    return env, infos


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.side.name.lower()}: {case.name}")
def test_a_hand_drawn_trade(case: Case, make_market, tiny_settings) -> None:
    env, infos = play(make_market, tiny_settings, case)
    assert len(env.trades) == 1
    trade = env.trades[0]
    assert trade.exit_reason == case.reason
    assert trade.side is case.side
    assert (trade.open_row, trade.close_row) == (1, case.close_row)
    assert trade.duration_candles == case.close_row - 1
    assert trade.open_rate == 100.0
    assert trade.close_rate == pytest.approx(case.close_rate, abs=1e-6)
    assert trade.profit_ratio == pytest.approx(case.profit, abs=1e-7)
    assert trade.leverage == case.leverage
    # Told once, in the step that lives through the candle of the exit.
    told = [info["row"] for info in infos if info.get("trade") is not None]
    assert told == [case.close_row]
    # More than the stake cannot be lost: all but a millionth of the account.
    assert env.equity == pytest.approx(max(1.0 + case.profit, 1e-6), abs=1e-7)


def test_every_way_out_is_drawn_for_both_sides() -> None:
    assert {(case.reason, case.side) for case in CASES} >= {
        (reason, side)
        for reason in ExitReason
        for side in (LONG, SHORT)
        if reason is not ExitReason.AGENT or side is LONG
    }


@pytest.mark.parametrize(
    ("side", "candle", "rules", "reason", "rate"),
    [
        (LONG, (100, 101, 94, 95), {"stoploss": -0.10}, ExitReason.STOP_LOSS, 95.0),
        (SHORT, (100, 106, 99, 105), {"stoploss": -0.10}, ExitReason.STOP_LOSS, 105.0),
        (
            LONG,
            (100, 104, 99, 100),
            {"minimal_roi": {0: 0.04}},
            ExitReason.ROI,
            1.02 * 100.1 / 0.999,
        ),
        (
            SHORT,
            (100, 101, 96, 100),
            {"minimal_roi": {0: 0.04}},
            ExitReason.ROI,
            0.98 * 99.9 / 1.001,
        ),
    ],
)
def test_a_trade_can_end_inside_the_candle_that_opened_it(
    side, candle, rules, reason, rate, make_market, tiny_settings
) -> None:
    market = make_market([START[0], candle, START[0], START[0]], fee_rate=0.001, leverage=2.0)
    env = ReferenceEnv(market, tiny_settings(window_size=1, rules={"entry": "any", **rules}))
    env.reset()
    _, _, _, _, info = env.step(ENTER[side])
    assert info["side"] == Side.FLAT
    trade = info["trade"]
    assert (trade.open_row, trade.close_row, trade.exit_reason) == (1, 1, reason)
    assert trade.close_rate == pytest.approx(rate, abs=1e-6)


def test_break_even_is_armed_by_the_high_of_the_entrys_candle(make_market, tiny_settings) -> None:
    market = make_market(
        [START[0], (100, 103, 99, 100), (100, 101, 99, 100), (100, 101, 99, 100)],
        fee_rate=0.001,
        leverage=2.0,
    )
    rules = {"entry": "any", "break_even_trigger": 0.04}
    env = ReferenceEnv(market, tiny_settings(window_size=1, rules=rules))
    env.reset()
    assert "trade" not in env.step(Action.LONG_ENTER)[-1]
    trade = env.step(Action.NEUTRAL)[-1]["trade"]
    assert (trade.close_row, trade.exit_reason) == (2, ExitReason.BREAK_EVEN)


FIRST_TO_LAST = (
    ExitReason.AGENT,
    ExitReason.EMERGENCY,
    ExitReason.BREAK_EVEN,
    ExitReason.MAX_DURATION,
    ExitReason.STOP_LOSS,
    ExitReason.LIQUIDATION,
    ExitReason.ROI,
    ExitReason.END_OF_DATA,
)
ALL_RULES = {
    "emergency_loss": -0.03,
    "break_even_trigger": 0.02,
    "max_trade_duration_candles": 2,
    "stoploss": -0.10,
    "minimal_roi": {0: 0.20},
}
RULE_OF = {
    ExitReason.EMERGENCY: "emergency_loss",
    ExitReason.BREAK_EVEN: "break_even_trigger",
    ExitReason.MAX_DURATION: "max_trade_duration_candles",
    ExitReason.STOP_LOSS: "stoploss",
    ExitReason.ROI: "minimal_roi",
}
# At leverage 10, inside row 3: open 97 (103 for the short), stop 99 (101), liquidation 90.84
# (109.08), take-profit 1.02 * 100.1 / 0.999 (0.98 * 99.9 / 1.001).
RATES = {
    ExitReason.STOP_LOSS: {LONG: 99.0, SHORT: 101.0},
    ExitReason.LIQUIDATION: {LONG: 90.8433735, SHORT: 109.0836653},
    ExitReason.ROI: {LONG: 1.02 * 100.1 / 0.999, SHORT: 0.98 * 99.9 / 1.001},
}


@pytest.mark.parametrize("side", [LONG, SHORT])
@pytest.mark.parametrize("reason", FIRST_TO_LAST)
def test_order_of_precedence_inside_a_candle(reason, side, make_market, tiny_settings) -> None:
    """Every exit is due in the last candle; with those before it off, each is the one taken."""
    off = FIRST_TO_LAST[: FIRST_TO_LAST.index(reason)]
    rules = {key: value for key, value in ALL_RULES.items() if key not in map(RULE_OF.get, off)}
    low = 90.0 if ExitReason.LIQUIDATION not in off else 96.0
    candles = [
        (100, 100.1, 99.9, 100),
        (100, 100.1, 99.9, 100),
        (100, 100.5, 99.5, 100),
        (97, 110, low, 100),
    ]
    if side is SHORT:
        candles = [(200 - o, 200 - low, 200 - high, 200 - c) for o, high, low, c in candles]
    market = make_market(candles, fee_rate=0.001, leverage=10.0)
    env = ReferenceEnv(market, tiny_settings(window_size=1, rules={"entry": "any", **rules}))
    env.reset()
    env.step(ENTER[side])
    env.step(Action.NEUTRAL)
    leave = LEAVE[side] if reason is ExitReason.AGENT else Action.NEUTRAL
    _, _, terminated, _, info = env.step(leave)
    assert terminated
    assert info["trade"].exit_reason is reason
    at_open = {LONG: 97.0, SHORT: 103.0}
    assert info["trade"].close_rate == pytest.approx(RATES.get(reason, at_open)[side], abs=1e-6)

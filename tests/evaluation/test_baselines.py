from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from mtf_scalper.evaluation.baselines import (
    buy_and_hold,
    classic_exits,
    exit_chances,
    flat,
    random_exits,
)
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.playback import Simulation
from mtf_scalper.simulator.types import Action, ExitReason, Side, Trade

# Row 0 decides first; fees are 0.1% per side.
CANDLES = [
    (100.0, 101.0, 99.0, 100.0),
    (100.0, 101.0, 99.0, 100.0),
    (102.0, 103.0, 101.0, 102.0),
    (104.0, 106.0, 90.0, 104.0),
    (103.0, 104.0, 102.0, 103.0),
    (101.0, 102.0, 100.0, 101.0),
    (101.0, 101.0, 101.0, 101.0),
]


def market(**fields) -> Market:
    return Market(**{"features": np.zeros((7, 1)), "ohlc": CANDLES, "fee_rate": 0.001, **fields})


def settings(**rules) -> Settings:
    return Settings(window_size=1, rules=rules)


def test_flat_is_zero() -> None:
    run = flat(market())
    assert (run.log_return, run.trades, run.max_drawdown) == (0.0, (), 0.0)
    assert run.equity.shape == run.actions.shape == (7,)


def test_buy_and_hold_by_hand() -> None:
    """Bought at 100 at the open of row 1, sold at 101 at that of row 6; the stop does not hold.

    Funding of 0.01 a candle is due at rows 1 to 6.
    """
    rules = {"stoploss": -0.01, "minimal_roi": {0: 0.001}, "max_trade_duration_candles": 2}
    run = buy_and_hold(market(leverage=3.0, funding=0.01), settings(entry="always", **rules))
    (trade,) = run.trades
    assert (trade.side, trade.open_row, trade.close_row) == (Side.LONG, 1, 6)
    assert (trade.open_rate, trade.close_rate, trade.leverage) == (100.0, 101.0, 1.0)
    assert trade.exit_reason is ExitReason.END_OF_DATA
    assert run.log_return == pytest.approx(math.log((101 * 0.999 - 0.06) / 100.1), abs=1e-8)


def test_buy_and_hold_starts_with_the_first_full_window() -> None:
    run = buy_and_hold(market(), Settings(window_size=3))
    assert run.trades[0].open_row == 3
    assert run.log_return == pytest.approx(math.log(101 * 0.999 / (104 * 1.001)), abs=1e-8)


def test_buy_and_hold_lives_through_any_fall() -> None:
    deep = [*CANDLES[:3], (102.0, 102.0, 0.5, 90.0), *CANDLES[4:]]
    assert len(buy_and_hold(market(ohlc=deep), settings()).trades) == 1


def test_classic_exits_by_hand() -> None:
    """A long from 100 takes 2% at 102.204 in row 3, one from 103 is held to the end at 101.

    Its entry is decided at row 3; that of row 1 falls into the first trade. 100 * 1.001 * 1.02
    / 0.999 = 102.2062...
    """
    fired = np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool)
    run = classic_exits(market(entry_long=fired), settings(entry="any", minimal_roi={0: 0.02}))
    assert run is not None
    first, second = run.trades
    assert (first.open_row, first.close_row, first.exit_reason) == (1, 2, ExitReason.ROI)
    assert first.close_rate == pytest.approx(100 * 1.001 * 1.02 / 0.999)
    assert first.profit_ratio == pytest.approx(0.02, abs=1e-8)
    assert (second.open_row, second.close_row) == (4, 6)
    expected = math.log(1.02) + math.log(101 * 0.999 / (103 * 1.001))
    assert run.log_return == pytest.approx(expected, abs=1e-7)


def test_classic_exits_go_short_where_they_may() -> None:
    fired = np.array([0, 0, 1, 0, 0, 0, 0], dtype=bool)
    run = classic_exits(market(entry_short=fired), settings(stoploss=-0.03))
    assert run is not None
    assert [(t.side, t.exit_reason) for t in run.trades] == [(Side.SHORT, ExitReason.END_OF_DATA)]
    assert run.log_return == pytest.approx(math.log(2 - 101 * 1.001 / (104 * 0.999)), abs=1e-8)
    assert classic_exits(market(entry_short=fired), settings(can_short=False)) is None


@pytest.mark.parametrize("fired_row", [None, 5, 6])
def test_without_an_entry_that_can_be_taken_there_are_no_classic_exits(fired_row) -> None:
    """A trade decided at row 5 would open at the last candle."""
    fired = np.zeros(7, dtype=bool)
    if fired_row is not None:
        fired[fired_row] = True
    assert classic_exits(market(entry_long=fired), settings()) is None


def a_trade(candles: int, reason: ExitReason = ExitReason.AGENT, row: int = 1) -> Trade:
    return Trade("market", Side.LONG, row, row + candles, 100.0, 100.0, 1.0, 0.0, reason)


def run_of(*trades: Trade) -> Simulation:
    return Simulation(trades, np.ones(9), np.zeros(9, dtype=np.int64))


def test_exit_chances_are_the_shares_of_own_exits_among_the_trades_that_lived() -> None:
    run = run_of(
        a_trade(1),
        a_trade(2),
        a_trade(2, ExitReason.STOP_LOSS),
        a_trade(3),
        a_trade(5, ExitReason.ROI),
        a_trade(0, ExitReason.STOP_LOSS),
    )
    # Five trades lived for one candle, four for two, two for three, one for five.
    np.testing.assert_allclose(exit_chances(run), [0, 1 / 5, 1 / 4, 1 / 2, 0, 1])


def test_exit_chances_without_forced_exits_give_the_holding_times_back() -> None:
    ages = [1, 1, 2, 4, 4, 4, 7]
    chances = exit_chances(run_of(*map(a_trade, ages)))
    stays = np.concatenate([[1.0], np.cumprod(1.0 - chances)[:-1]])
    np.testing.assert_allclose(stays * chances, np.bincount(ages) / len(ages))


def test_whoever_never_left_by_itself_never_does() -> None:
    run = run_of(a_trade(3, ExitReason.ROI), a_trade(5, ExitReason.END_OF_DATA))
    assert exit_chances(run).tolist() == [0.0] * 6


RULES = {"stoploss": -0.02, "minimal_roi": {0: 0.02}}


@pytest.mark.parametrize("entry", ["always", "classic", "any"])
@pytest.mark.parametrize("age", [3, 10_000])
def test_a_run_with_one_holding_time_is_its_own_null(entry, age, make_market, trade_by) -> None:
    """It leaves after 3 candles, or never by itself, whatever the market does."""
    rng = np.random.default_rng(0)
    fired = rng.random((2, 600)) < 0.1
    wanted = np.where(rng.random(600) < 0.4, rng.choice([1, 3], 600), 0)
    candles = make_market(
        n_candles=600, volatility=0.008, entry_long=fired[0], entry_short=fired[1]
    )
    rules = Settings(window_size=4, rules={"entry": entry, **RULES})
    run = trade_by(
        candles,
        rules,
        lambda row, side, lived: (3 - side if lived >= age else 0) if side else wanted[row],
    )
    assert len({trade.exit_reason for trade in run.trades}) > (age == 3)
    for draw in random_exits(run, candles, rules, n_draws=3):
        assert draw.trades == run.trades
        np.testing.assert_array_equal(draw.equity, run.equity)


def random_leaver(rng: np.random.Generator, n_candles: int, chance: float):
    """Enter by a rule of the row, leave by chance."""
    wanted = np.where(rng.random(n_candles) < 0.4, rng.choice([1, 3], n_candles), 0)
    leaves = rng.random(n_candles) < chance

    def decide(row: int, side: int, _age: int) -> int:
        if side == 0:
            return int(wanted[row])
        return (Action.LONG_EXIT if side > 0 else Action.SHORT_EXIT) if leaves[row] else 0

    return decide


def test_random_exits_are_seeded(make_market, trade_by) -> None:
    candles, rules = make_market(n_candles=400), settings(entry="any")
    run = trade_by(candles, rules, random_leaver(np.random.default_rng(0), 400, 0.2))

    def returns(seed: int) -> list[float]:
        return [d.log_return for d in random_exits(run, candles, rules, n_draws=5, seed=seed)]

    assert returns(1) == returns(1) != returns(2)
    assert len(set(returns(1))) == 5


@pytest.mark.parametrize("rules", [{}, RULES, {"max_trade_duration_candles": 6}])
def test_draws_hold_as_long_as_the_run_and_enter_as_it_does(rules, make_market, trade_by) -> None:
    """Forced exits do not shorten the draws a second time; 2% are three standard errors here."""
    candles = make_market(n_candles=6000, volatility=0.004)
    rules = settings(entry="any", **rules)
    run = trade_by(candles, rules, random_leaver(np.random.default_rng(0), 6000, 0.1))
    draws = random_exits(run, candles, rules, n_draws=50)
    held = np.array([trade.duration_candles for draw in draws for trade in draw.trades])
    theirs = np.array([trade.duration_candles for trade in run.trades])
    assert held.mean() == pytest.approx(theirs.mean(), rel=0.02)
    most = np.arange(12)
    shares = [(ages[:, None] == most).mean(axis=0) for ages in (held, theirs)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.02)
    assert len(held) / 50 == pytest.approx(len(theirs), rel=0.03)
    for draw in draws[:5]:
        assert draw.entries is run.entries
        for trade in draw.trades:
            assert run.entries[trade.open_row - 1] == (1 if trade.side > 0 else 3)


def test_where_the_entry_rule_is_not_known_executed_entries_are_taken(
    make_market, trade_by
) -> None:
    candles, rules = make_market(n_candles=1000), settings(entry="any")
    run = trade_by(candles, rules, random_leaver(np.random.default_rng(0), 1000, 0.2))
    bare = Simulation(run.trades, run.equity, run.actions)
    opened = {trade.open_row for trade in run.trades}
    draws = random_exits(bare, candles, rules, n_draws=10)
    for draw in draws:
        assert {trade.open_row for trade in draw.trades} <= opened
        assert draw.entries is None
    assert np.mean([len(draw.trades) for draw in draws]) < len(run.trades)


def test_under_always_all_classic_entries_are_taken_even_so(make_market, trade_by) -> None:
    fired = np.random.default_rng(1).random(600) < 0.2
    candles, rules = make_market(n_candles=600, entry_long=fired), settings(entry="always")
    run = trade_by(candles, rules, random_leaver(np.random.default_rng(0), 600, 0.2))
    bare = Simulation(run.trades, run.equity, run.actions)
    for draw in random_exits(bare, candles, rules, n_draws=5):
        flat_rows = draw.sides_decided_in() == 0
        np.testing.assert_array_equal(
            np.flatnonzero(draw.actions == 1), np.flatnonzero(flat_rows[:-2] & fired[:-2])
        )


def test_without_trades_there_are_no_random_exits(make_market) -> None:
    candles = make_market()
    assert random_exits(flat(candles), candles, settings(entry="any")) == ()


@settings_of_hypothesis(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), fee_rate=st.floats(0.0, 0.002), more=st.floats(1e-4, 0.01))
def test_no_baseline_earns_more_at_higher_fees(make_market, seed, fee_rate, more) -> None:
    """With exits at prices that do not depend on the fee: stoploss and duration."""
    fired = np.random.default_rng(seed).random((2, 120)) < 0.2
    rules = settings(stoploss=-0.02, max_trade_duration_candles=8)
    cheap, dear = (
        make_market(
            seed=seed % 2**16,
            entry_long=fired[0],
            entry_short=fired[1],
            fee_rate=fee,
            volatility=0.01,
        )
        for fee in (fee_rate, fee_rate + more)
    )
    assert buy_and_hold(dear, rules).log_return < buy_and_hold(cheap, rules).log_return
    runs = [classic_exits(candles, rules) for candles in (cheap, dear)]
    if runs[0] is not None:
        assert len(runs[0].trades) == len(runs[1].trades) > 0
        assert runs[1].log_return < runs[0].log_return

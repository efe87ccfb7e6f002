"""Chains against the reference environment, and the oracle against every way to trade."""

from __future__ import annotations

import copy
import itertools
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markets import lively_market

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator import chains as chains_module
from mtf_scalper.simulator.advantages import greedy_policy
from mtf_scalper.simulator.chains import FLAT_ACTIONS, SIDES, chains_of
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Action

ALL_EXITS = {
    "stoploss": -0.03,
    "minimal_roi": {0: 0.05, 10: 0.02},
    "max_trade_duration_candles": 6,
    "emergency_loss": -0.02,
    "break_even_trigger": 0.01,
}


TRAILING = {
    "stoploss": -0.03,
    "trailing_stop": True,
    "trailing_stop_positive": 0.004,
    "trailing_stop_positive_offset": 0.006,
    "trailing_only_offset_is_reached": True,
    "exit_timeout_minutes": 10.0,
    "minimal_roi": {0: 0.05},
}
"""With a stop that is raised in the candle of the entry, whose order then waits."""


def settings_with(entry: EntryMode, rules: dict[str, Any], **values: Any) -> Settings:
    return Settings(window_size=3, rules=TradeRules(entry=entry, **rules), **values)


def fork(env: ReferenceEnv) -> ReferenceEnv:
    twin = copy.copy(env)
    twin._position = copy.copy(env._position)
    twin.trades = list(env.trades)
    return twin


@pytest.mark.parametrize("entry", EntryMode)
@pytest.mark.parametrize(
    "rules",
    [{}, ALL_EXITS, {"can_short": False}, {**TRAILING, "slippage_bps": 25.0}],
    ids=["free", "all", "long", "trailing, with slippage"],
)
@pytest.mark.parametrize("ends_early", [False, True])
@pytest.mark.parametrize("reward", ["log_return", "exit_quality"])
def test_every_state_is_what_the_reference_environment_says(
    entry: EntryMode, rules: dict[str, Any], ends_early: bool, reward: str
) -> None:
    market = lively_market(3, 40, ends_early=ends_early)
    settings = settings_with(entry, rules, reward=reward, add_state_info=True)
    chains = chains_of(prepare(market, settings))
    visited = 0
    for row in range(chains.first_row, len(market) - 1):
        env = ReferenceEnv(market, settings)
        env.reset(options={"row": row})
        valid = env.action_masks()[list(FLAT_ACTIONS)]
        np.testing.assert_array_equal(chains.flat_valid[row], valid)
        for index, enter in enumerate((Action.LONG_ENTER, Action.SHORT_ENTER)):
            chain = chains.chain_at[row, index]
            assert (chain >= 0) == valid[1 + index]
            if chain < 0:
                continue
            trade = fork(env)
            assert trade.step(enter)[1] == pytest.approx(chains.enter_reward[chain], abs=1e-12)
            for state in range(chains.starts[chain], chains.starts[chain + 1]):
                assert (trade.side, trade.row) == (SIDES[index], chains.rows[state])
                assert chains.sides[state] == index
                np.testing.assert_array_equal(trade.position_state(), chains.position[state])
                exit_ = Action.LONG_EXIT if index == 0 else Action.SHORT_EXIT
                left = fork(trade).step(exit_)[1]
                assert left == pytest.approx(chains.leave_reward[state], abs=1e-12)
                stayed = trade.step(Action.NEUTRAL)[1]
                assert stayed == pytest.approx(chains.stay_reward[state], abs=1e-12)
                visited += 1
            assert trade.side == 0
            assert trade.row == row + 1 + chains.starts[chain + 1] - chains.starts[chain]
    assert visited == chains.n_states > 0


def test_fee_relief_is_what_fees_cost_at_the_entry(make_market: Any) -> None:
    market = make_market(n_candles=40, fee_rate=0.001)
    chains = chains_of(prepare(market, settings_with(EntryMode.ANY, {})))
    # Both fees of a long: log((1 - f) / (1 + f)), of a short by the other definition the same.
    np.testing.assert_allclose(chains.fee_relief, 2.0 * 0.001, rtol=0.02)
    other = chains_of(prepare(market, settings_with(EntryMode.ANY, {}, reward="exit_quality")))
    assert not other.fee_relief.any()


def test_fee_relief_is_what_slippage_costs_too(make_market: Any) -> None:
    market = make_market(n_candles=40, fee_rate=0.0)
    chains = chains_of(prepare(market, settings_with(EntryMode.ANY, {"slippage_bps": 20.0})))
    np.testing.assert_allclose(chains.fee_relief, 0.002, rtol=0.02)


def test_a_long_trade_goes_on_in_a_fresh_chain(make_market: Any) -> None:
    market = make_market(n_candles=60)
    settings = settings_with(EntryMode.ANY, {"can_short": False})
    whole, cut = (
        chains_of(prepare(market, settings)),
        chains_of(prepare(market, settings), longest=7),
    )
    assert (whole.continues < 0).all()
    assert np.diff(cut.starts).max() == 7
    goes_on = np.flatnonzero(cut.continues >= 0)
    entries = np.flatnonzero(cut.chain_at[:, 0] >= 0)
    np.testing.assert_array_equal(entries[cut.continues[goes_on]] + 1, entries[goes_on] + 1 + 7)
    # Longs of leverage 1 without funding: marks differ by the rounding of profits alone.
    assert greedy_policy(cut)[0] == pytest.approx(greedy_policy(whole)[0], abs=1e-6)


def test_too_many_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains_module, "_MOST_STATES", 100)
    market = lively_market(1, 60)
    with pytest.raises(SettingsError, match="more than 100 states of trades; set max_trade"):
        chains_of(prepare(market, settings_with(EntryMode.CLASSIC, {})))


def test_memory_is_told_before_it_is_taken(
    make_market: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries at rows 2 to 17 on two sides, held for 10 candles or what is left: 2 (80 + 44)."""
    monkeypatch.setattr(chains_module, "_NOTICED_BYTES", 248 * 100)
    monkeypatch.setattr(chains_module, "_BYTES_OF_STATE", {False: 100, True: 310})
    market = make_market(n_candles=20)
    settings = settings_with(EntryMode.ANY, {"max_trade_duration_candles": 10})
    with caplog.at_level("WARNING"):
        chains_of(prepare(market, settings))
    (record,) = caplog.records
    assert "held for up to 10 candles, may make 248 states" in record.getMessage()
    monkeypatch.setattr(chains_module, "_NOTICED_BYTES", 249 * 100)
    caplog.clear()
    chains_of(prepare(market, settings))
    assert not caplog.records


def test_too_short_a_market_is_refused(make_market: Any) -> None:
    with pytest.raises(MarketError, match="4 candles are too few for a window of 3"):
        chains_of(prepare(make_market(n_candles=4), settings_with(EntryMode.ANY, {})))


def outcomes(env: ReferenceEnv) -> Iterator[float]:
    """Yield the log of the final equity of every way to go on."""
    for action in np.flatnonzero(env.action_masks()):
        twin = fork(env)
        terminated = twin.step(int(action))[2]
        if terminated:
            yield float(np.log(twin.equity))
        else:
            yield from outcomes(twin)


@pytest.mark.parametrize(
    ("seed", "entry", "rules"),
    [
        (seed, entry, rules)
        for seed, (entry, rules) in enumerate(
            itertools.product(EntryMode, [{}, ALL_EXITS, {"can_short": False}, TRAILING])
        )
    ],
)
def test_the_oracle_is_the_best_of_all_ways_to_trade(
    seed: int, entry: EntryMode, rules: dict[str, Any]
) -> None:
    market = lively_market(seed, 11)
    settings = settings_with(entry, rules)
    env = ReferenceEnv(market, settings)
    env.reset()
    best = max(outcomes(env))
    run = oracle(market, settings)
    assert run.log_return == pytest.approx(best, abs=1e-10)
    assert greedy_policy(chains_of(prepare(market, settings)))[0] == pytest.approx(best, abs=1e-10)


@given(
    seed=st.integers(0, 10_000),
    entry=st.sampled_from(EntryMode),
    rules=st.sampled_from([{}, ALL_EXITS, TRAILING]),
)
def test_no_policy_beats_the_oracle(seed: int, entry: EntryMode, rules: dict[str, Any]) -> None:
    market = lively_market(seed, 50)
    settings = settings_with(entry, rules)
    best = oracle(market, settings).log_return
    rng = np.random.default_rng(seed)
    for keep in (0.0, 0.7, 0.95):
        env = ReferenceEnv(market, settings)
        env.reset()
        terminated = False
        while not terminated:
            valid = np.flatnonzero(env.action_masks())
            action = valid[0] if rng.random() < keep else rng.choice(valid)
            terminated = env.step(int(action))[2]
        assert float(np.log(env.equity)) <= best + 1e-9


def test_without_entries_and_rules_the_oracle_trades_at_will(make_market: Any) -> None:
    market = make_market(n_candles=80, volatility=0.01)
    run = oracle(market, Settings(window_size=3))
    assert run.log_return > 0.0
    assert {trade.side for trade in run.trades} == set(SIDES)
    assert oracle(make_market(n_candles=80, volatility=1e-5)).trades == ()


def test_the_memory_of_the_optimum_is_some_numbers_per_candle(make_market: Any) -> None:
    """However many states its trades have; they were all kept."""
    rules = {"stoploss": -0.2, "minimal_roi": {0: 0.2}}
    settings = settings_with(EntryMode.ANY, rules)
    taken = {}
    for n_candles in (1000, 4000):
        market = make_market(n_candles=n_candles)
        oracle(market, settings)
        tracemalloc.start()
        oracle(market, settings)
        taken[n_candles] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Trades of up to 300 candles on two sides of every candle; 30,000 bytes when they were kept.
    assert (taken[4000] - taken[1000]) / 3000 < 2000

"""What a policy is worth that does not see its position: the means over the trades, to the bit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from mtf_scalper.ppo.contexts import Book
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.advantages import PolicyTable, evaluate_policy
from mtf_scalper.simulator.by_side import SideTable, evaluate_by_side
from mtf_scalper.simulator.chains import chains_of
from mtf_scalper.simulator.prepared import prepare

RULES: dict[str, dict[str, Any]] = {
    "free": {},
    "long": {"can_short": False},
    "stops": {"stoploss": -0.03, "minimal_roi": {0: 0.05, 10: 0.02}},
    "trailing": {"stoploss": -0.03, "trailing_stop": True, "trailing_stop_positive": 0.01},
    "all": {
        "stoploss": -0.03,
        "max_trade_duration_candles": 5,
        "emergency_loss": -0.02,
        "break_even_trigger": 0.01,
    },
}


@pytest.mark.parametrize("entry", EntryMode)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("longest", [None, 7])
@pytest.mark.parametrize("fee_share", [0.3, 1.0])
def test_all_is_the_mean_over_the_states_of_trades(
    make_market: Any, entry: EntryMode, rules: dict[str, Any], longest: int | None, fee_share: float
) -> None:
    rng = np.random.default_rng(3)
    n_candles = 150
    signals = rng.random((2, n_candles)) < 0.4
    market = make_market(
        n_candles=n_candles,
        volatility=0.01,
        leverage=rng.uniform(1.0, 3.0, n_candles),
        funding=rng.normal(0.0, 0.05, n_candles),
        tick_size=0.01,
        fee_rate=0.001,
        entry_long=signals[0],
        entry_short=signals[1],
    )
    settings = Settings(window_size=3, rules=TradeRules(entry=entry, **rules))
    chains = chains_of(prepare(market, settings), longest=longest)
    flat = chains.flat_valid * (0.1 + rng.random((n_candles, 3)))
    total = flat.sum(axis=1, keepdims=True)
    flat = np.divide(flat, total, out=np.zeros_like(flat), where=total > 0.0)
    leave = rng.random((2, n_candles)) ** 3
    places = (chains.sides.astype(np.int64), chains.rows)
    found = evaluate_by_side(chains, SideTable(flat, leave), 0.97, fee_share=fee_share)
    states = evaluate_policy(chains, PolicyTable(flat, leave[places]), 0.97, fee_share=fee_share)
    for name in ("flat_values", "flat_advantages", "flat_occupancy", "held_rewards", "objective"):
        np.testing.assert_array_equal(getattr(found, name), getattr(states, name), err_msg=name)
    occupancy = np.zeros((2, n_candles))
    np.add.at(occupancy, places, states.state_occupancy)
    np.testing.assert_array_equal(found.occupancy, occupancy)
    assert occupancy.sum() > 0.0
    for name in ("stay_advantages", "leave_advantages"):
        sums = np.zeros((2, n_candles))
        np.add.at(sums, places, states.state_occupancy * getattr(states, name))
        means = sums / np.where(occupancy > 0.0, occupancy, 1.0)
        np.testing.assert_array_equal(getattr(found, name), means, err_msg=name)
    in_trades = (1.0 - leave[places]) * chains.stay_reward + leave[places] * chains.leave_reward
    held = np.bincount(chains.rows, states.state_occupancy * in_trades, n_candles)
    np.testing.assert_array_equal(found.held_rewards, held)


def test_a_state_takes_its_two_rewards_and_nothing_else(make_market: Any) -> None:
    """Peaks of making a book and of what every pass does with it, by candle: linear, and small."""
    settings = Settings(window_size=3, rules=TradeRules(entry=EntryMode.ANY))
    peaks = {}
    for n_candles in (500, 3000, 12_000):
        market = make_market(n_candles=n_candles)
        tracemalloc.start()
        book = Book([market], settings)
        probabilities = np.full((book.n_contexts, 3), 1.0 / 3.0)
        tables = book.tables(probabilities)
        book.targets(probabilities, book.evaluate(tables, 0.97))
        peaks[n_candles] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # 96 states on two sides of every candle: 3,072 bytes of rewards; 16,000 when there was more.
    per_candle = (peaks[12_000] - peaks[3000]) / 9000
    assert per_candle < 4200
    assert per_candle < 1.2 * peaks[3000] / 3000

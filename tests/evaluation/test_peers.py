"""Supervised peers: the same candles, rules and costs, and nothing of the tested future."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from mtf_scalper.errors import MarketError, MtfScalperError
from mtf_scalper.evaluation.peers import (
    PEERS,
    peer_decisions,
    peer_runs,
    returns_ahead,
    worth_of_leaving,
)
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.selection import held_back
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.playback import play_decided
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import ExitReason
from mtf_scalper.worlds.planted import PlantedMarket, planted_market
from mtf_scalper.worlds.planted_reference import reference_targets

SETTINGS = Settings(cpu_count=1)


def planted(kind: str, seed: int, n_candles: int = 2500, **fields: Any) -> PlantedMarket:
    return planted_market(kind, seed, n_candles, n_features=10, **fields)


def split(market: Market) -> tuple[Market, Market]:
    (seen,), (choosing,) = held_back([market], SETTINGS)
    return seen, choosing


def test_on_a_linear_signal_both_earn_most_of_what_can_be_known() -> None:
    test = planted("linear", 1001)
    runs = peer_runs(*split(planted("linear", 1).market), test.market, SETTINGS)
    sides = reference_targets(test, first_row=SETTINGS.window_size - 1)
    returns = np.diff(np.log(test.market.ohlc[:, 0]))
    ideal = float((sides[:-2] * returns[1:]).sum() - 0.0005 * np.abs(np.diff(sides)).sum())
    assert set(runs) == set(PEERS) == {"ridge", "lightgbm"}
    for name, run in runs.items():
        assert run.log_return > 0.5 * ideal, name
        assert {trade.side for trade in run.trades} == {1, -1}


def test_the_tested_future_changes_nothing_before_it() -> None:
    seen, choosing = split(planted("linear", 1).market)
    tested = planted("linear", 1001, 800).market
    ohlc, features = np.array(tested.ohlc), np.array(tested.features)
    ohlc[600:] *= 1.5
    features[600:] = 3.0
    changed = replace(tested, ohlc=ohlc, features=features)
    for before, after in zip(
        peer_runs(seen, choosing, tested, SETTINGS).values(),
        peer_runs(seen, choosing, changed, SETTINGS).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(before.actions[:600], after.actions[:600])
        assert not np.array_equal(before.actions[600:], after.actions[600:])


def mirrored(market: Market) -> Market:
    """Return a market that falls where this one rises, with the same features."""
    opened, high, low, close = (1e4 / market.ohlc).T
    return replace(market, ohlc=np.column_stack([opened, low, high, close]))


def test_thresholds_are_chosen_on_the_held_back_candles_alone() -> None:
    seen, choosing = split(planted("linear", 1).market)
    tested = planted("linear", 1001, 800).market
    chosen = peer_decisions(seen, choosing, tested, SETTINGS)
    # What the tested candles bring has no part in what is decided there.
    for name, other in peer_decisions(seen, choosing, mirrored(tested), SETTINGS).items():
        np.testing.assert_array_equal(chosen[name], other)
        assert chosen[name].any()
    # Where forecasts lose on the held-back candles, far fewer are acted on.
    for name, other in peer_decisions(seen, mirrored(choosing), tested, SETTINGS).items():
        assert (other[:, 1] != 0).sum() < 0.5 * (chosen[name][:, 1] != 0).sum()


@pytest.mark.parametrize("rules", [{"entry": "any"}, {"entry": "always", "stoploss": -0.01}])
def test_what_is_decided_sees_no_later_candle(rules: dict[str, Any]) -> None:
    """Row by row, whatever comes after it; the first full window is the first that decides."""
    shares = {} if rules["entry"] == "any" else {"entry_share": 0.2}
    seen, choosing = split(planted("linear", 1, **shares).market)
    tested = planted("linear", 1001, 300, **shares).market
    settings = SETTINGS.changed(rules={**rules, "max_trade_duration_candles": 20})
    whole = peer_decisions(seen, choosing, tested, settings)
    part = peer_decisions(seen, choosing, tested.slice(0, 120), settings)
    for name, decided in whole.items():
        assert decided.shape == (300, 3)
        np.testing.assert_array_equal(decided[:120], part[name])
        assert not decided[: settings.window_size - 1].any()


def test_fees_and_funding_are_paid_and_thresholds_know_of_fees() -> None:
    market, tested = planted("linear", 1).market, planted("linear", 1001, 1500).market
    seen, choosing = split(market)
    decided = peer_decisions(seen, choosing, tested, SETTINGS)
    for name, run in peer_runs(seen, choosing, tested, SETTINGS).items():
        free = play_decided(prepare(replace(tested, fee_rate=0.0), SETTINGS), decided[name][None])
        paid = free[0].log_return - run.log_return
        # In and out, on the account of the moment.
        assert paid == pytest.approx(2 * 0.0005 * len(run.trades), rel=0.02)
        charged = replace(tested, funding=np.full(len(tested), 0.01))
        funded = play_decided(prepare(charged, SETTINGS), decided[name][None])[0]
        assert funded.log_return != run.log_return
    dear = replace(market, fee_rate=0.02)
    runs = peer_runs(*split(dear), replace(tested, fee_rate=0.02), SETTINGS)
    for name, run in runs.items():
        assert len(run.trades) < 0.2 * (np.diff(decided[name][:, 1] != 0) != 0).sum()


@pytest.mark.parametrize("missing", ["sklearn", "lightgbm"])
def test_a_missing_library_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    market = planted("linear", 1, 600).market
    with pytest.raises(MtfScalperError, match=rf"^{missing}.* is not installed; install it with: "):
        peer_runs(*split(market), market, SETTINGS)


def test_threads_change_nothing() -> None:
    seen, choosing = split(planted("regime", 1, 1500).market)
    tested = planted("regime", 1001, 800).market
    found = []
    before = torch.get_num_threads()
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        with threadpool_limits(n_threads):
            found.append(peer_runs(seen, choosing, tested, SETTINGS))
    torch.set_num_threads(before)
    for name in PEERS:
        assert found[0][name].trades == found[1][name].trades
        np.testing.assert_array_equal(found[0][name].equity, found[1][name].equity)


@pytest.mark.parametrize("entry", ["classic", "always"])
def test_entries_of_a_rule_and_its_exits_hold_for_them(entry: str) -> None:
    market = planted("linear", 1, entry_share=0.2).market
    test = planted("linear", 1001, 1500, entry_share=0.2).market
    rules = {"entry": entry, "stoploss": -0.004, "max_trade_duration_candles": 20}
    settings = SETTINGS.changed(rules=rules)
    for name, run in peer_runs(*split(market), test, settings).items():
        assert run.trades, name
        for trade in run.trades:
            fired = test.entry_long if trade.side > 0 else test.entry_short
            assert fired[trade.open_row - 1]
            assert trade.close_row - trade.open_row <= 21
        reasons = {trade.exit_reason for trade in run.trades}
        assert ExitReason.STOP_LOSS in reasons
        assert ExitReason.AGENT in reasons


def test_the_target_is_the_discounted_sum_of_later_returns() -> None:
    market = planted("fast", 3, 60).market
    steps = np.diff(np.log(market.ohlc[:, 0]))
    by_hand = [sum(0.9**k * steps[t + 1 + k] for k in range(58 - t)) for t in range(58)]
    np.testing.assert_allclose(returns_ahead(market)[:58], by_hand, atol=1e-12)


def test_leaving_is_worth_what_the_rest_of_the_trade_loses() -> None:
    """A price that falls all the time: it is worth more to leave longs than shorts."""
    falling = 100.0 * 0.999 ** np.arange(80)
    opened = np.concatenate([falling[:1], falling[:-1]])
    ohlc = np.column_stack([opened, opened, falling, falling])
    entries = np.arange(80) % 7 == 0
    market = Market(features=np.zeros((80, 1)), ohlc=ohlc, entry_long=entries, entry_short=~entries)
    rules = {"entry": "always", "max_trade_duration_candles": 10}
    settings = SETTINGS.changed(window_size=2, rules=rules)
    worth, occupancy = worth_of_leaving(market, settings)
    long, short = (
        (each * often).sum() / often.sum() for each, often in zip(worth, occupancy, strict=True)
    )
    assert long > short + 0.002


def test_other_features_are_refused() -> None:
    seen, choosing = split(planted("linear", 1, 600).market)
    tested = planted_market("linear", 2, 600, n_features=12).market
    with pytest.raises(MarketError, match="12 features, the peers are fitted on 10"):
        peer_runs(seen, choosing, tested, SETTINGS)

"""The base policy: thresholds that would have earned most, said in logits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.base_policy import (
    QUANTILES,
    SHARES,
    STEEPNESS,
    BasePolicy,
    Thresholds,
    base_of,
    choose_thresholds,
)
from mtf_scalper.ppo.forecasts import N_FORECASTS
from mtf_scalper.ppo.policy import Policy, decisions_by_side, simulate
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.by_threshold import decide_by_threshold
from mtf_scalper.simulator.masks import masked_probabilities
from mtf_scalper.simulator.playback import play_decided, valid_actions
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.training import train
from mtf_scalper.worlds.planted import planted_market

SETTINGS = Settings(cpu_count=1, net_arch=(32,), train_cycles=4)
FIRST = SETTINGS.window_size - 1


def with_entries(market: Market) -> Market:
    rows = np.arange(len(market))
    return replace(market, entry_long=rows % 7 == 0, entry_short=rows % 11 == 0)


@pytest.fixture(scope="module")
def market() -> Market:
    return with_entries(planted_market("linear", 1, 1500, n_features=8).market)


def forecasts_of_what_comes(market: Market, noise: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return forecasts that know something of the next ten returns, each in its own degree."""
    ahead = np.zeros(len(market))
    ahead[:-11] = np.log(market.ohlc[11:, 0] / market.ohlc[1:-10, 0])
    ahead /= ahead.std()
    random = np.random.default_rng(3).standard_normal((len(market), N_FORECASTS))
    found = ahead[:, None] + noise * np.arange(1, N_FORECASTS + 1) * random
    found[:FIRST] = 0.0
    return np.asarray(found, dtype=np.float32)


@pytest.mark.parametrize("mode", list(EntryMode))
def test_they_are_the_best_with_their_neighbours(market: Market, mode: EntryMode) -> None:
    settings = SETTINGS.changed(rules=TradeRules(entry=mode, max_trade_duration_candles=40))
    forecasts = forecasts_of_what_comes(market, 0.3)
    forecasts[:, 1:] = 0.0  # one that is used, so that all of its thresholds are tried
    found = choose_thresholds([market], [forecasts], settings)
    assert found is not None
    assert found.mix.tolist() == [1.0] + [0.0] * (N_FORECASTS - 1)
    prepared, values = prepare(market, settings), forecasts[FIRST:, 0].astype(float)
    grid = [
        (size, share * size)
        for size in np.quantile(np.abs(values), np.array(QUANTILES))
        for share in SHARES
    ]
    tables = [decide_by_threshold(FIRST, values, *each) for each in grid]
    runs = play_decided(prepared, np.stack(tables))
    earned = np.reshape([run.log_return for run in runs], (len(QUANTILES), len(SHARES)))
    smoothed = {}
    for row in range(len(QUANTILES)):
        for column in range(len(SHARES)):
            # The first column never leaves: its only neighbours are other sizes.
            rows = [min(max(row + step, 0), len(QUANTILES) - 1) for step in (-1, 0, 1)]
            least = 1 if column else 0
            most = len(SHARES) - 1 if column else 0
            columns = [min(max(column + step, least), most) for step in (-1, 0, 1)]
            smoothed[grid[row * len(SHARES) + column]] = earned[np.ix_(rows, columns)].mean()
    best = max(smoothed.values())
    assert smoothed[found.enter, found.leave] == pytest.approx(best, abs=1e-12)
    nothing = decide_by_threshold(FIRST, values, math.inf, -math.inf)
    assert best > play_decided(prepared, nothing[None])[0].log_return


def test_the_forecast_that_knows_most_is_traded(market: Market) -> None:
    found = choose_thresholds([market], [forecasts_of_what_comes(market, 0.5)], SETTINGS)
    assert found is not None
    # Both kinds of the first horizon, whose noise is least.
    assert found.mix.tolist() == [0.5, 0.0, 0.0, 0.5, 0.0, 0.0]
    assert found.leave < found.enter


@pytest.mark.parametrize("mode", list(EntryMode))
def test_where_none_earn_anything_there_are_none(market: Market, mode: EntryMode) -> None:
    """Forecasts of the opposite; trades by them lose, and stay open until the rules end them."""
    settings = SETTINGS.changed(rules=TradeRules(entry=mode, max_trade_duration_candles=12))
    wrong = -np.abs(forecasts_of_what_comes(market, 0.0))
    assert choose_thresholds([market], [wrong * 0.0], settings) is None
    dear = replace(market, fee_rate=0.05)
    if mode is not EntryMode.ALWAYS:  # there leaving early is worth even such a fee
        assert choose_thresholds([dear], [forecasts_of_what_comes(market, 3.0)], settings) is None


@pytest.mark.parametrize("leave", [0.2, -0.6, -math.inf])
@pytest.mark.parametrize("mode", list(EntryMode))
def test_logits_decide_as_thresholds_do(market: Market, mode: EntryMode, leave: float) -> None:
    settings = SETTINGS.changed(rules=TradeRules(entry=mode))
    prepared = prepare(market, settings)
    forecasts = forecasts_of_what_comes(market, 0.5)
    mix = np.eye(N_FORECASTS)[2]
    thresholds = Thresholds(mix, 0.7, leave)
    base = BasePolicy(N_FORECASTS)
    base.take(base_of(thresholds, N_FORECASTS, keep_bias=2.0))
    logits = base(torch.from_numpy(forecasts))
    chances = torch.softmax(logits.double(), dim=1).numpy()
    values = (forecasts[FIRST:].astype(float) * mix).sum(axis=1)
    expected = decide_by_threshold(FIRST, values, thresholds.enter, thresholds.leave)
    flat = valid_actions(prepared)[FIRST:, 1]
    entered = expected[FIRST:, 1]
    is_valid = flat[np.arange(len(flat)), entered]
    entered[~is_valid] = flat[~is_valid].argmax(axis=1)
    found = decisions_by_side(chances, prepared)
    clear = np.abs(np.abs(values) - 0.7) > 1e-5
    clear &= np.abs(np.abs(values) - abs(leave)) > 1e-5
    # Where a rule says long and short at once there is no plain best.
    clear &= ~(market.entry_long & market.entry_short)[FIRST:]
    rows = FIRST + np.flatnonzero(clear)
    assert len(rows) > 1000
    np.testing.assert_array_equal(found[rows], expected[rows])


def test_without_thresholds_the_position_is_kept() -> None:
    base = BasePolicy(N_FORECASTS)
    base.take(base_of(None, N_FORECASTS, keep_bias=2.0))
    logits = base(torch.zeros(3, N_FORECASTS)).numpy()
    np.testing.assert_array_equal(logits, [[0.0, -2.0, -2.0, -2.0, -2.0]] * 3)
    everything = np.ones((3, 1, 5), dtype=np.bool_)
    chances = masked_probabilities(np.exp(logits)[:, None].astype(float), everything)
    assert (chances.argmax(axis=2) == 0).all()


def test_a_row_has_the_same_bits_in_every_batch(market: Market) -> None:
    forecasts = torch.from_numpy(forecasts_of_what_comes(market, 0.5))
    base = BasePolicy(N_FORECASTS)
    base.take(base_of(Thresholds(np.full(N_FORECASTS, 0.3), 0.4, 0.1), N_FORECASTS, 2.0))
    whole = base(forecasts)
    alone = torch.cat([base(forecasts[row : row + 1]) for row in range(0, len(forecasts), 97)])
    assert torch.equal(whole[::97], alone)


def test_what_was_learned_starts_from_it_and_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    """One pass without a step: the policy trades by thresholds alone, and after loading too."""
    market = planted_market("linear", 1, 2500, n_features=8).market
    test = planted_market("linear", 2, 2500, n_features=8).market
    result = train(market, SETTINGS.changed(train_cycles=1, learning_rate=1e-9))
    base = result.policy.model.policy.base_policy.weights
    assert base.abs().max() > STEEPNESS * 0.1
    run = simulate(result.policy, test)
    assert run.log_return > 0.3
    result.policy.save(tmp_path / "model.zip")
    loaded = Policy.load(tmp_path / "model.zip", result.policy.settings)
    np.testing.assert_array_equal(simulate(loaded, test).equity, run.equity)


def test_checkpoints_from_before_have_no_base() -> None:
    market = planted_market("linear", 1, 800, n_features=8).market
    policy = train(market, SETTINGS.changed(train_cycles=1, n_seeds=2)).policy.model.policy
    state = policy.state_dict()
    names = [name for name in state if name.endswith("base_policy.weights")]
    assert len(names) == 2
    for name in names:
        del state[name]
    policy.load_state_dict(state)
    assert all(not policy.state_dict()[name].any() for name in names)


def test_nothing_evident_is_nothing_traded() -> None:
    """The policy from before the training knows no thresholds, whatever was chosen."""
    market = planted_market("none", 3, 2500, n_features=8).market
    test = planted_market("none", 4, 2500, n_features=8).market
    result = train(market, SETTINGS.changed(evidence=1e6))
    assert not simulate(result.policy, test).trades

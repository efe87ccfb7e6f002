"""Permutation importance finds what is planted, and trades each shuffle as ``simulate`` would."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.importance import (
    Importance,
    _block_order,
    permutation_importance,
    pooled_importance,
)
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.settings import Settings
from mtf_scalper.training import train
from mtf_scalper.worlds.planted import planted_market

N_FEATURES = 12


@pytest.fixture(scope="module")
def learned() -> Policy:
    """Return a policy that reads the hidden signal of a linear market."""
    settings = Settings(
        net_arch=(32,), batch_size=64, window_size=2, cpu_count=1, train_cycles=12, dropout=0.0
    )
    train_on, validation = (
        planted_market("linear", seed, 5000, n_features=N_FEATURES).market for seed in (1, 2)
    )
    return train(train_on, settings, validation).policy


def test_the_planted_features_are_found_and_noise_is_not(learned: Policy) -> None:
    """The policy earns 0.91; six features show the signal and lose 0.03 to 0.17 each.

    Two of them always show the same factor, so that shuffling one leaves the other. Noise features
    lose up to 0.02.
    """
    planted = planted_market("linear", 3, 4000, n_features=N_FEATURES)
    market = planted.market
    assert simulate(learned, market).log_return > 0.5
    told = np.array(
        [
            abs(np.corrcoef(market.features[:, feature], planted.expected_return)[0, 1])
            for feature in range(N_FEATURES)
        ]
    )
    strong, noise = np.flatnonzero(told > 0.3), np.flatnonzero(told < 0.1)
    assert len(strong) >= 2
    assert len(noise) >= 4
    found = permutation_importance(learned, market, n_repeats=5)
    assert [each.feature for each in found] == list(market.feature_names)
    medians = np.array([each.median for each in found])
    assert set(np.argsort(medians)[-4:]) <= set(strong)
    assert medians[strong].sum() > 0.35
    assert np.abs(medians[noise]).max() < 0.03
    assert all(each.low <= each.median <= each.high for each in found)


@pytest.mark.parametrize("add_state_info", [False, True])
@pytest.mark.parametrize("entry", ["any", "classic"])
def test_each_drop_is_that_of_simulate_on_the_shuffled_market(
    entry: str, add_state_info: bool, make_market: Any, tiny_settings: Any
) -> None:
    rng = np.random.default_rng(7)
    fires = rng.random((2, 300)) < 0.2
    market = make_market(n_candles=300, entry_long=fires[0], entry_short=fires[1] & ~fires[0])
    settings = tiny_settings(
        add_state_info=add_state_info,
        advantage="exact",
        train_cycles=3,
        rules={"entry": entry, "max_trade_duration_candles": 20, "exit_confidence": 0.55},
    )
    policy = train(market, settings, market).policy
    base = simulate(policy, market, settings)
    (first, *_) = permutation_importance(
        policy, market, settings, n_repeats=2, block_candles=10, seed=5
    )
    for repeat, drop in enumerate(first.drops):
        order = _block_order(np.random.default_rng((5, repeat)), len(market), 10)
        features = market.features.copy()
        features[:, 0] = features[order, 0]
        played = simulate(policy, replace(market, features=features), settings)
        assert drop == pytest.approx(base.log_return - played.log_return, abs=1e-12)


def test_blocks_keep_neighbours_together_and_lose_nothing() -> None:
    order = _block_order(np.random.default_rng(0), 1000, 48)
    assert sorted(order) == list(range(1000))
    assert (np.diff(order) != 1).sum() <= 1000 // 48 + 1
    assert (order != np.arange(1000)).mean() > 0.5


def test_the_same_seed_gives_the_same_figures(learned: Policy) -> None:
    market = planted_market("linear", 4, 300, n_features=N_FEATURES).market
    once, again, other = (
        permutation_importance(learned, market, n_repeats=2, seed=seed) for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_parts_add_up_shuffle_by_shuffle() -> None:
    parts = [
        [Importance("a", 0.0, 0.0, 0.0, (1.0, 2.0, 6.0)), Importance("b", 0, 0, 0, (0.0,) * 3)],
        [Importance("a", 0.0, 0.0, 0.0, (0.5, -2.0, 0.0)), Importance("b", 0, 0, 0, (1.0,) * 3)],
    ]
    first, second = pooled_importance(parts)
    assert first.drops == (1.5, 0.0, 6.0)
    assert first.median == 1.5
    assert first.as_dict() == {
        "median": 1.5,
        "low": pytest.approx(0.15),
        "high": pytest.approx(5.55),
    }
    assert (second.feature, second.low, second.high) == ("b", 1.0, 1.0)


def test_parts_of_other_features_or_shuffles_are_refused() -> None:
    one = [Importance("a", 0.0, 0.0, 0.0, (1.0,))]
    with pytest.raises(ValueError, match="not one feature: a, b"):
        pooled_importance([one, [Importance("b", 0.0, 0.0, 0.0, (1.0,))]])
    with pytest.raises(ValueError, match="a: the parts differ in their number of shuffles"):
        pooled_importance([one, [Importance("a", 0.0, 0.0, 0.0, (1.0, 2.0))]])


def test_what_cannot_be_measured_is_refused(learned: Policy, make_market: Any) -> None:
    with pytest.raises(MarketError, match="12 features"):
        permutation_importance(learned, make_market(n_features=3))
    market = planted_market("linear", 4, 300, n_features=N_FEATURES).market
    for bad in ({"n_repeats": 0}, {"block_candles": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            permutation_importance(learned, market, **bad)

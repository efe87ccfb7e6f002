"""Features of any unit: what the policy learns, says and stores does not depend on it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markets import hinting_market
from stable_baselines3 import PPO

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.ppo.standard import MOST_DEVIATIONS, Standard
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.settings import Settings
from mtf_scalper.training import train

EXACT = {"train_cycles": 6, "net_arch": (32, 32), "window_size": 3, "evidence": 0.0}
GAE = {
    **EXACT,
    "advantage": "gae",
    "train_cycles": 1,
    "n_envs": 2,
    "n_steps": 128,
    "batch_size": 64,
    "n_epochs": 2,
}
WAYS: dict[str, dict[str, Any]] = {
    "exact": EXACT,
    "two seeds": {**EXACT, "n_seeds": 2, "train_cycles": 3},
    "position": {
        **EXACT,
        "train_cycles": 3,
        "add_state_info": True,
        "rules": {"entry": "any", "max_trade_duration_candles": 10},
    },
    "gae": GAE,
    "gae, position": {**GAE, "add_state_info": True},
    "ppo": {**GAE, "algorithm": "ppo"},
}


def with_features(market: Market, features: np.ndarray) -> Market:
    return Market(features=features, ohlc=market.ohlc, fee_rate=market.fee_rate)


def learned(market: Market, ways: dict[str, Any], **values: Any) -> Policy:
    settings = Settings(**{**ways, "cpu_count": 1, "device": "cpu", **values})
    return train(market.slice(0, 600), settings, market.slice(600, 750)).policy


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("unit", [2.0**-20, 2.0**100])
def test_another_unit_changes_no_bit_of_what_is_learned(way: str, unit: float) -> None:
    """Powers of two are exact in float32, so all that could differ is what goes by the unit."""
    market = hinting_market(1)
    plain = learned(market, WAYS[way])
    scaled = with_features(market, unit * market.features)
    other = learned(scaled, WAYS[way])
    expected = plain.model.policy.state_dict()
    for name, value in other.model.policy.state_dict().items():
        if not name.startswith("standard."):
            assert torch.equal(value, expected[name]), name
    np.testing.assert_array_equal(
        other.probabilities(scaled.features), plain.probabilities(market.features)
    )


def test_returns_of_a_thousandth_and_a_raw_price_beside_good_features_are_learned_from() -> None:
    market = hinting_market(2, 3000)
    ways = {**EXACT, "train_cycles": 8, "batch_size": 32, "evidence": 2.0}

    def earned(features: np.ndarray) -> float:
        own = with_features(market, features)
        settings = Settings(**ways, cpu_count=1)
        return simulate(
            train(own.slice(0, 2000), settings).policy, own.slice(2000, 3000)
        ).log_return

    good = earned(market.features)
    assert good > 0.3
    assert earned(1e-3 * market.features) > 0.9 * good
    assert earned(np.c_[market.features, 1e4 * market.ohlc[:, 3]]) > 0.8 * good


def test_mean_deviation_and_range_are_those_of_the_training_rows() -> None:
    market = hinting_market(3)
    policy = learned(market, EXACT)
    rows = market.features[:600].astype(np.float64)
    standard = policy.model.policy.standard
    for values, expected in (
        (standard.centre, rows.mean(axis=0)),
        (standard.spread, rows.std(axis=0)),
        (standard.lowest, rows.min(axis=0)),
        (standard.highest, rows.max(axis=0)),
    ):
        np.testing.assert_allclose(values.numpy(), np.tile(expected, 3), rtol=1e-5, atol=1e-6)


def test_by_hand_with_a_constant_column_and_an_outlier() -> None:
    """[1, 3] has mean 2 and deviation 1; 5 counts as the 3 that was seen, -9 as the 1."""
    features = np.array([[1.0, 7.0, 0.0], [3.0, 7.0, 0.0]] * 500, dtype=np.float32)
    features[0, 2] = 1e30  # its deviation: 1e30 * sqrt(999) / 1000
    standard = Standard(8)  # a window of two candles, and two numbers of a position
    standard.fit(features, 2)
    seen = torch.tensor([[5.0, 7.0, 1e30, -9.0, 1e20, 0.0, 40.0, -40.0]])
    expected = [1.0, 0.0, MOST_DEVIATIONS, -1.0, 0.0, -0.0316, 40.0, -40.0]
    np.testing.assert_allclose(standard(seen).numpy()[0], expected, atol=1e-4)
    own = standard.of_features(np.array([[5.0, 7.0, 1e30], [-9.0, 1e20, 0.0]], dtype=np.float32))
    np.testing.assert_array_equal(own.ravel(), standard(seen).numpy()[0, :6])


@pytest.mark.parametrize("scale", [1e38, 3.4e38, 1e-38])
def test_the_ends_of_float32_stay_finite(scale: float) -> None:
    features = np.random.default_rng(0).uniform(-1, 1, (300, 2)).astype(np.float32)
    standard = Standard(2)
    standard.fit((features * np.float64(scale)).astype(np.float32), 1)
    own = standard.of_features((features * np.float64(scale)).astype(np.float32))
    assert np.isfinite(own).all()
    assert 0.9 < own.std() < 1.1


@pytest.mark.parametrize("way", ["exact", "position", "gae", "two seeds"])
def test_stock_ppo_loads_the_units_and_acts_the_same(way: str, tmp_path: Path) -> None:
    market = hinting_market(4)
    price = with_features(market, np.c_[1e-4 * market.features, 1e5 * market.ohlc[:, 3]])
    policy = learned(price, WAYS[way])
    policy.save(tmp_path / "model.zip")
    stock = PPO.load(tmp_path / "model.zip", device="cpu")
    again = Policy(stock, policy.settings)
    np.testing.assert_array_equal(
        again.probabilities(price.features), policy.probabilities(price.features)
    )
    env = make_vec_env(price, policy.settings, n_envs=4)
    seen = env.reset()
    for _ in range(30):
        ours = policy.model.predict(seen, deterministic=True)[0]
        np.testing.assert_array_equal(stock.predict(seen, deterministic=True)[0], ours)
        seen = env.step(ours)[0]
    env.close()


def without_units(path: Path) -> None:
    """Take from a checkpoint what older ones have not."""
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    weights = torch.load(io.BytesIO(parts["policy.pth"]), weights_only=True)
    assert any(name.startswith("standard.") for name in weights)
    kept = {name: value for name, value in weights.items() if not name.startswith("standard.")}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    parts["policy.pth"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as new:
        for name, part in parts.items():
            new.writestr(name, part)


def test_a_checkpoint_from_before_sees_everything_as_it_is(tmp_path: Path) -> None:
    market = hinting_market(5)
    policy = learned(market, {**EXACT, "policy_inputs": "features"})
    policy.save(tmp_path / "old.zip")
    without_units(tmp_path / "old.zip")
    old = Policy.load(tmp_path / "old.zip", policy.settings)
    net = old.model.policy
    row = torch.from_numpy(market.features[50:53].reshape(1, -1).copy())
    by_hand = torch.softmax(net.action_net(net.mlp_extractor.policy_net(row)), dim=1)
    np.testing.assert_allclose(
        old.probabilities(market.features)[52], by_hand.detach().numpy()[0], atol=1e-6
    )
    goes_on = learned(market, {**EXACT, "policy_inputs": "features", "train_cycles": 1})
    settings = goes_on.settings
    again = train(market.slice(0, 600), settings, initial=old.model).policy.model.policy
    assert float(again.standard.centre.abs().sum()) == 0.0
    assert torch.equal(again.standard.spread, torch.ones(row.shape[1]))


@pytest.mark.parametrize("way", ["exact", "two seeds", "gae"])
def test_continual_learning_keeps_the_units_of_the_first_policy(way: str) -> None:
    market = hinting_market(6)
    first = learned(market, WAYS[way])
    later = with_features(market, 3.0 * market.features + 1.0)
    settings = first.settings.changed(train_cycles=1)
    again = train(later.slice(0, 600), settings, later.slice(600, 750), initial=first.model).policy
    before, after = first.model.policy.standard, again.model.policy.standard
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value)

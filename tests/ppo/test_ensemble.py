"""Several seeds in one policy: trained apart, averaged, saved, and gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

from mtf_scalper.errors import SettingsError
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.masks import confidence
from mtf_scalper.training import train

RULES = {"entry": "any", "max_trade_duration_candles": 10}


@pytest.fixture(scope="module", params=[False, True], ids=["window", "position"])
def settings(request: pytest.FixtureRequest) -> Settings:
    return Settings(
        window_size=4,
        net_arch=(16,),
        batch_size=32,
        train_cycles=4,
        learning_rate=3e-3,
        cpu_count=1,
        n_seeds=3,
        evidence=0.0,
        add_state_info=request.param,
        rules=RULES,
    )


def test_an_ensemble_is_the_mean_of_policies_trained_apart(
    make_market: Any, settings: Settings
) -> None:
    market, test = make_market(n_candles=200), make_market(n_candles=100, seed=1)
    together = train(market, settings)
    members = together.policy.member_probabilities(test.features)
    assert members.shape == (3, 100, 5)
    for member in range(3):
        alone = train(market, settings.changed(n_seeds=1, random_state=42 + member))
        own = alone.policy.probabilities(test.features)
        np.testing.assert_allclose(members[member], own, atol=1e-6)
    whole = together.policy.probabilities(test.features)
    np.testing.assert_allclose(whole, members.mean(axis=0))
    assert len(together.history) == 12
    assert together.steps == 3 * 4 * 170


def test_stock_ppo_loads_an_ensemble_and_acts_the_same(
    make_market: Any, settings: Settings, tmp_path: Path
) -> None:
    test = make_market(n_candles=100, seed=1)
    policy = train(make_market(n_candles=200), settings).policy
    policy.save(tmp_path / "model.zip")
    stock = PPO.load(tmp_path / "model.zip", device="cpu")
    again = Policy(stock, settings)
    assert again.n_members == 3
    np.testing.assert_allclose(
        again.member_probabilities(test.features), policy.member_probabilities(test.features)
    )
    assert simulate(again, test).trades == simulate(policy, test).trades
    # What stable-baselines3 itself computes from the observation is the mean as well.
    n_state = 5 if settings.add_state_info else 0
    window = test.features[:4].reshape(1, -1)
    seen = np.concatenate([window, np.zeros((1, n_state)), np.ones((1, 5))], axis=1)
    chances = stock.policy.get_distribution(
        stock.policy.obs_to_tensor(seen.astype(np.float32))[0]
    ).distribution.probs
    np.testing.assert_allclose(
        chances.detach().numpy()[0], policy.probabilities(test.features)[3], atol=1e-6
    )


def test_every_member_goes_on_from_its_own_weights(make_market: Any, settings: Settings) -> None:
    market, test = make_market(n_candles=200), make_market(n_candles=100, seed=1)
    first = train(market, settings)
    still = settings.changed(learning_rate=1e-12, train_cycles=1)
    again = train(market, still, initial=first.policy.model)
    np.testing.assert_allclose(
        again.policy.member_probabilities(test.features),
        first.policy.member_probabilities(test.features),
        atol=1e-5,
    )
    with pytest.raises(SettingsError, match="n_seeds 2 differs from the 3 of the model to go on"):
        train(market, settings.changed(n_seeds=2), initial=first.policy.model)


def test_disagreement_lowers_the_confidence() -> None:
    agreed = np.zeros((2, 1, 5))
    agreed[:, 0] = [0.6, 0.1, 0.1, 0.1, 0.1]
    split = agreed.copy()
    split[0, 0], split[1, 0] = [0.8, 0.05, 0.05, 0.05, 0.05], [0.4, 0.15, 0.15, 0.15, 0.15]
    action = np.array([0])
    assert confidence(agreed, action)[0] == pytest.approx(0.6)
    assert confidence(split, action)[0] == pytest.approx(0.6 - 0.2)
    assert confidence(split[:1], action)[0] == pytest.approx(0.8)

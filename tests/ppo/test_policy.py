from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3 import PPO

from mtf_scalper.errors import MarketError
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.policy import Policy, observed_batch_sizes, simulate
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.masks import masked_action
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import ExitReason, Side

WINDOW, N_FEATURES = 4, 3


@pytest.fixture(scope="module")
def policy(make_market, tiny_settings) -> Policy:
    """An untrained network whose head is enlarged, so that it has opinions."""
    settings = tiny_settings()
    ppo = PPO(
        MaskedPolicy,
        ReferenceEnv(make_market(), settings),
        policy_kwargs={"net_arch": [16], "activation_fn": torch.nn.ReLU},
        seed=1,
        device="cpu",
    )
    with torch.no_grad():
        ppo.policy.action_net.weight.mul_(300.0)
    return Policy(ppo, settings)


def features(n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, N_FEATURES)).astype(np.float32)


def observation(rows: np.ndarray, row: int) -> np.ndarray:
    """What stock ``PPO`` takes: the window and a mask, here with every action valid."""
    return np.append(rows[row - WINDOW + 1 : row + 1].ravel(), np.ones(5, dtype=np.float32))


def test_batched_actions_are_those_of_the_loop_over_all_rows(policy) -> None:
    rows = features(700)
    batched = policy.probabilities(rows).argmax(axis=1)
    loop = [
        int(policy.model.predict(observation(rows, row), deterministic=True)[0])
        for row in range(WINDOW - 1, 700)
    ]
    assert batched[WINDOW - 1 :].tolist() == loop
    assert len(set(loop)) == 5


def test_probabilities_are_the_policys_own(policy) -> None:
    rows = features(300)
    probabilities = policy.probabilities(rows)
    assert probabilities.shape == (300, 5)
    assert probabilities.dtype == np.float64
    for row in (3, 50, 299):
        window = torch.from_numpy(observation(rows, row))[None]
        expected = policy.model.policy.get_distribution(window).distribution.probs
        np.testing.assert_allclose(probabilities[row], expected[0].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(probabilities[3:].sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e4, 1e8])
def test_a_policy_that_is_sure_of_an_invalid_action_still_prefers_one_of_the_valid(
    factor, policy, tmp_path: Path
) -> None:
    """Logits a hundred apart leave nothing of the others in single, 750 nothing in double."""
    rows = features(300)
    policy.save(tmp_path / "policy.zip")
    sure = Policy.load(tmp_path / "policy.zip", policy.settings)
    windows = [rows[row - WINDOW + 1 : row + 1].ravel() for row in range(WINDOW - 1, len(rows))]
    with torch.no_grad():
        sure.model.policy.action_net.weight.mul_(factor)
        sure.model.policy.action_net.bias.mul_(factor)
        logits = sure.model.policy.member_logits(torch.from_numpy(np.stack(windows)))[0]
    logits = logits.double().numpy()
    chances = sure.probabilities(rows)[WINDOW - 1 :]
    assert (chances > 0.0).all()
    spread = logits.max(axis=1) - logits.min(axis=1)
    assert (spread.max() > 750.0) == (factor >= 1e4)
    for leave in (2, 4):
        mask = np.zeros(5, dtype=bool)
        mask[[0, leave]] = True
        wanted = np.where(logits[:, leave] > logits[:, 0], leave, 0)
        found = [masked_action(each, mask) for each in chances]
        assert found == wanted.tolist()
        assert len(set(found)) == 2


def test_only_the_rows_before_the_first_full_window_are_nan(policy) -> None:
    missing = np.isnan(policy.probabilities(features(50))).all(axis=1)
    assert missing.tolist() == [True] * 3 + [False] * 47
    assert not np.isnan(policy.probabilities(features(50))[3:]).any()


@pytest.mark.parametrize("n_rows", [0, 1, 3])
def test_fewer_rows_than_a_window_are_all_nan(n_rows, policy) -> None:
    probabilities = policy.probabilities(features(n_rows))
    assert probabilities.shape == (n_rows, 5)
    assert np.isnan(probabilities).all()


def sizes_seen_by_the_network(policy: Policy, rows: np.ndarray) -> list[int]:
    sizes: list[int] = []
    first_layer = policy.model.policy.mlp_extractor.policy_net[0]
    hook = first_layer.register_forward_hook(
        lambda _layer, inputs, _output: sizes.append(len(inputs[0]))
    )
    policy.probabilities(rows)
    hook.remove()
    return sizes


@pytest.mark.parametrize(
    ("n_rows", "sizes"),
    [
        (2016, [256] * 7 + [221]),
        (259, [256]),
        (260, [256, 1]),
        (4, [1]),
        (3, []),
    ],
)
def test_the_network_sees_full_batches_of_256(n_rows, sizes, policy) -> None:
    assert policy.settings.inference_batch_size == 256
    assert sizes_seen_by_the_network(policy, features(n_rows)) == sizes


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_the_batch_size_is_a_setting_and_does_not_change_the_result(size, policy) -> None:
    rows = features(103)
    other = Policy(policy.model, policy.settings.changed(inference_batch_size=size))
    assert max(sizes_seen_by_the_network(other, rows)) == min(size, 100)
    np.testing.assert_allclose(
        other.probabilities(rows), policy.probabilities(rows), atol=1e-6, equal_nan=True
    )


def test_observed_batch_sizes_tells_what_the_network_saw(policy) -> None:
    with observed_batch_sizes(policy.model) as sizes:
        policy.probabilities(features(600))
    assert sizes == [256, 256, 85]
    policy.probabilities(features(600))
    assert sizes == [256, 256, 85]


def test_a_read_only_window_of_one_candle_is_fine(make_market, tiny_settings) -> None:
    settings = tiny_settings(window_size=1)
    market = make_market()
    ppo = PPO(MaskedPolicy, ReferenceEnv(market, settings), device="cpu")
    assert np.isfinite(Policy(ppo, settings).probabilities(market.features)).all()


def test_values_of_other_types_are_taken(policy) -> None:
    rows = features(20)
    np.testing.assert_array_equal(
        policy.probabilities(rows.astype(np.float64)), policy.probabilities(rows)
    )


@pytest.mark.parametrize("shape", [(20, 2), (20, 4), (20,), (2, 20, 3)])
def test_a_wrong_number_of_features_is_refused(shape, policy) -> None:
    with pytest.raises(MarketError) as caught:
        policy.probabilities(np.zeros(shape, dtype=np.float32))
    assert str(caught.value) == f"the policy was trained on 3 features, got shape {shape}"


def test_prediction_is_repeatable_and_leaves_the_network_in_evaluation(policy) -> None:
    rows = features(100)
    policy.model.policy.set_training_mode(True)
    first = policy.probabilities(rows)
    assert not policy.model.policy.training
    np.testing.assert_array_equal(first, policy.probabilities(rows))


def test_a_checkpoint_loads_as_stock_ppo_and_acts_the_same(policy, tmp_path: Path) -> None:
    """FreqAI reloads with ``getattr(stable_baselines3, "PPO").load``."""
    policy.save(tmp_path / "checkpoint.zip")
    stock = getattr(stable_baselines3, "PPO").load(tmp_path / "checkpoint.zip", device="cpu")  # noqa: B009
    assert type(stock) is PPO
    rows = features(200)
    expected = policy.probabilities(rows).argmax(axis=1)[WINDOW - 1 :]
    observations = np.stack([observation(rows, row) for row in range(WINDOW - 1, 200)])
    actions, _ = stock.predict(observations, deterministic=True)
    np.testing.assert_array_equal(actions, expected)


def test_a_policy_survives_saving_and_loading(policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "checkpoint.zip")
    loaded = Policy.load(tmp_path / "checkpoint.zip", policy.settings)
    assert loaded.window_shape == policy.window_shape == (WINDOW, N_FEATURES)
    rows = features(200)
    np.testing.assert_array_equal(loaded.probabilities(rows), policy.probabilities(rows))


RULES = {
    "entry": "any",
    "stoploss": -0.05,
    "minimal_roi": {0: 0.03, 30: 0.01},
    "max_trade_duration_candles": 10,
}


def by_hand(policy: Policy, market: Any, settings: Settings, threshold: float) -> Any:
    """Step the environment with stock predictions for each row."""
    env = ReferenceEnv(market, settings)
    observation, info = env.reset()
    rows, equity, actions = [env.row], [1.0], []
    terminated = False
    while not terminated:
        window = torch.from_numpy(observation)[None]
        with torch.no_grad():
            weights = policy.model.policy.get_distribution(window).distribution.probs[0].numpy()
        action = masked_action(weights, env.action_masks(), threshold)
        observation, _, terminated, _, info = env.step(action)
        actions.append(info["executed"])
        rows.append(env.row)
        equity.append(info["equity"])
    return rows, equity, actions, env.trades


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("entry", ["any", "classic", "always"])
def test_simulate_is_the_environment_driven_by_the_policy(
    threshold, entry, policy, make_market
) -> None:
    fired = np.random.default_rng(1).random((2, 300)) < 0.2
    market = make_market(
        n_candles=300, volatility=0.01, leverage=2.0, entry_long=fired[0], entry_short=fired[1]
    )
    settings = policy.settings.changed(rules={**RULES, "entry": entry})
    result = simulate(policy, market, settings, threshold)
    rows, equity, actions, trades = by_hand(policy, market, settings, threshold)
    assert result.trades == tuple(trades)
    assert len(trades) > 10
    assert rows == list(range(WINDOW - 1, 300))
    assert result.equity[:WINDOW].tolist() == [1.0] * WINDOW
    np.testing.assert_array_equal(result.equity[rows], equity)
    assert result.actions[rows[:-1]].tolist() == actions
    assert result.actions[: WINDOW - 1].tolist() == [0] * (WINDOW - 1)
    assert result.actions[-1] == 0
    assert result.equity.shape == result.actions.shape == (300,)
    assert result.actions.dtype == np.int64


@pytest.mark.parametrize("seed", range(3))
def test_a_policy_that_sees_its_position_is_the_environment_driven_by_it(
    seed, make_market, tiny_settings
) -> None:
    settings = tiny_settings(add_state_info=True, rules={**RULES, "can_short": seed != 1})
    market = make_market(n_candles=300, volatility=0.01, seed=seed, leverage=2.0)
    ppo = PPO(
        MaskedPolicy,
        ReferenceEnv(market, settings),
        policy_kwargs={"net_arch": [16], "activation_fn": torch.nn.ReLU},
        seed=seed,
        device="cpu",
    )
    with torch.no_grad():
        ppo.policy.action_net.weight.mul_(300.0)
    policy = Policy(ppo, settings)
    env = ReferenceEnv(market, settings)
    env.reset()
    terminated = False
    while not terminated:
        chances = policy.probabilities_in(market.features, env.row, env.position_state())
        _, _, terminated, _, _ = env.step(masked_action(chances, env.action_masks()))
    result = simulate(policy, market)
    assert result.trades == tuple(env.trades)
    assert len({trade.exit_reason for trade in env.trades}) > 2
    assert result.equity[-1] == env.equity


@pytest.mark.parametrize("entry", ["any", "classic", "always"])
def test_a_simulation_knows_the_entries_of_an_agent_without_a_position(
    entry, policy, make_market
) -> None:
    fired = np.random.default_rng(1).random((2, 300)) < 0.2
    market = make_market(n_candles=300, volatility=0.01, entry_long=fired[0], entry_short=fired[1])
    settings = policy.settings.changed(rules={**RULES, "entry": entry})
    run = simulate(policy, market, settings)
    assert run.entries is not None
    env = ReferenceEnv(market, settings)
    chances = policy.probabilities(market.features)
    for row in range(WINDOW - 1, 299):
        env.reset(options={"row": row})
        assert run.entries[row] == masked_action(chances[row], env.action_masks())
    assert run.entries[: WINDOW - 1].tolist() == [0] * (WINDOW - 1)
    assert run.entries[-1] == 0
    flat = run.sides_decided_in() == 0
    np.testing.assert_array_equal(run.entries[flat], run.actions[flat])


def test_the_final_equity_is_the_product_of_the_trades(policy, make_market) -> None:
    market = make_market(n_candles=300, volatility=0.01)
    result = simulate(policy, market)
    product = math.prod(1.0 + trade.profit_ratio for trade in result.trades)
    assert result.equity[-1] == pytest.approx(product)
    assert result.log_return == pytest.approx(math.log(product))


def test_trades_and_actions_agree(policy, make_market) -> None:
    result = simulate(policy, make_market(n_candles=300, volatility=0.01))
    entries = np.flatnonzero(np.isin(result.actions, [1, 3]))
    assert [trade.open_row - 1 for trade in result.trades] == entries.tolist()
    for trade in result.trades:
        assert result.actions[trade.open_row - 1] == (1 if trade.side is Side.LONG else 3)
        if trade.exit_reason is ExitReason.AGENT:
            assert result.actions[trade.close_row - 1] in (2, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"randomize_starting_position": True},
        {"rules": {"entry": "any", "max_training_drawdown": 0.001}},
    ],
)
def test_what_concerns_training_episodes_does_not_shorten_a_simulation(
    change, policy, make_market, tiny_settings
) -> None:
    market = make_market(n_candles=300, volatility=0.01)
    whole = simulate(policy, market)
    again = simulate(policy, market, tiny_settings(**change))
    assert again.trades == whole.trades
    np.testing.assert_array_equal(again.equity, whole.equity)


def test_an_account_that_is_gone_stays_gone(policy, make_market) -> None:
    wild = make_market(n_candles=300, volatility=0.1, leverage=50.0)
    result = simulate(policy, wild)
    assert result.equity[-1] <= 1e-6
    assert (result.equity > 0.0).all()
    assert np.isfinite(result.log_return)

"""The surrogate, its gradient, and what a book of contexts says of several markets."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from markets import classic_market

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.contexts import Book
from mtf_scalper.ppo.exact_learner import ExactLearner, probabilities_on
from mtf_scalper.ppo.exact_networks import network_of
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.position_policy import PositionPolicy
from mtf_scalper.ppo.surrogate import ACTIONS_IN
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.playback import play
from mtf_scalper.simulator.prepared import prepare

EXITS = {"stoploss": -0.03, "minimal_roi": {0: 0.03}, "max_trade_duration_candles": 6}


def busy_market(seed: int, n_candles: int = 60) -> Market:
    return classic_market(seed, n_candles, 0.4, volatility=0.01, fee_rate=0.001)


def settings_with(entry: EntryMode, **values: Any) -> Settings:
    given: dict[str, Any] = {
        "window_size": 3,
        "net_arch": (16, 8),
        "batch_size": 16,
        "n_epochs": 1,
        "dropout": 0.0,
        # Else they are rounded on machines that have units for it: tests/ppo/test_rounded.py.
        "float32_matmul_precision": "highest",
        "rules": {"entry": entry, **EXITS},
    }
    return Settings(**{**given, **values})


def policy_for(settings: Settings, n_features: int = 3, seed: int = 0) -> MaskedPolicy:
    torch.manual_seed(seed)
    n_state = 5 if settings.add_state_info else 0
    length = settings.window_size * n_features + n_state + 5
    layers: Any = list(settings.net_arch)
    kind = PositionPolicy if settings.add_state_info else MaskedPolicy
    policy = kind(
        spaces.Box(-np.inf, np.inf, (length,)),
        spaces.Discrete(5),
        lambda _: settings.used_learning_rate,
        net_arch=layers if settings.add_state_info else {"pi": layers, "vf": []},
        activation_fn=torch.nn.ReLU,
        optimizer_class=torch.optim.AdamW,
        optimizer_kwargs={"eps": 1e-5, "weight_decay": settings.weight_decay},
    )
    with torch.no_grad():
        for weights in policy.action_net.parameters():
            weights.normal_(0.0, 0.5)
    return policy


def observations(book: Book, settings: Settings) -> torch.Tensor:
    """Return what stable-baselines3 would show the policy in every context, mask included."""
    owners = np.repeat(book.rows, np.diff(book.starts))
    windows = np.stack(
        [book.features[row - settings.window_size + 1 : row + 1].ravel() for row in owners]
    )
    masks = np.zeros((book.n_contexts, 5), dtype=np.float32)
    for context in range(book.n_contexts):
        masks[context, ACTIONS_IN[book.kinds[context]][book.valid[context]]] = 1.0
    return torch.from_numpy(np.concatenate([windows, book.position, masks], axis=1))


@pytest.mark.parametrize("sees_position", [False, True])
@pytest.mark.parametrize("entry", EntryMode)
def test_probabilities_are_those_of_the_policy(entry: EntryMode, sees_position: bool) -> None:
    settings = settings_with(entry, add_state_info=sees_position)
    book = Book([busy_market(1)], settings)
    policy = policy_for(settings)
    found = probabilities_on(network_of(policy, 64), book)
    with torch.no_grad():
        whole = policy.get_distribution(observations(book, settings)).distribution.probs.numpy()
    actions = ACTIONS_IN[book.kinds]
    expected = np.where(book.valid, np.take_along_axis(whole, np.maximum(actions, 0), 1), 0.0)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("sees_position", [False, True])
@pytest.mark.parametrize("entry", [EntryMode.CLASSIC, EntryMode.ANY])
@pytest.mark.parametrize("ent_coef", [0.0, 0.1])
def test_gradients_are_those_of_autograd(
    entry: EntryMode, sees_position: bool, ent_coef: float
) -> None:
    """Away from the evaluated policy, so that some actions are clipped."""
    settings = settings_with(entry, add_state_info=sees_position, ent_coef=ent_coef)
    book = Book([busy_market(2)], settings)
    before, policy = policy_for(settings, seed=1), policy_for(settings, seed=2)
    old = probabilities_on(network_of(before, 64), book)
    targets = book.targets(old, book.evaluate(book.tables(old), settings.gamma))
    stock = copy.deepcopy(policy)
    learner = ExactLearner(policy, book, settings)
    candles = np.flatnonzero(np.add.reduceat(targets.weights, book.starts[:-1]) > 0.0)[::3]
    losses = learner._minibatch(candles, targets)

    chosen = np.concatenate([np.arange(book.starts[c], book.starts[c + 1]) for c in candles])
    distribution = stock.get_distribution(observations(book, settings)[chosen]).distribution
    actions = torch.from_numpy(np.maximum(ACTIONS_IN[book.kinds[chosen]], 0))
    valid = torch.from_numpy(book.valid[chosen])
    ones, zeros = torch.ones(()), torch.zeros(())
    chance = torch.where(valid, distribution.probs.gather(1, actions), zeros)
    seen = torch.from_numpy(old[chosen])
    ratio = torch.where(valid, chance / torch.where(valid, seen, ones), ones)
    advantages = torch.from_numpy(targets.advantages[chosen])
    clipped = ratio.clamp(1.0 - settings.clip_range, 1.0 + settings.clip_range)
    gains = seen * torch.minimum(ratio * advantages, clipped * advantages)
    weights = torch.from_numpy(targets.weights[chosen])
    policy_loss = -(weights * gains.sum(dim=1)).sum() / len(candles)
    entropy_loss = -(weights * distribution.entropy()).sum() / len(candles)
    (policy_loss + ent_coef * entropy_loss).backward()
    assert losses[0] == pytest.approx(policy_loss.item(), rel=1e-4, abs=1e-7)
    assert losses[1] == pytest.approx(entropy_loss.item(), rel=1e-4)
    assert losses[3] > 0.0, "nothing is clipped: the test is too easy"
    for (name, ours), theirs in zip(policy.named_parameters(), stock.parameters(), strict=True):
        expected = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        scale = expected.abs().max().item() or 1.0
        torch.testing.assert_close(ours.grad, expected, rtol=1e-3, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("sees_position", [False, True])
def test_one_small_step_changes_the_objective_as_its_gradient_says(sees_position: bool) -> None:
    settings = settings_with(
        EntryMode.CLASSIC, add_state_info=sees_position, normalize_advantage=False, gamma=1.0
    )
    market = busy_market(3)
    book, policy = Book([market], settings), policy_for(settings)
    learner = ExactLearner(policy, book, settings)

    def objective() -> float:
        chances = probabilities_on(learner._network, book)
        return sum(each.objective for each in book.evaluate(book.tables(chances), 1.0))

    old = probabilities_on(learner._network, book)
    targets = book.targets(old, book.evaluate(book.tables(old), 1.0))
    candles = np.flatnonzero(np.add.reduceat(targets.weights, book.starts[:-1]) > 0.0)
    learner._minibatch(candles, targets)
    storage = learner._network.storage
    slope = -storage.gradient.detach().clone() * len(candles)
    start = objective()
    with torch.no_grad():
        length = 1e-3 / slope.norm()
        storage.weights.add_(slope * length)
    assert objective() - start == pytest.approx((slope @ slope * length).item(), rel=0.05)


def test_markets_in_one_book_are_worth_what_they_are_alone() -> None:
    settings = settings_with(EntryMode.CLASSIC)
    markets = [busy_market(seed, 40 + 10 * seed) for seed in range(3)]
    policy = policy_for(settings)
    together = Book(markets, settings)
    network = network_of(policy, 64)
    chances = probabilities_on(network, together)
    joint = together.evaluate(together.tables(chances), 0.9)
    n_contexts = 0
    for market, evaluation in zip(markets, joint, strict=True):
        alone = Book([market], settings)
        (own,) = alone.evaluate(alone.tables(probabilities_on(network, alone)), 0.9)
        np.testing.assert_allclose(evaluation.flat_values, own.flat_values, atol=1e-6)
        np.testing.assert_allclose(evaluation.occupancy, own.occupancy, atol=1e-6)
        n_contexts += alone.n_contexts
    assert together.n_contexts == n_contexts
    assert together.targets(chances, joint).weights.sum() > 0.0


@pytest.mark.parametrize("sees_position", [False, True])
@pytest.mark.parametrize("entry", EntryMode)
def test_the_score_is_what_the_environment_pays(entry: EntryMode, sees_position: bool) -> None:
    settings = settings_with(entry, add_state_info=sees_position)
    market = busy_market(5)
    policy = policy_for(settings, seed=5)
    book = Book([market], settings)
    score = ExactLearner(policy, book, settings).score(book)

    def choose(row: int, states: Any, extras: Any) -> np.ndarray:
        window = market.features[row - settings.window_size + 1 : row + 1].reshape(1, -1)
        state = extras[:, : 5 if sees_position else 0]
        seen = np.concatenate([window, state, extras[:, 5:]], axis=1)
        return policy.predict(seen, deterministic=True)[0]

    (run,) = play(prepare(market, settings), choose)
    assert score.log_return == pytest.approx(run.log_return, abs=1e-9)
    assert score.n_trades == len(run.trades) > 0
    # The step that row t decides shows in the equity of row t + 1.
    np.testing.assert_allclose(score.rewards[:-1], np.diff(np.log(run.equity)), atol=1e-9)


def test_target_kl_ends_a_cycle_early() -> None:
    taken = []
    for target_kl in (None, 1e-6):
        settings = settings_with(
            EntryMode.ANY, target_kl=target_kl, n_epochs=20, learning_rate=0.01
        )
        policy = policy_for(settings)
        learner = ExactLearner(policy, Book([busy_market(6)], settings), settings)
        learner.cycle(1.0)
        taken.append(float(next(iter(policy.optimizer.state.values()))["step"]))
    assert taken[1] < taken[0]


def test_other_activations_are_refused() -> None:
    settings = settings_with(EntryMode.ANY)
    policy = MaskedPolicy(
        spaces.Box(-np.inf, np.inf, (14,)),
        spaces.Discrete(5),
        lambda _: 1e-3,
        net_arch={"pi": [8], "vf": []},
        activation_fn=torch.nn.Tanh,
    )
    with pytest.raises(SettingsError, match="activations must be ReLU, got Tanh"):
        network_of(policy, settings.batch_size)


def test_units_are_left_out_as_dropout_says() -> None:
    settings = settings_with(EntryMode.ANY, net_arch=(16, 8))
    policy = policy_for(settings)
    layers = [m for m in policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    network = network_of(policy, 64, dropout=0.25)
    market = busy_market(8)
    rows = np.arange(10, 50)
    owners, position = np.arange(40), np.zeros((40, 0), dtype=np.float32)
    logits = network.forward(market.features, rows, owners, position, np.random.default_rng(4))
    network.backward(np.ones_like(logits), owners, 40)
    ours = [p.grad.clone() for p in (*layers[0].parameters(), *layers[1].parameters())]

    random = np.random.default_rng(4)
    hidden = torch.stack(
        [torch.from_numpy(market.features[row - 2 : row + 1].ravel().copy()) for row in rows]
    )
    policy.zero_grad()
    for layer, n_kept in zip(layers, (12, 6), strict=True):
        hidden = torch.relu(layer(hidden))
        width = hidden.shape[1]
        factors = torch.zeros(width)
        factors[random.permutation(width)[:n_kept]] = width / n_kept
        hidden = hidden * factors
    expected = policy.action_net(hidden)
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    parameters = [p for layer in layers for p in layer.parameters()]
    slopes = torch.autograd.grad(expected.sum(), parameters)
    for found, slope in zip(ours, slopes, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-4)
    # Nothing is left out where nothing is learned, or where no unit is to be.
    whole = network.forward(market.features, rows, owners, position)
    everything = network_of(policy, 64).forward(market.features, rows, owners, position, random)
    np.testing.assert_allclose(everything, whole, rtol=1e-5, atol=1e-6)
    assert np.abs(whole - logits).max() > 1e-3


def test_what_is_kept_is_the_average_of_the_weights() -> None:
    """After few steps it is nearly their plain mean; the latest weights come back."""
    settings = settings_with(EntryMode.ANY, learning_rate=0.01)
    policy = policy_for(settings)
    learner = ExactLearner(policy, Book([busy_market(9)], settings), settings)
    learner.cycle(1.0)
    latest = {name: value.clone() for name, value in policy.state_dict().items()}
    with learner.averaged():
        moved = sum(
            float((value - latest[name]).abs().sum()) for name, value in policy.state_dict().items()
        )
    assert moved > 0.0
    for name, value in policy.state_dict().items():
        assert torch.equal(value, latest[name])

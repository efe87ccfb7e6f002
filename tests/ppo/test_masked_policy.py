"""The mask is honoured wherever stable-baselines3 asks the policy, and is never an input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.simulator.masks import masked_probabilities

N_INPUTS, N_ACTIONS, N_ROWS = 6, 5, 400


@pytest.fixture
def policy() -> MaskedPolicy:
    torch.manual_seed(2)
    space = spaces.Box(-np.inf, np.inf, (N_INPUTS + N_ACTIONS,))
    made = MaskedPolicy(space, spaces.Discrete(N_ACTIONS), lambda _: 1e-3, net_arch=[8])
    with torch.no_grad():
        made.action_net.weight.mul_(300.0)  # far from equal probabilities
    return made


@pytest.fixture
def seen() -> torch.Tensor:
    """Observations of random candles, each with another mask; some leave one action."""
    rng = np.random.default_rng(3)
    masks = rng.random((N_ROWS, N_ACTIONS)) < 0.5
    masks[np.arange(N_ROWS), rng.integers(0, N_ACTIONS, N_ROWS)] = True
    assert (masks.sum(axis=1) == 1).any()
    inputs = rng.normal(size=(N_ROWS, N_INPUTS))
    return torch.as_tensor(np.concatenate([inputs, masks], axis=1), dtype=torch.float32)


@pytest.fixture
def expected(policy: MaskedPolicy, seen: torch.Tensor) -> np.ndarray:
    """Probabilities by the function that the simulator uses, shape (N_ROWS, N_ACTIONS)."""
    with torch.no_grad():
        chances = policy.logits(seen[:, :N_INPUTS]).double().softmax(dim=1).numpy()
    return np.asarray(masked_probabilities(chances, masks_of(seen)))


def masks_of(seen: torch.Tensor) -> np.ndarray:
    return np.asarray(seen[:, N_INPUTS:].numpy() > 0.5)


def test_probabilities_log_probabilities_and_entropy_are_those_of_the_valid_actions(
    policy: MaskedPolicy, seen: torch.Tensor, expected: np.ndarray
) -> None:
    masks = masks_of(seen)
    with torch.no_grad():
        probs = policy.get_distribution(seen).distribution.probs.numpy()
        np.testing.assert_array_equal(probs[~masks], 0.0)
        np.testing.assert_allclose(probs, expected, atol=1e-6)
        for action in range(N_ACTIONS):
            rows = masks[:, action] & (expected[:, action] > 1e-4)
            actions = torch.full((int(rows.sum()),), action)
            _, log_probs, _ = policy.evaluate_actions(seen[rows], actions)
            np.testing.assert_allclose(log_probs, np.log(expected[rows, action]), atol=1e-4)
        entropy = policy.evaluate_actions(seen, torch.zeros(N_ROWS))[2]
    logs = np.log(np.where(expected > 0.0, expected, 1.0))
    np.testing.assert_allclose(entropy, -(expected * logs).sum(axis=1), atol=1e-5)


def test_sampled_actions_are_valid_and_as_frequent_as_they_are_probable(
    policy: MaskedPolicy, seen: torch.Tensor, expected: np.ndarray
) -> None:
    """Shares of 50 draws for each of 400 observations, within 5 standard errors."""
    torch.manual_seed(1)
    taken = np.zeros(N_ACTIONS)
    for _ in range(50):
        with torch.no_grad():
            actions, _, log_probs = policy(seen)
        rows = np.arange(N_ROWS), actions.numpy()
        assert masks_of(seen)[rows].all()
        np.testing.assert_allclose(log_probs.exp(), expected[rows], atol=1e-5)
        taken += np.bincount(actions, minlength=N_ACTIONS)
    errors = np.sqrt(50.0 * (expected * (1.0 - expected)).sum(axis=0))
    assert (np.abs(taken - 50.0 * expected.sum(axis=0)) < 5.0 * errors).all()


def test_predict_takes_the_most_probable_valid_action_or_draws_a_valid_one(
    policy: MaskedPolicy, seen: torch.Tensor, expected: np.ndarray
) -> None:
    best, _ = policy.predict(seen.numpy(), deterministic=True)
    np.testing.assert_array_equal(best, expected.argmax(axis=1))
    with torch.no_grad():
        unmasked = policy.logits(seen[:, :N_INPUTS]).argmax(dim=1).numpy()
    assert (best != unmasked).any()
    drawn, _ = policy.predict(seen.numpy(), deterministic=False)
    assert masks_of(seen)[np.arange(N_ROWS), drawn].all()


def test_the_network_never_sees_the_mask(policy: MaskedPolicy, seen: torch.Tensor) -> None:
    other = seen.clone()
    other[:, N_INPUTS:] = 1.0
    with torch.no_grad():
        assert torch.equal(policy.predict_values(seen), policy.predict_values(other))
        free = policy.get_distribution(other).distribution.probs
        everything = policy.logits(seen[:, :N_INPUTS]).softmax(dim=1)
    np.testing.assert_allclose(free, everything, atol=1e-6)


def test_invalid_actions_get_no_gradient(policy: MaskedPolicy, seen: torch.Tensor) -> None:
    only_two = seen.clone()
    only_two[:, N_INPUTS:] = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    actions = torch.full((N_ROWS,), 2)
    values, log_probs, entropy = policy.evaluate_actions(only_two, actions)
    assert entropy is not None
    (log_probs.sum() + entropy.sum() + values.sum()).backward()
    gradient = policy.action_net.bias.grad
    assert gradient is not None
    assert gradient[[1, 3, 4]].tolist() == [0.0, 0.0, 0.0]
    assert float(gradient[[0, 2]].abs().min()) > 0.0

"""What PPO does per sample, compiled: sampling, advantages, minibatches, loss and its gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Samples(NamedTuple):
    """All samples of a rollout, environment after environment as stable-baselines3 has them.

    Attributes
    ----------
    rows, actions : ndarray of int64, shape (S,)
    extras : ndarray of float32, shape (S, E)
    values, log_probs, advantages, returns : ndarray of float32, shape (S,)
    """

    rows: Rows
    actions: Rows
    extras: Floats
    values: Floats
    log_probs: Floats
    advantages: Floats
    returns: Floats


class LossTerms(NamedTuple):
    """What PPO's loss depends on besides the samples.

    Attributes
    ----------
    is_masked : bool
        Whether the last columns of ``Samples.extras`` are the action mask.
    clip_range_vf : float
        Infinite where values are not clipped.
    clip_range, ent_coef, vf_coef : float
    """

    is_masked: bool
    clip_range: float
    clip_range_vf: float
    ent_coef: float
    vf_coef: float


class Gradients(NamedTuple):
    """What ``loss_gradients`` overwrites.

    Attributes
    ----------
    logits, values : ndarray of float32, shapes (B, A) and (B, 1)
        Logits only for samples with a choice.
    losses : ndarray of float64, shape (5,)
        Policy loss, value loss, entropy loss, approximate KL divergence (Schulman's
        ``mean(r - 1 - log r)``) and share of clipped samples.
    """

    logits: Floats
    values: Floats
    losses: NDArray[np.float64]


@njit(cache=True)
def sample_actions(
    logits: Floats,
    masks: Floats,
    uniforms: Floats,
    actions: Rows,
    log_probs: Floats,
) -> None:
    """Draw one valid action per environment from its softmax.

    Parameters
    ----------
    logits, masks : ndarray of float32, shape (N, A)
        The mask is 1 where an action is valid.
    uniforms : ndarray of float32, shape (N,)
        Random numbers in [0, 1).
    actions : ndarray of int64, shape (N,)
    log_probs : ndarray of float32, shape (N,)
        Both are overwritten.
    """
    n_actions = logits.shape[1]
    for env in range(len(actions)):
        highest, total = -math.inf, 0.0
        for action in range(n_actions):
            if masks[env, action] > 0.5:
                highest = max(highest, logits[env, action])
        for action in range(n_actions):
            if masks[env, action] > 0.5:
                total += math.exp(logits[env, action] - highest)
        target = uniforms[env] * total
        taken = -1
        for action in range(n_actions):
            # The last valid action is taken where rounding leaves the sum below the target.
            if masks[env, action] > 0.5 and (taken < 0 or target >= 0.0):
                taken = action
                target -= math.exp(logits[env, action] - highest)
        actions[env] = taken
        log_probs[env] = logits[env, taken] - highest - math.log(total)


@njit(cache=True)
def gae(
    rewards: Floats,
    values: Floats,
    episode_starts: Floats,
    last_values: Floats,
    last_dones: NDArray[np.bool_],
    gamma: float,
    gae_lambda: float,
    advantages: Floats,
) -> None:
    """Write generalized advantage estimates, all arrays of shape (n_steps, N) or (N,).

    ``A_t = delta_t + gamma lambda A_{t+1}`` with ``delta_t = r_t + gamma V_{t+1} - V_t``, both
    cut where an episode ended; Schulman et al. (2016), https://arxiv.org/abs/1506.02438.
    """
    n_steps, n_envs = rewards.shape
    for env in range(n_envs):
        advantage = 0.0
        next_value = float(last_values[env])
        goes_on = 0.0 if last_dones[env] else 1.0
        for step in range(n_steps - 1, -1, -1):
            value = float(values[step, env])
            delta = rewards[step, env] + gamma * next_value * goes_on - value
            advantage = delta + gamma * gae_lambda * goes_on * advantage
            advantages[step, env] = advantage
            next_value = value
            goes_on = 1.0 - episode_starts[step, env]


@njit(cache=True)
def fill_minibatch(
    features: Floats,
    rows: Rows,
    extras: Floats,
    indices: Rows,
    n_actions: int,
    n_inputs: int,
    order: Rows,
    inputs: Floats,
) -> int:
    """Gather the network's inputs of a minibatch, samples with a choice first.

    A sample with one valid action has the log-probability 0 whatever the weights are: it needs no
    policy network, forward or backward.

    Parameters
    ----------
    features : ndarray of float32, shape (T, F)
    rows : ndarray of int64, shape (S,)
        Last row of each sample's window.
    extras : ndarray of float32, shape (S, E)
    indices : ndarray of int64, shape (B,)
        Samples of the minibatch.
    n_actions : int
        The last columns of ``extras`` that are the action mask; 0 where actions are not masked.
    n_inputs : int
        Columns of ``extras`` that enter the network, the first ones.
    order : ndarray of int64, shape (B,)
        Overwritten with ``indices``, samples with a choice first.
    inputs : ndarray of float32, shape (B, window * F + n_inputs)
        Overwritten, in that order.

    Returns
    -------
    int
        Samples with a choice.
    """
    n_choices, last = 0, len(indices) - 1
    mask = extras.shape[1] - n_actions
    for position in range(len(indices)):
        sample = indices[position]
        n_valid = 0
        for action in range(n_actions):
            if extras[sample, mask + action] > 0.5:
                n_valid += 1
        if n_valid == 1:
            order[last] = sample
            last -= 1
        else:
            order[n_choices] = sample
            n_choices += 1
    length = inputs.shape[1] - n_inputs
    flat = features.reshape(-1)
    for position in range(len(order)):
        sample = order[position]
        first = (rows[sample] + 1) * features.shape[1] - length
        for column in range(length):
            inputs[position, column] = flat[first + column]
        for column in range(n_inputs):
            inputs[position, length + column] = extras[sample, column]
    return n_choices


@njit(cache=True)
def normalize(advantages: Floats, order: Rows, out: NDArray[np.float64]) -> None:
    """Write the minibatch's advantages less their mean, over their deviation (n - 1) + 1e-8."""
    n_samples = len(order)
    mean, variance = 0.0, 0.0
    for sample in order:
        mean += advantages[sample]
    mean /= n_samples
    for sample in order:
        variance += (advantages[sample] - mean) ** 2
    scale = math.sqrt(variance / (n_samples - 1)) + 1e-8
    for position in range(n_samples):
        out[position] = (advantages[order[position]] - mean) / scale


@njit(cache=True)
def loss_gradients(
    logits: Floats,
    values: Floats,
    samples: Samples,
    advantages: NDArray[np.float64],
    order: Rows,
    n_choices: int,
    terms: LossTerms,
    found: Gradients,
) -> None:
    """Write the gradient of PPO's loss by logits and values, and the parts of the loss.

    ``-min(r A, clip(r, 1 - c, 1 + c) A) - ent_coef H + vf_coef (V - R)^2``, averaged over the
    minibatch; Schulman et al. (2017), https://arxiv.org/abs/1707.06347.

    Parameters
    ----------
    logits : ndarray of float32, shape (B, A)
        Of the samples with a choice, which come first; the rest is not read.
    values : ndarray of float32, shape (B, 1)
    samples : Samples
        ``order`` says which belong to the minibatch.
    advantages : ndarray of float64, shape (B,)
        In the minibatch's order.
    terms : LossTerms
    found : Gradients
        Overwritten.
    """
    n_samples, n_actions = len(order), logits.shape[1]
    mask = samples.extras.shape[1] - n_actions
    clip_range, clip_range_vf = terms.clip_range, terms.clip_range_vf
    losses = found.losses
    losses[:] = 0.0
    valid = np.empty(n_actions, np.bool_)
    log_prob = np.empty(n_actions)
    for position in range(n_samples):
        sample = order[position]
        value, target = float(values[position, 0]), float(samples.returns[sample])
        moved = value - samples.values[sample]
        kept = max(-clip_range_vf, min(clip_range_vf, moved))
        error = (value if kept == moved else samples.values[sample] + kept) - target
        losses[1] += error * error
        slope = 1.0 if kept == moved else 0.0
        found.values[position, 0] = terms.vf_coef * 2.0 * error * slope / n_samples
        if position >= n_choices:
            losses[0] -= advantages[position]
            continue
        for action in range(n_actions):
            valid[action] = not terms.is_masked or samples.extras[sample, mask + action] > 0.5
        _log_softmax(logits, position, valid, log_prob)
        entropy = 0.0
        for action in range(n_actions):
            if valid[action]:
                entropy -= math.exp(log_prob[action]) * log_prob[action]
        taken = samples.actions[sample]
        log_ratio = log_prob[taken] - samples.log_probs[sample]
        ratio, advantage = math.exp(log_ratio), advantages[position]
        clipped = max(1.0 - clip_range, min(1.0 + clip_range, ratio))
        losses[0] -= min(ratio * advantage, clipped * advantage)
        losses[2] -= entropy
        losses[3] += ratio - 1.0 - log_ratio
        losses[4] += abs(ratio - 1.0) > clip_range
        pull = 0.0
        if ratio * advantage <= clipped * advantage:
            pull = -ratio * advantage
        for action in range(n_actions):
            gradient = 0.0
            if valid[action]:
                chance = math.exp(log_prob[action])
                gradient = pull * ((1.0 if action == taken else 0.0) - chance)
                gradient += terms.ent_coef * chance * (log_prob[action] + entropy)
            found.logits[position, action] = gradient / n_samples
    losses /= n_samples


@njit(cache=True)
def _log_softmax(logits: Floats, position: int, valid: Any, log_prob: Any) -> None:
    highest, total = -math.inf, 0.0
    for action in range(len(valid)):
        if valid[action]:
            highest = max(highest, logits[position, action])
    for action in range(len(valid)):
        if valid[action]:
            total += math.exp(logits[position, action] - highest)
    for action in range(len(valid)):
        log_prob[action] = logits[position, action] - highest - math.log(total)

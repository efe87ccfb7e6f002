"""PPO's clipped surrogate over all actions of all contexts, and its gradient, compiled.

    L = - sum_c w_c sum_a pi_old(a | c) min(r A, clip(r, 1 - e, 1 + e) A) - ent_coef sum_c w_c H_c

with ``r = pi(a | c) / pi_old(a | c)``. It is the expectation of PPO's objective (Schulman et al.
2017, https://arxiv.org/abs/1707.06347) over actions and states, where PPO has a sample's mean.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit
from mtf_scalper.simulator.chains import FLAT_ACTIONS
from mtf_scalper.simulator.types import Action

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]

ACTIONS_IN = np.array(
    [FLAT_ACTIONS, (Action.NEUTRAL, Action.LONG_EXIT, -1), (Action.NEUTRAL, Action.SHORT_EXIT, -1)],
    dtype=np.int64,
)
"""Actions without a position, in a long and in a short trade, shape (3, 3); -1 is none."""
SMALLEST_GRADIENT = 1e-10
"""Slopes below are taken for zero. Sure policies have many; their products and squares fall below
what a float32 holds with full precision, and processors take a hundred times longer for those."""
LOSSES = ("policy_gradient_loss", "entropy_loss", "approx_kl", "clip_fraction")
"""Parts of the loss in the order in which ``surrogate_gradients`` writes them."""


class Targets(NamedTuple):
    """What an update learns from, for every context; all of shape (K, 3) or (K,).

    Attributes
    ----------
    kinds : ndarray of int8, shape (K,)
        0 without a position, 1 long, 2 short.
    valid : ndarray of bool, shape (K, 3)
        Which of ``ACTIONS_IN[kind]`` are valid.
    old : ndarray of float64, shape (K, 3)
        Probabilities of ``ACTIONS_IN`` under the policy that was evaluated.
    advantages : ndarray of float64, shape (K, 3)
    weights : ndarray of float64, shape (K,)
        Occupancy; 0 where there is no choice.
    """

    kinds: NDArray[np.int8]
    valid: NDArray[np.bool_]
    old: Doubles
    advantages: Doubles
    weights: Doubles


@njit(cache=True)
def gather_contexts(
    candles: Rows, starts: Rows, contexts: Rows, owners: Rows, weights: Doubles
) -> int:
    """Write the contexts of a minibatch of candles that count; return how many there are.

    Parameters
    ----------
    candles : ndarray of int64, shape (B,)
        Indices of the minibatch's candles.
    starts : ndarray of int64, shape (R + 1,)
    contexts, owners : ndarray of int64, with room for all contexts of these candles
        Overwritten with contexts of positive weight, and the place of their candles in ``candles``.
    weights : ndarray of float64, shape (K,)
    """
    found = 0
    for place in range(len(candles)):
        for context in range(starts[candles[place]], starts[candles[place] + 1]):
            if weights[context] > 0.0:
                contexts[found] = context
                owners[found] = place
                found += 1
    return found


@njit(cache=True)
def probabilities_of(
    logits: Floats, kinds: NDArray[np.int8], valid: NDArray[np.bool_], out: Doubles
) -> None:
    """Write the probabilities of the valid actions of contexts.

    Parameters
    ----------
    logits : ndarray of float32, shape (K, 5)
    kinds : ndarray of int8, shape (K,)
    valid : ndarray of bool, shape (K, 3)
    out : ndarray of float64, shape (K, 3)
        Overwritten; 0 for actions that are not valid.
    """
    for context in range(len(kinds)):
        highest, total = -math.inf, 0.0
        for index in range(3):
            if valid[context, index]:
                highest = max(highest, logits[context, ACTIONS_IN[kinds[context], index]])
        for index in range(3):
            chance = 0.0
            if valid[context, index]:
                chance = math.exp(logits[context, ACTIONS_IN[kinds[context], index]] - highest)
            out[context, index] = chance
            total += chance
        for index in range(3):
            out[context, index] /= total


@njit(cache=True)
def surrogate_gradients(
    logits: Floats,
    contexts: Rows,
    targets: Targets,
    scale: float,
    clip_range: float,
    ent_coef: float,
    gradient: Floats,
    losses: Doubles,
) -> None:
    """Write the loss of a minibatch and its gradient by the logits.

    Parameters
    ----------
    logits : ndarray of float32, shape (K, 5)
        Of the minibatch's contexts.
    contexts : ndarray of int64, shape (K,)
        Which they are.
    targets : Targets
        Of all contexts.
    scale : float
        Factor on all weights.
    gradient : ndarray of float32, shape (K, 5)
        Overwritten.
    losses : ndarray of float64, shape (4,)
        Overwritten with sums over the minibatch, see ``LOSSES``; the divergence is KL(old, new)
        and the last one the weight of the actions that are clipped.
    """
    losses[:] = 0.0
    valid = targets.valid
    chance, log_chance = np.zeros(3), np.zeros(3)
    for place in range(len(contexts)):
        context = contexts[place]
        kind, weight = targets.kinds[context], targets.weights[context] * scale
        _softmax(logits, place, kind, valid[context], chance, log_chance)
        entropy, pull = 0.0, 0.0
        for index in range(3):
            if valid[context, index]:
                entropy -= chance[index] * log_chance[index]
        losses[1] -= weight * entropy
        gradient[place, :] = 0.0
        for index in range(3):
            before = targets.old[context, index]
            if not valid[context, index] or before <= 0.0:
                continue
            advantage, ratio = targets.advantages[context, index], chance[index] / before
            clipped = max(1.0 - clip_range, min(1.0 + clip_range, ratio))
            losses[0] -= weight * before * min(ratio * advantage, clipped * advantage)
            losses[2] += weight * before * (math.log(before) - log_chance[index])
            losses[3] += weight * before * (abs(ratio - 1.0) > clip_range)
            if ratio * advantage <= clipped * advantage:
                gradient[place, ACTIONS_IN[kind, index]] -= weight * chance[index] * advantage
                pull += chance[index] * advantage
        for index in range(3):
            if valid[context, index]:
                slope = pull + ent_coef * (log_chance[index] + entropy)
                action = ACTIONS_IN[kind, index]
                gradient[place, action] += weight * chance[index] * slope
                if abs(gradient[place, action]) < SMALLEST_GRADIENT:
                    gradient[place, action] = 0.0


@njit(cache=True)
def _softmax(
    logits: Floats,
    place: int,
    kind: int,
    valid: NDArray[np.bool_],
    chance: Doubles,
    log_chance: Doubles,
) -> None:
    highest, total = -math.inf, 0.0
    for index in range(3):
        if valid[index]:
            highest = max(highest, logits[place, ACTIONS_IN[kind, index]])
    for index in range(3):
        chance[index], log_chance[index] = 0.0, 0.0
        if valid[index]:
            log_chance[index] = logits[place, ACTIONS_IN[kind, index]] - highest
            total += math.exp(log_chance[index])
    for index in range(3):
        if valid[index]:
            log_chance[index] -= math.log(total)
            chance[index] = math.exp(log_chance[index])

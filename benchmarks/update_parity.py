"""FastPPO's update is compared with stable-baselines3's before either is timed.

Single precision alone cannot tell. Rounding differs in every product. Now and then it decides
whether a unit of the network is on for a sample (once in 88 minibatches for the value network, and
a gradient then differed by 2e-3 instead of 1e-6), and Adam takes another way from there. On the
reference recipe (128 minibatches of 256, [512, 512, 256], 2 threads of a Xeon) all weights together
were this far from stable-baselines3's own, as a share of how far those had moved:

=====================================  =============  ==============  ===============
minibatches                            1              32              128
=====================================  =============  ==============  ===============
FastPPO, double precision              at most 2e-14  at most 2e-14   at most 2e-14
FastPPO, single precision              2e-6 to 3e-6   1e-6 to 6e-4    0.04 to 0.09
stable-baselines3, 1 thread for 2      0 to 2e-7      9e-7            2e-6 to 0.003
stable-baselines3, its own double      4e-5 to 5e-5   2e-3 to 3e-3    0.15 to 0.2
stable-baselines3, another order                                      0.77 to 0.79
=====================================  =============  ==============  ===============

The ranges are those of the entry modes ``always`` and ``any``; the first row is that of the worst
single parameter. So after an epoch in single precision stable-baselines3 is farther from itself in
double precision than FastPPO is from it, and no bound on single parameters could hold one and fail
for a wrong update. What can: a whole epoch in double precision, bounded tightly, and of the single
precision that is timed the first gradients, the losses, and coarsely the way of all weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from report import ParityError
from stable_baselines3 import PPO
from stable_baselines3.common import policies
from torch import Tensor

from mtf_scalper.rollouts.fast_ppo import FastPPO

DOUBLE = 1e-9
"""Largest distance after an epoch in double precision: of a parameter, as a share of its way, and
of a loss, as a share of it."""
MINIBATCHES = 4
"""Minibatches whose gradients are compared in single precision."""
GRADIENT = 0.03
"""Largest distance of a parameter's gradient in them, as a share of it; over 30 orders of
minibatches 1e-6 was usual and 9e-5 the most. See above for what a unit more or less does."""
LOSS = 0.05
"""Largest distance of a mean loss in single precision, as a share of it; stable-baselines3's own
double precision is up to 0.012 away."""
WAY = 0.5
"""Largest distance of all weights in single precision, as a share of their way."""
MEAN_LOSSES = ("policy_gradient_loss", "value_loss", "entropy_loss")

Arrays = list[Tensor]


def check_same_update(fast: FastPPO, stock: PPO) -> dict[str, float]:
    """Update both for an epoch in double precision, and again as they are timed.

    Both have the same weights, Adam state and rollout. They keep the epoch in single precision.

    Returns
    -------
    dict of str to float
        How far apart they were, as shares: the worst ``double`` parameter, the worst ``gradient``
        of the first minibatches, the worst mean ``loss`` and all ``weights`` in single precision.

    Raises
    ------
    ParityError
        If that is more than rounding explains.
    """
    with _in_double_precision(fast, stock):
        double = _check_double(fast, stock)
    before = _weights(stock)
    gradients = [_epoch(model) for model in (fast, stock)]
    gradient = _check_gradients(fast, *gradients)
    loss = _check_losses(fast, stock, LOSS, "in single precision")
    ours, theirs, start = (
        torch.cat([p.flatten() for p in all_]) for all_ in (_weights(fast), _weights(stock), before)
    )
    weights = _share(ours - theirs, theirs - start)
    if not weights <= WAY:
        raise ParityError(f"the weights are {weights:.2g} of their way apart after an epoch")
    return {"double": double, "gradient": gradient, "loss": loss, "weights": weights}


def _check_double(fast: FastPPO, stock: PPO) -> float:
    before = _weights(stock)
    for model in (fast, stock):
        _epoch(model)
    apart = [
        _share(ours - theirs, theirs - start)
        for ours, theirs, start in zip(_weights(fast), _weights(stock), before, strict=True)
    ]
    worst = int(np.argmax(apart))
    if not apart[worst] <= DOUBLE:
        raise ParityError(
            f"{_names(fast)[worst]} is {apart[worst]:.2g} of its way apart "
            "after an epoch in double precision"
        )
    _check_losses(fast, stock, DOUBLE, "in double precision")
    return apart[worst]


def _check_gradients(fast: FastPPO, ours: list[Arrays], theirs: list[Arrays]) -> float:
    worst = 0.0
    for minibatch, pair in enumerate(zip(ours, theirs, strict=True), 1):
        for name, our, their in zip(_names(fast), *pair, strict=True):
            apart = _share(our - their, their)
            if not apart <= GRADIENT:
                raise ParityError(
                    f"the gradient of {name} is {apart:.2g} of itself apart "
                    f"at minibatch {minibatch} in single precision"
                )
            worst = max(worst, apart)
    return worst


def _check_losses(fast: FastPPO, stock: PPO, tolerance: float, precision: str) -> float:
    """Compare the means over the epoch; ``train/loss`` is that of the last minibatch alone."""
    worst = 0.0
    for name in MEAN_LOSSES:
        ours, theirs = (float(m.logger.name_to_value[f"train/{name}"]) for m in (fast, stock))
        apart = abs(ours - theirs) / max(abs(theirs), 1e-3)
        if not apart <= tolerance:
            raise ParityError(f"{name}: {ours:.6g} against {theirs:.6g} {precision}")
        worst = max(worst, apart)
    return worst


def _epoch(model: PPO) -> list[Arrays]:
    """Update for one epoch; return all gradients, clipped, of the first minibatches."""
    gradients: list[Arrays] = []
    step = torch.optim.Adam.step

    def noted(*args: Any, **kwargs: Any) -> Any:
        if len(gradients) < MINIBATCHES:
            gradients.append([p.grad.clone() for p in model.policy.parameters()])
        return step(*args, **kwargs)

    np.random.seed(3)  # noqa: NPY002 - the generator that both draw their minibatches from
    model.n_epochs = 1
    with patch.object(torch.optim.Adam, "step", noted):
        model.train()
    return gradients


@contextmanager
def _in_double_precision(fast: FastPPO, stock: PPO) -> Iterator[None]:
    """Compute in float64, and put weights and Adam's state back in the end."""
    kept = [
        copy.deepcopy((model.policy.state_dict(), model.policy.optimizer.state_dict()))
        for model in (fast, stock)
    ]
    samples = stock.rollout_buffer.get

    def in_double(batch_size: int | None = None) -> Iterator[Any]:
        for minibatch in samples(batch_size):
            yield type(minibatch)(*(values.double() for values in minibatch))

    def restore(dtype: torch.dtype) -> None:
        for model, (weights, state) in zip((fast, stock), kept, strict=True):
            model.policy.to(dtype)
            model.policy.load_state_dict(weights)
            # Adam's averages get the precision of the weights here.
            model.policy.optimizer.load_state_dict(copy.deepcopy(state))

    restore(torch.float64)
    try:
        with (
            patch.object(stock.rollout_buffer, "get", in_double),
            # It would turn observations back into float32.
            patch.object(policies, "preprocess_obs", lambda observations, *_, **__: observations),
        ):
            yield
    finally:
        restore(torch.float32)


def _names(model: PPO) -> list[str]:
    return [name for name, _ in model.policy.named_parameters()]


def _weights(model: PPO) -> Arrays:
    return [weights.detach().clone() for weights in model.policy.parameters()]


def _share(part: Tensor, whole: Tensor) -> float:
    return (part.norm() / whole.norm()).item() if part.any() else 0.0

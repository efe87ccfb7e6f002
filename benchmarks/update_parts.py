"""Where the time of a minibatch goes: its parts timed alone, at the shapes of the real update.

FastPPO's kernels are called again with the very arguments of a recorded epoch; matrix products and
elementwise work are done on arrays of the same shapes, with their outputs allocated beforehand.
stable-baselines3 is profiled with ``cProfile``: one epoch, by the functions that it spends it in.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from stable_baselines3 import PPO

from mtf_scalper.ppo.towers import Towers
from mtf_scalper.rollouts import ppo_kernels as kernels
from mtf_scalper.rollouts.fast_ppo import FastPPO

PARTS = (
    "gather",
    "forward products",
    "loss",
    "backward products",
    "elementwise",
    "norm and Adam",
    "everything else",
)
_CALLS = 100
_KERNELS = ("fill_minibatch", "normalize", "loss_gradients")
N_ACTIONS = 5

Rows = tuple[int, int]
"""Rows of a minibatch that go through the policy and through the value network."""


def matrix_peak(size: int) -> float:
    """Return the float32 operations per second of a large square product."""
    matrix, out = torch.randn(size, size), torch.empty(size, size)
    return 2.0 * size**3 / (_milliseconds(lambda: torch.mm(matrix, matrix, out=out), 3) / 1e3)


def product_flops(sizes: Sequence[int], rows: Rows) -> float:
    """Return the floating-point operations of a minibatch's matrix products."""
    total = 0.0
    for n_rows, n_outputs in zip(rows, (N_ACTIONS, 1), strict=True):
        for depth, (n_in, n_out) in enumerate(_layers(sizes, n_outputs)):
            # Forward and weight gradient; the gradient of the layer's input but for the first.
            total += 2.0 * n_rows * n_in * n_out * (3 if depth else 2)
    return total


def parts_of_fast(
    fast: FastPPO, sizes: Sequence[int], rows: Rows, whole_ms: float
) -> dict[str, float]:
    """Return milliseconds by part of ``PARTS``, which add up to the whole update."""
    calls = _recorded_calls(fast)
    gather = _replayed(kernels.fill_minibatch, calls["fill_minibatch"])
    towers = Towers(fast.policy, fast.batch_size)
    towers.storage.gradient.normal_()
    parts = {
        "gather": gather + _replayed(kernels.normalize, calls["normalize"]),
        "loss": _replayed(kernels.loss_gradients, calls["loss_gradients"]),
        **tower_parts(sizes, rows),
        "norm and Adam": _milliseconds(lambda: towers.storage.step(fast.max_grad_norm)),
    }
    return _in_order(parts, whole_ms)


def parts_of_stock(stock: PPO, sizes: Sequence[int], rows: Rows) -> dict[str, float]:
    """Return the same of stable-baselines3's update; they add up to the profiled epoch.

    ``loss`` is not in one function there: it is part of ``everything else``, with the overhead of
    Python and of the profiler. The backward pass is split into its products, timed alone, and the
    rest, which counts as ``elementwise``.
    """
    profile = cProfile.Profile()
    stock.n_epochs = 1
    profile.runcall(stock.train)
    statistic = pstats.Stats(profile)
    minibatches = stock.n_steps * stock.n_envs // stock.batch_size

    def cumulated(*names: str) -> float:
        # The functions named do not call each other, so nothing is counted twice.
        entries = statistic.stats.items()  # type: ignore[attr-defined]
        seconds = sum(
            timing[3] for (_, _, name), timing in entries if any(n in name for n in names)
        )
        return 1e3 * seconds / minibatches

    backward = cumulated("run_backward")
    backward_products = tower_parts(sizes, rows)["backward products"]
    parts = {
        "gather": cumulated("_get_samples", "swap_and_flatten"),
        "forward products": cumulated("torch._C._nn.linear", "affine"),
        "loss": 0.0,
        "backward products": backward_products,
        "elementwise": cumulated("torch.relu") + max(0.0, backward - backward_products),
        "norm and Adam": cumulated("clip_grad_norm_", "zero_grad") + _adam(statistic, minibatches),
    }
    whole = 1e3 * statistic.total_tt / minibatches  # type: ignore[attr-defined]
    return _in_order(parts, whole)


def _adam(statistic: pstats.Stats, minibatches: int) -> float:
    entries = statistic.stats.items()  # type: ignore[attr-defined]
    steps = [
        timing[3]
        for (file, _, name), timing in entries
        if name == "step" and file.endswith("adam.py")
    ]
    return 1e3 * sum(steps) / minibatches


def _in_order(parts: dict[str, float], whole_ms: float) -> dict[str, float]:
    # Parts timed alone find their data in the cache, so that this is seldom below zero.
    parts["everything else"] = whole_ms - sum(parts.values())
    return {part: parts[part] for part in PARTS}


def _recorded_calls(fast: FastPPO) -> dict[str, list[tuple[Any, ...]]]:
    """Return the arguments of every kernel call of one epoch."""
    with ExitStack() as stack:
        spies = {
            name: stack.enter_context(patch.object(kernels, name, wraps=getattr(kernels, name)))
            for name in _KERNELS
        }
        fast.n_epochs = 1
        fast.train()
    return {name: [call.args for call in spy.call_args_list] for name, spy in spies.items()}


def _replayed(function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> float:
    def all_calls() -> None:
        for arguments in calls:
            function(*arguments)

    return _milliseconds(all_calls, 1) / len(calls)


def _layers(sizes: Sequence[int], n_outputs: int) -> list[tuple[int, int]]:
    return list(zip(sizes, (*sizes[1:], n_outputs), strict=True))


class _Layer:
    """Arrays of one linear layer and of what goes through it."""

    def __init__(self, n_rows: int, n_in: int, n_out: int, inputs: torch.Tensor) -> None:
        self.inputs = inputs
        self.weight, self.bias = torch.randn(n_out, n_in), torch.randn(n_out)
        self.weight_gradient, self.bias_gradient = torch.empty(n_out, n_in), torch.empty(n_out)
        self.output, self.gradient = torch.randn(n_rows, n_out), torch.randn(n_rows, n_out)
        self.input_gradient = torch.empty(n_rows, n_in)


def _tower(sizes: Sequence[int], n_rows: int, n_outputs: int) -> list[_Layer]:
    layers: list[_Layer] = []
    inputs = torch.randn(n_rows, sizes[0])
    for n_in, n_out in _layers(sizes, n_outputs):
        layers.append(_Layer(n_rows, n_in, n_out, inputs))
        inputs = layers[-1].output
    return layers


def tower_parts(sizes: Sequence[int], rows: Rows) -> dict[str, float]:
    """Return milliseconds of matrix products and elementwise work, outputs allocated before."""
    towers = [
        _tower(sizes, n_rows, n_outputs)
        for n_rows, n_outputs in zip(rows, (N_ACTIONS, 1), strict=True)
        if n_rows
    ]

    def forward() -> None:
        for tower in towers:
            for layer in tower:
                torch.addmm(layer.bias, layer.inputs, layer.weight.t(), out=layer.output)

    def backward() -> None:
        for tower in towers:
            for depth in range(len(tower) - 1, -1, -1):
                layer = tower[depth]
                torch.mm(layer.gradient.t(), layer.inputs, out=layer.weight_gradient)
                if depth:
                    torch.mm(layer.gradient, layer.weight, out=layer.input_gradient)

    def elementwise() -> None:
        for tower in towers:
            for depth, layer in enumerate(tower):
                torch.sum(layer.gradient, 0, out=layer.bias_gradient)
                if depth < len(tower) - 1:
                    layer.output.relu_()
                    torch.ops.aten.threshold_backward.grad_input(
                        layer.gradient, layer.output, 0, grad_input=layer.gradient
                    )

    return {
        "forward products": _milliseconds(forward),
        "backward products": _milliseconds(backward),
        "elementwise": _milliseconds(elementwise),
    }


def _milliseconds(work: Callable[[], Any], calls: int = _CALLS, rounds: int = 5) -> float:
    """Return the median over rounds of the time per call, after one round that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        seconds.append((time.perf_counter() - started) / calls)
    return 1e3 * statistics.median(seconds[1:])

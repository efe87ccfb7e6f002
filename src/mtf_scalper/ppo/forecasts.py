"""What the next returns will be, foretold from a window: the inputs of a policy.

A network that sees some hundred numbers a candle finds in a month of them whatever it looks for. A
regression that is judged on candles it has not seen does not, and needs no more than a second. So
the policy is given *forecasts*: for each of three horizons one of a ridge regression and one of
boosted trees (`mtf_scalper.ppo.forecasting` fits them), and learns what to do with them.

**Target.** The discounted sum of the returns that a position taken at row ``t`` would see::

    y_d[t] = sum_{k < H} d^k log(open[t+2+k] / open[t+1+k]),   d in DECAYS, H = HORIZON

**Inputs.** Each feature over the window in three numbers: its last value and two means that forget
with half-lives of a fifth and four fifths of the window. And those products of two of these
numbers that agree most with the target, which greedy trees do not find where each alone says
nothing.

Every number is computed row by row in a fixed order, so that a row's forecast has the same bits in
whatever batch it stands. Checkpoints hold plain arrays: coefficients, and the nodes of the trees.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtf_scalper.errors import SettingsError
from mtf_scalper.jit import njit
from mtf_scalper.ppo.trees import (
    NO_TREES,
    Doubles,
    Floats,
    Rows,
    Trees,
    are_sound,
    leaf_of,
)

DECAYS = (0.5, 0.9, 0.97)
"""How much of a target's horizon is left one candle later."""
HORIZON = 100
"""Candles whose returns a target adds up."""
N_FORECASTS = 2 * len(DECAYS)
"""One of the regression and one of the trees per decay."""
MOST_DEVIATIONS = 5.0
"""A forecast lies within plus and minus this many of its deviations in training."""


class Tables(NamedTuple):
    """All numbers of a policy's forecasts.

    Attributes
    ----------
    basis : ndarray of float32, shape (window, B)
        Weights of the window's candles in each of an input's numbers.
    pairs : ndarray of int64, shape (P, 2)
        Numbers whose products are inputs as well, behind the numbers themselves.
    coefficients : ndarray of float64, shape (B * F + P, D)
        Of the regressions.
    constants : ndarray of float64, shape (D,)
    units : ndarray of float64, shape (2 D,)
        What each forecast is multiplied by; 0 for one that is not used.
    trees : Trees
    """

    basis: Floats
    pairs: Rows
    coefficients: Doubles
    constants: Doubles
    units: Doubles
    trees: Trees


def basis_of(window_size: int) -> Floats:
    """Return the weights of a window's candles in each of an input's numbers, shape (window, B)."""
    ages = np.arange(window_size)[::-1]
    columns = [(ages == 0).astype(float)]
    if window_size > 1:
        columns += [0.5 ** (ages / (share * window_size)) for share in (0.2, 0.8)]
    return np.stack([each / each.sum() for each in columns], axis=1).astype(np.float32)


@njit(cache=True, nogil=True)
def inputs_of(flat: Floats, ends: Rows, basis: Floats, pairs: Rows, out: Floats) -> None:
    """Write what forecasts go by.

    Parameters
    ----------
    flat : ndarray of float32
        Features, candle by candle.
    ends : ndarray of int64, shape (N,)
        A window is what stands before its end.
    basis : ndarray of float32, shape (window, B)
    pairs : ndarray of int64, shape (P, 2)
    out : ndarray of float32, shape (N, B * F + P)
    """
    for place in range(len(ends)):
        _inputs_of_one(flat, ends[place], basis, pairs, out[place])


@njit(cache=True, nogil=True)
def _inputs_of_one(flat: Floats, end: int, basis: Floats, pairs: Rows, out: Floats) -> None:
    window, n_kinds = basis.shape
    n_single = len(out) - len(pairs)
    n_features = n_single // n_kinds
    start = end - window * n_features
    for kind in range(n_kinds):
        for feature in range(n_features):
            total = 0.0
            for age in range(window):
                weight = float(basis[age, kind])
                if weight != 0.0:
                    total += weight * float(flat[start + age * n_features + feature])
            out[kind * n_features + feature] = total
    for index in range(len(pairs)):
        out[n_single + index] = out[pairs[index, 0]] * out[pairs[index, 1]]


@njit(cache=True, nogil=True)
def foretell(flat: Floats, ends: Rows, tables: Tables, out: Floats) -> None:
    """Write forecasts.

    Parameters
    ----------
    flat, ends
        As in ``inputs_of``.
    tables : Tables
    out : ndarray of float32, shape (N, 2 D)
        In units of their own, see ``Tables.units``.
    """
    coefficients, trees, units = tables.coefficients, tables.trees, tables.units
    n_inputs, n_linear = coefficients.shape
    inputs = np.empty(n_inputs, dtype=np.float32)
    totals = np.empty(2 * n_linear)
    for place in range(len(ends)):
        _inputs_of_one(flat, ends[place], tables.basis, tables.pairs, inputs)
        totals[:] = 0.0
        for decay in range(n_linear):
            totals[decay] = tables.constants[decay]
        for column in range(n_inputs):
            for decay in range(n_linear):
                totals[decay] += coefficients[column, decay] * float(inputs[column])
        for tree in range(len(trees.output)):
            totals[n_linear + trees.output[tree]] += leaf_of(inputs, trees, tree)
        for index in range(2 * n_linear):
            scaled = totals[index] * units[index]
            out[place, index] = min(max(scaled, -MOST_DEVIATIONS), MOST_DEVIATIONS)


def forecasts_of(tables: Tables, features: Floats) -> Floats:
    """Return forecasts of features (T, F), shape (T, 2 D), 0 where there is no full window."""
    window = len(tables.basis)
    out = np.zeros((len(features), N_FORECASTS), dtype=np.float32)
    ends = np.arange(window, len(features) + 1) * features.shape[1]
    flat = np.ascontiguousarray(features).reshape(-1)
    foretell(flat, ends, tables, out[window - 1 :])
    return out


_FIELDS = ("basis", "pairs", "coefficients", "constants", "units")


class Forecasts(nn.Module):
    """Turns windows into forecasts; before ``take`` all of them are 0.

    Parameters
    ----------
    window_size : int
    n_features : int
    """

    def __init__(self, window_size: int, n_features: int) -> None:
        super().__init__()
        self._without_held_back: Tables | None = None
        basis = basis_of(window_size)
        n_inputs = basis.shape[1] * n_features
        self._register(
            Tables(
                basis,
                np.zeros((0, 2), dtype=np.int64),
                np.zeros((n_inputs, len(DECAYS))),
                np.zeros(len(DECAYS)),
                np.zeros(N_FORECASTS),
                NO_TREES,
            )
        )

    def take(self, tables: Tables, without_held_back: Tables | None = None) -> None:
        """Forecast by other numbers from now on; ``judged`` goes by ``without_held_back``."""
        self._without_held_back = without_held_back
        self._put(tables)

    @property
    def tables(self) -> Tables:
        """The numbers, as views."""
        arrays = {name: value.cpu().numpy() for name, value in self.named_buffers()}
        trees = {name: arrays[f"tree_{name}"] for name in Trees._fields}
        fields: dict[str, Any] = {name: arrays[name] for name in _FIELDS}
        return Tables(**fields, trees=Trees(**trees))

    def forward(self, windows: Tensor) -> Tensor:
        """Return forecasts of shape (N, 2 D) for windows of shape (N, window * F)."""
        values = windows.detach().cpu().contiguous().numpy()
        n_rows, length = values.shape
        out = np.empty((n_rows, N_FORECASTS), dtype=np.float32)
        foretell(values.reshape(-1), (np.arange(n_rows) + 1) * length, self.tables, out)
        return torch.from_numpy(out).to(windows.device)

    @contextlib.contextmanager
    def judged(self) -> Iterator[None]:
        """Forecast as weights are judged: by what has not seen the candles that are held back."""
        tables = self.tables
        self._put(self._without_held_back or tables)
        try:
            yield
        finally:
            self._put(tables)

    def _put(self, tables: Tables) -> None:
        for name, value in _named(tables).items():
            setattr(self, name, torch.from_numpy(np.array(value)))

    def _register(self, tables: Tables) -> None:
        for name, value in _named(tables).items():
            self.register_buffer(name, torch.from_numpy(value))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **named: Any
    ) -> None:
        # How many nodes there are is part of what is loaded.
        for name in dict(self.named_buffers()):
            if prefix + name in state_dict:
                setattr(self, name, state_dict[prefix + name].detach().clone())
        tables = self.tables
        n_inputs = len(tables.coefficients)
        if not are_sound(tables.trees, n_inputs) or (
            tables.pairs.size and not 0 <= tables.pairs.min() <= tables.pairs.max() < n_inputs
        ):
            raise SettingsError("the checkpoint's forecasts are damaged")
        super()._load_from_state_dict(state_dict, prefix, *arguments, **named)


def _named(tables: Tables) -> dict[str, NDArray[Any]]:
    named = {name: getattr(tables, name) for name in _FIELDS}
    return named | {f"tree_{name}": value for name, value in tables.trees._asdict().items()}

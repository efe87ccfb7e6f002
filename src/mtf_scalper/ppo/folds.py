"""Inputs and targets of forecasts, and which candles a fold of them may be fitted on.

The candles are cut into contiguous *folds*, and those of a fold are foretold by what was fitted on
the other ones, less a horizon on either side, whose targets overlap (de Prado 2018, *Advances in
Financial Machine Learning*, 7.4, purged cross-validation).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.forecasts import DECAYS, basis_of, inputs_of
from mtf_scalper.ppo.trees import Doubles, Floats, Rows

N_FOLDS = 4


class Part:
    """Inputs, targets and folds of a market's rows with a full window.

    Parameters
    ----------
    features : ndarray of float32, shape (T, F)
        In the policy's units.
    market : Market
    window_size : int
    horizon : int
        Candles whose returns a target adds up.
    n_folds : int
        How many folds the market is cut into, or the number of its only one if ``is_held``.
    is_held : bool
        Whether it is held back, and a fold of its own.

    Attributes
    ----------
    inputs : ndarray of float32, shape (N, C)
        Row ``i`` is that of candle ``window_size - 1 + i``.
    targets : ndarray of float64, shape (N, D)
    returns : ndarray of float64, shape (N,)
        Log return from the open of each row to the next one.
    folds : ndarray of int64, shape (N,)
    is_known : ndarray of bool, shape (N,)
        Whether there are returns after a row's next open.
    """

    def __init__(
        self,
        features: Floats,
        market: Market,
        *,
        window_size: int,
        horizon: int,
        n_folds: int,
        is_held: bool,
    ) -> None:
        basis = basis_of(window_size)
        n_rows = max(len(market) - window_size + 1, 0)
        self.is_held = is_held
        self.inputs = np.empty((n_rows, basis.shape[1] * features.shape[1]), dtype=np.float32)
        ends = np.arange(window_size, len(market) + 1) * features.shape[1]
        nothing = np.zeros((0, 2), dtype=np.int64)
        inputs_of(np.ascontiguousarray(features).reshape(-1), ends, basis, nothing, self.inputs)
        self.n_kinds = basis.shape[1]
        returns = np.append(np.diff(np.log(market.ohlc[:, 0])), 0.0)
        self._horizon = horizon
        targets = [_target(returns, decay, horizon)[window_size - 1 :] for decay in DECAYS]
        self.targets = np.stack(targets, axis=1)
        self.returns = returns[window_size - 1 :]
        # The last candle opens no trade: what comes after it is not known.
        n_known = max(n_rows - 2, 0)
        self.is_known = np.arange(n_rows) < n_known
        own = np.arange(n_rows) * n_folds // max(n_rows, 1)
        self.folds = np.full(n_rows, n_folds) if is_held else own

    def rows_without(self, fold: int) -> NDArray[np.bool_]:
        """Return which rows may be fitted on for the forecasts of a fold."""
        is_own = self.folds == fold
        near = is_own.copy()
        if is_own.any():
            first, last = np.flatnonzero(is_own)[[0, -1]]
            near[max(first - self._horizon, 0) : last + self._horizon + 1] = True
        allowed: NDArray[np.bool_] = self.is_known & ~near
        return allowed


def _target(returns: Doubles, decay: float, horizon: int) -> Doubles:
    """Return the discounted sum of the returns of the ``horizon`` steps after each row's next open.

    ``returns[t]`` is that from the open of ``t`` to the open of ``t + 1``.
    """
    weights = decay ** np.arange(horizon)
    ahead = np.concatenate([returns[1:], np.zeros(horizon)])
    return np.convolve(ahead, weights[::-1], mode="valid")[: len(returns)]


def learned_on(parts: Sequence[Part], fold: int) -> tuple[Floats, Doubles]:
    """Return inputs (N, C) and targets (N, D) of all rows that a fold may be fitted on."""
    chosen = [part.rows_without(fold) for part in parts]
    inputs = [part.inputs[rows] for part, rows in zip(parts, chosen, strict=True)]
    targets = [part.targets[rows] for part, rows in zip(parts, chosen, strict=True)]
    return np.concatenate(inputs), np.concatenate(targets)


def columns_of(n_inputs: int, fold: int, n_pairs: int) -> Rows:
    """Return the inputs that a fold is fitted on: all single numbers, and its own products."""
    n_single, size = n_inputs - n_pairs, n_pairs // N_FOLDS
    own = np.arange(n_single + fold * size, n_single + (fold + 1) * size)
    return np.concatenate([np.arange(n_single), own])

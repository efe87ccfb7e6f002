"""Boosted regression trees of all folds, by LightGBM.

Plain boosting with fraction bagging has the same bits for any number of threads (LightGBM 4.7;
GOSS, quantised gradients and linear trees have not). Here each fold is fitted by one
thread, and folds are shared out.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtf_scalper.ppo.folds import N_FOLDS, Part, columns_of, learned_on
from mtf_scalper.ppo.forecasts import DECAYS
from mtf_scalper.ppo.team import Team
from mtf_scalper.ppo.trees import NO_TREES, Doubles, Trees, add_leaves, trees_of

TREE_COUNTS = (0, 12, 25, 50, 100)
"""How many trees may be used: the first stage that is no better than the one before ends it."""
BOOSTING = {
    "objective": "regression",
    "learning_rate": 0.1,
    "num_leaves": 8,
    "min_data_in_leaf": 50,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "feature_fraction": 0.3,
    "lambda_l2": 10.0,
    "max_bin": 31,
    "bin_construct_sample_cnt": 2000,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
LEAST_ROWS = 200
"""Fewer are not worth a tree."""


class FoldTrees:
    """A fold's trees for each target, grown stage by stage.

    Parameters
    ----------
    parts : sequence of Part
    fold : int
    n_pairs : int
        How many of the inputs, at their end, are products.
    seed : int

    Attributes
    ----------
    trees : list of Trees
        For each target.
    """

    def __init__(self, parts: Sequence[Part], fold: int, n_pairs: int, seed: int) -> None:
        self.trees = [NO_TREES] * len(DECAYS)
        self._columns = columns_of(parts[0].inputs.shape[1], fold, n_pairs)
        self._options = {**BOOSTING, "seed": seed}
        self._booster: Any = None
        self._data: Any = None
        inputs, self._targets = learned_on(parts, fold)
        if len(inputs) >= LEAST_ROWS:
            import lightgbm  # half a second, which nothing but a training needs

            own = inputs[:, self._columns]
            self._data = lightgbm.Dataset(own, params=self._options, free_raw_data=False)

    def grow(self, target: int, first: int, last: int) -> None:
        """Let a target's trees ``first .. last - 1`` grow; from 0 to its end, then another one.

        There are fewer where no leaf is worth splitting.
        """
        if self._data is None:
            return
        values = self._targets[:, target]
        size = max(float(values.std()), 1e-300)
        if not first:
            import lightgbm

            # The bins are those of all targets; a booster reads the labels while it grows.
            self._data.set_label((values - values.mean()) / size)
            self._booster = lightgbm.Booster(self._options, self._data)
        for _ in range(first, last):
            if self._booster.update():
                break
        self.trees[target] = trees_of(self._booster.model_to_string(), size, self._columns)


def boost(
    parts: Sequence[Part], n_pairs: int, seed: int, here: Team
) -> tuple[dict[int, list[Trees]], list[Doubles], list[int]]:
    """Grow the trees of all folds for as long as they foretell better what each has not seen.

    Parameters
    ----------
    parts, n_pairs, seed
        As ``FoldTrees`` has them.
    here : Team

    Returns
    -------
    models : dict of int to list of Trees
        By fold, for each target.
    forecasts : list of ndarray of float64, shape (N, D)
        Of each part, out of folds.
    counts : list of int
        How many trees are used for each target.
    """
    folds: dict[int, FoldTrees] = {}

    def begin(fold: int) -> None:
        folds[fold] = FoldTrees(parts, fold, n_pairs, seed)

    here.run([functools.partial(begin, fold) for fold in range(N_FOLDS)])
    n_targets = len(DECAYS)
    forecasts = [np.zeros((len(part.inputs), n_targets)) for part in parts]
    counts = [0] * n_targets
    for target in range(n_targets):
        now = [np.zeros(len(part.inputs)) for part in parts]
        least = _error(parts, now, target)
        for first, last in itertools.pairwise(TREE_COUNTS):
            jobs = [functools.partial(each.grow, target, first, last) for each in folds.values()]
            here.run(jobs)
            for part, values in zip(parts, now, strict=True):
                _add_trees(part, folds, target, first, last, values)
            error = _error(parts, now, target)
            if error >= least:
                break
            least, counts[target] = error, last
            for kept, values in zip(forecasts, now, strict=True):
                kept[:, target] = values
    return {fold: folds[fold].trees for fold in range(N_FOLDS)}, forecasts, counts


def _add_trees(
    part: Part,
    folds: Mapping[int, FoldTrees],
    target: int,
    first: int,
    last: int,
    values: Doubles,
) -> None:
    """Add what trees ``first .. last - 1`` say of each row that they have not seen."""
    for fold, grown in folds.items():
        rows = np.flatnonzero(part.folds == fold)
        trees, total = grown.trees[target], values[rows]
        n_trees = len(trees.output)
        add_leaves(part.inputs[rows], trees, min(first, n_trees), min(last, n_trees), total)
        values[rows] = total


def _error(parts: Sequence[Part], values: Sequence[Doubles], target: int) -> float:
    """Return the summed squares by which forecasts of a target are wrong."""
    error = 0.0
    for part, each in zip(parts, values, strict=True):
        if part.is_known.any():
            seen = part.targets[part.is_known, target]
            error += float(((each[part.is_known] - (seen - seen.mean())) ** 2).sum())
    return error

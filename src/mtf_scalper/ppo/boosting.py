"""Boosted regression trees of all folds, by LightGBM.

Plain boosting with fraction bagging has the same bits for any number of threads (LightGBM 4.7;
GOSS, quantised gradients and linear trees have not). Here each fold is fitted by one
thread, and folds are shared out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtf_scalper.ppo.folds import Part, columns_of, learned_on
from mtf_scalper.ppo.forecasts import DECAYS
from mtf_scalper.ppo.trees import NO_TREES, Doubles, Trees, add_leaves, trees_of

TREE_COUNTS = (0, 12, 25, 50, 100)
"""How many trees may be used."""
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


def boosted_trees(parts: Sequence[Part], fold: int, n_pairs: int, seed: int) -> list[Trees]:
    """Return a fold's trees for each target.

    Parameters
    ----------
    parts : sequence of Part
    fold : int
    n_pairs : int
        How many of the inputs, at their end, are products.
    seed : int
    """
    import lightgbm  # half a second, which nothing but a training needs

    columns = columns_of(parts[0].inputs.shape[1], fold, n_pairs)
    inputs, targets = learned_on(parts, fold)
    if len(inputs) < LEAST_ROWS:
        return [NO_TREES] * len(DECAYS)
    options = {**BOOSTING, "seed": seed}
    data = lightgbm.Dataset(inputs[:, columns], params=options, free_raw_data=False)
    found = []
    for target in targets.T:
        size = max(float(target.std()), 1e-300)
        data.set_label((target - target.mean()) / size)
        booster = lightgbm.train(options, data, TREE_COUNTS[-1], keep_training_booster=True)
        found.append(trees_of(booster.model_to_string(), size, columns))
    return found


def choose_counts(
    parts: Sequence[Part], models: Mapping[int, Sequence[Trees]]
) -> tuple[list[Doubles], list[int]]:
    """Return each part's forecasts (N, D), and how many trees are used for each target."""
    n_targets = len(DECAYS)
    errors = np.zeros((len(TREE_COUNTS), n_targets))
    staged = []
    for part in parts:
        stages = np.zeros((len(TREE_COUNTS), len(part.inputs), n_targets))
        for fold, trees in models.items():
            rows = np.flatnonzero(part.folds == fold)
            inputs, total = part.inputs[rows], np.zeros((n_targets, len(rows)))
            for stage in range(1, len(TREE_COUNTS)):
                for target in range(n_targets):
                    # LightGBM ends early where no leaf is worth splitting.
                    n_trees = len(trees[target].output)
                    first, last = (
                        min(each, n_trees) for each in TREE_COUNTS[stage - 1 : stage + 1]
                    )
                    add_leaves(inputs, trees[target], first, last, total[target])
                stages[stage, rows] = total.T
        staged.append(stages)
        if not part.is_known.any():
            continue
        seen = part.targets - part.targets[part.is_known].mean(axis=0)
        errors += ((stages - seen) ** 2)[:, part.is_known].sum(axis=1)
    best = errors.argmin(axis=0)
    forecasts = [
        np.stack([stages[stage, :, index] for index, stage in enumerate(best)], axis=1)
        for stages in staged
    ]
    return forecasts, [TREE_COUNTS[stage] for stage in best]

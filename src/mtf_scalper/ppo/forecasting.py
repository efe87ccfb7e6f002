"""Fits forecasts on training candles, and says what they would have been without each candle.

A policy that learned from forecasts of the very candles that they were fitted on would trust them
far too much. So it learns from forecasts out of folds (`mtf_scalper.ppo.folds`), as a second
learner on top of others does (Wolpert 1992, *Stacked generalization*). Candles that are held back
are a fold of their own. What comes after is foretold by the mean over all folds.

How strongly the regression is shrunk and how many trees are used is chosen by the same forecasts.
One is used at all only if returns agree with it at `LEAST_EVIDENCE` standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.boosting import boost
from mtf_scalper.ppo.folds import N_FOLDS, Part
from mtf_scalper.ppo.forecasts import (
    DECAYS,
    HORIZON,
    MOST_DEVIATIONS,
    N_FORECASTS,
    Tables,
    basis_of,
    forecasts_of,
)
from mtf_scalper.ppo.interactions import add_interactions
from mtf_scalper.ppo.ridge import fit_ridge
from mtf_scalper.ppo.team import team
from mtf_scalper.ppo.trees import Doubles, Floats, mean_of
from mtf_scalper.settings import Settings

LEAST_EVIDENCE = 1.0
"""Standard errors by which returns have to agree with a forecast for it to be used."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Forecasts, and what they would have been of the candles that they were fitted on.

    Attributes
    ----------
    tables : Tables
        For later candles: the mean over all folds.
    without_held_back : Tables
        For the candles that are held back: what was fitted on the other ones alone; ``tables``
        where none are.
    seen : list of ndarray of float32, shape (T, 2 D)
        Forecasts of each market by what was fitted without the candle's fold, those held back
        last; 0 where there is no full window.
    evidence : tuple of float
        Standard errors by which returns agree with each forecast.
    """

    tables: Tables
    without_held_back: Tables
    seen: list[Floats]
    evidence: tuple[float, ...]


def fit_forecasts(
    features: Sequence[Floats], markets: Sequence[Market], n_held_back: int, settings: Settings
) -> Fitted:
    """Fit forecasts on markets.

    Parameters
    ----------
    features : sequence of ndarray of float32, shape (T, F)
        In the policy's units.
    markets : sequence of Market
        The last ``n_held_back`` of them are a fold of their own.
    n_held_back : int
    settings : Settings
        The window, and the seed of the trees.
    """
    window = settings.window_size
    horizon = min(HORIZON, max(sum(len(market) for market in markets) // 20, 2))
    n_own = N_FOLDS - 1 if n_held_back else N_FOLDS
    parts = [
        Part(
            each,
            market,
            window_size=window,
            horizon=horizon,
            n_folds=n_own,
            is_held=index >= len(markets) - n_held_back,
        )
        for index, (each, market) in enumerate(zip(features, markets, strict=True))
    ]
    with team() as here:
        pairs = add_interactions(parts)
        linear, lines = fit_ridge(parts, len(pairs))
        models, boosted, counts = boost(parts, len(pairs), settings.random_state, here)
    joined = [np.concatenate(pair, axis=1) for pair in zip(linear, boosted, strict=True)]
    evidence = _evidence(parts, joined)
    size = np.sqrt(np.mean(np.concatenate(joined) ** 2, axis=0))
    size = np.maximum(*np.split(size, 2))
    used = np.array(evidence) >= LEAST_EVIDENCE
    units = np.where(used, 1.0 / np.maximum(np.tile(size, 2), 1e-12), 0.0)

    def tables_of(folds: Sequence[int]) -> Tables:
        coefficients = np.mean([lines[fold][0] for fold in folds], axis=0)
        constants = np.mean([lines[fold][1] for fold in folds], axis=0)
        trees = mean_of([models[fold] for fold in folds], counts)
        return Tables(basis_of(window), pairs, coefficients, constants, units, trees)

    tables = tables_of(range(N_FOLDS))
    without = tables_of([N_FOLDS - 1]) if n_held_back else tables
    seen = []
    for part, values, own in zip(parts, joined, features, strict=True):
        if part.is_held:
            seen.append(forecasts_of(without, own))
            continue
        whole = np.zeros((len(own), N_FORECASTS), dtype=np.float32)
        whole[window - 1 :] = np.clip(values * units, -MOST_DEVIATIONS, MOST_DEVIATIONS)
        seen.append(whole)
    return Fitted(tables, without, seen, evidence)


def _evidence(parts: Sequence[Part], forecasts: Sequence[Doubles]) -> tuple[float, ...]:
    """Return by how many standard errors returns agree with each forecast.

    Who holds as much as is foretold, and lets go of it at the target's rate, earns ``g[t] r[t]`` at
    a step, with ``g[t] = sum_k d^k forecast[t-k]``. Under "nothing can be foretold" these are
    uncorrelated, so the root of the summed squares is the error of their sum.
    """
    total, squares = np.zeros(N_FORECASTS), np.zeros(N_FORECASTS)
    for part, values in zip(parts, forecasts, strict=True):
        if len(values) < 2:
            continue
        later = part.returns[1:] - part.returns[1:].mean()
        for index in range(N_FORECASTS):
            weights = DECAYS[index % len(DECAYS)] ** np.arange(HORIZON)
            held = np.convolve(values[:-1, index], weights)[: len(later)]
            earned = held * later
            total[index] += earned.sum()
            squares[index] += (earned**2).sum()
    return tuple((total / np.sqrt(np.maximum(squares, 1e-300))).tolist())

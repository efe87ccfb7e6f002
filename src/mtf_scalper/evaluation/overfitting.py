"""How much of a good result is left once it is known how many results were looked at."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.evaluation.days import sharpe_ratio
from mtf_scalper.optional import library

Floats = NDArray[np.float64]

_TIE = 1e-12
"""Sharpe ratios that differ by less are equal."""


def daily_sharpe(log_returns: Floats) -> float:
    """Return mean over standard deviation, not annualised; 0 where nothing varies, or on one day.

    Parameters
    ----------
    log_returns : ndarray of float64, shape (D,)
    """
    if len(log_returns) < 2:
        return 0.0
    deviation = float(log_returns.std(ddof=1))
    return float(log_returns.mean() / deviation) if deviation > 1e-12 else 0.0


def deflated_sharpe(log_returns: Floats, trial_sharpes: Floats) -> float:
    """Return the probability that a Sharpe ratio is above what luck gives the best of all trials.

    The probabilistic Sharpe ratio against the expected largest ratio of so many trials without
    skill (Bailey and Lopez de Prado 2014, *The deflated Sharpe ratio*). It allows for few days,
    skewness and fat tails.

    Parameters
    ----------
    log_returns : ndarray of float64, shape (D,)
        Daily; of the judged variant.
    trial_sharpes : ndarray of float64, shape (K,)
        ``daily_sharpe`` of every variant tried, the judged one included. With one there is nothing
        to deflate, and what is returned is the probability of a ratio above 0.

    Returns
    -------
    float
        0 where nothing varies or there are fewer than three days.
    """
    if len(log_returns) < 3 or log_returns.std() <= 1e-12:
        return 0.0
    value = library("skfolio.measures").deflated_sharpe_ratio(log_returns, trial_sharpes)
    return 0.0 if math.isnan(value) else float(value)


def minimum_track_record(
    sharpe: float,
    skewness: float = 0.0,
    kurtosis: float = 3.0,
    benchmark: float = 0.0,
    confidence: float = 0.95,
) -> float:
    """Return how many periods it takes until a Sharpe ratio is known to exceed a benchmark.

    ``1 + (1 - g3 SR + (g4 - 1) / 4 SR^2) (z / (SR - SR*))^2`` (Bailey and Lopez de Prado 2012,
    *The Sharpe ratio efficient frontier*).

    Parameters
    ----------
    sharpe, benchmark : float
        Per period, not annualised.
    skewness, kurtosis : float
        Of the returns; 0 and 3 for a normal distribution.
    confidence : float

    Returns
    -------
    float
        Periods; infinite where the ratio does not exceed the benchmark.
    """
    if sharpe <= benchmark:
        return math.inf
    variance = 1.0 - skewness * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2
    return float(1.0 + variance * (NormalDist().inv_cdf(confidence) / (sharpe - benchmark)) ** 2)


@dataclass(frozen=True)
class Overfitting:
    """What becomes of the best variant on days on which it was not chosen.

    Attributes
    ----------
    probability : float
        Share of the splits in which the best variant of one half is in the lower half of all
        variants on the other: the probability of backtest overfitting. The very middle counts half.
    probability_of_loss : float
        Share of the splits in which it loses there.
    n_variants, n_splits : int
    """

    probability: float
    probability_of_loss: float
    n_variants: int
    n_splits: int

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def backtest_overfitting(log_returns: Floats, n_folds: int = 10) -> Overfitting | None:
    """Return the probability of backtest overfitting by combinatorially symmetric validation.

    The days are cut into folds; every half of the folds chooses the variant with the best Sharpe
    ratio, and the other half says at which rank among all variants it ends (Bailey, Borwein, Lopez
    de Prado and Zhu 2017, *The probability of backtest overfitting*). Without any skill the rank is
    uniform and the probability about a half; a variant that is truly the best brings it to 0.

    Ties count half: variants that are equal on the days that judge share their middle rank, a rank
    in the very middle of all is half below it, and of several that are equally good on the days
    that choose each is taken for the best in turn. Variants that are all alike have a half.

    Parameters
    ----------
    log_returns : ndarray of float64, shape (D, K)
        Daily log returns of all variants.
    n_folds : int
        Even; 10 give 252 splits.

    Returns
    -------
    Overfitting or None
        None with fewer than two variants, or fewer than two days in a fold.
    """
    n_days, n_variants = log_returns.shape
    if n_variants < 2 or n_days < 2 * n_folds:
        return None
    halves = library("skfolio.model_selection").CombinatorialPurgedCV(
        n_folds=n_folds, n_test_folds=n_folds // 2, purged_size=0, embargo_size=0
    )
    below, losses = [], []
    for chosen_on, judged_on in halves.split(log_returns):
        inside = _sharpes(log_returns[chosen_on])
        judged = log_returns[np.concatenate(judged_on)]
        best = np.flatnonzero(inside >= inside.max() - _TIE)
        below.append(_share_below_the_middle(_sharpes(judged), best))
        losses.append(np.mean(judged[:, best].sum(axis=0) < 0.0))
    return Overfitting(
        probability=float(np.mean(below)),
        probability_of_loss=float(np.mean(losses)),
        n_variants=n_variants,
        n_splits=len(below),
    )


def _share_below_the_middle(outside: Floats, best: NDArray[np.int64]) -> float:
    """Return the share of the best that rank in the lower half; the middle itself counts half."""
    differences = outside[:, None] - outside[best]
    # From -(K - 1) for the worst of all to K - 1 for the best; tied variants cancel out.
    places = np.sum(differences < -_TIE, axis=0) - np.sum(differences > _TIE, axis=0)
    return float(np.mean(np.where(places == 0, 0.5, places < 0)))


def _sharpes(log_returns: Floats) -> Floats:
    return np.nan_to_num(sharpe_ratio(log_returns.T), nan=0.0)

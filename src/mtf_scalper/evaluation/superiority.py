"""Whether the best of all variants tried is better than a baseline, or only the luckiest of them.

Hansen's test for superior predictive ability (2005, *A test for superior predictive ability*),
after White's reality check (2000): under the hypothesis that no variant earns more than the
baseline, how often would the best of them have done as well as the best has done? Its p-value pays
for every variant that was tried.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.evaluation.bootstrap import LEAST_DAYS, block_length, resampled_rows
from mtf_scalper.optional import library

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Superiority:
    """What the test says of one baseline.

    Attributes
    ----------
    baseline : str
    excess_per_day : float
        Mean daily log return of the judged variant above the baseline's.
    p_value : float or None
        Chance of an excess like the judged variant's for the best of all variants, were none of
        them better than the baseline: for the best variant the p-value of the test, for another
        one the smallest level at which the test counts it among the better ones. None, as are the
        other three, where nothing can be said; see ``untold``.
    p_best : float or None
        The same for the best variant: the p-value of the test (Hansen's consistent one).
    p_lower, p_upper : float or None
        Its bounds; the upper one is that of White's reality check on the same ratios.
    n_variants : int
    block_days : float
        Mean length of the bootstrap's blocks.
    """

    baseline: str
    excess_per_day: float
    p_value: float | None
    p_best: float | None
    p_lower: float | None
    p_upper: float | None
    n_variants: int
    block_days: float

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    def untold(self) -> Superiority:
        """Return it without p-values, for days that are too few to tell anything."""
        return replace(self, p_value=None, p_best=None, p_lower=None, p_upper=None)


def superiority(
    name: str,
    baseline: Floats,
    judged: Floats,
    others: Floats | None = None,
    *,
    n_draws: int = 2000,
    seed: int = 0,
) -> Superiority:
    """Test whether variants earn more than a baseline.

    The differences are divided by their standard errors first, as Hansen does; the library's own
    test compares them as they are, and a variant that swings widely would hide the others.

    Parameters
    ----------
    name : str
        Of the baseline.
    baseline, judged : ndarray of float64, shape (D,)
        Daily log returns of the baseline and of the variant that is judged.
    others : ndarray of float64, shape (D, K - 1), optional
        Those of all other variants that were tried on the same days.
    n_draws : int
        Resamples of the stationary bootstrap.
    seed : int

    Returns
    -------
    Superiority
        With p-values of 1 where nothing earns more than the baseline, or days are under
        ``LEAST_DAYS``: so few make every bootstrap far too sure. On three days without an edge it
        would reject a fifth of the time at the 5% level.
    """
    differences = judged[:, None] - baseline[:, None]
    if others is not None:
        differences = np.concatenate([differences, others - baseline[:, None]], axis=1)
    excess = float(differences[:, 0].mean())
    block = block_length(differences)
    rows = resampled_rows(len(judged), block, n_draws, seed)
    errors = np.stack([column[rows].mean(axis=1).std() for column in differences.T])
    differs = errors > 1e-12
    scaled = differences[:, differs] / errors[differs]
    if len(judged) < LEAST_DAYS or not differs[0] or scaled.mean(axis=0).max() <= 0.0:
        # Hansen's statistic is never below 0, and so is none of the draws.
        return Superiority(name, excess, 1.0, 1.0, 1.0, 1.0, differences.shape[1], block)
    test = library("arch.bootstrap").SPA(
        np.zeros(len(scaled)), -scaled, block_size=block, reps=n_draws, seed=seed
    )
    test.compute()
    lower, best, upper = (
        _never_zero(test.pvalues[bound], n_draws) for bound in ("lower", "consistent", "upper")
    )
    return Superiority(
        baseline=name,
        excess_per_day=excess,
        p_value=max(best, _smallest_level(test, n_draws)) if excess > 0.0 else 1.0,
        p_best=best,
        p_lower=lower,
        p_upper=upper,
        n_variants=differences.shape[1],
        block_days=block,
    )


def _never_zero(p_value: float, n_draws: int) -> float:
    """Count what was observed as one more draw: no finite number of draws proves a p of zero."""
    return float((p_value * n_draws + 1) / (n_draws + 1))


def _smallest_level(test: Any, n_draws: int) -> float:
    """Return the smallest level at which the first variant is among the better ones."""
    low, high = 0, n_draws  # better at high / n_draws or nowhere, not better at low / n_draws
    while high - low > 1:
        middle = (low + high) // 2
        is_better = 0 in test.better_models(middle / n_draws)
        low, high = (low, middle) if is_better else (middle, high)
    return _never_zero(high / n_draws, n_draws) if high > 1 else 1.0 / (n_draws + 1)

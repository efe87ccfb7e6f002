"""The decision whether there is evidence of an edge, and its sentence.

The rule was written down before anything was measured with it; ``docs/evidence.md`` argues for it.
An edge is claimed only where, on days that nothing was learned or chosen on,

1. for every baseline the test for superior predictive ability has a p-value below 5%, all variants
   that were tried on these days counted (the largest p-value decides, so that the claim "better
   than all of them" is wrong at most that often: Berger 1982, *Multiparameter hypothesis testing
   and acceptance sampling*), and
2. the deflated Sharpe ratio of the excess over the baseline that earned most is above 95%.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.evaluation.accounts import CLASSIC_EXITS
from mtf_scalper.evaluation.bootstrap import LEAST_DAYS
from mtf_scalper.evaluation.overfitting import (
    Overfitting,
    backtest_overfitting,
    daily_sharpe,
    deflated_sharpe,
    minimum_track_record,
)
from mtf_scalper.evaluation.superiority import Superiority, superiority

SIGNIFICANCE: Final = 0.05
CONFIDENCE: Final = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Variant:
    """Daily log returns of one variant and of its baselines on the same days.

    Attributes
    ----------
    name : str
    log_return : ndarray of float64, shape (D,)
    baselines : mapping of str to ndarray of float64, shape (D,)
        Baselines by name; they differ between variants where these differ in their rules.
    """

    name: str
    log_return: Floats
    baselines: Mapping[str, Floats]

    @property
    def best_baseline(self) -> str:
        """The baseline that earned most, which only hindsight could have chosen."""
        return max(self.baselines, key=lambda name: float(self.baselines[name].sum()))

    @property
    def excess(self) -> Floats:
        """Daily log return above the best baseline's."""
        return self.log_return - self.baselines[self.best_baseline]


@dataclass(frozen=True)
class Edge:
    """What the tests say, and the decision.

    Attributes
    ----------
    found : bool
        Whether there is evidence of an edge.
    sentence : str
        The decision in words, with what it rests on.
    n_days, n_variants : int
    hardest : str
        The baseline with the largest p-value; without one, that over which least was earned.
    p_value : float or None
        That p-value; None where there are too few days.
    tests : tuple of Superiority
        By baseline.
    best_baseline : str
        The one that earned most.
    deflated_sharpe : float or None
        Of the excess over it; None where there are too few days.
    excess_sharpe : float
        Sharpe ratio of the excess, per day.
    days_needed : float or None
        Days until such an excess would be known to be above zero, had one variant been tried; None
        where there are too few.
    overfitting : Overfitting or None
        None with one variant.
    stands_aside : bool
        Whether the finding is that the agent declined nearly all.
    """

    found: bool
    sentence: str
    n_days: int
    n_variants: int
    hardest: str
    p_value: float | None
    tests: tuple[Superiority, ...]
    best_baseline: str
    deflated_sharpe: float | None
    excess_sharpe: float
    days_needed: float | None
    overfitting: Overfitting | None
    stands_aside: bool

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            "found": self.found,
            "verdict": self.sentence,
            "stands_aside": self.stands_aside,
            "rule": f"every p_value < {SIGNIFICANCE} and deflated_sharpe > {CONFIDENCE}",
            "n_days": self.n_days,
            "n_variants": self.n_variants,
            "hardest": self.hardest,
            "p_value": self.p_value,
            "best_baseline": self.best_baseline,
            "deflated_sharpe": self.deflated_sharpe,
            "excess_sharpe_per_day": self.excess_sharpe,
            "days_needed": self.days_needed,
            "probability_of_overfitting": None
            if self.overfitting is None
            else self.overfitting.as_dict(),
            "superiority": {test.baseline: test.as_dict() for test in self.tests},
        }


def judge_edge(
    judged: Variant,
    others: Sequence[Variant] = (),
    *,
    degenerate: str | None = None,
    aside: str | None = None,
    n_draws: int = 2000,
    seed: int = 0,
) -> Edge:
    """Decide whether a variant has an edge.

    Parameters
    ----------
    judged : Variant
    others : sequence of Variant
        All others that were tried on the same days.
    degenerate : str, optional
        Why the policy is none, in plain words: there is no edge to speak of then.
    aside : str, optional
        How few chances to enter the agent took, where it declined nearly all, in plain words.
    n_draws : int
        Resamples of the bootstrap.
    seed : int
    """
    n_days, n_variants = len(judged.log_return), 1 + len(others)
    tried = np.stack([each.log_return for each in others], axis=1) if others else None
    tests = tuple(
        superiority(name, returns, judged.log_return, tried, n_draws=n_draws, seed=seed)
        for name, returns in judged.baselines.items()
    )
    tells = n_days >= LEAST_DAYS
    if not tells:
        tests = tuple(test.untold() for test in tests)
    # Of several that nothing was better than, the one that earned most.
    hardest = max(tests, key=lambda test: (test.p_value or 0.0, -test.excess_per_day))
    excess = judged.excess
    trials = np.array([daily_sharpe(each.excess) for each in (judged, *others)])
    deflated = deflated_sharpe(excess, trials) if tells else None
    found = bool(
        degenerate is None
        and hardest.p_value is not None
        and hardest.p_value < SIGNIFICANCE
        and deflated is not None
        and deflated > CONFIDENCE
    )
    return Edge(
        found=found,
        sentence=_aside(aside, n_variants, judged)
        if aside is not None and not found
        else _sentence(found, degenerate, n_days, n_variants, hardest, deflated, judged),
        n_days=n_days,
        n_variants=n_variants,
        hardest=hardest.baseline,
        p_value=hardest.p_value,
        tests=tests,
        best_baseline=judged.best_baseline,
        deflated_sharpe=deflated,
        excess_sharpe=float(trials[0]),
        days_needed=_days_needed(excess) if tells else None,
        overfitting=None
        if tried is None
        else backtest_overfitting(np.column_stack([judged.log_return, tried])),
        stands_aside=aside is not None and not found,
    )


def _aside(aside: str, n_variants: int, judged: Variant) -> str:
    earned = f"log return {judged.log_return.sum():+.3f}"
    classic = judged.baselines.get(CLASSIC_EXITS)
    if classic is not None:
        earned += f", all of them under the rules' exits {classic.sum():+.3f}"
    return (
        f"no evidence of an edge: standing aside is the finding, the agent {aside} ({earned}; "
        f"{_tried(n_variants)})"
    )


def _tried(n_variants: int) -> str:
    return f"{n_variants} variant{'' if n_variants == 1 else 's'} tried"


def _sentence(
    found: bool,
    degenerate: str | None,
    n_days: int,
    n_variants: int,
    hardest: Superiority,
    deflated: float | None,
    judged: Variant,
) -> str:
    tried = _tried(n_variants)
    if degenerate is not None:
        return f"no evidence of an edge: the policy is degenerate, it {degenerate} ({tried})"
    if hardest.p_value is None or deflated is None:
        days = "1 day is" if n_days == 1 else f"{n_days} days are"
        return f"no evidence of an edge: {days} too few to tell ({tried})"
    p_value = f"SPA p = {_rounded(hardest.p_value)}"
    if found:
        names = list(judged.baselines)
        over = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
        return (
            f"evidence of an edge over {over} ({p_value} against {hardest.baseline}, the hardest; "
            f"deflated Sharpe ratio {deflated:.3f}; {tried})"
        )
    if hardest.p_value >= SIGNIFICANCE:
        return f"no evidence of an edge over {hardest.baseline} ({p_value}; {tried})"
    return (
        f"no evidence of an edge over {judged.best_baseline} (deflated Sharpe ratio "
        f"{deflated:.3f}, {CONFIDENCE} needed; {p_value}; {tried})"
    )


def _rounded(p_value: float) -> str:
    return f"{p_value:.4f}" if p_value < 0.01 else f"{p_value:.2f}"


def _days_needed(excess: Floats) -> float:
    deviation = float(excess.std())
    if deviation <= 1e-12:
        return float("inf")
    centred = (excess - excess.mean()) / deviation
    return minimum_track_record(
        float(excess.mean()) / deviation,
        float(np.mean(centred**3)),
        float(np.mean(centred**4)),
    )

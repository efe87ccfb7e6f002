"""What a search has found: the days of the search beside those that it never saw, and a sentence.

The rule: something was found only where, on the locked days, there is evidence of an edge by the
rule of ``evaluation.edge`` and the interval of the log return lies above zero. Nothing was learned,
chosen or looked at there, so that this is wrong as seldom as any verdict, however many trials there
were. What the search itself says is shown beside it and has no vote: the best of many trials looks
good on the days that it is the best on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.evaluation.accounts import N_RESAMPLES
from mtf_scalper.evaluation.bootstrap import (
    LEAST_DAYS,
    Interval,
    block_length,
    interval_of,
    resampled_rows,
)
from mtf_scalper.evaluation.edge import Edge, Variant, judge_edge
from mtf_scalper.evaluation.overfitting import Overfitting, backtest_overfitting
from mtf_scalper.evaluation.trades import JUDGED
from mtf_scalper.tuning.study import COMPLETE, Told


@dataclass(frozen=True)
class Searched:
    """What the days of the search say of the best trial, all others counted.

    Attributes
    ----------
    n_trials : int
        All that were tried: those that were stopped count with the days that they traded.
    log_return : Interval
        Of the best, over all days of the search; its interval knows nothing of the choice.
    edge : Edge
        By the rule of every verdict, with all trials as variants.
    overfitting : Overfitting or None
        Over the trials that traded every day: stopped ones were chosen for their early days. None
        with fewer than two, or too few days.
    """

    n_trials: int
    log_return: Interval
    edge: Edge
    overfitting: Overfitting | None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        over = self.overfitting
        return {
            "n_trials": self.n_trials,
            "n_days": self.edge.n_days,
            "log_return": self.log_return.as_dict(),
            "deflated_sharpe": self.edge.deflated_sharpe,
            "p_value": self.edge.p_value,
            "hardest": self.edge.hardest,
            "best_baseline": self.edge.best_baseline,
            "probability_of_overfitting": None if over is None else over.probability,
            "n_overfitting": None if over is None else over.n_variants,
        }


def searched(told: Sequence[Told], best: Told) -> Searched:
    """Return what the days of the search say of the best trial."""
    traded = [each for each in told if each.outcome.days]
    judged = variant_of(best)
    others = [variant_of(each) for each in traded if each.number != best.number]
    complete = [each for each in traded if each.outcome.state == COMPLETE]
    table = np.column_stack([variant_of(each).log_return for each in complete])
    return Searched(
        n_trials=len(told),
        log_return=_summed(judged.log_return),
        edge=judge_edge(judged, others),
        overfitting=backtest_overfitting(table),
    )


def _summed(days: NDArray[np.float64]) -> Interval:
    """Return the log return of all days with its interval."""
    total = float(days.sum())
    if len(days) < LEAST_DAYS:
        return Interval(total)
    block = block_length(days)
    drawn = days[resampled_rows(len(days), block, N_RESAMPLES, 0)].sum(axis=1)
    return interval_of(total, drawn, len(days) / block)


def variant_of(told: Told) -> Variant:
    """Return the days of a trial and of its baselines."""
    days = {name: np.asarray(each) for name, each in told.outcome.days.items()}
    return Variant(f"trial {told.number}", days.pop(JUDGED), days)


def is_found(locked: Mapping[str, Any]) -> bool:
    """Return whether locked days say that there is something; see the rule above.

    Parameters
    ----------
    locked : mapping
        ``found``, whether there is evidence of an edge, and ``log_return`` with its interval.
    """
    low = locked["log_return"]["low"]
    return bool(locked["found"]) and low is not None and low > 0.0


def sentence(found: Mapping[str, Any], locked: Mapping[str, Any]) -> str:
    """Return in one line what the search has found.

    Parameters
    ----------
    found : mapping
        ``Searched.as_dict``.
    locked : mapping
        As ``is_found`` takes it, with ``verdict`` and ``n_days``.
    """
    interval = locked["log_return"]
    earned = f"log return {interval['value']:+.3f}"
    if interval["low"] is not None:
        earned += f", 95% interval {interval['low']:+.3f} to {interval['high']:+.3f}"
    where = f"on the {locked['n_days']} locked days"
    verdict = str(locked["verdict"])
    if is_found(locked):
        said = f"found: {verdict}, {where}, {earned}"
    elif locked["found"]:
        said = f"nothing was found: {where} the interval holds zero, {earned}"
    else:
        said = f"nothing was found: {where} {verdict}, {earned}"
    deflated, overfitting = found["deflated_sharpe"], found["probability_of_overfitting"]
    ratio = "not measured" if deflated is None else f"{deflated:.3f}"
    share = "not measured" if overfitting is None else f"{overfitting:.0%}"
    return (
        f"{said}; on the {found['n_days']} days of the search "
        f"{found['log_return']['value']:+.3f}, the best of {found['n_trials']} trials (deflated "
        f"Sharpe ratio {ratio}, probability of overfitting {share})"
    )

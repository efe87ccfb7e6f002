"""What a run was doing when: one phase at a time, fit to be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import pandas as pd

__all__ = ["PHASES", "TRAINING_PHASES", "Span", "dominant", "seconds_by_phase", "timeline"]

PHASES = ("features", "rollout", "evaluation", "update", "inference", "backtest")
"""Phases in the order of a run; others that a run names come after them."""
TRAINING_PHASES = ("rollout", "evaluation", "update")


@dataclass(frozen=True)
class Span:
    """A stretch of time, seconds since the epoch, and its phase."""

    begin: float
    end: float
    name: str


def timeline(phases: pd.DataFrame) -> list[Span]:
    """Return what the run did when, one phase at a time, in the order of time.

    A training lies inside a backtest and a prediction inside a training: the innermost phase
    counts, which is the one that began last.

    Parameters
    ----------
    phases : DataFrame
        From ``records.Run.phases``.
    """
    spans = [
        Span(float(began), float(ended), str(name))
        for name, began, ended in zip(
            phases["phase"], phases["began"], phases["ended"], strict=True
        )
    ]
    # Where two begin together the shorter is the inner one.
    spans = sorted((s for s in spans if s.end > s.begin), key=lambda s: (s.begin, -s.end))
    edges = sorted({edge for span in spans for edge in (span.begin, span.end)})
    found: list[Span] = []
    active: list[Span] = []
    waiting = iter(spans)
    following = next(waiting, None)
    for begin, end in pairwise(edges):
        while following is not None and following.begin <= begin:
            active.append(following)
            following = next(waiting, None)
        active = [span for span in active if span.end > begin]
        if not active:
            continue
        name = active[-1].name
        if found and found[-1].name == name and found[-1].end == begin:
            found[-1] = Span(found[-1].begin, end, name)
        else:
            found.append(Span(begin, end, name))
    return found


def seconds_by_phase(spans: Sequence[Span]) -> dict[str, float]:
    """Return how long each phase took, in the order of ``PHASES``."""
    names = [*PHASES, *sorted({span.name for span in spans} - set(PHASES))]
    totals = dict.fromkeys(names, 0.0)
    for span in spans:
        totals[span.name] += span.end - span.begin
    return {name: seconds for name, seconds in totals.items() if seconds > 0.0}


def dominant(spans: Sequence[Span], begin: float, end: float, n_buckets: int) -> list[Span]:
    """Return ``spans`` on a raster: each of ``n_buckets`` is the phase that took most of it.

    What is shorter than a bucket could not be drawn; neighbours of one phase are joined.
    """
    width = (end - begin) / n_buckets
    if width <= 0.0:
        return []
    taken: list[dict[str, float]] = [{} for _ in range(n_buckets)]
    for span in spans:
        first = max(0, int((span.begin - begin) / width))
        last = min(n_buckets - 1, int((span.end - begin) / width))
        for bucket in range(first, last + 1):
            left, right = begin + bucket * width, begin + (bucket + 1) * width
            seconds = min(span.end, right) - max(span.begin, left)
            taken[bucket][span.name] = taken[bucket].get(span.name, 0.0) + max(0.0, seconds)
    names = []
    for phases in taken:
        idle = width - sum(phases.values())
        name = max(phases, key=lambda each: phases[each], default="")
        names.append(name if name and phases[name] >= idle else "")
    return list(_joined(names, begin, width))


def _joined(names: Sequence[str], begin: float, width: float) -> Iterator[Span]:
    bucket = 0
    for name, group in groupby(names):
        length = len(list(group))
        if name:
            yield Span(begin + bucket * width, begin + (bucket + length) * width, name)
        bucket += length

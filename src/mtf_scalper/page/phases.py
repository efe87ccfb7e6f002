"""What a run was doing when: one phase at a time, fit to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise

from mtf_scalper.records.trainings import Span

PHASES = ("features", "rollout", "evaluation", "update", "inference", "backtest")
"""Phases in the order of a run; others that a run names come after them."""
TRAINING_PHASES = ("rollout", "evaluation", "update")


def timeline(spans: Iterable[Span]) -> list[Span]:
    """Return what the run did when, one phase at a time, in the order of time.

    A training lies inside a backtest and a prediction inside a training: the innermost phase
    counts, which is the one that began last.
    """
    # Where two begin together the shorter is the inner one.
    spans = sorted((s for s in spans if s.ended > s.began), key=lambda s: (s.began, -s.ended))
    edges = sorted({edge for span in spans for edge in (span.began, span.ended)})
    found: list[Span] = []
    active: list[Span] = []
    waiting = iter(spans)
    following = next(waiting, None)
    for begin, end in pairwise(edges):
        while following is not None and following.began <= begin:
            active.append(following)
            following = next(waiting, None)
        active = [span for span in active if span.ended > begin]
        if not active:
            continue
        phase = active[-1].phase
        if found and found[-1].phase == phase and found[-1].ended == begin:
            found[-1] = found[-1]._replace(ended=end)
        else:
            found.append(Span(begin, end, phase))
    return found


def seconds_by_phase(spans: Sequence[Span]) -> dict[str, float]:
    """Return how long each phase took, in the order of ``PHASES``."""
    names = [*PHASES, *sorted({span.phase for span in spans} - set(PHASES))]
    totals = dict.fromkeys(names, 0.0)
    for span in spans:
        totals[span.phase] += span.ended - span.began
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
        first = max(0, int((span.began - begin) / width))
        last = min(n_buckets - 1, int((span.ended - begin) / width))
        for bucket in range(first, last + 1):
            left, right = begin + bucket * width, begin + (bucket + 1) * width
            seconds = min(span.ended, right) - max(span.began, left)
            taken[bucket][span.phase] = taken[bucket].get(span.phase, 0.0) + max(0.0, seconds)
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

"""When a run trained, collected rollouts and updated, and the samples taken meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mtf_scalper.monitoring.sampler import Sample

__all__ = [
    "Span",
    "cpu_samples_within",
    "rollout_spans",
    "samples_within",
    "training_spans",
    "update_spans",
]

Span = tuple[float, float]
"""Begin and end, seconds since the epoch."""

_Event = Mapping[str, Any]


def training_spans(events: Sequence[_Event]) -> list[Span]:
    """Return when environments were open: from each training's start to its last progress."""
    spans = []
    for window in _windows(events):
        reports = [event["time"] for event in window if event["event"] == "progress"]
        if reports:
            spans.append((float(window[0]["time"]), float(reports[-1])))
    return spans


def update_spans(events: Sequence[_Event]) -> list[Span]:
    """Return when networks were updated: from the end of a rollout to the update's event."""
    spans = []
    for window in _windows(events):
        begun: float | None = None
        for event in window:
            if event["event"] == "progress" and event["phase"] == "update":
                begun = event["time"] if begun is None else begun
            elif event["event"] == "update" and begun is not None:
                spans.append((begun, float(event["time"])))
                begun = None
    return spans


def rollout_spans(events: Sequence[_Event]) -> list[Span]:
    """Return when environments were stepped: runs of progress reports of that phase."""
    spans = []
    for window in _windows(events):
        reports = [event for event in window if event["event"] == "progress"]
        spans += [
            (float(one["time"]), float(next_["time"]))
            for one, next_ in pairwise(reports)
            if one["phase"] == "rollout"
        ]
    return _joined(spans)


def samples_within(samples: Sequence[Sample], spans: Sequence[Span]) -> list[Sample]:
    """Return the samples that were begun and ended inside one of ``spans``."""
    return [
        sample
        for sample in samples
        if any(begin <= sample.time and sample.time + sample.seconds <= end for begin, end in spans)
    ]


def cpu_samples_within(samples: Sequence[Sample], spans: Sequence[Span]) -> list[Sample]:
    """Return the samples whose CPU use was measured inside one of ``spans``.

    It is that of the time since the sample before, which therefore has to lie inside as well.
    """
    return [
        sample
        for before, sample in pairwise(samples)
        if any(begin <= before.time and sample.time + sample.seconds <= end for begin, end in spans)
    ]


def _windows(events: Sequence[_Event]) -> Iterator[list[_Event]]:
    """Yield the events of each training, from its start on."""
    trainings: dict[tuple[str, str], list[_Event]] = {}
    for event in events:
        key = (str(event.get("pair")), str(event.get("window")))
        if event["event"] == "training_started":
            trainings[key] = [event]
        elif key in trainings:
            trainings[key].append(event)
    yield from trainings.values()


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for begin, end in spans:
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined

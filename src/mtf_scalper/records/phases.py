"""When a run computed features, collected, updated, predicted and traded: told from its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

__all__ = ["PHASE_COLUMNS", "phase_spans"]

PHASE_COLUMNS = ("phase", "pair", "window", "seed", "began", "ended")
_KEYS = ("pair", "window", "seed")
_Key = tuple[Any, ...]
_TRAINING = ("training_started", "progress", "update", "training_finished", "training_failed")


def phase_spans(events: Iterable[Mapping[str, Any]], *, until: float | None = None) -> pd.DataFrame:
    """Return the phases of a run, in the order of their begin.

    Parameters
    ----------
    events : iterable of mapping
        In the order of time; see ``docs/records.md``.
    until : float, optional
        When the run ended, seconds since the epoch: where a phase ends that no event ended. By
        default the last event's time.

    Returns
    -------
    DataFrame
        ``PHASE_COLUMNS``: ``rollout`` or ``evaluation``, ``update``, ``inference``, and those of
        ``phase`` events; begin and end in seconds since the epoch. Phases that follow each other
        without a break are one.
    """
    spans = _Spans()
    last = 0.0
    for event in events:
        name, last = event["event"], float(event["time"])
        key = tuple(event.get(field) for field in _KEYS)
        if name in _TRAINING:
            spans.end(("training", *key), last)
            if name == "progress":
                spans.begin(("training", *key), event["phase"], last)
        elif name == "prediction":
            spans.add("inference", key, last - float(event.get("seconds", 0.0)), last)
        elif name == "phase":
            spans.end((event["name"], *key), last)
            if event.get("state") == "began":
                spans.begin((event["name"], *key), event["name"], last)
    return spans.table(last if until is None else until)


class _Spans:
    """Open and closed spans; an open one is known by what it is a phase of."""

    def __init__(self) -> None:
        self._open: dict[_Key, tuple[str, float]] = {}
        self._closed: list[dict[str, Any]] = []
        self._latest: dict[_Key, dict[str, Any]] = {}

    def begin(self, what: _Key, phase: str, time: float) -> None:
        self._open[what] = (phase, time)

    def end(self, what: _Key, time: float) -> None:
        if what in self._open:
            phase, began = self._open.pop(what)
            self.add(phase, what[1:], began, time)

    def add(self, phase: str, key: _Key, began: float, ended: float) -> None:
        before = self._latest.get((phase, *key))
        if before is not None and before["ended"] == began:
            before["ended"] = ended
            return
        span = {"phase": phase, **dict(zip(_KEYS, key, strict=True)), "began": began}
        span["ended"] = ended
        self._closed.append(span)
        self._latest[(phase, *key)] = span

    def table(self, until: float) -> pd.DataFrame:
        for what in list(self._open):
            self.end(what, max(until, self._open[what][1]))
        ordered = sorted(self._closed, key=lambda span: float(span["began"]))
        return pd.DataFrame(ordered, columns=list(PHASE_COLUMNS))

"""A run's events as its trainings, and as the stretches of time in which it did one thing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from mtf_scalper.records.events import Progress

STARTED, FINISHED = "training_started", "training_finished"
"""Events of a training's begin and good end."""
FORETOLD = "foretold"
"""Event that tells how well returns agree with the best forecast of a training's candles."""
_ENDED = (FINISHED, "training_failed")
_PROGRESS = ("steps", "total_steps", "seconds", "phase")
_Event = Mapping[str, Any]
_Key = tuple[Any, Any, Any]


class Span(NamedTuple):
    """A stretch of time in which a run did one thing.

    Attributes
    ----------
    began, ended : float
        Seconds since the epoch.
    phase : str
        ``rollout`` or ``evaluation``, ``update``, ``inference``, or the name of a ``phase`` event.
    pair, window, seed
        Whose it is; None where the run did not say.
    is_open : bool
        Whether no event has ended it.
    """

    began: float
    ended: float
    phase: str
    pair: Any = None
    window: Any = None
    seed: Any = None
    is_open: bool = False

    @property
    def key(self) -> tuple[Any, Any, Any]:
        """Pair, window and seed."""
        return self[3:6]


@dataclass(eq=False)
class Training:
    """One training of one pair, window and seed.

    Attributes
    ----------
    key : tuple
        Pair, window and seed; None where the run did not say.
    events : list of mapping
        What it told, in order; ``training_started`` is the first.
    latest, ended : mapping or None
        The last ``progress``, and ``training_finished`` or ``training_failed``.
    foretold : mapping or None
        How well returns agree with forecasts, where there are any.
    """

    key: _Key
    events: list[_Event] = field(default_factory=list)
    latest: _Event | None = None
    ended: _Event | None = None
    foretold: _Event | None = None

    @property
    def updates(self) -> list[_Event]:
        """``update`` events, of all members of an ensemble."""
        return [event for event in self.events if event["event"] == "update"]

    @property
    def is_hopeless(self) -> bool:
        """Whether returns agree with no forecast as well as evidence asks for."""
        told = self.foretold
        return told is not None and told["standard_errors"] < told["asked"]

    @property
    def has_finished(self) -> bool:
        """Whether it ended well."""
        return self.ended is not None and self.ended["event"] == FINISHED

    @property
    def progress(self) -> Progress | None:
        """How far it was when it last said so."""
        if self.latest is None:
            return None
        known = {name: self.latest[name] for name in _PROGRESS}
        return Progress(**known, oracle_share=self.latest.get("oracle_share"))

    @property
    def done(self) -> float:
        """Share of its steps; a training that ended early is done as well."""
        progress = self.progress
        if self.has_finished:
            return 1.0
        if progress is None or not progress.total_steps:
            return 0.0
        return progress.steps / progress.total_steps

    @property
    def phase(self) -> str:
        """What it does or how it ended."""
        if self.ended is not None:
            return "finished" if self.has_finished else "failed"
        return self.progress.phase if self.progress is not None else "starting"

    @property
    def seconds(self) -> float | None:
        """Seconds taken so far; None of one that failed."""
        return (self.ended or self.latest or {}).get("seconds")

    @property
    def steps(self) -> float | None:
        """Candles decided on so far."""
        return self._known("steps")

    @property
    def steps_per_second(self) -> float | None:
        """Candles decided on per second so far."""
        seconds, steps = self._known("seconds"), self._known("steps")
        return steps / seconds if seconds and steps is not None else None

    def spans(self, until: float) -> Iterator[Span]:
        """Yield what it did when; each progress lasts to the next event, the last ``until``."""
        for event, after in zip_longest(self.events, self.events[1:]):
            if event["event"] == "progress":
                began, is_open = float(event["time"]), after is None
                ended = max(began, until) if is_open else float(after["time"])
                yield Span(began, ended, event["phase"], *self.key, is_open)

    def _known(self, name: str) -> float | None:
        value: float | None = {**(self.latest or {}), **(self.ended or {})}.get(name)
        return value


def trainings(events: Iterable[_Event]) -> list[Training]:
    """Return the trainings of a run in the order of their start; of one begun anew the last."""
    return list({training.key: training for training in _all_trainings(events)}.values())


def spans(events: Sequence[_Event], until: float | None = None) -> list[Span]:
    """Return what a run did when, in the order of the begin.

    Parameters
    ----------
    events : sequence of mapping
        In the order of time; see ``docs/records.md``.
    until : float, optional
        When the run ended, seconds since the epoch: where a span ends that no event ended. By
        default the last event's time.

    Returns
    -------
    list of Span
        Spans of one phase that follow each other without a break are one.
    """
    if not events:
        return []
    end = float(events[-1]["time"]) if until is None else until
    found = [span for each in _all_trainings(events) for span in each.spans(end)]
    open_phases: dict[tuple[str, Any, Any, Any], float] = {}
    for event in events:
        name, time, key = event["event"], float(event["time"]), _key(event)
        if name == "prediction":
            found.append(Span(time - float(event.get("seconds", 0.0)), time, "inference", *key))
        elif name == "phase":
            what = (str(event["name"]), *key)
            if what in open_phases:
                found.append(Span(open_phases.pop(what), time, *what))
            if event.get("state") == "began":
                open_phases[what] = time
    found += [Span(began, max(began, end), *what, True) for what, began in open_phases.items()]
    return _joined(sorted(found, key=lambda span: span.began))


def _joined(found: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    latest: dict[tuple[Any, ...], int] = {}
    for span in found:
        before = latest.get(span[2:6])
        if before is not None and joined[before].ended == span.began:
            joined[before] = span._replace(began=joined[before].began)
        else:
            latest[span[2:6]] = len(joined)
            joined.append(span)
    return joined


def _all_trainings(events: Iterable[_Event]) -> list[Training]:
    found: list[Training] = []
    latest: dict[_Key, Training] = {}
    for event in events:
        name, key = event["event"], _key(event)
        training = latest.get(key)
        if name == STARTED:
            if training is not None:  # begun anew, which ends what it did last
                training.events.append(event)
            latest[key] = training = Training(key)
            found.append(training)
        elif name == "update" and training is None:
            # A member of an ensemble tells its own seed, which need not be that of the run.
            running = (each for each in reversed(found) if each.key[:2] == key[:2])
            training = next((each for each in running if each.ended is None), None)
        if training is None or name not in (STARTED, FORETOLD, "progress", "update", *_ENDED):
            continue
        training.events.append(event)
        if name == "progress":
            training.latest = event
        elif name == FORETOLD:
            training.foretold = event
        elif name in _ENDED:
            training.ended = event
    return found


def _key(event: _Event) -> _Key:
    return event.get("pair"), event.get("window"), event.get("seed")

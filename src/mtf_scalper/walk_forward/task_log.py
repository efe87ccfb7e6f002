"""What a record holds of a run's tasks, and whether a run that was cut off is of the same plan."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, Protocol

from mtf_scalper.engines.tasks import Ended, Engine
from mtf_scalper.errors import SettingsError
from mtf_scalper.progress import TaskBar
from mtf_scalper.records import files
from mtf_scalper.records.files import append, plain
from mtf_scalper.records.manifest import engine_digest
from mtf_scalper.records.reader import Run, Status
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.walk_forward.windows import Window

TASK: Final = "task"
"""Event of an attempt: state ``finished``, ``failed`` or, where another follows, ``retried``."""
_NO_MATTER: Final = ("cpu_count",)
"""Settings that no result depends on."""


class Order(Protocol):
    """A task: the training of a pair, a window and a seed."""

    @property
    def pair(self) -> str:
        """The pair."""

    @property
    def window(self) -> Window:
        """The window."""

    @property
    def seed(self) -> int:
        """The seed."""


class TaskLog:
    """Tells a record and a bar how tasks end.

    Parameters
    ----------
    record : RunRecord
    engine : Engine
    bar : TaskBar
    """

    def __init__(self, record: RunRecord, engine: Engine, bar: TaskBar) -> None:
        self._record = record
        self._engine = engine
        self._bar = bar

    @cached_property
    def _told(self) -> set[tuple[Any, Any, Any]]:
        """What a run that was cut off had told; asked for before anything new is."""
        told = Run.open(self._record.folder).events(TASK)
        return {_key(each) for each in told if each["state"] == "finished"}

    def done(self, order: Order, events: str, ended: Ended | None, **more: Any) -> None:
        """Write what a training told, once, and that it has ended; more fields for its event."""
        if ended is not None or (order.pair, order.window.name, order.seed) not in self._told:
            # In one piece: a run that is cut off here has all of it or nothing.
            line = json.dumps(
                plain({"time": time.time(), **_event(order, ended, "finished"), **more})
            )
            append(self._record.folder / files.EVENTS, f"{events}{line}\n")
        is_new = ended is not None
        self._bar.advance_by(done=is_new, before=not is_new, nodes=self._engine.nodes)

    def failed(self, order: Order, ended: Ended, **more: Any) -> None:
        """Write why an attempt failed; more fields for its event."""
        event = _event(order, ended, "failed" if ended.is_last else "retried")
        self._record.events().write(**event, **more, error=str(ended.error))
        self._bar.advance_by(failed=ended.is_last, nodes=self._engine.nodes)


def check_same_plan(run: Run, kind: str, facts: Mapping[str, Any]) -> None:
    """Compare a run that is to be resumed with a plan.

    Parameters
    ----------
    run : Run
    kind : str
    facts : mapping
        Of the manifest that the plan would have.

    Raises
    ------
    SettingsError
        Names the first thing that differs, or says that the run has ended well.
    """
    name = f"--resume: run {run.run_id}"
    if run.kind != kind:
        raise SettingsError(f"{name} is of kind {run.kind!r}, not {kind!r}")
    if run.status is Status.FINISHED:
        raise SettingsError(f"{name} has finished; there is nothing left to do")
    manifest = run.manifest
    if manifest.get("engine") != engine_digest():
        raise SettingsError(f"{name} was made by other code that learns; begin a new run")
    wanted = _flat(plain(facts))
    for key in wanted | (found := _flat({name: manifest.get(name) for name in facts})):
        if key.rpartition(".")[2] not in _NO_MATTER and wanted.get(key) != found.get(key):
            raise SettingsError(
                f"{name} has {key} {found.get(key)!r}, and now it is {wanted.get(key)!r}; give the "
                "options of that run, or begin a new one"
            )


def _flat(facts: Any, before: str = "") -> dict[str, Any]:
    if not isinstance(facts, Mapping) or not facts:
        return {before: facts}
    return {
        key: value
        for name, each in facts.items()
        for key, value in _flat(each, f"{before}.{name}" if before else str(name)).items()
    }


def _key(event: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return event.get("pair"), event.get("window"), event.get("seed")


def _event(order: Order, ended: Ended | None, state: str) -> dict[str, Any]:
    event = {
        "event": TASK,
        "state": state,
        "pair": order.pair,
        "window": order.window.name,
        "seed": order.seed,
        "attempt": 1,
    }
    if ended is not None:
        event["attempt"] = ended.attempt
        known = {"node": ended.node, "began": ended.began, "ended": ended.ended}
        event.update({name: value for name, value in known.items() if value})
    return event

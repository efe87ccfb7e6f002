"""Telling a person how far a training is: a bar on a terminal, a line in the log."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from mtf_scalper.telemetry import Progress

__all__ = ["EventBars", "LoggedProgress", "WindowBar", "detail", "progress_columns", "speed"]

logger = logging.getLogger(__name__)


def speed(progress: Progress) -> str:
    """Return the speed as people read it."""
    return f"{progress.steps_per_second:,.0f} steps/s"


def detail(progress: Progress) -> str:
    """Return phase and speed, and the validation return against the oracle where it is known."""
    return ", ".join((progress.phase, speed(progress), *_share(progress.oracle_share)))


def _share(oracle_share: float | None) -> tuple[str, ...]:
    """Say the share; where the optimum earns next to nothing, losses are a huge multiple of it."""
    if oracle_share is None:
        return ()
    return ("below -100% of oracle" if oracle_share < -1.0 else f"{oracle_share:.0%} of oracle",)


def progress_columns() -> tuple[
    TextColumn | BarColumn | TaskProgressColumn | TimeRemainingColumn, ...
]:
    """Return the columns of a training bar: name, bar, share, phase and speed, time left."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
    )


class WindowBar(RichProgress):
    """A bar for one training window; a context manager and a callback."""

    def __init__(self, title: str, console: Console) -> None:
        super().__init__(*progress_columns(), console=console)
        self._window = self.add_task(title, total=None, detail="starting")

    def __call__(self, progress: Progress) -> None:
        """Move the bar."""
        self.update(
            self._window,
            total=progress.total_steps,
            completed=progress.steps,
            detail=detail(progress),
        )


class LoggedProgress:
    """A line in the log every ``every_seconds``, for logs, services and pipes."""

    def __init__(self, title: str, every_seconds: float = 10.0) -> None:
        self._title = title
        self._every_seconds = every_seconds
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Log the progress if it is time to."""
        if time.monotonic() - self._last < self._every_seconds or progress.seconds_left is None:
            return
        self._last = time.monotonic()
        logger.info(
            "%s: %d of %d steps, %s, %.0f s left",
            self._title,
            progress.steps,
            progress.total_steps,
            ", ".join((speed(progress), *_share(progress.oracle_share))),
            progress.seconds_left,
        )


class EventBars(RichProgress):
    """A bar for every training window of a run, fed with the events that the run wrote."""

    def __init__(self, console: Console) -> None:
        super().__init__(*progress_columns(), console=console)
        self._windows: dict[tuple[str, str], TaskID] = {}
        self._seen = 0

    def show(self, events: list[dict[str, Any]]) -> None:
        """Show what is new in the events so far, oldest first."""
        for event in events[self._seen :]:
            self._show(event)
        self._seen = len(events)

    def _show(self, event: dict[str, Any]) -> None:
        name = event["event"]
        key = (str(event["pair"]), str(event["window"]))
        if name == "training_started":
            until = datetime.fromtimestamp(int(key[1].rsplit("_", 1)[-1]), UTC)
            title = f"{key[0]} to {until:%Y-%m-%d}"
            self._windows[key] = self.add_task(title, total=event["total_steps"], detail="")
        elif name == "progress":
            known = {field: event[field] for field in ("steps", "total_steps", "seconds", "phase")}
            progress = Progress(**known, oracle_share=event.get("oracle_share"))
            self.update(
                self._windows[key],
                total=progress.total_steps,
                completed=progress.steps,
                detail=detail(progress),
            )
        elif name == "training_finished":
            said = [f"{event['seconds']:.0f} s", f"{event['steps_per_second']:,.0f} steps/s"]
            for report in event.get("reports", ()):
                said += _share(report["oracle_share"])
            self.update(
                self._windows[key],
                total=event["steps"],
                completed=event["steps"],
                detail=", ".join(said),
            )

"""Telling a person how far a training is: a bar on a terminal, a line in the log."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from mtf_scalper.telemetry import Progress

__all__ = ["EventBars", "LoggedProgress", "WindowBar", "progress_columns", "speed"]

logger = logging.getLogger(__name__)


def speed(progress: Progress) -> str:
    """Return the speed as people read it."""
    return f"{progress.steps_per_second:,.0f} steps/s"


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


class WindowBar:
    """A bar for one training window; a context manager and a callback."""

    def __init__(self, title: str, console: Console) -> None:
        self._bar = RichProgress(*progress_columns(), console=console)
        self._task = self._bar.add_task(title, total=None, detail="starting")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            total=progress.total_steps,
            completed=progress.steps,
            detail=f"{progress.phase}, {speed(progress)}",
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
            speed(progress),
            progress.seconds_left,
        )


class EventBars:
    """A bar for every training window of a run, fed with the events that the run wrote."""

    def __init__(self, console: Console) -> None:
        self._bars = RichProgress(*progress_columns(), console=console)
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._seen = 0

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bars as they are and give the terminal back."""
        self._bars.stop()

    def update(self, events: list[dict[str, Any]]) -> None:
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
            self._tasks[key] = self._bars.add_task(title, total=event["total_steps"], detail="")
        elif name == "progress":
            known = {field: event[field] for field in ("steps", "total_steps", "seconds", "phase")}
            progress = Progress(**known)
            self._bars.update(
                self._tasks[key],
                total=progress.total_steps,
                completed=progress.steps,
                detail=f"{progress.phase}, {speed(progress)}",
            )
        elif name == "training_finished":
            detail = f"{event['seconds']:.0f} s, {event['steps_per_second']:,.0f} steps/s"
            self._bars.update(
                self._tasks[key], total=event["steps"], completed=event["steps"], detail=detail
            )

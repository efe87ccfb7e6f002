"""Telling a person how far a training is: a bar on a terminal, a line in the log."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from mtf_scalper.telemetry import Progress

__all__ = ["LoggedProgress", "WindowBar", "progress_columns", "speed"]

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
    """A bar on standard error for one training window; a context manager and a callback."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._bar = RichProgress(*progress_columns(), console=console or Console(stderr=True))
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

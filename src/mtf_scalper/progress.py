"""Telling a person how far a training is: a bar on a terminal, a line in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from mtf_scalper.records.events import Progress, detail, speed_and_share
from mtf_scalper.records.trainings import Training, trainings

logger = logging.getLogger(__name__)


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
            ", ".join(speed_and_share(progress.steps_per_second, progress.oracle_share)),
            progress.seconds_left,
        )


@contextmanager
def only_errors(name: str) -> Iterator[None]:
    """Keep a logger from telling what a bar or a table tells of all tasks together."""
    told = logging.getLogger(name)
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        yield
    finally:
        told.setLevel(level)


class TaskBar(RichProgress):
    """One bar for many tasks: done, failed, tasks a minute, machines and time left.

    Nothing is written where the console is no terminal.
    """

    def __init__(self, title: str, total: int, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self.add_task(title, total=total, detail="starting")
        self._began = time.monotonic()
        self._new = self._before = self._failed = 0

    def advance_by(
        self, *, done: int = 0, before: int = 0, failed: int = 0, nodes: int = 1
    ) -> None:
        """Move the bar.

        Parameters
        ----------
        done, before, failed : int
            Tasks that have ended well now, or in an earlier run, or failed for good.
        nodes : int
            Machines that work.
        """
        self._new += done
        self._before += before
        self._failed += failed
        minutes = (time.monotonic() - self._began) / 60.0
        told = [f"{self._failed} failed"] if self._failed else []
        told += [f"{self._new / minutes:,.1f} a minute"] if minutes > 0.0 else []
        told += [f"{nodes} machines"] if nodes > 1 else []
        self.update(
            self._bar,
            completed=self._new + self._before + self._failed,
            detail=", ".join(told),
        )


class EventBars(RichProgress):
    """A bar for every training window of a run, fed with the events that the run wrote."""

    def __init__(self, console: Console) -> None:
        super().__init__(*progress_columns(), console=console)
        self._bars: dict[tuple[Any, ...], TaskID] = {}

    def show(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Show the events so far, oldest first."""
        for training in trainings(events):
            if training.key not in self._bars:
                self._bars[training.key] = self._new_bar(training)
            ended, progress = training.ended, training.progress
            if ended is not None and training.has_finished:
                shares = [report["oracle_share"] for report in ended.get("reports", ())]
                told = speed_and_share(ended["steps_per_second"], *shares)
                total = steps = ended["steps"]
                said = ", ".join((f"{ended['seconds']:.0f} s", *told))
            elif progress is not None:
                total, steps, said = progress.total_steps, progress.steps, detail(progress)
            else:
                continue
            self.update(self._bars[training.key], total=total, completed=steps, detail=said)

    def _new_bar(self, training: Training) -> TaskID:
        pair, window, _ = training.key
        until = datetime.fromtimestamp(int(str(window).rsplit("_", 1)[-1]), UTC)
        total = training.events[0]["total_steps"]
        return self.add_task(f"{pair} to {until:%Y-%m-%d}", total=total, detail="")

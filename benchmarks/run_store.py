"""Runs that take long: each is kept in a file of its own, so that a suite can be done in parts.

A run is described by a dict of plain values, its *task*. What is kept holds the task, and a run
is done again where the task has changed since: other settings are another task. Files appear whole
or not at all, so that parts of a suite may run at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from report import in_fresh_process

from mtf_scalper.paths import written_whole

Task = dict[str, Any]
Result = dict[str, Any]


class RunStore:
    """A folder of finished runs. It keeps itself out of git: what counts is in the summary."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n", "utf-8")

    def load(self, name: str, task: Task) -> Result | None:
        """Return the finished run of this task, None where there is none."""
        path = self._folder / f"{name}.json"
        if not path.is_file():
            return None
        kept = json.loads(path.read_text("utf-8"))
        # Tuples and enums come back from the file as lists and texts.
        return kept["result"] if kept["task"] == json.loads(json.dumps(task)) else None

    def save(self, name: str, task: Task, result: Result) -> None:
        """Write a finished run."""
        path = self._folder / f"{name}.json"
        with written_whole(path) as part:
            part.write_text(json.dumps({"task": task, "result": result}) + "\n", "utf-8")

    def complete(
        self,
        tasks: dict[str, Task],
        call: Callable[[Task], Result],
        *,
        again: bool = False,
        jobs: int = 1,
    ) -> None:
        """Do the tasks that are not done yet, ``jobs`` at a time.

        With one at a time all happens in the calling thread: OpenMP gives every thread that works
        a team of its own, and teams that are more than the cores take half as long again.
        """
        missing = [name for name, task in tasks.items() if again or self.load(name, task) is None]

        def do(name: str) -> None:
            result = call(tasks[name])
            self.save(name, tasks[name], result)
            print(f"{name}: {one_line(result)}", flush=True)

        if jobs == 1:
            for name in missing:
                do(name)
            return
        with ThreadPoolExecutor(jobs) as pool:
            for _ in pool.map(do, missing):
                pass

    def results(self, tasks: dict[str, Task]) -> list[Result]:
        """Return the finished runs among these tasks."""
        found = (self.load(name, task) for name, task in tasks.items())
        return [result for result in found if result is not None]


def one_line(result: Result) -> str:
    """Return what a person wants to read while the suite runs."""
    shown = ("log_return", "reference", "n_trades", "seconds")
    return ", ".join(f"{key} {result[key]:.4g}" for key in shown if result.get(key) is not None)


def on_one_thread(function: str) -> Callable[[Task], Result]:
    """Return a call of ``"module:function"`` in a process of its own that has one thread."""

    def call(task: Task) -> Result:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        return in_fresh_process(function, task, environment=limits)

    return call


def commits(results: Iterable[Result]) -> str:
    """Return the commits that runs were made at."""
    return ", ".join(sorted({result["commit"] for result in results})) or "none"

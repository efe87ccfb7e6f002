"""``ProcessSampler``: what a program and all its children take of the machine, while they run."""

from __future__ import annotations

import csv
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from mtf_scalper.paths import written_whole

_SURVIVAL_SECONDS = 5.0


@dataclass(frozen=True)
class Sample:
    """What a process tree took between the sample before and this one.

    Attributes
    ----------
    time : float
        When the sample was begun, seconds since the epoch.
    seconds : float
        How long it took.
    core_percent : tuple of float
        Use of every core of the machine, by all programs, 0 to 100.
    tree_percent : float
        CPU use of the tree in percent of one core, processes included that came and went between
        two samples, where the system keeps the use of children that were waited for (not on
        Windows or macOS).
    processes : int
        Processes of the tree, its root included.
    workers : int
        Those of them that are Python multiprocessing workers.
    resident_bytes, unique_bytes : int
        Memory of the tree: resident (shared pages count once per process), and unique to its
        processes.
    worker_unique_bytes : int
        Unique memory of the largest worker, 0 without workers.
    is_unique_measured : bool
        False if the system refused the unique memory of a process; its resident one stands in.
    """

    time: float
    seconds: float
    core_percent: tuple[float, ...]
    tree_percent: float
    processes: int
    workers: int
    resident_bytes: int
    unique_bytes: int
    worker_unique_bytes: int
    is_unique_measured: bool

    @property
    def tree_cores(self) -> float:
        """CPU use of the tree in cores."""
        return self.tree_percent / 100.0

    @property
    def tree_machine_percent(self) -> float:
        """CPU use of the tree in percent of the whole machine."""
        return self.tree_percent / max(1, len(self.core_percent))

    @property
    def machine_percent(self) -> float:
        """CPU use of the whole machine, by all programs, 0 to 100."""
        return sum(self.core_percent) / max(1, len(self.core_percent))


def count_workers(
    cmdlines: dict[int, Sequence[str]],
    parents: dict[int, int],
    root: int,
    *,
    has_fork: bool = os.name != "nt",
) -> list[int]:
    """Return the ids of the Python multiprocessing workers in a process tree.

    A spawned worker runs ``multiprocessing.spawn``'s main function. A forked one has the command
    line of the process that it was forked from: the fork server, or the program itself. The fork
    server and the resource tracker are no workers.

    Parameters
    ----------
    cmdlines, parents : dict
        Command line and parent of every process of the tree, by process id.
    root : int
        The program itself.
    has_fork : bool
        Whether this system forks. On Windows a virtual environment's python starts the real one
        with the same arguments, which looks like a fork and is none.
    """
    workers = []
    for pid, cmdline in cmdlines.items():
        if pid == root or not cmdline:
            continue
        is_spawned = "multiprocessing.spawn" in " ".join(cmdline)
        is_forked = has_fork and cmdlines.get(parents.get(pid, 0)) == cmdline
        if is_spawned or is_forked:
            workers.append(pid)
    return workers


def write_csv(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as CSV, a row each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_csv_row(sample) for sample in samples]
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ())
        if rows:
            writer.writeheader()
        writer.writerows(rows)


def _csv_row(sample: Sample) -> dict[str, str]:
    return {
        "time": f"{sample.time:.3f}",
        **{f"core_{core}_percent": f"{used:.1f}" for core, used in enumerate(sample.core_percent)},
        "machine_percent": f"{sample.machine_percent:.1f}",
        "tree_percent_of_one_core": f"{sample.tree_percent:.1f}",
        "tree_percent_of_machine": f"{sample.tree_machine_percent:.1f}",
        "processes": str(sample.processes),
        "workers": str(sample.workers),
        "resident_bytes": str(sample.resident_bytes),
        "unique_bytes": str(sample.unique_bytes),
        "worker_unique_bytes": str(sample.worker_unique_bytes),
        "is_unique_measured": str(int(sample.is_unique_measured)),
        "sample_seconds": f"{sample.seconds:.4f}",
    }


@dataclass(frozen=True)
class _Used:
    """CPU seconds of a process that were counted: its own, and of children it has waited for."""

    own: float = 0.0
    children: float = 0.0
    parent: int = 0


class ProcessSampler:
    """Samples a process and all its descendants from a thread, while the context is entered.

    Processes may come and go at any time. One that was once seen stays part of the tree, even
    when its parent has ended before it.

    Parameters
    ----------
    pid : int
        Root of the tree.
    interval_seconds : float
        From one sample to the next.
    on_sample : callable, optional
        Called with every sample, from the thread.
    keeps : bool
        Whether ``samples`` grows; off for a program that runs for months.
    """

    def __init__(
        self,
        pid: int,
        *,
        interval_seconds: float = 0.5,
        on_sample: Callable[[Sample], None] | None = None,
        keeps: bool = True,
    ) -> None:
        self.pid = pid
        self.samples: list[Sample] = []
        self._on_sample = on_sample
        self._keeps = keeps
        self._interval_seconds = interval_seconds
        self._seen: dict[psutil.Process, _Used] = {}
        self._sampled_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sampler-{pid}", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop sampling; raises what has ended the thread before its time, if anything has."""
        self._stopped.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def survivors(self, wait_seconds: float = _SURVIVAL_SECONDS) -> tuple[str, ...]:
        """Return the processes of the tree that still run after ``wait_seconds``, one text each."""
        _, alive = psutil.wait_procs(list(self._seen), timeout=wait_seconds)
        return tuple(text for process in alive if (text := _describe(process)))

    def _run(self) -> None:
        try:
            psutil.cpu_percent(percpu=True)  # the first call has nothing to compare with
            self._cpu_seconds(self._tree())
            while not self._stopped.wait(self._interval_seconds):
                self._take()
        except BaseException as error:
            self._error = error

    def _take(self) -> None:
        started = time.time()
        tree = self._tree()
        tree_percent = self._cpu_seconds(tree)
        cmdlines, parents = _commands(tree)
        workers = count_workers(cmdlines, parents, self.pid)
        memory = _memory(tree)
        worker_bytes = [memory[pid][1] for pid in workers if pid in memory]
        sample = Sample(
            time=started,
            seconds=time.time() - started,
            core_percent=tuple(psutil.cpu_percent(percpu=True)),
            tree_percent=tree_percent,
            processes=len(cmdlines),
            workers=len(workers),
            resident_bytes=sum(resident for resident, _, _ in memory.values()),
            unique_bytes=sum(unique for _, unique, _ in memory.values()),
            worker_unique_bytes=max(worker_bytes, default=0),
            is_unique_measured=all(measured for _, _, measured in memory.values()),
        )
        if self._keeps:
            self.samples.append(sample)
        if self._on_sample is not None:
            self._on_sample(sample)

    def _tree(self) -> list[psutil.Process]:
        """Return the processes of the tree that run now."""
        found = dict.fromkeys(self._seen)
        try:
            root = psutil.Process(self.pid)
            found.update(dict.fromkeys([root, *root.children(recursive=True)]))
        except psutil.Error:
            pass  # it has ended; those of its children that were seen may still run
        tree = [process for process in found if _is_running(process)]
        for process in tree:
            self._seen.setdefault(process, _Used())
        return tree

    def _cpu_seconds(self, tree: Iterable[psutil.Process]) -> float:
        """Return the CPU use since the last call, in percent of one core.

        When a process has waited for a child, the system adds the child's whole use to the
        parent's "children" times. That is how children are counted that no sample has seen; of
        those that were seen, what was counted already is taken off again.
        """
        now = time.monotonic()
        known = self._uses_of_ended()
        used = 0.0
        for process in tree:
            try:
                times, parent = process.cpu_times(), process.ppid()
            except psutil.Error:
                continue
            before, own = self._seen[process], times.user + times.system
            children = times.children_user + times.children_system
            waited_for = children - before.children - known.get(process.pid, 0.0)
            used += max(0.0, own - before.own) + max(0.0, waited_for)
            self._seen[process] = _Used(own, children, parent)
        elapsed, self._sampled_at = now - self._sampled_at, now
        return 100.0 * used / elapsed if elapsed > 0.0 else 0.0

    def _uses_of_ended(self) -> dict[int, float]:
        """Return what was counted of processes that have ended, by the ancestor that still runs.

        They are looked for before any time is read: what a parent has waited for since then is
        taken off in the next sample, in which it is found to have ended.
        """
        ended = [process for process in self._seen if not process.is_running()]
        parents = {process.pid: self._seen[process].parent for process in ended}
        known: dict[int, float] = {}
        for process in ended:
            counted, ancestor = self._seen.pop(process), process.pid
            while ancestor in parents:
                ancestor = parents[ancestor]
            known[ancestor] = known.get(ancestor, 0.0) + counted.own + counted.children
        return known


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _commands(tree: Iterable[psutil.Process]) -> tuple[dict[int, Sequence[str]], dict[int, int]]:
    """Return command lines (empty where the system refuses) and parents, by process id."""
    cmdlines: dict[int, Sequence[str]] = {}
    parents: dict[int, int] = {}
    for process in tree:
        try:
            parents[process.pid] = process.ppid()
            cmdlines[process.pid] = process.cmdline()
        except psutil.AccessDenied:
            cmdlines[process.pid] = []
        except psutil.NoSuchProcess:
            continue
    return cmdlines, parents


def _memory(tree: Iterable[psutil.Process]) -> dict[int, tuple[int, int, bool]]:
    """Return resident and unique memory by process id, and whether the latter was measured."""
    memory: dict[int, tuple[int, int, bool]] = {}
    for process in tree:
        try:
            try:
                full = process.memory_full_info()
                memory[process.pid] = (full.rss, full.uss, True)
            except (psutil.AccessDenied, AttributeError):  # AttributeError: a system without USS
                resident = process.memory_info().rss
                memory[process.pid] = (resident, resident, False)
        except psutil.Error:
            continue
    return memory


def _describe(process: psutil.Process) -> str:
    """Return id and command line, nothing if it has ended after all."""
    if not _is_running(process):
        return ""
    try:
        return f"pid {process.pid} ({' '.join(process.cmdline())[:100]})"
    except psutil.Error:
        return f"pid {process.pid}"

"""Processes end with the one that started them, however it dies.

A parent that is killed closes nothing and tells nobody. A worker that waits for its next task would
wait for ever, because the pipe it reads from is held open by the other workers; one that is busy
would not notice before it is done. So every process that this package starts watches its parent
from a thread. What it watches is there on Linux, macOS and Windows: the sentinel of Python's own
multiprocessing, or the parent's id and start time for a program of its own.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import connection
from typing import Any

import psutil

CPUS_VARIABLE = "MTF_SCALPER_CPUS"
"""Environment variable that says how many CPUs a program may use, where others work beside it."""
_WATCH_SECONDS = 1.0
_STOP_SECONDS = 15.0
_START_TOLERANCE_SECONDS = 2.0  # the system's boot time, which it counts from, is no exact figure
_watching: set[tuple[int, Any]] = set()  # by process, so that a forked one watches as well


@contextlib.contextmanager
def interrupted_later() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of this block, in which a process is started.

    A pool that is interrupted while it starts one knows of a task and of no process that does it,
    and waits for ever (Python 3.11).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    held = {each: how for each, how in before.items() if callable(how)}
    for each in held:
        signal.signal(each, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        for each, how in held.items():
            signal.signal(each, how)
        for number in heard:
            signal.raise_signal(number)


def end_with_parent_process() -> None:
    """End this worker of ``multiprocessing`` as soon as the process that started it has gone.

    In a process that ``multiprocessing`` did not start nothing happens. The worker is ended where
    it stands: nobody is left who would hear of an exception, or take what it has done.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    _start(watch, "multiprocessing")


def begin_worker(level: int, temporary: str | None = None) -> None:
    """Let a worker end with the process that started it, and log what that one logs.

    It stands in a module that imports next to nothing, so that a worker watches before it begins
    to load what its tasks need.

    Parameters
    ----------
    level : int
        Of the package's logger in the process that started the worker.
    temporary : str, optional
        Folder for its temporary files, which somebody else removes: it may be killed.
    """
    end_with_parent_process()
    logging.getLogger("mtf_scalper").setLevel(level)
    if temporary is not None:
        tempfile.tempdir = temporary


def end_with_parent(parent: Mapping[str, Any]) -> None:
    """Interrupt this program when the one that started it has gone; nobody else would end it.

    Parameters
    ----------
    parent : mapping
        ``process_facts`` of that process. The program has fifteen seconds to end by itself then.
    """

    def watch() -> None:
        pause = threading.Event()
        while is_alive(int(parent["pid"]), float(parent["started"])):
            pause.wait(_WATCH_SECONDS)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as background jobs have it
            _thread.interrupt_main()
            pause.wait(_STOP_SECONDS)
        os._exit(1)  # it ignores interrupts, or waits for something that never comes

    _start(watch, int(parent["pid"]))


def _start(watch: Callable[[], None], whom: Any) -> None:
    """Watch from a thread, once for everybody who is watched."""
    key = (os.getpid(), whom)
    if key not in _watching:
        _watching.add(key)
        threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def process_facts() -> dict[str, Any]:
    """Return id and start time (seconds since the epoch) of this process."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time()}


def scheduled_cpus() -> int:
    """Return the CPUs that this process may use: those that it may be scheduled on.

    They are fewer where the program that started this one has said so.
    """
    affinity, told = getattr(os, "sched_getaffinity", None), os.environ.get(CPUS_VARIABLE, "")
    cpus = len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)
    return max(1, min(cpus, int(told))) if told.isdecimal() else cpus


def is_alive(pid: int, started: float) -> bool:
    """Return whether the process that had this id and start time runs."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) > _START_TOLERANCE_SECONDS:
            return False
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # it is there, and somebody else's

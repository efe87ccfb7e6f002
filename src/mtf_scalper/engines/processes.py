"""Tasks in processes of this machine, or in this one."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mtf_scalper.engines.shared import SharedFile, attempt_shared
from mtf_scalper.engines.tasks import (
    ATTEMPTS,
    Call,
    Ended,
    TaskError,
    Work,
    attempt,
    may_go_well,
)
from mtf_scalper.lifetimes import begin_worker, interrupted_later
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.rollouts.process_env import HelperProcesses, without_main_module

_KILLED = (
    "its process was ended from outside, as systems do where no memory is left; choose fewer "
    "--jobs, or a smaller net_arch"
)


class LocalProcesses:
    """So many processes at a time; with one, everything happens in this process.

    Parameters
    ----------
    jobs : int
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = max(1, jobs)
        self._runs: list[Generator[Ended]] = []
        self._workers: _Workers | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._shared = 0

    @property
    def threads(self) -> int:
        """Threads that a task may use."""
        return threads_per_job(self.jobs)

    @property
    def nodes(self) -> int:
        """One: all run here."""
        return 1

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what runs, and remove what was shared."""
        while self._runs:  # one that was left in the middle still has its processes
            self._runs.pop().close()
        if self._workers is not None:
            self._workers.close()
            self._workers = None
        HelperProcesses.stop()  # a pool that is still referred to would start one anew
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def share(self, value: Any) -> Any:
        """Return the value itself, or a file that all processes map into their memory."""
        if self.jobs == 1:
            return value
        self._shared += 1
        return SharedFile.written(Path(self._temporary()) / str(self._shared), value)

    def prepare(self, work: Work, *arguments: Any) -> None:
        """Do nothing: what the first task compiles, the others of this machine find."""

    def run(self, work: Work, calls: Iterable[Call]) -> Iterator[Ended]:
        """Yield the end of every attempt; see ``Engine``."""
        self._runs.append(self._run(work, calls))
        return self._runs[-1]

    def _temporary(self) -> str:
        """Return the folder of all that processes leave among the temporary files."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(
                prefix="mtf-scalper-", ignore_cleanup_errors=True
            )
        return self._folder.name

    def _run(self, work: Work, calls: Iterable[Call]) -> Generator[Ended]:
        if self.jobs == 1:
            for number, call in enumerate(calls):
                for attempt_number in range(1, ATTEMPTS + 1):
                    ended = _numbered(attempt(work, *call), number, attempt_number)
                    yield ended
                    if ended.is_last:
                        break
            return
        numbered = iter(enumerate(calls))
        tries: dict[int, int] = {}
        # Spawned: a forked process would inherit threads of torch and OpenMP that do not run in it.
        HelperProcesses.own_those_not_running()
        while True:
            workers, self._workers = self._workers or _Workers(self.jobs, self._temporary()), None
            lost = deque((yield from _until_broken(workers, work, numbered, tries)))
            if not lost:
                self._workers = workers  # the next run finds them with all imported
                return
            workers.close()
            while lost:
                # Whoever broke the pool breaks it alone as well; the others only shared it.
                with _Workers(1, self._temporary()) as alone:
                    left = yield from _until_broken(alone, work, _taken_from(lost), tries)
                lost.extendleft(each for each in left if tries[each[0]] < ATTEMPTS)


def _until_broken(
    workers: _Workers,
    work: Work,
    calls: Iterator[tuple[int, Call]],
    tries: dict[int, int],
) -> Generator[Ended, None, list[tuple[int, Call]]]:
    """Run calls until all are done, or one has taken its process with it.

    Returns
    -------
    list of tuple
        Those that were under way then, by number, with their calls.
    """
    running: dict[Future[Ended], tuple[int, Call]] = {}
    is_alone = workers.jobs == 1
    # As many wait as run, so that no process does; no more, for the memory's sake.
    most = 1 if is_alone else 2 * workers.jobs
    try:
        while True:
            for number, call in itertools.islice(calls, most - len(running)):
                running[workers.submit(work, call)] = number, call
            if not running:
                return []
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                number, call = running[done]
                try:
                    ended = done.result()
                except BrokenProcessPool:
                    break
                except Exception as error:  # what it returned cannot be sent
                    ended = Ended(0, error=TaskError(f"{type(error).__name__}: {error}"))
                del running[done]
                tries[number] = tries.get(number, 0) + 1
                ended = _numbered(ended, number, tries[number])
                yield ended
                if not ended.is_last:
                    calls = itertools.chain([(number, call)], calls)
            else:
                continue
            for number, _ in running.values():
                tries[number] = tries.get(number, 0) + 1
                is_last = is_alone and tries[number] >= ATTEMPTS
                yield Ended(
                    number, error=TaskError(_KILLED), attempt=tries[number], is_last=is_last
                )
            return list(running.values())
    except BaseException:
        workers.kill()
        raise


class _Workers:
    """A pool of processes; a context manager.

    Parameters
    ----------
    jobs : int
    temporary : str
        Folder for their temporary files.
    """

    def __init__(self, jobs: int, temporary: str) -> None:
        self.jobs = jobs
        self._others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        level = logging.getLogger("mtf_scalper").level
        self._pool = ProcessPoolExecutor(jobs, context, begin_worker, (level, temporary))

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        self.close()

    def submit(self, work: Work, call: Call) -> Future[Ended]:
        """Let one of them do a task."""
        try:
            with interrupted_later(), without_main_module():
                return self._pool.submit(attempt_shared, work, *call)
        except BrokenProcessPool as error:  # as those that are under way will say
            failed: Future[Ended] = Future()
            failed.set_exception(error)
            return failed

    def kill(self) -> None:
        """End them in the middle of their tasks: a training would be waited for."""
        processes = set(multiprocessing.active_children()) - self._others
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        self.close()

    def close(self) -> None:
        """End them after their tasks."""
        self._pool.shutdown()


def _taken_from(waiting: deque[tuple[int, Call]]) -> Iterator[tuple[int, Call]]:
    while waiting:
        yield waiting.popleft()


def threads_per_job(jobs: int) -> int:
    """Return how many of this machine's CPUs each of so many tasks at a time may use."""
    return max(1, available_cpus() // max(1, jobs))


def _numbered(ended: Ended, number: int, tries: int) -> Ended:
    again = may_go_well(ended) and tries < ATTEMPTS
    return replace(ended, number=number, attempt=tries, is_last=not again)

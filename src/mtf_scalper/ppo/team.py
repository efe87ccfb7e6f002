"""Threads that share out work whose pieces never depend on how many threads there are.

A library that spreads one product of matrices over its threads may add in another order when it
has more of them, and a policy then depends on the machine that it was trained on. Here every piece
is computed by one thread from start to end, and the pieces are cut by shape alone: threads, cores
and settings decide who does a piece, not what comes out of it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import torch

Job = Callable[[], object]

_here = threading.local()


class Team:
    """The thread that makes it and some others, in each of which torch works with one thread.

    The others start with the first work that can be shared out, and end with ``close``.

    Parameters
    ----------
    n_threads : int
        Threads in all.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._inboxes: list[queue.SimpleQueue[Sequence[Job] | None]] = []
        self._outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, jobs: Sequence[Job]) -> None:
        """Do all jobs, in any order; return when all are done.

        They may write to places of their own only.
        """
        n_busy = min(self.n_threads, len(jobs))
        if n_busy < 2:
            for job in jobs:
                job()
            return
        self._start()
        for number in range(1, n_busy):
            self._inboxes[number - 1].put(jobs[number::n_busy])
        failures: list[BaseException | None] = [_failure_of(jobs[::n_busy])]
        failures += [self._outcomes.get() for _ in range(1, n_busy)]
        for failure in failures:
            if failure is not None:
                raise failure

    def close(self) -> None:
        """End the other threads."""
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join()
        self._inboxes, self._threads = [], []

    def _start(self) -> None:
        while len(self._threads) < self.n_threads - 1:
            inbox: queue.SimpleQueue[Sequence[Job] | None] = queue.SimpleQueue()
            thread = threading.Thread(target=self._work, args=(inbox,), daemon=True)
            self._inboxes.append(inbox)
            self._threads.append(thread)
            thread.start()

    def _work(self, inbox: queue.SimpleQueue[Sequence[Job] | None]) -> None:
        torch.set_num_threads(1)  # of this thread
        # Whether gradients are noted is a thread's own; what is handed over here writes in place.
        with torch.inference_mode():
            while (jobs := inbox.get()) is not None:
                self._outcomes.put(_failure_of(jobs))


def _failure_of(jobs: Sequence[Job]) -> BaseException | None:
    try:
        for job in jobs:
            job()
    except BaseException as error:  # raised again in the thread that waits for it
        return error
    return None


@contextlib.contextmanager
def team() -> Iterator[Team]:
    """Let as many threads as torch has here work as a team, and give torch them back afterwards.

    Inside another one in the same thread it is that one. Meanwhile torch itself works with one
    thread here, so that its sums do not depend on their number either.
    """
    present: Team | None = getattr(_here, "team", None)
    if present is not None:
        yield present
        return
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _here.team = new = Team(n_threads)
    try:
        yield new
    finally:
        _here.team = None
        new.close()
        torch.set_num_threads(n_threads)

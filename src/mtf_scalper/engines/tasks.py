"""What every engine promises: tasks run anywhere, in any order, and each end of one is told.

An engine runs ``work(*arguments)`` for every call, retries what may go well another time, and tells
of every attempt. What a task raises never travels as an exception of its own: a machine that has
other libraries could not read it, and a cause would be lost on the way.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from mtf_scalper.errors import MtfScalperError

ATTEMPTS: Final = 3
"""How often a task is tried that is killed, or that raises what is no error of this package."""


class TaskError(MtfScalperError):
    """A task was killed, or raised what is no error of this package: one line that says what."""


@dataclass(frozen=True)
class Ended:
    """One attempt at a task has ended.

    Attributes
    ----------
    number : int
        Of the call, from 0.
    value : object
        What the work returned; None of one that failed.
    error : MtfScalperError or None
        Why it failed: the error of this package, or a ``TaskError``.
    began, ended : float
        Seconds since the epoch, by the clock of the machine that did it; 0 where that is not known.
    node : str
        Name of that machine; empty where it is not known.
    process : int
        Its process id; 0 where it is not known.
    attempt : int
        From 1.
    is_last : bool
        Whether no other attempt follows.
    """

    number: int
    value: Any = None
    error: MtfScalperError | None = None
    began: float = 0.0
    ended: float = 0.0
    node: str = ""
    process: int = 0
    attempt: int = 1
    is_last: bool = True


Work = Callable[..., Any]
"""A function of an importable module."""
Call = tuple[Any, ...]
"""Its arguments: plain values and arrays, or what ``share`` returned."""


class Engine(Protocol):
    """Runs tasks; a context manager, which leaves nothing behind.

    Attributes
    ----------
    threads : int
        Threads that a task may use.
    """

    @property
    def threads(self) -> int:
        """Threads that a task may use."""

    @property
    def nodes(self) -> int:
        """Machines that there are now."""

    def share(self, value: Any) -> Any:
        """Return what stands for a large value in calls; it goes to each machine once.

        Its arrays are read-only in the tasks.
        """

    def prepare(self, work: Work, *arguments: Any) -> None:
        """Do this once on every machine before the first task there; what it raises is ignored."""

    def run(self, work: Work, calls: Iterable[Call]) -> Iterator[Ended]:
        """Yield the end of every attempt, in any order; calls are made as they are needed."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all that was started."""


def attempt(work: Work, *arguments: Any) -> Ended:
    """Do a task here and return how it ended, whatever it raises but Ctrl-C."""
    began, value, failure = time.time(), None, None
    try:
        value = work(*arguments)
    except KeyboardInterrupt:
        raise
    except MtfScalperError as error:
        failure = error.with_traceback(None)
        failure.__cause__ = failure.__context__ = None
    except BaseException as error:  # SystemExit too: a task has no program to end
        failure = TaskError(_one_line(error))
    return Ended(0, value, failure, began, time.time(), platform.node(), os.getpid())


def may_go_well(ended: Ended) -> bool:
    """Whether another attempt may end otherwise.

    What this package says of candles and settings it would say again.
    """
    return isinstance(ended.error, TaskError)


def _one_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{f': {said}' if said else ''}{where}"

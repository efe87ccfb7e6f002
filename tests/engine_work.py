"""What tests let engines do: functions of an importable module, as every task is."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from mtf_scalper.errors import UntrainableError


class TwoWordsError(Exception):
    """An exception that cannot be made from what it says."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def double(number: float) -> float:
    return 2.0 * number


def misbehave(how: str, folder: str, at_most: int) -> str:
    """Fail so often in the way that is asked for, then end well."""
    marks = Path(folder)
    (marks / f"{how}-{time.time_ns()}-{os.getpid()}").touch()
    if len(list(marks.glob(f"{how}-*"))) > at_most:
        return how
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exits":
        raise SystemExit("it asked for the end of the program")
    if how == "two words":
        raise TwoWordsError("two", "words")
    if how == "with a cause":
        raise RuntimeError("the effect") from ValueError("the cause")
    if how == "untrainable":
        raise UntrainableError("BTC: too few candles")
    raise AssertionError(how)


def sleep(seconds: float, folder: str) -> int:
    """Say who does it, then take so long."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(seconds)
    return os.getpid()


def about_arrays(value: Any) -> tuple[float, bool, bool]:
    """Return a sum, and whether the array is read-only and lies in memory that it does not own."""
    found = value["numbers"]
    return float(found.sum()), not found.flags.writeable, not found.flags.owndata


def threads() -> tuple[int, str | None]:
    """Return how many threads torch has, and what compiled libraries are told."""
    import torch

    return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")


def unsendable() -> Any:
    """Return what cannot go to another process."""
    return (number for number in np.arange(3))


def learned_from(recorded: Any, order: Any) -> tuple[list[str], bool]:
    """Learn a window.

    Returns
    -------
    list of str
        Functions that were compiled for it, because no cache had them for such arguments.
    bool
        Whether the pair's prices lie in memory of their own.
    """
    from numba.core.registry import CPUDispatcher

    from mtf_scalper.walk_forward.orders import learn_order

    learn_order(recorded, order)
    found = [each for each in gc.get_objects() if isinstance(each, CPUDispatcher)]
    compiled = {each.py_func.__qualname__ for each in found if each.stats.cache_misses}
    assert any(each.stats.cache_hits for each in found)
    return sorted(compiled), recorded.market.ohlc.flags.owndata

"""Large values that all processes of this machine have in common: one file, mapped by each.

A worker imports this module before its first task, and nothing large with it.
"""

from __future__ import annotations

import functools
import mmap
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtf_scalper.engines.tasks import Ended, Work, attempt


def attempt_shared(work: Work, *arguments: Any) -> Ended:
    """Do a task here, with the values that its arguments stand for."""
    return attempt(
        work, *(each.value() if isinstance(each, SharedFile) else each for each in arguments)
    )


@dataclass(frozen=True)
class SharedFile:
    """A value in a file of this run: what it is made of, then its arrays as they lie in memory."""

    path: Path
    n_bytes: int
    buffers: tuple[tuple[int, int], ...]

    @classmethod
    def written(cls, path: Path, value: Any) -> SharedFile:
        """Write a value."""
        kept: list[pickle.PickleBuffer] = []
        structure = pickle.dumps(value, protocol=5, buffer_callback=kept.append)
        places = []
        with path.open("wb") as file:
            file.write(structure)
            for each in kept:
                file.write(b"\0" * (-file.tell() % 64))  # where compiled code may expect an array
                raw = each.raw()
                places.append((file.tell(), raw.nbytes))
                file.write(raw)
        return cls(path, len(structure), tuple(places))

    def value(self) -> Any:
        """Return the value; of the last one asked for there is one copy in a process."""
        return _mapped(self)


@functools.lru_cache(maxsize=1)
def _mapped(shared: SharedFile) -> Any:
    with shared.path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    buffers = [whole[start : start + size] for start, size in shared.buffers]
    return pickle.loads(whole[: shared.n_bytes], buffers=buffers)

"""One program under an identifier at a time: two would train into the same folder.

The lock is the system's, on a file in the folder: it goes with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from mtf_scalper.errors import SettingsError

_guard: Final = threading.Lock()
_held: dict[tuple[int, Path], tuple[FileLock, int]] = {}
"""By process and file: the lock, and how many objects of this process hold it."""


def hold(folder: Path, holder: object) -> None:
    """Keep other programs from an identifier's folder for as long as ``holder`` lives.

    Raises
    ------
    SettingsError
        One line that names the identifier and the process that has it.
    """
    path = (folder / ".lock").absolute()
    key = (os.getpid(), path)
    with _guard:
        lock, n_holders = _held.get(key) or (_acquired(folder, path), 0)
        _held[key] = lock, n_holders + 1
    weakref.finalize(holder, _let_go, key).atexit = False


def _acquired(folder: Path, path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    noted = path.with_name(".pid")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        number = ""
        with contextlib.suppress(OSError, ValueError):
            number = f" (process {int(noted.read_text(encoding='utf-8'))})"
        raise SettingsError(
            f"freqai.identifier: {folder.name!r} is in use by another program{number}; "
            "end that one, or choose another identifier"
        ) from None
    noted.write_text(str(os.getpid()), encoding="utf-8")
    return lock


def _let_go(key: tuple[int, Path]) -> None:
    if key[0] != os.getpid():
        return
    with _guard:
        lock, n_holders = _held.pop(key)
        if n_holders > 1:
            _held[key] = lock, n_holders - 1
        else:
            lock.release()

"""One program in a folder at a time: two would train into the same one.

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


def hold(folder: Path, holder: object, key: str = "freqai.identifier") -> None:
    """Keep other programs from a folder for as long as ``holder`` lives.

    Parameters
    ----------
    folder : Path
        Made if missing.
    holder : object
    key : str
        What its name is the value of.

    Raises
    ------
    SettingsError
        One line that names the folder and the process that has it.
    """
    path = (folder / ".lock").absolute()
    held = (os.getpid(), path)
    with _guard:
        lock, n_holders = _held.get(held) or (_acquired(folder, path, key), 0)
        _held[held] = lock, n_holders + 1
    weakref.finalize(holder, _let_go, held).atexit = False


def _acquired(folder: Path, path: Path, key: str) -> FileLock:
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
            f"{key}: {folder.name!r} is in use by another program{number}; "
            f"end that one, or choose another {key.rpartition('.')[2].lstrip('-')}"
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

"""What killed programs have begun to write, and never given its name.

Whoever writes a file or a folder whole writes ``.<name>.<process id>.part`` first, and takes it
away whatever happens, but for a kill. Nothing reads such a part, and nobody would ever remove it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

PARTS: Final = ".*.part"
"""Pattern of their names, for ``Path.glob``."""
_PART: Final = re.compile(r"\..+?\.(\d+)(\.[0-9a-f]{8})?\.part")


def remove_unfinished(parts: Iterable[Path]) -> None:
    """Remove parts of programs that have gone.

    Parameters
    ----------
    parts : iterable of Path
        As ``PARTS`` finds them. What has another name, or may be in work, stays.
    """
    for part in parts:
        named = _PART.fullmatch(part.name)
        if named is None or _may_be_in_work(part, int(named[1])):
            continue
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # gone, or not ours to remove
                part.unlink()


def _may_be_in_work(part: Path, process_id: int) -> bool:
    """Return whether the process lives; one that began after the last write has another's id."""
    try:
        return psutil.Process(process_id).create_time() <= part.stat().st_mtime
    except psutil.NoSuchProcess:
        return False
    except (OSError, psutil.Error):  # gone meanwhile, or a process of somebody else's
        return True

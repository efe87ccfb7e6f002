"""Files that a later run reads: a list with their digests is written last, and asked first.

A program may be killed between two files or in the middle of one, a disk may be full, and a bit may
flip. So whoever leaves files lists them by size and SHA-256 when all of them are on the disk, and
whoever reads them looks at the list first: a file that is missing, cut or changed is told by name,
and nothing is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.paths import written_durably

LIST: Final = "mtf_scalper_files.json"
_FORMAT: Final = "mtf-scalper files 1"


class KeptFilesError(MtfScalperError):
    """Files are missing, cut or changed: names the first one."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_list(folder: Path, names: Iterable[str], *, list_name: str = LIST, **facts: Any) -> None:
    """List files of a folder, once all of them are written.

    Parameters
    ----------
    folder : Path
    names : iterable of str
        In the folder.
    list_name : str
        The list's own name.
    **facts
        Plain values to keep with the list.
    """
    files: dict[str, dict[str, Any]] = {}
    for name in sorted(names):
        path = folder / name
        with path.open("rb+") as file:
            os.fsync(file.fileno())  # others wrote it, and the list is to be true after a power cut
        files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    write_json(folder / list_name, {"format": _FORMAT, **facts, "files": files})


def remove_list(folder: Path, list_name: str = LIST) -> None:
    """Say that files are about to change: without a list nothing is read."""
    (folder / list_name).unlink(missing_ok=True)


def read_list(folder: Path, list_name: str = LIST) -> dict[str, Any]:
    """Return a list without looking at its files.

    Raises
    ------
    KeptFilesError
        If it is missing or damaged.
    """
    path = folder / list_name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = found["files"].values()
        is_one = found["format"] == _FORMAT and all(
            isinstance(each["bytes"], int) and isinstance(each["sha256"], str) for each in entries
        )
    except FileNotFoundError:
        raise KeptFilesError(f"{path} is missing: the files beside it are not complete") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        is_one = False
    if not is_one:
        raise KeptFilesError(f"{path} is damaged")
    content: dict[str, Any] = found
    return content


def check_files(folder: Path, *, list_name: str = LIST) -> dict[str, Any]:
    """Compare all files of a list with it, and return it.

    Raises
    ------
    KeptFilesError
        One line that names the first file that is missing, cut or changed.
    """
    found = read_list(folder, list_name)
    for name in found["files"]:
        check_file(folder, name, found)
    return found


def check_file(folder: Path, name: str, found: Mapping[str, Any]) -> bytes:
    """Return the content of one file of a list, which has the size and the digest given there."""
    path, wanted = folder / name, found["files"].get(name)
    if wanted is None or Path(name).name != name:
        raise KeptFilesError(f"{path} does not stand in the list of complete files")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeptFilesError(f"{path}: {error.strerror}") from None
    if len(content) != wanted["bytes"]:
        raise KeptFilesError(f"{path} is damaged: {len(content)} bytes of {wanted['bytes']}")
    if hashlib.sha256(content).hexdigest() != wanted["sha256"]:
        raise KeptFilesError(f"{path} is damaged: it is not what was written")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with written_durably(path) as part:
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        part.write_text(text, encoding="utf-8", newline="\n")

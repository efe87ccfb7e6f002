"""Paths that a person gives: what cannot be used is one line, before anything was computed."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mtf_scalper.errors import MtfScalperError

_OF_FILES = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "EISDIR", "ELOOP", "ENAMETOOLONG"),
        *("ENODEV", "ENOENT", "ENOSPC", "ENOTDIR", "ENOTEMPTY", "ENXIO", "EPERM", "EROFS"),
        *("EXDEV", "ESTALE"),
    )
    if hasattr(errno, name)  # Windows has not all of them
}
_WITHOUT_A_NAME = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, getattr(errno, "EDQUOT", -1)}
"""What a write to an open file meets, of which Python does not know the name any more."""


class PathError(MtfScalperError):
    """A file or folder is missing, of the wrong kind, or cannot be read or written."""


def printable(text: str) -> str:
    r"""Return a text without what a terminal would obey: such characters are written as escapes.

    Ends of lines and tabs count too, and what turns the direction of writing.

    >>> printable("BTC\x1b[31m")
    'BTC\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def user_data(project: Path = Path()) -> Path:
    """Return freqtrade's user directory of a project.

    That is ``user_data`` in it, or the project itself where it is a user directory, with
    ``strategies`` and no ``user_data``.
    """
    inside = project / "user_data"
    is_one_itself = (project / "strategies").is_dir() and not inside.is_dir()
    return project if is_one_itself else inside


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which gets its name at the end: it is there whole or not.

    What stood there before stays where the disk is full or refuses.

    Raises
    ------
    OSError
        Names the file, and not the part that was written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(part), part):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def written_durably(path: Path) -> Iterator[Path]:
    """Do the same, so that what has the name is on the disk even if the machine loses its power."""
    with written_whole(path) as part:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    if os.name != "nt":  # Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text whole, in UTF-8 and with the ends of lines that it has."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def check_folder(path: Path, name: str) -> None:
    """Raise ``PathError`` unless ``path`` is a folder that can be read.

    Parameters
    ----------
    path : Path
    name : str
        What the user calls it, like ``--datadir``.
    """
    try:
        os.scandir(path).close()
    except NotADirectoryError as error:
        _refuse(name, path, "is no folder" if path.exists() else _reason(error), error)
    except (OSError, ValueError) as error:
        _refuse(name, path, _reason(error), error)


def check_file(path: Path, name: str) -> None:
    """Raise ``PathError`` unless ``path`` is a file that can be read."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder, a file is needed")
        # A pipe may be read once only: what it holds is for who asked.
        if stat.S_ISREG(path.stat().st_mode):
            path.open("rb").close()
    except (OSError, ValueError) as error:
        _refuse(name, path, _reason(error), error)


def check_folder_to_write(path: Path, name: str) -> None:
    """Raise ``PathError`` unless files can be made in the folder, which need not be there yet."""
    try:
        above = path
        while not os.path.lexists(above) and above != above.parent:
            above = above.parent
        if not above.is_dir():
            _refuse(name, path, "is no folder" if above == path else f"{above} is no folder", None)
        # Access rights alone know nothing of a disk that is full or mounted read-only.
        with tempfile.TemporaryFile(dir=above) as probe:
            probe.write(b"\0")
    except (OSError, ValueError) as error:
        _refuse(name, path, f"cannot be written: {_reason(error)}", error)


def check_file_to_write(path: Path, name: str) -> None:
    """Raise ``PathError`` unless ``path`` is a file that can be written or replaced, or no file."""
    if path.is_dir():
        _refuse(name, path, "is a folder, a file is needed", None)
    if os.path.lexists(path) and not path.is_file():
        # A device or a pipe would be replaced by a file of this name.
        _refuse(name, path, "is no file that could be replaced", None)
    check_folder_to_write(path.parent, name)


def check_folder_if_there(path: Path, name: str) -> None:
    """Raise ``PathError`` if there is something else than a folder to be read; none is fine."""
    if os.path.lexists(path) or not path.parent.is_dir():
        try:
            check_folder(path, name)
        except PathError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise


def problem_with_files(error: OSError) -> str | None:
    """Return one line for an error of a file or folder, None for errors of anything else."""
    if error.errno not in _OF_FILES:
        return None
    if error.filename is None:
        return f"cannot write: {error.strerror}" if error.errno in _WITHOUT_A_NAME else None
    return f"{shown(error.filename)}: {error.strerror}"


def _refuse(name: str, path: Path, problem: str, cause: BaseException | None) -> None:
    raise PathError(f"{name}: {shown(path)}: {problem}") from cause


def _reason(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error)


def shown(path: str | bytes | Path | Sequence[object] | int) -> str:
    """Return a path as one line, whatever its name is made of."""
    text = os.fsdecode(path) if isinstance(path, (str, bytes, Path)) else str(path)
    return text if text.isprintable() else repr(text)

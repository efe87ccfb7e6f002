"""Pickles that may be read: those that this installation wrote, or that its user trusts.

A pickle runs what it says when it is read. FreqAI keeps some: the history of a bot's predictions,
and pipelines of other steps than its usual two. One is read only if its SHA-256 is the name of a
file in ``user_data/trusted_files``. Whatever this installation writes puts its own there;
``mtf-scalper trust FILE`` adds another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickletools
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.kept_files import write_json
from mtf_scalper.unfinished import PARTS, remove_unfinished

FOLDER: Final = "trusted_files"
_GLOBALS: Final = ("GLOBAL", "STACK_GLOBAL", "INST")
_TEXTS: Final = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")


class NotTrustedError(MtfScalperError):
    """A pickle was not written by this installation: says what to do."""


class TrustedFiles:
    """The digests that are known in a user directory.

    Parameters
    ----------
    user_data : Path
        freqtrade's user directory.
    """

    def __init__(self, user_data: Path) -> None:
        self.folder = user_data / FOLDER

    def add(self, digest: str, file: Path, why: str) -> None:
        """Trust the content of this SHA-256, wherever it stands."""
        self.folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.folder / f"{digest}.json", {"file": str(file), "why": why, "added": now})

    def knows(self, content: bytes) -> bool:
        """Whether this content is trusted."""
        return (self.folder / f"{hashlib.sha256(content).hexdigest()}.json").is_file()

    def read(self, path: Path) -> bytes:
        """Return the content of a trusted file.

        Raises
        ------
        NotTrustedError
            One line that says what to do.
        """
        content = path.read_bytes()
        if not self.knows(content):
            raise NotTrustedError(
                f"{path}: this installation did not write it, and reading a pickle runs what "
                f"stands in it; if you know where it is from: mtf-scalper trust {path}, "
                "otherwise delete it"
            )
        return content

    def wrote(self, file: Path) -> bool:
        """Whether this installation has written a file of that name, whatever stands in it now."""
        return any(_file_of(path) == str(file) for path in self.folder.glob("*.json"))

    def forget(self, file: Path, but: Collection[str] = ()) -> None:
        """Forget what was written under a name, but for some digests."""
        for path in self.folder.glob("*.json"):
            if path.stem not in but and _file_of(path) == str(file):
                path.unlink(missing_ok=True)

    def forget_lost(self) -> None:
        """Forget files that are no longer there."""
        remove_unfinished(self.folder.glob(PARTS))
        for path in self.folder.glob("*.json"):
            file = _file_of(path)
            if file is not None and not Path(file).exists():
                path.unlink(missing_ok=True)


def _file_of(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text(encoding="utf-8"))["file"])
    return None


def described(path: Path) -> list[str]:
    """Return what a file is, in lines; nothing of it is run.

    Of a pickle that are the names that it would import, as far as it says them.
    """
    content = path.read_bytes()
    lines = [f"file    {path}", f"size    {len(content):,} bytes"]
    lines.append(f"sha256  {hashlib.sha256(content).hexdigest()}")
    try:
        names = sorted(set(_imports(content)))
    except Exception as error:  # of pickletools, on whatever is no pickle
        lines.append(f"kind    no whole pickle ({' '.join(str(error).split())[:100]})")
    else:
        lines.append(f"kind    a pickle that imports {', '.join(names) or 'nothing'}")
    return [line if line.isprintable() else repr(line) for line in lines]


def _imports(content: bytes) -> Iterator[str]:
    texts: list[str] = []
    memo: dict[Any, str] = {}
    last: str | None = None
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _TEXTS:
            last = str(argument)
            texts.append(last)
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = last or ""
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            texts.append(memo.get(argument, ""))
        elif opcode.name in _GLOBALS:
            pair = str(argument).split(" ") if argument else texts[-2:]
            yield ".".join(pair)
        if opcode.name not in (*_TEXTS, "MEMOIZE"):
            last = None

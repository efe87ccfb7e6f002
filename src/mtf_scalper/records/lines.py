"""Files of a record that grow line by line: whatever is damaged is named once and left out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mtf_scalper.paths import shown
from mtf_scalper.records.files import RecordError, read_whole
from mtf_scalper.records.schema import parsed

logger = logging.getLogger(__name__)


def read_lines(path: Path, model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of JSON lines that are what the model says.

    The last line may be torn by the end of the run, and is left out then. What else is damaged is
    left out too, and the log says once how many lines, and what is wrong with the first.

    Raises
    ------
    RecordError
        If it is no file, or cannot be read.
    """
    content = read_whole(path)
    if content is None:
        return
    *whole, torn = content.split(b"\n")
    n_damaged, first = 0, ""
    for number, line in enumerate(whole, start=1):
        if not line.strip():
            continue
        try:
            entry = parsed(line, model)
        except RecordError as error:
            n_damaged += 1
            first = first or f"line {number}: {error}"
        else:
            yield entry
    if torn:
        try:
            entry = parsed(torn, model)
        except RecordError:
            entry = None
        if entry is not None:
            yield entry
    if n_damaged:
        are = "line is" if n_damaged == 1 else "lines are"
        _tell(f"{shown(path)}: {n_damaged} damaged {are} left out, the first is {first}")


@lru_cache(maxsize=1024)
def _tell(message: str) -> None:
    """Warn, once: the page of a run that is watched reads the same lines every two seconds."""
    logger.warning("%s", message)

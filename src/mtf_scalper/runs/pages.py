"""The page at the end of a run; a run that cannot have one has succeeded all the same."""

from __future__ import annotations

from pathlib import Path

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.page.render import write_page
from mtf_scalper.runs.project import shown

__all__ = ["page_or_reason"]


def page_or_reason(folder: Path, project: Path) -> str:
    """Write the page of a run that has ended; return where it is, or in a line why it is not.

    Parameters
    ----------
    folder : Path
        The run's record.
    project : Path
        Its path is told as seen from there.
    """
    try:
        return shown(write_page(folder), project)
    except MtfScalperError as error:
        return f"not written: {error}"

"""The project that a run belongs to: where it is, its default market, and the page at the end."""

from __future__ import annotations

from pathlib import Path

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.page.render import write_page
from mtf_scalper.paths import user_data
from mtf_scalper.worlds.datadir import ensure_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec

SYNTHETIC_PERIOD = ("2024-08-01", "2024-11-02")
"""Enough before October 2024 for 30 days of training and the indicators' warm-up."""


def find_project() -> Path:
    """Return the project's root, the current folder.

    Raises
    ------
    MtfScalperError
        If it holds no ``configs/config_rl_hybrid.json``.
    """
    project = Path.cwd()
    if not (project / "configs" / "config_rl_hybrid.json").is_file():
        raise MtfScalperError(
            f"{project} holds no configs/config_rl_hybrid.json; run this from the project's root, "
            "or write it here with: mtf-scalper init"
        )
    return project


def demo_market(project: Path) -> Path:
    """Return the data directory of the synthetic market, written on first use."""
    datadir = user_data(project) / "data" / "synthetic"
    ensure_datadir(SyntheticSpec(), datadir, *SYNTHETIC_PERIOD)
    return datadir


def shown(path: Path, project: Path) -> str:
    """Return the path as seen from the project."""
    absolute = path.resolve()
    inside = absolute.is_relative_to(project)
    return str(absolute.relative_to(project) if inside else absolute)


def page_or_reason(folder: Path, project: Path) -> str:
    """Write the page of a run that has ended; return where it is, or in a line why it is not.

    Without a page the run has succeeded all the same.

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

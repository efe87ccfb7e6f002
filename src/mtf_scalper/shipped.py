"""The files that freqtrade loads and a person edits: configurations, strategy and model.

They stand in the repository, and in an installed package beside this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mtf_scalper.paths import check_folder_to_write, user_data, write_text

REFERENCE_RECIPE = PurePosixPath("configs/reference_recipe.json")
SHIPPED_FILES = (
    PurePosixPath("configs/config_rl_hybrid.json"),
    PurePosixPath("configs/offline.json"),
    REFERENCE_RECIPE,
    PurePosixPath("user_data/strategies/MtfScalper_RL_Hybrid.py"),
    PurePosixPath("user_data/freqaimodels/MtfScalperRLModel.py"),
)
_INSTALLED = Path(__file__).with_name("shipped_files")
_REPOSITORY = Path(__file__).resolve().parents[2]


def write_missing(project: Path) -> Iterator[str]:
    """Write the files that a project lacks, and yield a line for each, and what to do next.

    Parameters
    ----------
    project : Path
        A folder with freqtrade's ``user_data`` in it, an empty one, or a user directory itself.

    Raises
    ------
    PathError
        If a folder cannot be written; nothing is then.
    """
    places = {name: _place(project, name) for name in SHIPPED_FILES}
    for place in places.values():
        check_folder_to_write(place.parent, "init")
    for name, place in places.items():
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, shipped_text(name))
            yield f"written  {place.as_posix()}"
        elif _written(place) == shipped_text(name):
            yield f"as it is {place.as_posix()}"
        else:
            yield f"kept     {place.as_posix()}, which differs: mtf-scalper init --diff"
    yield "next: mtf-scalper doctor, mtf-scalper demo"


def is_set_up(project: Path) -> bool:
    """Return whether all shipped files are in a project, whatever has become of them."""
    return all(_place(project, name).exists() for name in SHIPPED_FILES)


def differences(project: Path) -> Iterator[str]:
    """Yield how the files of a project differ from the shipped ones, as unified diffs."""
    found = False
    for name in SHIPPED_FILES:
        place = _place(project, name)
        if not place.exists():
            found = True
            yield f"missing  {place.as_posix()}"
            continue
        lines = difflib.unified_diff(
            shipped_text(name).splitlines(),
            _written(place).splitlines(),
            f"shipped/{name}",
            place.as_posix(),
            lineterm="",
        )
        for line in lines:
            found = True
            yield line
    if not found:
        yield "all files are as shipped"


def _place(project: Path, name: PurePosixPath) -> Path:
    """Return where a file belongs."""
    first, *rest = name.parts
    home = user_data(project) if first == "user_data" else project / first
    return home.joinpath(*rest)


def _written(place: Path) -> str:
    return place.read_text(encoding="utf-8", errors="replace")


def shipped_text(name: PurePosixPath) -> str:
    """Return a shipped file as it is shipped, whatever a project has made of it."""
    root = _INSTALLED if _INSTALLED.is_dir() else _REPOSITORY
    return (root / name).read_text(encoding="utf-8")

"""Finding a run by what a person types: its id, the beginning of it, its folder, or ``latest``."""

from __future__ import annotations

import difflib
from pathlib import Path

from mtf_scalper.records.files import MANIFEST, RecordError
from mtf_scalper.records.reader import Run, runs_in

RUNS = Path("user_data", "runs")
"""Where runs lie, seen from the project's root."""
LATEST = "latest"


def find_run(name: str, root: Path = RUNS) -> Run:
    """Return the run that ``name`` means.

    Parameters
    ----------
    name : str
        An id, an unambiguous beginning of one, a run's folder, or ``"latest"``; ``"latest-demo"``
        is the newest of a kind.
    root : Path
        Folder of the runs.

    Raises
    ------
    RecordError
        If there is no such run, naming the nearest, or there are several; or it is damaged.
    """
    for folder in (root / name, Path(name)):
        if (folder / MANIFEST).is_file():
            return Run.open(folder)
    runs = runs_in(root)
    if not runs:
        raise RecordError(f"there are no runs in {root}")
    if name == LATEST:
        return runs[0]
    if name.startswith(f"{LATEST}-"):
        kind = name.removeprefix(f"{LATEST}-")
        found = [run for run in runs if run.kind == kind]
        if found:
            return found[0]
    found = [run for run in runs if run.run_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(run.run_id for run in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise RecordError(f"{name!r} begins several runs: {ids}{more}")
    (nearest,) = difflib.get_close_matches(name, [run.run_id for run in runs], 1, cutoff=0.0)
    raise RecordError(f"there is no run {name!r} in {root}; the nearest is {nearest!r}")

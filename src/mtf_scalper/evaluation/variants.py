"""Variants that were tried before: what earlier runs left in their folders to be counted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np

from mtf_scalper.evaluation.edge import Variant
from mtf_scalper.evaluation.trades import JUDGED
from mtf_scalper.records import files
from mtf_scalper.records.files import RecordError
from mtf_scalper.records.reader import Run, Status, runs_in

logger = logging.getLogger(__name__)

TRIALS: Final = "trials"
"""Folder inside the record of a search that holds those of its trials."""
_SAME = 1e-12
_NO_VARIANT = ("random_state", "cpu_count", "interop_threads", "progress_bar", "untrainable_pairs")
"""Settings that luck or the machine decides."""


def earlier_variants(run: Run, judged: Variant, root: Path) -> list[Variant]:
    """Return the other variants that were judged on the same candles and days.

    Every finished run of the same kind, of these pairs, candles and days counts, whatever was
    changed between them: settings, windows or code; so does every trial of a search, whose record
    lies in the folder ``TRIALS`` of the search's. Other seeds alone are no variant, and where
    all days are the same as those of the judged variant, or of one that is counted already,
    nothing else was tried.

    Parameters
    ----------
    run : Run
        That of the judged variant.
    judged : Variant
    root : Path
        Folder of the runs.
    """
    found: list[Variant] = []
    known = [_key(run)]
    trials = [each for folder in sorted(root.glob(f"[!.]*/{TRIALS}")) for each in runs_in(folder)]
    for each in (*runs_in(root), *trials):
        try:
            is_alike = all(
                each.manifest.get(name) == run.manifest.get(name)
                for name in ("kind", "pairs", "timerange", "data_digest")
            )
            if not is_alike or each.status is not Status.FINISHED or _key(each) in known:
                continue
            variant = _variant_of(each)
        except RecordError as error:
            logger.warning("an earlier run is not counted as a variant: %s", error)
            continue
        if variant is not None and not any(_is_same(variant, one) for one in (judged, *found)):
            found.append(variant)
            known.append(_key(each))
    return found


def _key(run: Run) -> tuple[Any, ...]:
    """Return what a run's seeds and speed leave of it: two runs with the same are one variant."""
    settings = run.manifest.get("settings", {})
    return (
        run.manifest.get("engine"),
        {name: value for name, value in settings.items() if name not in _NO_VARIANT},
    )


def _variant_of(run: Run) -> Variant | None:
    table = run.daily()
    if table.empty:
        return None
    by_series = {
        str(name): rows["log_return"].to_numpy(dtype=np.float64)
        for name, rows in table.groupby("series", sort=False)
    }
    judged = by_series.pop(JUDGED, None)
    lengths = {len(each) for each in (judged, *by_series.values()) if each is not None}
    if judged is None or len(lengths) > 1 or table["log_return"].isna().any():
        raise RecordError(f"{run.folder / files.DAILY} is damaged: days or series are missing")
    by_series.pop("oracle", None)
    return Variant(run.run_id, judged, by_series)


def _is_same(one: Variant, other: Variant) -> bool:
    """Whether all days are the same; other days cannot be compared."""
    if one.log_return.shape != other.log_return.shape:
        return True
    return bool(np.abs(one.log_return - other.log_return).max() <= _SAME)

"""What a run says of the pairs that it went on without."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RESUMED

LEFT_OUT: Final = "left_out"
"""Event of a pair that cannot be trained: pair, reason."""


def left_out_of(run: Run) -> dict[str, str]:
    """Return the pairs that a run went on without, and what each lacks."""
    found: dict[str, str] = {}
    for event in run.events():
        if event["event"] == RESUMED:  # it tries again what had failed
            found.clear()
        elif event["event"] == LEFT_OUT:
            found[str(event["pair"])] = str(event["reason"])
    return found


def left_out_note(reasons: Mapping[str, str], pairs: Collection[str]) -> str:
    """Return what a verdict ends with: how many pairs are not in it, and which; empty for none.

    Parameters
    ----------
    reasons : mapping of str to str
        By pair that was left out.
    pairs : collection of str
        All that were asked for.
    """
    if not reasons:
        return ""
    n_pairs = len({*pairs, *reasons})
    return f"; {len(reasons)} of {n_pairs} pairs left out: {', '.join(reasons)}"

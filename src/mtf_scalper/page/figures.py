"""The figures of a run: which row speaks for the whole run, and how intervals are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mtf_scalper.evaluation.peer_words import TITLES
from mtf_scalper.page.parts import number
from mtf_scalper.records.reader import Run

ALL = "all"
"""Stands for all pairs together."""
SERIES = ("agent", "oracle", "classic exits", *TITLES.values(), "buy and hold", "flat")
"""Lines of equity, in the order of the legend."""


@dataclass(frozen=True)
class Figure:
    """A figure and its interval; None where it is missing."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def interval(self, form: str) -> str:
        """Return ``low to high``, empty without an interval."""
        if self.low is None or self.high is None:
            return ""
        return f"{number(self.low, form)} to {number(self.high, form)}"


def figure(row: Mapping[str, Any], name: str) -> Figure:
    """Return a figure of a row: a number, or an object of ``value``, ``low`` and ``high``."""
    found = row.get(name)
    if not isinstance(found, Mapping):
        found = {"value": found}
    return Figure(*(_float(found.get(key)) for key in ("value", "low", "high")))


def pooled(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row of the whole run: all pairs, or the only one; empty where there is none."""
    for row in rows:
        if row.get("pair") in (ALL, None) and row.get("window") is None and row.get("seed") is None:
            return row
    whole = [row for row in rows if row.get("window") is None and row.get("seed") is None]
    for found in (whole, rows):
        if len(found) == 1:
            return found[0]
    return {}


def final_returns(run: Run) -> dict[str, dict[str, float]]:
    """Return the last cumulative log return by pair and series, the mean over seeds."""
    equity = run.equity()
    if equity.empty:
        return {}
    last = equity.sort_values("date").groupby(["pair", "series", "seed"], dropna=False).last()
    means = last["log_return"].groupby(level=["pair", "series"]).mean().reset_index()
    found: dict[str, dict[str, float]] = {}
    for pair, series, value in means.itertuples(index=False):
        found.setdefault(str(pair), {})[str(series)] = float(value)
    return found


def series_names(present: Sequence[str]) -> list[str]:
    """Return the names in the order of the legend, unknown ones last."""
    known = [name for name in SERIES if name in present]
    return [*known, *sorted(set(present) - set(known))]


def seeds_of(table: pd.DataFrame) -> list[Any]:
    """Return the seeds of a table in order; ``[None]`` where none is told."""
    seeds = table["seed"].dropna().unique().tolist()
    return sorted(seeds) or [None]


def _float(value: Any) -> float | None:
    if value is None or isinstance(value, bool | str):
        return None
    return float(value)

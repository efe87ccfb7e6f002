"""What a page is made of: sections of plots and tables, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MISSING = "n/a"
"""Stands where a figure is missing."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes
    ----------
    text : str
    sort : float or str
        What the column is sorted by.
    tone : str
        ``"good"``, ``"bad"`` or empty; the text says the same without colour.
    """

    text: str
    sort: float | str
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand on the right."""

    title: str
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading.

    Attributes
    ----------
    name : str
        Id on the page.
    caption : str
    columns : sequence of Column
    rows : sequence of sequence of Cell
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Plot:
    """A plot; colours are names of CSS variables, so that they follow the colour scheme.

    Attributes
    ----------
    name : str
        Id on the page.
    label : str
        What is drawn, for whoever does not see it.
    sentence : str
        Its figures in words.
    traces : sequence of dict
        plotly's. ``meta.choice`` names the choice, or the choices, that a trace belongs to, and
        ``meta.thin`` how the page thins it to what the screen can show (``"ohlc"``, ``"minmax"``).
    layout : dict
        plotly's.
    height : int
        CSS pixels.
    choices : sequence of str
        What the selector above the plot offers; without, there is none.
    has_time_axis : bool
        Whether buttons to zoom and move are shown.
    """

    name: str
    label: str
    sentence: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 360
    choices: Sequence[str] = ()
    has_time_axis: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return what the page's script draws."""
        traces = [_with_plain_texts(trace) for trace in self.traces]
        return {"traces": traces, "layout": dict(self.layout), "height": self.height}


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes
    ----------
    name, title : str
        Id on the page, and heading.
    intro : str
        How to read it.
    parts : sequence of Plot or Table
    missing : str
        What is said where there is no part.
    """

    name: str
    title: str
    intro: str
    parts: Sequence[Plot | Table]
    missing: str

    @property
    def plots(self) -> list[Plot]:
        """The plots among the parts."""
        return [part for part in self.parts if isinstance(part, Plot)]


@dataclass(frozen=True)
class Fact:
    """A key figure: what it is, its value, and what it means."""

    title: str
    value: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Page:
    """All that a page says.

    Attributes
    ----------
    title : str
    subtitle : str
        Run, period and when.
    status : str
        ``"finished"``, ``"failed"``, ``"running"`` or ``"killed"``.
    verdict : str
        What came of the run, in a sentence.
    tone : str
        Of the verdict, as in ``Cell``.
    facts : sequence of Fact
    reasons : str
        Why policies are degenerate, by pair; empty where none is.
    progress : float or None
        Share of the training that runs now.
    sections : sequence of Section
    """

    title: str
    subtitle: str
    status: str
    verdict: str
    tone: str
    facts: Sequence[Fact]
    reasons: str = ""
    progress: float | None = None
    sections: Sequence[Section] = field(default_factory=tuple)


def plot_text(text: Any) -> str:
    """Return a text that plotly writes as it is: no tag, no link, no field of a template.

    What a record calls its pairs, series or phases may be anything.
    """
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("{", "&#123;")):
        text = str(text).replace(letter, entity)
    return str(text)


def _with_plain_texts(trace: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {
        name: [plot_text(each) if isinstance(each, str) else each for each in trace[name]]
        for name in ("x", "y", "text")
        if isinstance(trace.get(name), list)
    }
    if "name" in trace:
        plain["name"] = plot_text(trace["name"])
    return {**trace, **plain}


def number(value: Any, form: str = ",.2f", unit: str = "") -> str:
    """Return a number as text, ``MISSING`` where there is none."""
    if value is None or isinstance(value, str):
        return value or MISSING
    value = float(value)
    if math.isnan(value):
        return MISSING
    return f"{value:{form}}{unit}" if math.isfinite(value) else f"{'-' if value < 0 else ''}∞"


def log_return(value: Any) -> str:
    """Return a log return as text, ``+0.0123``."""
    return number(value, "+.4f")


def share(value: Any) -> str:
    """Return a share as percent."""
    return number(value, ".0%")


def megabytes(value: Any) -> str:
    """Return bytes as megabytes of a million bytes."""
    return number(None if value is None else float(value) / 1e6, ",.0f", " MB")


def count(n: int, noun: str, plural: str = "") -> str:
    """Return ``1 trade`` or ``2 trades``."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def joined(names: Sequence[str]) -> str:
    """Return names as an English list."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def short_pair(pair: str) -> str:
    """Return ``BTC`` of ``BTC/USDT:USDT``; whatever has no quote stays as it is."""
    return pair.split("/")[0]


def value_cell(value: Any, form: str = ",.2f", unit: str = "", *, tone: bool = False) -> Cell:
    """Return a number's cell; missing ones sort below all others."""
    try:
        found = float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        return text_cell(str(value))
    sort = -math.inf if math.isnan(found) else found
    colour = ("good" if found > 0 else "bad" if found < 0 else "") if tone else ""
    return Cell(number(value, form, unit), sort, colour)


def text_cell(text: Any, tone: str = "") -> Cell:
    """Return a text's cell."""
    shown = MISSING if text is None or text == "" else str(text)
    return Cell(shown, shown, tone)

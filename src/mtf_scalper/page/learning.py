"""How the trainings went: progress, learning curves, and what the policies look at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtf_scalper.page.parts import (
    Cell,
    Column,
    Plot,
    Section,
    Table,
    count,
    joined,
    log_return,
    short_pair,
    text_cell,
    value_cell,
)
from mtf_scalper.page.thinning import rounded
from mtf_scalper.records.reader import Run

__all__ = ["Training", "importance_section", "learning_section", "trainings_in"]

MAX_CURVES = 400
"""Trainings whose curves are drawn; the table has all."""
MAX_FEATURES = 20
"""Features that the plot of their importance shows."""
_COLOURS = ("--agent", "--classic", "--hold", "--oracle", "--random")
_KEYS = ("pair", "window", "seed")
_CURVES = (
    ("mean_episode_return", "y"),
    ("validation_log_return", "y2"),
    ("oracle_share", "y3"),
)


class Training:
    """One training of one pair, window and seed, from its events.

    Attributes
    ----------
    key : tuple
        Pair, window and seed; None where the run did not say.
    started, latest, finished : dict or None
        ``training_started``, the last ``progress`` and ``training_finished`` or
        ``training_failed``.
    updates : list of dict
        ``update`` events, of all members of an ensemble.
    """

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self.started: dict[str, Any] | None = None
        self.latest: dict[str, Any] | None = None
        self.finished: dict[str, Any] | None = None
        self.updates: list[dict[str, Any]] = []

    @property
    def title(self) -> str:
        """Pair, window and seed, as far as they are known."""
        pair, window, seed = self.key
        names = [short_pair(str(pair))] if pair is not None else []
        names += [window_name(window)] if window is not None else []
        names += [f"seed {seed}"] if seed is not None else []
        return ", ".join(names) or "training"

    def members(self) -> dict[Any, list[dict[str, Any]]]:
        """Return the updates by the seed of the ensemble's member; most have one only."""
        found: dict[Any, list[dict[str, Any]]] = {}
        for update in self.updates:
            found.setdefault(update.get("seed"), []).append(update)
        return found

    @property
    def done(self) -> float:
        """Share of its steps; a training that ended early is done as well."""
        if self.finished is not None and self.finished["event"] == "training_finished":
            return 1.0
        if self.latest is None or not self.latest.get("total_steps"):
            return 0.0
        return float(self.latest["steps"]) / float(self.latest["total_steps"])

    @property
    def phase(self) -> str:
        """What it does or how it ended."""
        if self.finished is not None:
            return "finished" if self.finished["event"] == "training_finished" else "failed"
        return str(self.latest["phase"]) if self.latest is not None else "starting"

    @property
    def seconds(self) -> float | None:
        """Seconds taken so far."""
        source = self.finished or self.latest or {}
        return source.get("seconds")

    @property
    def steps_per_second(self) -> float | None:
        """Candles decided on per second so far."""
        source = {**(self.latest or {}), **(self.finished or {})}
        seconds, steps = source.get("seconds"), source.get("steps")
        return float(steps) / float(seconds) if seconds and steps is not None else None


def window_name(window: Any) -> str:
    """Return a window as people read it: FreqAI names one by the end of its training data.

    >>> window_name("sub-train-BTC_1728950400")
    'from 2024-10-15'
    >>> window_name("20241015")
    'from 2024-10-15'
    """
    if re.fullmatch(r"20\d{6}", str(window)):
        return f"from {pd.Timestamp(str(window)):%Y-%m-%d}"
    head, _, stamp = str(window).rpartition("_")
    if head.startswith("sub-train") and stamp.isdigit():
        return f"from {pd.Timestamp(int(stamp), unit='s'):%Y-%m-%d}"
    return str(window)


def trainings_in(events: Iterable[dict[str, Any]]) -> list[Training]:
    """Return the trainings of a run in the order of their start."""
    found: dict[tuple[Any, ...], Training] = {}
    for event in events:
        name = event["event"]
        key = tuple(event.get(each) for each in _KEYS)
        if name == "training_started":
            found[key] = Training(key)
            found[key].started = event
        elif name == "update":
            # A member of an ensemble tells its own seed, which need not be that of the run.
            training = found.get(key) or _running(found.values(), key[:2])
            if training is not None:
                training.updates.append(event)
        elif key not in found:
            continue
        elif name == "progress":
            found[key].latest = event
        elif name in ("training_finished", "training_failed"):
            found[key].finished = event
    return list(found.values())


def _running(trainings: Iterable[Training], key: tuple[Any, ...]) -> Training | None:
    """Return the training of a pair and window that began last and has not ended."""
    mine = [each for each in trainings if each.key[:2] == key and each.finished is None]
    return mine[-1] if mine else None


def learning_section(run: Run) -> Section:
    """Return the section of learning curves and of what each training took."""
    trainings = trainings_in(run.events())
    with_curves = [training for training in trainings if training.updates]
    parts: list[Plot | Table] = []
    if with_curves:
        parts.append(_curves(with_curves))
    if trainings:
        parts.append(_table(trainings))
    return Section(
        name="learning",
        title="What was learned",
        intro=(
            "One line per training. The objective is what the policy expects to earn on the "
            "candles that it learns from, while fees still rise and while it still explores; the "
            "held-out return is what it earns on later candles that only choose the weights. "
            "Where the first rises and the second does not, it learns by heart."
        ),
        parts=parts,
        missing="This run trained nothing, or was ended before its first update.",
    )


def _curves(trainings: Sequence[Training]) -> Plot:
    pairs = list(dict.fromkeys(str(training.key[0]) for training in trainings))
    colours = {pair: _COLOURS[number % len(_COLOURS)] for number, pair in enumerate(pairs)}
    seen: set[str] = set()
    traces: list[dict[str, Any]] = []
    for training in trainings[:MAX_CURVES]:
        pair = str(training.key[0])
        members = training.members()
        for seed, updates in members.items():
            title = training.title + (f", member {seed}" if len(members) > 1 else "")
            for trace in _curves_of(updates, title):
                trace["name"] = short_pair(pair) if training.key[0] is not None else "training"
                trace["line"] = {"color": colours[pair], "width": 1.5}
                traces.append({**trace, "legendgroup": pair, "showlegend": pair not in seen})
                seen.add(pair)
    shares = [row.get("oracle_share") for each in trainings for row in each.updates]
    lowest = min((value for value in shares if value is not None), default=0.0)
    return Plot(
        name="learning-plot",
        label="Training objective, held-out return and share of the optimum during each training",
        sentence=_sentence(trainings, cut=lowest < -1.0),
        traces=traces,
        layout=_layout(cut=lowest < -1.0),
        height=560,
    )


def _curves_of(updates: Sequence[dict[str, Any]], title: str) -> Iterator[dict[str, Any]]:
    """Yield the curves of one policy, those that it has."""
    for column, axis in _CURVES:
        values = [row.get(column) for row in updates]
        if any(value is not None for value in values):
            yield {
                "type": "scatter",
                "mode": "lines",
                "x": [row["steps"] for row in updates],
                "y": rounded([np.nan if value is None else value for value in values]),
                "xaxis": "x",
                "yaxis": axis,
                "opacity": 0.8,
                "hovertemplate": f"%{{y:.3f}}<extra>{title}</extra>",
            }


def _sentence(trainings: Sequence[Training], *, cut: bool) -> str:
    best = []
    for training in trainings:
        found = [row.get("validation_log_return") for row in training.updates]
        best.append(max((value for value in found if value is not None), default=None))
    known = [value for value in best if value is not None]
    said = f"{count(len(trainings), 'training')}"
    if known:
        said += (
            f"; best held-out log return: median {log_return(np.median(known))}, from "
            f"{log_return(min(known))} to {log_return(max(known))}, above zero in "
            f"{sum(value > 0.0 for value in known)}"
        )
    if len(trainings) > MAX_CURVES:
        said += f"; the first {MAX_CURVES} are drawn"
    if cut:
        said += "; shares below -100% lie under the lower edge (double-click shows them)"
    return f"{said}."


def _layout(*, cut: bool) -> dict[str, Any]:
    third: dict[str, Any] = {"title": {"text": "of optimum"}, "domain": [0, 0.29]}
    third["tickformat"] = ".0%"
    if cut:
        third["range"] = [-1.05, 1.05]
    return {
        "xaxis": {"title": {"text": "steps: candles decided on"}, "anchor": "y3"},
        "yaxis": {"title": {"text": "objective"}, "domain": [0.71, 1]},
        "yaxis2": {"title": {"text": "held out"}, "domain": [0.355, 0.645]},
        "yaxis3": third,
    }


def _table(trainings: Sequence[Training]) -> Table:
    rows = []
    for training in trainings:
        last = training.updates[-1] if training.updates else {}
        reports = (training.finished or {}).get("reports") or []
        held = reports[0].get("log_return") if reports else last.get("validation_log_return")
        part = reports[0].get("oracle_share") if reports else last.get("oracle_share")
        rows.append(
            [
                text_cell(training.title),
                _phase_cell(training.phase),
                value_cell(training.done, ".0%"),
                value_cell(training.seconds, ",.1f", " s"),
                value_cell(training.steps_per_second, ",.0f"),
                value_cell(held, "+.4f", tone=True),
                value_cell(part, ".0%"),
            ]
        )
    return Table(
        name="training-table",
        caption="Trainings: how far, how fast, and the return on the held-out candles that chose "
        "the weights (later candles may well say less)",
        columns=[
            Column("training", is_number=False),
            Column("phase", is_number=False),
            Column("done"),
            Column("time"),
            Column("steps/s"),
            Column("held-out log return"),
            Column("of optimum"),
        ],
        rows=rows,
    )


def _phase_cell(phase: str) -> Cell:
    return text_cell(phase, "bad" if phase == "failed" else "")


def importance_section(run: Run) -> Section:
    """Return the section of what each feature is worth to the policies."""
    found = run.importance() or {}
    rows = {name: each for name, each in found.items() if isinstance(each, dict)}
    ranked = sorted(rows, key=lambda name: float(rows[name].get("median") or 0.0), reverse=True)
    parts: list[Plot | Table] = []
    if ranked:
        parts = [_importance_plot(ranked, rows), _importance_table(ranked, rows)]
    return Section(
        name="importance",
        title="What the agent looks at",
        intro=(
            "Permutation importance: the log return that is lost when one feature is shuffled in "
            "time, so that it tells nothing. Bars are medians over shuffles, whiskers reach from "
            "the 5% to the 95% quantile. Features that tell the same thing share their worth; "
            "below zero the agent did better without."
        ),
        parts=parts,
        missing="The importance of features was not measured in this run.",
    )


def _importance_plot(ranked: Sequence[str], rows: dict[str, dict[str, Any]]) -> Plot:
    shown = list(ranked[:MAX_FEATURES])[::-1]  # bars are drawn from below
    median, low, high = (
        np.array([_float(rows[name].get(key)) for name in shown])
        for key in ("median", "low", "high")
    )
    top = [f"{name} ({log_return(rows[name].get('median'))})" for name in ranked[:3]]
    sure = sum(_float(each.get("low")) > 0.0 for each in rows.values())
    left = len(ranked) - len(shown)
    rest = f" The plot leaves out {count(left, 'feature')} below." if left else ""
    return Plot(
        name="importance-plot",
        label="Permutation importance of features",
        sentence=f"Most is lost without {joined(top)}; {sure} of "
        f"{count(len(ranked), 'feature')} matter in 95% of the shuffles.{rest}",
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "name": "loss of log return",
                "x": rounded(median),
                "y": shown,
                "marker": {"color": "--agent"},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": rounded(high - median),
                    "arrayminus": rounded(median - low),
                    "color": "--muted",
                    "thickness": 1.2,
                    "width": 3,
                },
                "hovertemplate": "%{y}: %{x:+.4f}<extra></extra>",
            }
        ],
        layout={
            "showlegend": False,
            "hovermode": "y",
            "xaxis": {"title": {"text": "log return lost without it"}},
            "yaxis": {"automargin": True, "type": "category"},
        },
        height=120 + 22 * len(shown),
    )


def _importance_table(ranked: Sequence[str], rows: dict[str, dict[str, Any]]) -> Table:
    return Table(
        name="importance-table",
        caption="Loss of log return without each feature",
        columns=[
            Column("feature", is_number=False),
            Column("median"),
            Column("5%"),
            Column("95%"),
        ],
        rows=[
            [
                text_cell(name),
                *(value_cell(rows[name].get(key), "+.4f") for key in ("median", "low", "high")),
            ]
            for name in ranked
        ],
    )


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)

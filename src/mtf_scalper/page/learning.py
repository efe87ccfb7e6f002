"""How the trainings went: progress, learning curves, and what the policies look at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
    plot_text,
    short_pair,
    text_cell,
    value_cell,
)
from mtf_scalper.page.thinning import rounded
from mtf_scalper.records.reader import Run
from mtf_scalper.records.trainings import Training, trainings

MAX_CURVES = 400
"""Trainings whose curves are drawn; the table has all."""
MAX_FEATURES = 20
"""Features that the plot of their importance shows."""
_COLOURS = ("--agent", "--classic", "--hold", "--oracle", "--random")
_CURVES = (
    ("mean_episode_return", "y"),
    ("validation_log_return", "y2"),
    ("oracle_share", "y3"),
)


def training_title(training: Training) -> str:
    """Return pair, window and seed, as far as they are known."""
    pair, window, seed = training.key
    names = [short_pair(str(pair))] if pair is not None else []
    names += [window_name(window)] if window is not None else []
    names += [f"seed {seed}"] if seed is not None else []
    return ", ".join(names) or "training"


def window_name(window: Any) -> str:
    """Return a window as people read it: FreqAI names one by the end of its training data.

    >>> window_name("sub-train-BTC_1728950400")
    'from 2024-10-15'
    >>> window_name("sub-train-BTC_1728972300")
    'from 2024-10-15 06:05'
    >>> window_name("20241015")
    'from 2024-10-15'
    """
    name = str(window)
    head, _, stamp = name.rpartition("_")
    try:
        if re.fullmatch(r"20\d{6}", name):
            return f"from {pd.Timestamp(name):%Y-%m-%d}"
        if head.startswith("sub-train"):
            begins = pd.Timestamp(int(stamp), unit="s")
            return f"from {begins:%Y-%m-%d %H:%M}".removesuffix(" 00:00")
    except (ValueError, OverflowError):  # named by somebody else
        return name
    return name


def learning_section(run: Run) -> Section:
    """Return the section of learning curves and of what each training took."""
    found = trainings(run.events())
    with_curves = [training for training in found if training.updates]
    parts: list[Plot | Table] = []
    if with_curves:
        parts.append(_curves(with_curves))
    if found:
        parts.append(_table(found))
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


def _curves(found: Sequence[Training]) -> Plot:
    pairs = list(dict.fromkeys(str(training.key[0]) for training in found))
    colours = {pair: _COLOURS[number % len(_COLOURS)] for number, pair in enumerate(pairs)}
    seen: set[str] = set()
    traces: list[dict[str, Any]] = []
    for training in found[:MAX_CURVES]:
        pair = str(training.key[0])
        members: dict[Any, list[Mapping[str, Any]]] = {}
        for update in training.updates:
            members.setdefault(update.get("seed"), []).append(update)
        for seed, updates in members.items():
            title = training_title(training) + (f", member {seed}" if len(members) > 1 else "")
            for trace in _curves_of(updates, title):
                trace["name"] = short_pair(pair) if training.key[0] is not None else "training"
                trace["line"] = {"color": colours[pair], "width": 1.5}
                traces.append({**trace, "legendgroup": pair, "showlegend": pair not in seen})
                seen.add(pair)
    shares = [row.get("oracle_share") for each in found for row in each.updates]
    lowest = min((value for value in shares if value is not None), default=0.0)
    return Plot(
        name="learning-plot",
        label="Training objective, held-out return and share of the optimum during each training",
        sentence=_sentence(found, cut=lowest < -1.0),
        traces=traces,
        layout=_layout(cut=lowest < -1.0),
        height=560,
    )


def _curves_of(updates: Sequence[Mapping[str, Any]], title: str) -> Iterator[dict[str, Any]]:
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
                "hovertemplate": f"%{{y:.3f}}<extra>{plot_text(title)}</extra>",
            }


def _sentence(found: Sequence[Training], *, cut: bool) -> str:
    best = []
    for training in found:
        values = [row.get("validation_log_return") for row in training.updates]
        best.append(max((value for value in values if value is not None), default=None))
    known = [value for value in best if value is not None]
    said = f"{count(len(found), 'training')}"
    if known:
        said += (
            f"; best held-out log return: median {log_return(np.median(known))}, from "
            f"{log_return(min(known))} to {log_return(max(known))}, above zero in "
            f"{sum(value > 0.0 for value in known)}"
        )
    if len(found) > MAX_CURVES:
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


def _table(found: Sequence[Training]) -> Table:
    rows = []
    for training in found:
        last = training.updates[-1] if training.updates else {}
        reports = (training.ended or {}).get("reports") or []
        held = reports[0].get("log_return") if reports else last.get("validation_log_return")
        part = reports[0].get("oracle_share") if reports else last.get("oracle_share")
        rows.append(
            [
                text_cell(training_title(training)),
                _phase_cell(training.phase),
                value_cell((training.foretold or {}).get("standard_errors"), ".1f"),
                value_cell(training.done, ".0%"),
                value_cell(training.seconds, ",.1f", " s"),
                value_cell(training.steps_per_second, ",.0f"),
                value_cell(held, "+.4f", tone=True),
                value_cell(part, ".0%"),
            ]
        )
    return Table(
        name="training-table",
        caption="Trainings: at how many standard errors returns agree with the best forecast (at "
        "too few nothing is learned), how far, how fast, and the return on the held-out candles "
        "that chose the weights (later candles may well say less)",
        columns=[
            Column("training", is_number=False),
            Column("phase", is_number=False),
            Column("foretold, s.e."),
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

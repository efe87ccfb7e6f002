"""A search over settings: how far it came, what matters, and which settings did well together.

Parallel coordinates are drawn as lines, not as plotly's own kind of plot: that one compiles code in
the browser, which the page's security policy forbids.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtf_scalper.page.parts import (
    Column,
    Fact,
    Plot,
    Section,
    Table,
    count,
    log_return,
    number,
    plot_text,
    share,
    text_cell,
    value_cell,
)
from mtf_scalper.page.thinning import rounded
from mtf_scalper.records.reader import Run

SEARCH = "tune"
"""Kind of the run."""
MAX_LINES = 200
"""Trials that are drawn as lines, the best ones; the table has all."""

Trial = Mapping[str, Any]


def search_section(run: Run) -> Section:
    """Return the section of trials: history, importance, parallel coordinates and a table."""
    study = _study(run)
    trials = list(study["trials"])
    parts: list[Plot | Table] = []
    if trials:
        parts.append(_history(trials))
        if study.get("importance"):
            parts.append(_importance(study["importance"]))
        valued = _ranked(trials)
        names = list(dict.fromkeys(name for each in trials for name in each["values"]))
        if len(valued) > 1 and names:
            parts.append(_parallel(valued, names, study.get("space") or {}))
        parts.append(_table(trials, names))
    return Section(
        name="search",
        title="The search",
        intro=(
            "Every trial is learned and traded on the windows of the search; its objective is the "
            "mean of their log returns less the standard error. The best of many looks good on the "
            "days that it is the best on: what it is worth is said by the locked days alone."
        ),
        parts=parts,
        missing="No trial has ended yet.",
    )


def search_facts(run: Run) -> list[Fact]:
    """Return how many trials there are, what the best is worth, and what the locked days said."""
    study = _study(run)
    trials = list(study["trials"])
    states = Counter(str(each.get("state")) for each in trials)
    others = [f"{states[name]} {name}" for name in ("stopped", "untradable") if states[name]]
    facts = [Fact("Searched", count(len(trials), "trial"), ", ".join(others) or "all to the end")]
    if ranked := _ranked(trials):
        note = f"trial {ranked[0]['number']}: mean of the windows less its standard error"
        facts.append(Fact("Best objective", log_return(ranked[0]["objective"]), note))
    final = study.get("final")
    if final:
        locked = final["locked"]
        value, tone = locked["log_return"]["value"], "good" if final["found"] else ""
        note = f"log return of {count(locked['n_days'], 'day')}, looked at on {final['looked_at']}"
        facts.append(Fact("Locked away", log_return(value), note, tone))
    return facts


def _study(run: Run) -> Mapping[str, Any]:
    """Return the study; of a search that is not over, the trials that it has told of."""
    return run.study() or {"trials": run.events("trial")}


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that were traded to the end, the best first."""
    valued = [each for each in trials if each.get("objective") is not None]
    return sorted(valued, key=lambda each: -float(each["objective"]))


def _history(trials: Sequence[Trial]) -> Plot:
    valued = [each for each in trials if each.get("objective") is not None]
    objectives = [float(each["objective"]) for each in valued]
    numbers = [int(each["number"]) for each in valued]
    best = np.maximum.accumulate(objectives) if objectives else np.zeros(0)
    stopped = len(trials) - len(valued)
    said = f"{count(len(trials), 'trial')}, {stopped} of them stopped early or untradable"
    if objectives:
        first = numbers[int(np.argmax(objectives))]
        said += f"; the best objective is {log_return(max(objectives))}, of trial {first}"
    return Plot(
        name="search-history-plot",
        label="Objective of each trial, and the best so far",
        sentence=f"{said}.",
        traces=[
            {
                "type": "scatter",
                "mode": "markers",
                "name": "trial",
                "x": numbers,
                "y": rounded(np.asarray(objectives)),
                "marker": {"color": "--muted", "size": 7},
                "hovertemplate": "trial %{x}: %{y:+.4f}<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": numbers,
                "y": rounded(best),
                "line": {"color": "--agent", "width": 2, "shape": "hv"},
                "hovertemplate": "best up to %{x}: %{y:+.4f}<extra></extra>",
            },
        ],
        layout={
            "xaxis": {"title": {"text": "trial"}},
            "yaxis": {"title": {"text": "objective"}},
        },
    )


def _importance(importance: Mapping[str, float]) -> Plot:
    ranked = sorted(importance, key=lambda name: -float(importance[name]))
    shown = ranked[::-1]  # bars are drawn from below
    return Plot(
        name="search-importance-plot",
        label="Share of what good trials differ by from the others, by setting",
        sentence=f"Good trials differ from the others most by {ranked[0]} "
        f"({share(importance[ranked[0]])}); PED-ANOVA over {count(len(ranked), 'setting')}.",
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "name": "importance",
                "x": rounded(np.asarray([float(importance[name]) for name in shown])),
                "y": shown,
                "marker": {"color": "--agent"},
                "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
            }
        ],
        layout={
            "showlegend": False,
            "hovermode": "y",
            "xaxis": {"title": {"text": "importance"}, "tickformat": ".0%"},
            "yaxis": {"automargin": True, "type": "category"},
        },
        height=120 + 26 * len(shown),
    )


def _parallel(
    ranked: Sequence[Trial], names: Sequence[str], space: Mapping[str, Mapping[str, Any]]
) -> Plot:
    """Draw a line per trial over all settings, each scaled to its own lowest and highest value."""
    drawn = ranked[:MAX_LINES]
    scaled = {
        name: _scaled([each["values"].get(name) for each in drawn], name, space) for name in names
    }
    objectives = [float(each["objective"]) for each in drawn]
    heights = _scaled(objectives, "", {})
    traces = []
    for place in range(len(drawn) - 1, -1, -1):  # the best one lies on top
        trial, is_best = drawn[place], place == 0
        values = [number_or_text(trial["values"].get(name)) for name in names]
        texts = [f"{n}: {v}" for n, v in zip(names, values, strict=True)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"trial {trial['number']}",
                "x": [*names, "objective"],
                "y": [*(scaled[name][place] for name in names), heights[place]],
                "text": [*texts, f"objective: {log_return(trial['objective'])}"],
                "line": {
                    "color": "--agent" if is_best else "--muted",
                    "width": 2.5 if is_best else 1,
                },
                "opacity": 1.0 if is_best else 0.15 + 0.6 * (1.0 - place / len(drawn)),
                "hovertemplate": f"trial {int(trial['number'])}, %{{text}}<extra></extra>",
            }
        )
    best = ", ".join(
        f"{name} {number_or_text(value)}" for name, value in drawn[0]["values"].items()
    )
    left = len(ranked) - len(drawn)
    rest = f" The best {MAX_LINES} of {len(ranked)} are drawn." if left else ""
    return Plot(
        name="search-parallel-plot",
        label="Settings and objective of each trial, as lines over parallel axes",
        sentence=f"The best trial has {best}; darker lines are better trials.{rest}",
        traces=traces,
        layout={
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {"type": "category", "automargin": True},
            "yaxis": {"visible": False, "range": [-0.1, 1.1]},
            "annotations": [
                *(
                    end
                    for name in names
                    for end in _ends(name, [each["values"].get(name) for each in drawn])
                ),
                *_ends("objective", [round(each, 4) for each in objectives]),
            ],
        },
        height=420,
    )


def _ends(axis: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what stands below and above an axis: the lowest and the highest value."""
    known = sorted({each for each in values if each is not None}, key=_order)
    if len(known) < 2:
        places = [(0.5, "bottom", 4)] * len(known)
    else:
        places, known = [(0.0, "top", -4), (1.0, "bottom", 4)], [known[0], known[-1]]
    return [
        {
            "x": plot_text(axis),
            "y": y,
            "yanchor": anchor,
            "yshift": shift,
            "text": plot_text(number_or_text(value)),
            "showarrow": False,
            "font": {"size": 11},
        }
        for value, (y, anchor, shift) in zip(known, places, strict=True)
    ]


def _order(value: Any) -> tuple[bool, Any]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (False, value) if is_number else (True, str(value))


def _scaled(
    values: Sequence[Any], name: str, space: Mapping[str, Mapping[str, Any]]
) -> list[float | None]:
    """Return values between 0 and 1: numbers by their size, others by their place among all."""
    known = [each for each in values if each is not None]
    is_number = all(isinstance(each, int | float) and not isinstance(each, bool) for each in known)
    if is_number:
        is_log = bool(space.get(name, {}).get("log")) and all(each > 0 for each in known)
        places = [None if v is None else math.log(v) if is_log else float(v) for v in values]
    else:
        texts = sorted({str(each) for each in known})
        places = [None if v is None else float(texts.index(str(v))) for v in values]
    found = [each for each in places if each is not None]
    low, width = min(found, default=0.0), max(found, default=0.0) - min(found, default=0.0)
    return [
        None if each is None else round((each - low) / width, 4) if width > 0.0 else 0.5
        for each in places
    ]


def number_or_text(value: Any) -> str:
    """Return a setting's value as people read it."""
    return number(value, ".4g") if value is None or isinstance(value, float) else str(value)


def _table(trials: Sequence[Trial], names: Sequence[str]) -> Table:
    rows = []
    for each in trials:
        windows = [float(value) for value in each.get("windows") or []]
        mean = float(np.mean(windows)) if windows else None
        is_whole = each.get("state") == "complete"
        reason = each.get("reason")
        rows.append(
            [
                value_cell(each["number"], ",.0f"),
                text_cell(
                    f"{each.get('state')}: {reason}" if reason else each.get("state"),
                    "" if is_whole else "bad",
                ),
                value_cell(each.get("objective"), "+.4f", tone=True),
                value_cell(mean, "+.4f", tone=True),
                value_cell(len(windows), ",.0f"),
                *(_setting_cell(each["values"].get(name)) for name in names),
            ]
        )
    return Table(
        name="search-table",
        caption="All trials; the first one is the configuration as it is",
        columns=[
            Column("trial"),
            Column("state", is_number=False),
            Column("objective"),
            Column("mean of its windows"),
            Column("windows"),
            *(Column(name) for name in names),
        ],
        rows=rows,
    )


def _setting_cell(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value_cell(value, ".4g")
    return text_cell(value)

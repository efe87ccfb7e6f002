"""Which machine learned what, when: tasks over time, by machine, the slow ones and the failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

import numpy as np

from mtf_scalper.page.learning import window_name
from mtf_scalper.page.parts import (
    Column,
    Plot,
    Section,
    Table,
    count,
    number,
    text_cell,
    value_cell,
)
from mtf_scalper.page.thinning import extremes, rounded
from mtf_scalper.records.reader import Run

SLOW: Final = 2.0
"""Times the median from which a task is a straggler."""
_MOST_ROWS: Final = 20
_Event = Mapping[str, Any]


def tasks_section(run: Run) -> Section:
    """Return the section of the tasks that processes or machines of a cluster did."""
    told = run.events("task")
    timed = [each for each in told if each.get("began") and each.get("ended")]
    done = [each for each in timed if each["state"] == "finished"]
    parts: list[Plot | Table] = []
    if done:
        parts += [_plot(run, done, told), _machines(timed), _stragglers(done)]
    if failed := [each for each in told if each["state"] != "finished"]:
        parts.append(_failures(failed))
    return Section(
        name="tasks",
        title="Tasks and machines",
        intro=(
            "A task is the training of one pair, window and seed, in a search with the settings of "
            "one trial. One that is killed, or whose machine is lost, is tried again. What fails "
            "for good is named; its pair is left out, or its trial is untradable."
        ),
        parts=parts,
        missing="This run shared out no tasks.",
    )


def _seconds(event: _Event) -> float:
    return float(event["ended"]) - float(event["began"])


def _plot(run: Run, done: Sequence[_Event], told: Sequence[_Event]) -> Plot:
    begin = run.clock_began.timestamp()
    ends = np.sort([float(each["ended"]) for each in done]) - begin
    # One up where a task begins, one down where it ends: how many were at work.
    edges = [(float(each["began"]) - begin, 1) for each in done]
    edges += [(float(each["ended"]) - begin, -1) for each in done]
    moments, steps = np.array(sorted(edges)).T
    at_work = np.cumsum(steps)
    traces = []
    for name, x, y, axis, colour in (
        ("tasks done", ends, np.arange(1.0, len(ends) + 1.0), "y", "--agent"),
        ("at work", moments, at_work, "y2", "--muted"),
    ):
        rows = extremes(y)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": rounded(x[rows], 7),
                "y": rounded(y[rows], 7),
                "xaxis": "x",
                "yaxis": axis,
                "line": {"color": colour, "width": 2, "shape": "hv"},
                "hovertemplate": "%{y:.0f}<extra>" + name + "</extra>",
            }
        )
    took = ends[-1] - (min(float(each["began"]) for each in done) - begin)
    lost = sum(each["state"] == "retried" for each in told)
    gone = sum(each["state"] == "failed" for each in told)
    return Plot(
        name="tasks-plot",
        label="Tasks done, and tasks at work, over time",
        sentence=(
            f"{count(len(done), 'task')} in {number(took, ',.0f')} s, "
            f"{number(60.0 * len(done) / took if took > 0 else None, ',.1f')} a minute; "
            f"{count(lost, 'attempt')} lost and made again, {count(gone, 'task')} failed for good."
        ),
        traces=traces,
        layout={
            "hovermode": "x unified",
            "xaxis": {"title": {"text": "seconds since the run began"}, "anchor": "y2"},
            "yaxis": {"title": {"text": "done"}, "domain": [0.45, 1], "rangemode": "tozero"},
            "yaxis2": {"title": {"text": "at work"}, "domain": [0, 0.35], "rangemode": "tozero"},
        },
        has_time_axis=True,
    )


def _machines(timed: Sequence[_Event]) -> Table:
    by_node: dict[str, list[_Event]] = {}
    for each in timed:
        by_node.setdefault(str(each.get("node") or "not known"), []).append(each)
    rows = []
    for node, mine in by_node.items():
        done = [_seconds(each) for each in mine if each["state"] == "finished"]
        rows.append(
            [
                text_cell(node),
                value_cell(len(done), ",.0f"),
                value_cell(len(mine) - len(done), ",.0f"),
                value_cell(sum(map(_seconds, mine)), ",.0f", " s"),
                value_cell(median(done) if done else None, ",.1f", " s"),
            ]
        )
    columns = [
        Column("machine", is_number=False),
        *(Column(each) for each in ("tasks", "failed", "work", "median")),
    ]
    return Table("machines-table", count(len(rows), "machine"), columns, rows)


def _stragglers(done: Sequence[_Event]) -> Table:
    usual = median(map(_seconds, done))
    slow = sorted((each for each in done if _seconds(each) > SLOW * usual), key=_seconds)[::-1]
    rows = [
        [*_who(each, done), value_cell(_seconds(each), ",.1f", " s"), text_cell(each.get("node"))]
        for each in slow[:_MOST_ROWS]
    ]
    caption = (
        f"{count(len(slow), 'straggler')}: more than {SLOW:g} times the median of "
        f"{number(usual, ',.1f')} s"
    )
    columns = [*_names(done), Column("took"), Column("machine", is_number=False)]
    return Table("stragglers-table", caption, columns, rows)


def _failures(failed: Sequence[_Event]) -> Table:
    rows = [
        [
            *_who(each, failed),
            value_cell(each["attempt"], ",.0f"),
            text_cell(each["state"], "bad" if each["state"] == "failed" else ""),
            text_cell(each.get("error")),
        ]
        for each in failed[:_MOST_ROWS]
    ]
    columns = [
        *_names(failed),
        Column("attempt"),
        Column("state", is_number=False),
        Column("reason", is_number=False),
    ]
    shown = "" if len(failed) <= _MOST_ROWS else f"; the first {_MOST_ROWS}"
    caption = f"{count(len(failed), 'attempt')} that failed{shown}"
    return Table("failures-table", caption, columns, rows)


def _names(events: Sequence[_Event]) -> list[Column]:
    """Return the columns that say which task it was."""
    named = [Column("trial")] if _of_trials(events) else []
    return [*named, *(Column(each, is_number=False) for each in ("pair", "window")), Column("seed")]


def _who(event: _Event, events: Sequence[_Event]) -> list[Any]:
    trial = [value_cell(event.get("trial"), "g")] if _of_trials(events) else []
    window = text_cell(window_name(event["window"]))
    return [*trial, text_cell(event["pair"]), window, value_cell(event["seed"], "g")]


def _of_trials(events: Sequence[_Event]) -> bool:
    return any("trial" in each for each in events)

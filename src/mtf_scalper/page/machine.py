"""How a run used the machine: processors, memory and processes over time, and its phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.page.parts import (
    Column,
    Plot,
    Section,
    Table,
    count,
    megabytes,
    number,
    plot_text,
    text_cell,
    value_cell,
)
from mtf_scalper.page.phases import TRAINING_PHASES, dominant, seconds_by_phase, timeline
from mtf_scalper.page.thinning import extremes, rounded
from mtf_scalper.records.reader import Run
from mtf_scalper.records.trainings import Span

N_BANDS = 400
"""Buckets in which the phases are drawn: less than a pixel each on most screens."""
_GIGABYTE = 1e9
_COLOURS = {
    "features": "--phase-features",
    "rollout": "--phase-rollout",
    "evaluation": "--phase-rollout",
    "update": "--phase-update",
    "inference": "--phase-inference",
    "backtest": "--phase-backtest",
}


def samples_in(samples: pd.DataFrame, spans: Sequence[Span], names: Sequence[str]) -> NDArray[Any]:
    """Return which samples lie inside the phases of these names; bool, shape (N,).

    ``spans`` are those of ``timeline``, in order.

    The CPU use of a sample is that of the time since the sample before; the middle of that time
    decides.
    """
    moments = samples["time"].to_numpy(dtype=np.float64)
    before = np.concatenate([moments[:1], moments[:-1]])
    middle = (before + moments) / 2.0
    if not spans:
        return np.zeros(len(samples), dtype=np.bool_)
    begins = np.array([span.began for span in spans])
    ends = np.array([span.ended for span in spans])
    wanted = np.array([span.phase in names for span in spans])
    # They are in order and do not overlap: only the last one that has begun can hold it.
    latest = np.maximum(np.searchsorted(begins, middle, side="right") - 1, 0)
    inside = wanted[latest] & (begins[latest] <= middle) & (middle < ends[latest])
    return np.asarray(inside, dtype=np.bool_)


def machine_section(run: Run) -> Section:
    """Return the section of CPU, memory and processes."""
    samples, spans = run.samples(), timeline(run.spans())
    parts: list[Plot | Table] = []
    if len(samples) > 1:
        parts.append(_plot(run, samples, spans))
    if spans:
        parts.append(_table(samples, spans))
    return Section(
        name="machine",
        title="How the machine was used",
        intro=(
            "CPU, memory and processes of the run and all that it started. The coloured bands are "
            "the phases of the run: a training alternates between judging its policy (from "
            "rollouts, or by exact evaluation) and improving it (update)."
        ),
        parts=parts,
        missing="This run took no samples of the machine, and told of no phase.",
    )


def _plot(run: Run, samples: pd.DataFrame, spans: Sequence[Span]) -> Plot:
    began = run.clock_began.timestamp()
    moments = samples["time"].to_numpy(dtype=np.float64) - began
    end = max([float(moments[-1]), *(span.ended - began for span in spans)])
    bands = dominant(
        [Span(s.began - began, s.ended - began, s.phase) for s in spans], 0.0, end, N_BANDS
    )
    cores = [
        name for name in samples.columns if name.startswith("core_") and name != "core_percent"
    ]
    tree = samples["tree_percent"].to_numpy(dtype=np.float64) / 100.0
    traces = [*_band_traces(bands)]
    for name in cores:
        used = samples[name].to_numpy(dtype=np.float64)
        label = f"core {name.split('_')[1]}, all programs"
        traces.append(_line(moments, used / 100.0, label, "--muted", "y", width=1, opacity=0.55))
    traces.append(_line(moments, tree, "cores used by the run", "--agent", "y", width=2))
    for name, label, colour in (
        ("resident_bytes", "resident", "--muted"),
        ("unique_bytes", "unique to the run", "--agent"),
    ):
        values = samples[name].to_numpy(dtype=np.float64) / _GIGABYTE
        traces.append(_line(moments, values, f"memory, {label}", colour, "y2", unit=" GB"))
    for name, colour in (("processes", "--agent"), ("workers", "--muted")):
        values = samples[name].to_numpy(dtype=np.float64)
        traces.append(_line(moments, values, name, colour, "y3", shape="hv", form=".0f"))
    thinned = (
        ""
        if len(samples) <= 1500
        else (f" The {len(samples):,} samples are drawn by the lowest and highest of each stretch.")
    )
    return Plot(
        name="machine-plot",
        label="CPU, memory and processes over time, with the phases of the run",
        sentence=_sentence(samples, spans, len(cores)) + thinned,
        traces=traces,
        layout=_layout(bands, max(1, len(cores))),
        height=560,
        has_time_axis=True,
    )


def _sentence(samples: pd.DataFrame, spans: Sequence[Span], n_cores: int) -> str:
    tree = samples["tree_percent"].to_numpy(dtype=np.float64) / 100.0
    busy = samples_in(samples, spans, TRAINING_PHASES)
    said = f"The run used {np.mean(tree):.2f} of {count(n_cores, 'core')} on average"
    if busy.any():
        said += f", {np.mean(tree[busy]):.2f} while it trained"
    most = samples["unique_bytes"].max()
    return (
        f"{said}; at most {megabytes(most)} of memory of its own and "
        f"{count(int(samples['processes'].max()), 'process', 'processes')}."
    )


def _line(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    name: str,
    colour: str,
    axis: str,
    *,
    width: float = 1.5,
    opacity: float = 1.0,
    unit: str = "",
    shape: str = "linear",
    form: str = ".2f",
) -> dict[str, Any]:
    rows = extremes(y)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": rounded(x[rows], 7),
        "y": rounded(y[rows], 5),
        "xaxis": "x",
        "yaxis": axis,
        "opacity": opacity,
        "line": {"color": colour, "width": width, "shape": shape},
        "hovertemplate": f"%{{y:{form}}}{unit}<extra>{plot_text(name)}</extra>",
    }


def _band_traces(bands: Sequence[Span]) -> list[dict[str, Any]]:
    """Return a strip that names the phases: it is the bands' legend, and tells them on hover."""
    traces = []
    for name in dict.fromkeys(band.phase for band in bands):
        mine = [band for band in bands if band.phase == name]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": f"phase: {name}",
                "x": rounded([band.ended - band.began for band in mine], 7),
                "base": rounded([band.began for band in mine], 7),
                "y": ["phase"] * len(mine),
                "xaxis": "x",
                "yaxis": "y4",
                "marker": {"color": _colour(name), "line": {"width": 0}},
                "hovertemplate": f"{plot_text(name)}<extra></extra>",
            }
        )
    return traces


def _colour(phase: str) -> str:
    return _COLOURS.get(phase, "--phase-other")


def _layout(bands: Sequence[Span], n_cores: int) -> dict[str, Any]:
    shapes = [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": round(band.began, 3),
            "x1": round(band.ended, 3),
            "y0": 0,
            "y1": 0.9,
            "fillcolor": _colour(band.phase),
            "opacity": 0.13,
            "line": {"width": 0},
            "layer": "below",
        }
        for band in bands
    ]
    return {
        "hovermode": "x unified",
        "barmode": "overlay",
        "bargap": 0,
        "shapes": shapes,
        "xaxis": {"title": {"text": "seconds since the run began"}, "anchor": "y3"},
        "yaxis": {
            "title": {"text": "cores"},
            "domain": [0.56, 0.9],
            "range": [0, n_cores * 1.06],
        },
        "yaxis2": {"title": {"text": "GB"}, "domain": [0.25, 0.52], "rangemode": "tozero"},
        "yaxis3": {"title": {"text": "processes"}, "domain": [0, 0.21], "rangemode": "tozero"},
        "yaxis4": {"domain": [0.93, 1], "showticklabels": False, "fixedrange": True},
    }


def _table(samples: pd.DataFrame, spans: Sequence[Span]) -> Table:
    seconds = seconds_by_phase(spans)
    total = sum(seconds.values())
    rows = []
    for name, taken in seconds.items():
        inside = samples_in(samples, spans, (name,)) if len(samples) else np.zeros(0, np.bool_)
        mine = samples[inside]
        has = len(mine) > 0
        rows.append(
            [
                text_cell(name),
                value_cell(taken, ",.1f", " s"),
                value_cell(taken / total, ".0%"),
                value_cell(mine["tree_percent"].mean() / 100.0 if has else None, ".2f"),
                value_cell(mine["machine_percent"].mean() / 100.0 if has else None, ".0%"),
                value_cell(mine["unique_bytes"].max() / 1e6 if has else None, ",.0f", " MB"),
                value_cell(len(mine), ",.0f"),
            ]
        )
    return Table(
        name="phase-table",
        caption=f"Phases: {number(total, ',.1f')} s together; CPU and memory are those of the "
        "samples that fall into each",
        columns=[
            Column("phase", is_number=False),
            Column("time"),
            Column("share"),
            Column("cores used"),
            Column("machine busy"),
            Column("memory at most"),
            Column("samples"),
        ],
        rows=rows,
    )

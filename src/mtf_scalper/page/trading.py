"""What was traded and how it compares: equity, candles with trades, exits, random exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mtf_scalper.evaluation.peer_words import TITLES, beside_peers
from mtf_scalper.evaluation.rank import rank
from mtf_scalper.page.candle_chart import MAX_PAIRS, candles_plot
from mtf_scalper.page.figures import ALL, figure, final_returns, pooled, seeds_of, series_names
from mtf_scalper.page.parts import (
    Column,
    Plot,
    Section,
    Table,
    count,
    joined,
    log_return,
    number,
    plot_text,
    share,
    text_cell,
    value_cell,
)
from mtf_scalper.page.thinning import MAX_POINTS, extremes, milliseconds, rounded
from mtf_scalper.records.reader import Run

AGENT = "agent"
REASONS = {
    "agent_exit": ("the agent left", "--agent", "circle"),
    "roi": ("profit target (ROI)", "--exit-roi", "diamond"),
    "break_even": ("break even", "--exit-even", "square"),
    "max_duration": ("longest duration", "--exit-time", "hexagon"),
    "stop_loss": ("stop loss", "--exit-stop", "x"),
    "trailing_stop_loss": ("trailing stop", "--exit-trailing", "triangle-up"),
    "emergency_loss": ("emergency loss", "--exit-emergency", "triangle-down"),
    "liquidation": ("liquidation", "--exit-liquidation", "star"),
    "force_exit": ("end of the data", "--muted", "cross"),
}
"""Reasons of an exit: words, colour, and the marker that tells them apart without colours."""
_LINES = {
    AGENT: ("--agent", "solid", 2.5),
    "oracle": ("--oracle", "dash", 1.5),
    "classic exits": ("--classic", "solid", 1.5),
    "buy and hold": ("--hold", "solid", 1.5),
    TITLES["ridge"]: ("--ridge", "dashdot", 1.5),
    TITLES["lightgbm"]: ("--boosted", "dashdot", 1.5),
    "flat": ("--muted", "dot", 1.2),
}
_EQUITY_POINTS = 60_000
_NAMES = {"oracle": "best in hindsight"}


def agent_trades(run: Run) -> pd.DataFrame:
    """Return the agent's own trades; records may hold those of baselines as well."""
    trades = run.trades()
    return trades[trades["series"].isna() | (trades["series"] == AGENT)]


def equity_section(run: Run) -> Section:
    """Return the section that compares the agent with the baselines and the optimum."""
    equity = run.equity()
    parts: list[Plot | Table] = []
    if not equity.empty:
        finals = final_returns(run)
        parts = [_equity_plot(run, equity, finals), _comparison(finals)]
    return Section(
        name="equity",
        title="How it compares",
        intro=(
            "Cumulative log return after fees and funding, of accounts that stake all they have: "
            "+0.10 multiplies an account by 1.105. Classic exits take the same entries and leave "
            "all exits to the rules; the best in hindsight knows the future and obeys the same "
            "rules and fees, and has a scale of its own. For all pairs together the log returns "
            "are added."
        ),
        parts=parts,
        missing="No equity is recorded: the run has not reached its backtest, or never did.",
    )


def _choices(pairs: Sequence[str]) -> list[str]:
    return [*([ALL] if ALL in pairs else []), *sorted(pair for pair in pairs if pair != ALL)]


def _equity_plot(run: Run, equity: pd.DataFrame, finals: Mapping[str, Mapping[str, float]]) -> Plot:
    every = _choices(equity["pair"].astype(str).unique().tolist())
    choices = every[: MAX_PAIRS + 1]
    lines = equity.groupby(["pair", "series", "seed"], dropna=False).ngroups
    # With many lines each has fewer points, so that the page stays small.
    limit = min(MAX_POINTS, max(200, _EQUITY_POINTS // lines))
    traces = []
    is_thinned = False
    for pair in choices:
        mine = equity[equity["pair"] == pair]
        for series in series_names(mine["series"].unique().tolist()):
            found = mine[mine["series"] == series]
            seeds = seeds_of(found)
            for seed in seeds:
                line = (found if seed is None else found[found["seed"] == seed]).sort_values("date")
                is_thinned |= len(line) > limit
                traces.append(_equity_trace(line, pair, series, seed, seeds, limit))
    bounds = _window_starts(run)
    said = _comparison_sentence(choices[0], finals)
    if bounds:
        said += " Dotted lines: from there on an agent trades that was trained anew."
    told = beside_peers(pooled(run.figures()))
    if told:
        said += f" By days, {told}."
    if is_thinned:
        said += (
            " Long lines are drawn by the first, lowest, highest and last point of each stretch."
        )
    if len(every) > len(choices):
        said += f" The first {len(choices)} of {len(every)} lines of the selector are shown."
    return Plot(
        name="equity-plot",
        label="Cumulative log return of the agent, the baselines and the best in hindsight",
        sentence=said,
        traces=traces,
        layout=_equity_layout(traces, bounds),
        height=460,
        choices=choices if len(choices) > 1 else (),
        has_time_axis=True,
    )


def _equity_layout(traces: Sequence[Mapping[str, Any]], bounds: Sequence[int]) -> dict[str, Any]:
    """Give the optimum a panel of its own: beside it all other lines would be one."""
    axis = {"title": {"text": "log return"}, "zeroline": True}
    layout: dict[str, Any] = {
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "xaxis": {"type": "date"},
        "yaxis": axis,
        "shapes": [_boundary(moment) for moment in bounds],
    }
    if any("yaxis" in trace for trace in traces):
        layout["xaxis"]["anchor"] = "y2"
        layout["yaxis"] = {**axis, "domain": [0.31, 1]}
        layout["yaxis2"] = {"title": {"text": "in hindsight"}, "domain": [0, 0.24]}
    return layout


def _equity_trace(
    line: pd.DataFrame, pair: str, series: str, seed: Any, seeds: Sequence[Any], limit: int
) -> dict[str, Any]:
    colour, dash, width = _LINES.get(series, ("--random", "dashdot", 1.5))
    values = line["log_return"].to_numpy(dtype=np.float64)
    rows = extremes(values, limit)
    name = _NAMES.get(series, series)
    is_several = len(seeds) > 1
    panel = {"yaxis": "y2"} if series == "oracle" else {}
    return {
        **panel,
        "type": "scatter",
        "mode": "lines",
        "name": f"{name} ({len(seeds)} seeds)" if is_several else name,
        "legendgroup": series,
        "showlegend": seed == seeds[0],
        "x": milliseconds(line["date"])[rows].tolist(),
        "y": rounded(values[rows]),
        "opacity": 0.65 if is_several else 1.0,
        "line": {"color": colour, "dash": dash, "width": width},
        "hovertemplate": "%{y:+.4f}<extra>"
        + plot_text(f"{name}, seed {seed:g}" if is_several else name)
        + "</extra>",
        "meta": {"choice": pair},
    }


def _boundary(moment: int) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": moment,
        "x1": moment,
        "y0": 0,
        "y1": 1,
        "line": {"color": "--muted", "width": 1, "dash": "dot"},
        "layer": "below",
    }


def _window_starts(run: Run) -> list[int]:
    """Return where the windows' trading begins, milliseconds since the epoch.

    That is the end of a window's training where no embargo lies between them.
    """
    begins = [event.get("test_from") or event.get("train_to") for event in run.events("window")]
    found = {str(begin) for begin in begins if begin}
    moments = pd.to_datetime(pd.Series(sorted(found)), utc=True, format="ISO8601")
    return milliseconds(moments).tolist() if found else []


def _comparison_sentence(pair: str, finals: Mapping[str, Mapping[str, float]]) -> str:
    mine = finals.get(pair, {})
    if AGENT not in mine:
        return "The agent's own equity is not recorded."
    others = [
        f"{_NAMES.get(name, name)} {log_return(mine[name])}"
        for name in series_names(list(mine))
        if name not in (AGENT, "flat")
    ]
    whose = "All pairs together" if pair == ALL else pair
    beside = f", beside {joined(others)}" if others else ""
    return f"{whose}: the agent ended at {log_return(mine[AGENT])}{beside}."


def _comparison(finals: Mapping[str, Mapping[str, float]]) -> Table:
    pairs = _choices(list(finals))
    names = series_names(list({name for pair in pairs for name in finals[pair]}))
    rows = []
    for name in names:
        cells = []
        for pair in pairs:
            value = finals[pair].get(name)
            cells.append(value_cell(value, "+.4f", tone=name == AGENT))
        against = finals[pairs[0]].get(name)
        mine = finals[pairs[0]].get(AGENT)
        ahead = None if against is None or mine is None else mine - against
        ahead_cell = value_cell(None if name == AGENT else ahead, "+.4f", tone=True)
        rows.append([text_cell(_NAMES.get(name, name)), *cells, ahead_cell])
    first = "all pairs" if pairs[0] == ALL else pairs[0]
    return Table(
        name="comparison-table",
        caption="Final log return after costs, mean over seeds, and how far the agent is ahead of "
        f"each ({first})",
        columns=[
            Column("who", is_number=False),
            *(Column("all" if pair == ALL else pair) for pair in pairs),
            Column("agent ahead by"),
        ],
        rows=rows,
    )


def candles_section(run: Run) -> Section:
    """Return the section of candles, trades, and the agent's probability of leaving."""
    candles, trades = run.candles(), agent_trades(run)
    parts: list[Plot | Table] = []
    if not candles.empty:
        parts.append(candles_plot(candles, trades, run.predictions(), REASONS))
    return Section(
        name="candles",
        title="What was traded",
        intro=(
            "Triangles are entries, up for long and down for short; the other markers are exits, "
            "coloured by their reason. Below is how likely the agent found it to leave a long or a "
            "short trade at each candle (the mean over seeds); above exit_confidence, by default "
            "one half, it leaves."
        ),
        parts=parts,
        missing=f"No candles are recorded; {count(len(trades), 'trade')} so far.",
    )


def exits_section(run: Run) -> Section:
    """Return the section of why trades ended."""
    trades = agent_trades(run)
    parts: list[Plot | Table] = []
    if len(trades):
        groups = trades.groupby("exit_reason")
        order = groups.size().sort_values(ascending=False).index.tolist()
        parts = [_exits_plot(trades, order), _exits_table(trades, order)]
    return Section(
        name="exits",
        title="Why trades ended",
        intro=(
            "The agent's own exits beside those that the rules forced. Profit is after fees and "
            "funding, as a share of the stake."
        ),
        parts=parts,
        missing="No trade was closed.",
    )


def _exits_plot(trades: pd.DataFrame, order: Sequence[str]) -> Plot:
    shown = list(order)[::-1]
    profits = trades["profit_ratio"].astype(float)
    traces = []
    for title, is_kind, colour in (
        ("with a profit", profits > 0.0, "--good"),
        ("with a loss", profits <= 0.0, "--bad"),
    ):
        counts = trades[is_kind].groupby("exit_reason").size()
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": title,
                "x": [int(counts.get(reason, 0)) for reason in shown],
                "y": [_reason_name(reason) for reason in shown],
                "marker": {
                    "color": colour,
                    # A pattern tells losses from profits without colours.
                    "pattern": {"shape": "/" if colour == "--bad" else "", "fgopacity": 0.5},
                },
                "hovertemplate": "%{y}: %{x} " + title + "<extra></extra>",
            }
        )
    by_agent = int((trades["exit_reason"] == "agent_exit").sum())
    return Plot(
        name="exits-plot",
        label="Trades by the reason of their exit, with a profit and with a loss",
        sentence=f"{count(len(trades), 'trade')}, {share((profits > 0.0).mean())} with a profit; "
        f"the agent ended {by_agent} of them itself, the average trade made "
        f"{number(profits.mean(), '+.3%')} after fees.",
        traces=traces,
        layout={
            "barmode": "stack",
            "hovermode": "y",
            "xaxis": {"title": {"text": "trades"}},
            "yaxis": {"automargin": True, "type": "category"},
        },
        height=140 + 32 * len(shown),
    )


def _reason_name(reason: str) -> str:
    return REASONS.get(reason, (reason,))[0]


def _exits_table(trades: pd.DataFrame, order: Sequence[str]) -> Table:
    def row(title: str, group: pd.DataFrame) -> list[Any]:
        profits = group["profit_ratio"].astype(float)
        returns = group["log_return"].astype(float)
        return [
            text_cell(title),
            value_cell(len(group), ",.0f"),
            value_cell((profits > 0.0).mean(), ".0%"),
            value_cell(profits.mean(), "+.3%", tone=True),
            value_cell(None if returns.isna().all() else returns.sum(), "+.4f", tone=True),
        ]

    rows = [row(_reason_name(reason), trades[trades["exit_reason"] == reason]) for reason in order]
    return Table(
        name="exits-table",
        caption="Exits by reason",
        columns=[
            Column("reason", is_number=False),
            Column("trades"),
            Column("won"),
            Column("average profit"),
            Column("log return, sum"),
        ],
        rows=[*rows, row("all", trades)],
    )


def random_section(run: Run) -> Section:
    """Return the section that sets the run beside random exits."""
    draws = {pair: each for pair, each in (run.random_exits() or {}).items() if each}
    parts: list[Plot | Table] = []
    if draws:
        parts = [_random_plot(run, draws)]
    return Section(
        name="random",
        title="Luck or skill",
        intro=(
            "Log returns of runs that enter as the agent does and leave at random times, with the "
            "same chances to hold on. Where the agent stands amid them, its exits know nothing."
        ),
        parts=parts,
        missing="No runs with random exits are recorded.",
    )


def _random_plot(run: Run, draws: Mapping[str, Sequence[float]]) -> Plot:
    choices = _choices(list(draws))
    own = own_returns(run)
    traces: list[dict[str, Any]] = []
    said = []
    for pair in choices:
        values = np.asarray(draws[pair], dtype=np.float64)
        drawn = values[np.isfinite(values)]  # what lost everything lies beyond every axis
        counts, edges = np.histogram(drawn, bins=min(30, max(8, len(values) // 4)))
        traces.append(
            {
                "type": "bar",
                "name": "random exits",
                "x": rounded((edges[:-1] + edges[1:]) / 2.0),
                "y": counts.tolist(),
                "width": float(edges[1] - edges[0]) * 0.94,
                "marker": {"color": "--random"},
                "hovertemplate": "%{y} draws near %{x:+.4f}<extra></extra>",
                "meta": {"choice": pair},
            }
        )
        mine = own.get(pair)
        said.append(_random_sentence(pair, values, mine))
        if mine is not None:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": "the agent",
                    "x": [mine, mine],
                    "y": [0, int(counts.max())],
                    "line": {"color": "--agent", "width": 3},
                    "marker": {"color": "--agent", "size": [1, 9], "symbol": "diamond"},
                    "hovertemplate": "the agent: %{x:+.4f}<extra></extra>",
                    "meta": {"choice": pair},
                }
            )
    return Plot(
        name="random-plot",
        label="Distribution of log returns with random exits, and the agent's",
        sentence=" ".join(said[:4]),
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "log return"}},
            "yaxis": {"title": {"text": "draws"}},
            "bargap": 0,
        },
        height=320,
        choices=choices if len(choices) > 1 else (),
    )


def own_returns(run: Run) -> dict[str, float]:
    """Return the agent's log return by pair: from the figures, else from the end of its equity."""
    found = {pair: series[AGENT] for pair, series in final_returns(run).items() if AGENT in series}
    rows = run.figures()
    whole = pooled(rows)
    for row in [*(r for r in rows if r.get("window") is None and r.get("seed") is None), whole]:
        value = figure(row, "log_return").value
        if value is not None:
            found[str(row.get("pair") or ALL)] = value
    return found


def _random_sentence(pair: str, draws: Any, mine: float | None) -> str:
    whose = "All pairs together" if pair == ALL else pair
    drawn = f"the median of {count(len(draws), 'draw')} is {log_return(np.median(draws))}"
    if mine is None:
        return f"{whose}: {drawn}."
    beaten = share(rank(mine, draws))
    return f"{whose}: the agent's {log_return(mine)} beats {beaten}; {drawn}."

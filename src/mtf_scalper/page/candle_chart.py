"""Candles with the agent's trades, and how likely it found it to leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.page.figures import seeds_of
from mtf_scalper.page.parts import Plot, count, plot_text
from mtf_scalper.page.thinning import extremes, milliseconds, rounded, times

MAX_ROWS = 40_000
"""Candles of all pairs together that the page holds; with more, several are joined into one.

The page's script joins more of them into one, to what the screen can show, and takes them apart
again where somebody zooms in.
"""
MAX_PAIRS = 12
"""Pairs that the page shows, those with most trades."""
_PRICES = ("open", "high", "low", "close")

Reasons = Mapping[str, tuple[str, str, str]]


def candles_plot(
    candles: pd.DataFrame, trades: pd.DataFrame, predictions: pd.DataFrame, reasons: Reasons
) -> Plot:
    """Return the plot of all pairs, with a selector.

    Parameters
    ----------
    candles, trades, predictions : DataFrame
        As ``records.Run`` returns them.
    reasons : mapping
        Words, colour and marker by reason of an exit.
    """
    pairs = sorted(candles["pair"].astype(str).unique())
    busiest = trades["pair"].value_counts()
    pairs.sort(key=lambda pair: -int(busiest.get(pair, 0)))
    shown = pairs[:MAX_PAIRS]
    factor = -(-int(candles["pair"].isin(shown).sum()) // MAX_ROWS)
    traces: list[dict[str, Any]] = []
    choices: list[str] = []
    minutes = 0.0
    for pair in shown:
        mine = candles[candles["pair"] == pair].sort_values("date")
        minutes = max(minutes, _minutes(mine))
        found = trades[trades["pair"] == pair]
        seeds = seeds_of(found)
        names = [f"{pair}, seed {seed:g}" for seed in seeds] if len(seeds) > 1 else [pair]
        traces.append(_candle_trace(mine, names, factor))
        for name, seed in zip(names, seeds, strict=True):
            own = found if len(seeds) == 1 else found[found["seed"] == seed]
            traces += _trade_traces(own, name, reasons)
        traces += _leaving_traces(predictions[predictions["pair"] == pair], names, factor)
        choices += names
    return Plot(
        name="candles-plot",
        label="Candles with entries and exits, and the agent's probability of leaving",
        sentence=_sentence(pairs, candles, trades, factor, minutes),
        traces=traces,
        layout=_layout(has_chances=any(trace.get("yaxis") == "y2" for trace in traces)),
        height=560,
        choices=choices,
        has_time_axis=True,
    )


def _layout(*, has_chances: bool) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "xaxis": {"type": "date", "rangeslider": {"visible": False}},
        "yaxis": {"title": {"text": "price"}},
    }
    if has_chances:
        layout["xaxis"]["anchor"] = "y2"
        layout["yaxis"]["domain"] = [0.3, 1]
        layout["yaxis2"] = {
            "title": {"text": "leave"},
            "domain": [0, 0.24],
            "range": [-0.02, 1.02],
            "tickformat": ".0%",
        }
        half = {"xref": "paper", "yref": "y2", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5}
        line = {"color": "--muted", "width": 1, "dash": "dot"}
        layout["shapes"] = [{"type": "line", **half, "line": line}]
    return layout


def _sentence(
    pairs: Sequence[str],
    candles: pd.DataFrame,
    trades: pd.DataFrame,
    factor: int,
    minutes: float,
) -> str:
    longs = int((trades["side"] == "long").sum())
    shorts = int((trades["side"] == "short").sum())
    first, last = candles["date"].min(), candles["date"].max()
    said = (
        f"{count(len(trades), 'trade')} ({longs} long, {shorts} short) on "
        f"{count(len(pairs), 'pair')}, {first:%Y-%m-%d} to {last:%Y-%m-%d}, candles of "
        f"{minutes:g} minutes"
    )
    n_seeds = len(seeds_of(trades))
    if n_seeds > 1:
        said += f"; trades of {n_seeds} seeds, each by itself in the selector"
    if factor > 1:
        said += f", joined by {factor} to keep the page small"
    if len(pairs) > MAX_PAIRS:
        said += f"; the {MAX_PAIRS} pairs with most trades are shown"
    return (
        f"{said}. Where there are too many for the screen several are joined; zoom in to see each."
    )


def _minutes(candles: pd.DataFrame) -> float:
    steps = np.diff(milliseconds(candles["date"]))
    return float(np.median(steps)) / 60_000.0 if len(steps) else 0.0


def _candle_trace(candles: pd.DataFrame, choices: Sequence[str], factor: int) -> dict[str, Any]:
    moments = milliseconds(candles["date"])
    opened, high, low, closed = (candles[name].to_numpy(dtype=np.float64) for name in _PRICES)
    starts = np.arange(0, len(candles), factor)
    ends = np.minimum(starts + factor, len(candles)) - 1
    return {
        "type": "candlestick",
        "name": "price",
        "x": times(moments[starts]),
        "open": rounded(opened[starts]),
        "high": rounded(np.maximum.reduceat(high, starts)),
        "low": rounded(np.minimum.reduceat(low, starts)),
        "close": rounded(closed[ends]),
        "xaxis": "x",
        "yaxis": "y",
        "showlegend": False,
        "increasing": {"line": {"color": "--candle-up", "width": 1}, "fillcolor": "--candle-up"},
        "decreasing": {
            "line": {"color": "--candle-down", "width": 1},
            "fillcolor": "--candle-down",
        },
        "meta": {"choice": list(choices), "thin": "ohlc"},
    }


def _trade_traces(trades: pd.DataFrame, choice: str, reasons: Reasons) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = []
    trades = trades.dropna(subset=["open_date", "close_date"])
    if trades.empty:
        return traces
    opened, closed = milliseconds(trades["open_date"]), milliseconds(trades["close_date"])
    x: list[int | None] = []
    y: list[float | None] = []
    for begin, end, paid, got in zip(
        opened.tolist(),
        closed.tolist(),
        rounded(trades["open_rate"]),
        rounded(trades["close_rate"]),
        strict=True,
    ):
        x += [begin, end, None]
        y += [paid, got, None]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "held",
            "x": x,
            "y": y,
            "line": {"color": "--muted", "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
            "showlegend": False,
            "xaxis": "x",
            "yaxis": "y",
            "meta": {"choice": choice},
        }
    )
    for side, symbol in (("long", "triangle-up"), ("short", "triangle-down")):
        is_side = (trades["side"] == side).to_numpy()
        if is_side.any():
            traces.append(
                _markers(
                    f"{side} entry",
                    opened[is_side],
                    trades["open_rate"][is_side],
                    _entry_texts(trades[is_side]),
                    choice,
                    {"color": "--surface", "line": {"color": "--text", "width": 1.6}},
                    symbol,
                )
            )
    for reason in [*reasons, *sorted(set(trades["exit_reason"].dropna()) - set(reasons))]:
        is_reason = (trades["exit_reason"] == reason).to_numpy()
        if is_reason.any():
            words, colour, symbol = reasons.get(reason, (reason, "--muted", "pentagon"))
            traces.append(
                _markers(
                    f"exit: {words}",
                    closed[is_reason],
                    trades["close_rate"][is_reason],
                    _exit_texts(trades[is_reason]),
                    choice,
                    {"color": colour, "line": {"color": "--surface", "width": 0.8}},
                    symbol,
                )
            )
    return traces


def _markers(
    name: str,
    x: NDArray[np.int64],
    y: pd.Series,
    texts: list[str],
    choice: str,
    marker: dict[str, Any],
    symbol: str,
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": x.tolist(),
        "y": rounded(y),
        "text": texts,
        "xaxis": "x",
        "yaxis": "y",
        "marker": {"size": 9, "symbol": symbol, **marker},
        "hovertemplate": f"{plot_text(name)} at %{{y}}<br>%{{text}}<extra></extra>",
        "meta": {"choice": choice},
    }


def _entry_texts(trades: pd.DataFrame) -> list[str]:
    return [
        f"leverage {leverage:g}" + ("" if pd.isna(tag) or not tag else f", {tag}")
        for leverage, tag in zip(trades["leverage"], trades["enter_tag"], strict=True)
    ]


def _exit_texts(trades: pd.DataFrame) -> list[str]:
    held = (trades["close_date"] - trades["open_date"]).dt.total_seconds() / 60.0
    return [
        f"{side}, {profit:+.2%} of the stake after {minutes:,.0f} minutes"
        for side, profit, minutes in zip(
            trades["side"], trades["profit_ratio"].astype(float), held, strict=True
        )
    ]


def _leaving_traces(
    predictions: pd.DataFrame, choices: Sequence[str], factor: int
) -> list[dict[str, Any]]:
    """Return the probability of leaving among what is valid in a position: leave, or do nothing."""
    table = predictions.sort_values("date").drop_duplicates("date", keep="last")
    traces: list[dict[str, Any]] = []
    if table.empty:
        return traces
    moments = milliseconds(table["date"])
    stay = table["neutral"].to_numpy(dtype=np.float64)
    for side, colour, dash in (("long", "--agent", "solid"), ("short", "--classic", "solid")):
        leave = table[f"{side}_exit"].to_numpy(dtype=np.float64)
        total = leave + stay
        chance = np.divide(leave, total, out=np.full(len(table), np.nan), where=total > 0.0)
        rows = extremes(chance, max(4, len(chance) // factor))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"leave a {side}",
                "x": times(moments[rows]),
                "y": rounded(chance[rows], 4),
                "xaxis": "x",
                "yaxis": "y2",
                "line": {"color": colour, "width": 1.2, "dash": dash},
                "hovertemplate": f"leave a {side}: %{{y:.0%}}<extra></extra>",
                "meta": {"choice": list(choices), "thin": "minmax"},
            }
        )
    return traces

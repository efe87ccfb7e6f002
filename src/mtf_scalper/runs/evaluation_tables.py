"""Tables of an evaluation for a terminal of 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from mtf_scalper.evaluation.accounts import figure_name
from mtf_scalper.evaluation.bootstrap import LEAST_DAYS
from mtf_scalper.evaluation.days import DAYS_PER_YEAR
from mtf_scalper.evaluation.edge import Edge
from mtf_scalper.evaluation.peer_words import TITLES
from mtf_scalper.walk_forward.learned_window import LearnedWindow
from mtf_scalper.walk_forward.windows import Window

_FIGURES = (
    ("log_return", "log return after costs", "+.3f"),
    ("sharpe", f"Sharpe ratio, {DAYS_PER_YEAR} days a year", "+.2f"),
    ("sortino", f"Sortino ratio, {DAYS_PER_YEAR} days a year", "+.2f"),
    ("max_drawdown", "drawdown of days' ends", ".1%"),
    ("exposure", "time in the market", ".1%"),
    ("turnover_per_day", "turnover per day, x account", ".2f"),
    ("trades_per_day", "trades per day", ".2f"),
    ("win_rate", "win rate", ".1%"),
    ("average_trade", "average trade after fees", "+.3%"),
    ("oracle_share", "share of the optimum", ".1%"),
)
_BASELINES = ("flat", "buy and hold", "classic exits", "random exits", *TITLES.values())


def evaluation_tables(
    figures: Sequence[Mapping[str, Any]], edge: Edge, windows: Sequence[Window]
) -> list[Table]:
    """Return the figures of all pairs, the baselines with their tests, and single windows."""
    pooled = [row for row in figures if row["window"] is None and row["seed"] is None]
    return [
        *(_figure_table(row) for row in pooled),
        _baseline_table(pooled[0], edge),
        _window_table(figures, windows),
    ]


def evaluation_lines(
    source: str, seeds: Sequence[int], embargo: int, learned: Sequence[LearnedWindow]
) -> list[str]:
    """Return what the tables cannot say."""
    degenerate = Counter(
        part.degenerate.partition(" (")[0] for part in learned if part.degenerate is not None
    )
    reasons = ", ".join(f"{reason} {count}" for reason, count in degenerate.most_common())
    return [
        *(
            [f"no policy on the candles that chose the weights, of {len(learned)}: {reasons}"]
            if reasons
            else []
        ),
        f"candles from {source}; means over {len(seeds)} seed{'s' if len(seeds) > 1 else ''} "
        f"({', '.join(map(str, seeds))}); embargo of {embargo} candles",
        f"95% intervals by the stationary bootstrap over days; none under {LEAST_DAYS} days",
        "random exits: the same entry rule, exits at random times; best: what hindsight earns",
    ]


def _figure_table(row: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{_short(row['pair'])}: {row['n_trades']:.0f} trades, {row['n_days']} days"
    )
    table.add_column("figure", no_wrap=True)
    for heading in ("value", "95% from", "to"):
        table.add_column(heading, justify="right")
    for name, title, form in _FIGURES:
        table.add_row(title, *_cells(row[name], form))
    return table


def _baseline_table(row: Mapping[str, Any], edge: Edge) -> Table:
    table = Table(title=f"{_short(row['pair'])}: agent above the baselines, log returns")
    table.add_column("baseline", no_wrap=True)
    for heading in ("earned", "agent above", "95% from", "to", "SPA p"):
        table.add_column(heading, justify="right")
    tests = {test.baseline: test for test in edge.tests}
    for name in _BASELINES:
        key = figure_name(name)
        if f"excess_over_{key}" not in row:
            continue
        earned = row["random_median"] if name == "random exits" else row[key]
        p_value = tests[name].p_value if name in tests else None
        cells = _cells(row[f"excess_over_{key}"], "+.3f")
        table.add_row(name, _text(earned, "+.3f"), *cells, _text(p_value, ".4f"))
    table.add_row("optimum", _text(row["oracle"], "+.3f"), "-", "-", "-", "-")
    over = edge.overfitting
    table.caption = (
        f"deflated Sharpe ratio above {edge.best_baseline} {_text(edge.deflated_sharpe, '.3f')}; "
        f"variants tried {edge.n_variants}; probability of overfitting "
        f"{'not measured' if over is None else f'{over.probability:.0%}'}"
    )
    return table


def _window_table(figures: Sequence[Mapping[str, Any]], windows: Sequence[Window]) -> Table:
    """Return one row per window and pair; so few days have no interval."""
    table = Table(title="Windows by first day of the test, log returns")
    table.add_column("window", no_wrap=True)
    table.add_column("pair", no_wrap=True)
    for heading in ("agent", "trades", "hold", "classic", "random", "best"):
        table.add_column(heading, justify="right", no_wrap=True)
    names = [window.name for window in windows]
    for row in _by_window(figures, names):
        table.add_row(
            f"{row['window'][:4]}-{row['window'][4:6]}-{row['window'][6:]}",
            _short(row["pair"]),
            _text(row["log_return"]["value"], "+.3f"),
            f"{row['n_trades']:.0f}",
            _text(row["buy_and_hold"], "+.3f"),
            _text(row.get("classic_exits"), "+.3f"),
            _text(row.get("random_median"), "+.3f"),
            _text(row["oracle"], "+.3f"),
        )
    return table


def _by_window(
    figures: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    for name in names:
        for row in figures:
            if row["window"] == name and row["seed"] is None and row["pair"] != "all":
                yield row


def _short(pair: str) -> str:
    return pair.removeprefix("planted-").split("/")[0]


def _cells(found: Mapping[str, float | None], form: str) -> list[str]:
    return [_text(found[name], form) for name in ("value", "low", "high")]


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"

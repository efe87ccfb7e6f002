"""The sections that are tables: figures, statistics, checks and what the run was made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtf_scalper.evaluation.peer_words import TITLES
from mtf_scalper.page.figures import ALL, figure
from mtf_scalper.page.learning import window_name
from mtf_scalper.page.parts import (
    MISSING,
    Cell,
    Column,
    Plot,
    Section,
    Table,
    number,
    text_cell,
    value_cell,
)
from mtf_scalper.records.events import WEIGHTS
from mtf_scalper.records.reader import Run

_FIGURES = (
    ("log_return", "log return", "+.4f"),
    ("n_trades", "trades", ",.0f"),
    ("win_rate", "won", ".0%"),
    ("average_trade", "average trade", "+.3%"),
    ("sharpe", "Sharpe", ".2f"),
    ("sortino", "Sortino", ".2f"),
    ("max_drawdown", "drawdown", ".1%"),
    ("exposure", "in the market", ".0%"),
    ("turnover_per_day", "turnover a day", ".1f"),
    ("trades_per_day", "trades a day", ".1f"),
    ("oracle_share", "of optimum", ".1%"),
    ("oracle", "optimum", "+.4f"),
    ("classic_exits", "classic exits", "+.4f"),
    ("buy_and_hold", "buy and hold", "+.4f"),
    ("random_median", "random exits", "+.4f"),
    *((name, title, "+.4f") for name, title in TITLES.items()),
    ("random_rank", "random beaten", ".0%"),
    ("excess_over_classic_exits", "above classic exits", "+.4f"),
    ("excess_over_buy_and_hold", "above buy and hold", "+.4f"),
    ("excess_over_random_exits", "above random exits", "+.4f"),
    *((f"excess_over_{name}", f"above {title}", "+.4f") for name, title in TITLES.items()),
)
"""Name in a row of figures, heading, and how it is written."""


def figures_section(run: Run) -> Section:
    """Return the section of figures by pair, window and seed."""
    rows = run.figures()
    parts: list[Plot | Table] = [_figures_table(rows)] if rows else []
    return Section(
        name="figures",
        title="Figures by pair, window and seed",
        intro=(
            "Returns are log returns after fees and funding. Random exits: the median of the "
            "draws, and the share of them that the agent beats. An interval stands in brackets "
            "where it was computed."
        ),
        parts=parts,
        missing="No figures are recorded: the run has not been judged yet, or never was.",
    )


def _figures_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    used = [entry for entry in _FIGURES if any(_has(row, entry[0]) for row in rows)]
    has_window = any(row.get("window") is not None for row in rows)
    has_seed = any(row.get("seed") is not None for row in rows)
    columns = [Column("pair", is_number=False)]
    columns += [Column("window", is_number=False)] * has_window + [Column("seed")] * has_seed
    columns += [Column(title) for _, title, _ in used]
    is_judged = any(row.get("degenerate") for row in rows)
    columns += [Column("degenerate", is_number=False)] * is_judged
    cells = []
    for row in rows:
        line = [text_cell("all" if row.get("pair") in (ALL, None) else row["pair"])]
        if has_window:
            window = row.get("window")
            line.append(text_cell("all" if window is None else window_name(window)))
        if has_seed:
            seed = row.get("seed")
            line.append(Cell("all", -1.0) if seed is None else value_cell(seed, "g"))
        line += [_figure_cell(row, name, form) for name, _, form in used]
        if is_judged:
            reason = row.get("degenerate")
            line.append(text_cell(reason, "bad" if reason else ""))
        cells.append(line)
    return Table("figures-table", "Figures", columns, cells)


def _has(row: Mapping[str, Any], name: str) -> bool:
    return figure(row, name).value is not None


def _figure_cell(row: Mapping[str, Any], name: str, form: str) -> Cell:
    found = figure(row, name)
    cell = value_cell(found.value, form, tone=name == "log_return")
    interval = found.interval(form)
    return Cell(f"{cell.text} [{interval}]", cell.sort, cell.tone) if interval else cell


def statistics_section(run: Run) -> Section:
    """Return the section of tests, with what they were made from."""
    found = run.statistics() or {}
    rows = [[text_cell(name), text_cell(value)] for name, value in _flat(found)]
    columns = [Column("figure", is_number=False), Column("value", is_number=False)]
    table = Table("statistics-table", "Tests and what they were made from", columns, rows)
    return Section(
        name="statistics",
        title="Statistics",
        intro=(
            "Tests of whether the result could be luck, given how much was tried. Their p-values "
            "are not freqtrade's mean profit p-value: that is a t-test of whether single trades "
            "earn anything; these ask whether whole days earn more than a baseline's."
        ),
        parts=[table] if rows else [],
        missing="No statistical tests are recorded for this run.",
    )


def checks_section(run: Run) -> Section:
    """Return the section of what was checked."""
    checks = run.checks()
    failed = [check for check in checks if check.get("verdict") != "passed"]
    rows = []
    for check in checks:
        passed = check.get("verdict") == "passed"
        rows.append(
            [
                text_cell(check.get("name")),
                text_cell(check.get("verdict"), "good" if passed else "bad"),
                text_cell(check.get("measured")),
                text_cell(check.get("expected")),
                text_cell(check.get("reason")),
            ]
        )
    columns = [
        Column(title, is_number=False)
        for title in ("check", "verdict", "measured", "expected", "reason")
    ]
    caption = f"{len(checks) - len(failed)} of {len(checks)} checks passed"
    return Section(
        name="checks",
        title="Checks",
        intro="What was used while the run worked, compared with what should have been.",
        parts=[Table("checks-table", caption, columns, rows)] if checks else [],
        missing="This run made no checks; a validation does.",
    )


def manifest_section(run: Run) -> Section:
    """Return the section of settings, versions, commit, data and machine."""
    manifest = dict(run.manifest)
    manifest.pop("settings", None)
    command = manifest.get("command")
    if isinstance(command, list):
        manifest["command"] = " ".join(str(part) for part in command)
    outcome = run.outcome or {}
    about = [*_flat(manifest), *_flat({k: outcome.get(k) for k in ("ended", "seconds", "results")})]
    columns = [Column("fact", is_number=False), Column("value", is_number=False)]
    tables: list[Plot | Table] = [
        Table(
            name,
            caption,
            columns,
            [[text_cell(key), text_cell(value)] for key, value in rows],
        )
        for name, caption, rows in (
            ("manifest-table", "The run", about),
            ("settings-table", "Its settings", _flat(run.settings)),
            ("weights-table", "Its weights, by SHA-256", _weights(run)),
        )
        if rows
    ]
    return Section(
        name="manifest",
        title="What it was made with",
        intro=(
            "Enough to make the run again: command, settings, versions, data and machine; and "
            "which weights have traded."
        ),
        parts=tables,
        missing="The manifest says nothing.",
    )


def _weights(run: Run) -> list[tuple[str, str]]:
    """Return which weights have predicted what, in order."""
    return [
        (
            f"{_text(event.get('pair'))}, {window_name(event.get('window'))}",
            " of policy ".join(_text(event[key]) for key in ("digest", "policy") if event.get(key)),
        )
        for event in run.events(WEIGHTS)
    ]


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested facts as pairs of a dotted name and a text."""
    if isinstance(content, Mapping):
        return [
            pair
            for key, value in content.items()
            for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(content, list) and any(isinstance(each, Mapping | list) for each in content):
        return [
            pair
            for place, value in enumerate(content, start=1)
            for pair in _flat(value, f"{prefix} {place}")
        ]
    return [(prefix, _text(content))]


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or MISSING
    return number(value, ".6g") if isinstance(value, float) else str(value)

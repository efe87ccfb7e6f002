"""Tables and sentence of a search for a terminal of 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from mtf_scalper.tuning.study import COMPLETE, Told

MOST_ROWS = 6


def search_sentence(told: Sequence[Told], best: Told) -> str:
    """Return in one line which trial is the best, and that this says nothing yet."""
    states = Counter(each.outcome.state for each in told)
    others = ", ".join(f"{n} {state}" for state, n in states.items() if state != COMPLETE)
    mean = float(np.mean(best.outcome.windows))
    is_base = best.number == told[0].number
    which = "the configuration as it is" if is_base else f"trial {best.number}"
    return (
        f"best of {len(told)} trials{f' ({others})' if others else ''}: {which}, held-out log "
        f"return {mean:+.4f} a window, less its standard error "
        f"{best.outcome.objective or 0.0:+.4f}; it was chosen on these days: what it is worth the "
        "locked ones say, once, with --final"
    )


def search_tables(told: Sequence[Told], best: Told, base: Mapping[str, Any]) -> list[Table]:
    """Return the best trials and that of the configuration, and what the best changes."""
    return [_trials(told), _values(best, base)]


def final_table(final: Mapping[str, Any]) -> Table:
    """Return the days of the search and the locked days side by side."""
    search, locked = final["search"], final["locked"]
    table = Table(title=f"Trial {final['trial']}: what was searched on, and what was locked away")
    table.add_column("figure", no_wrap=True)
    for heading in ("search", "locked"):
        table.add_column(heading, justify="right")
    rows = (
        ("days", "n_days", "d"),
        ("trials or variants tried", None, "d"),
        ("log return after costs", "log_return", "+.3f"),
        ("95% from", "low", "+.3f"),
        ("to", "high", "+.3f"),
        ("SPA p, hardest baseline", "p_value", ".4f"),
        ("deflated Sharpe ratio", "deflated_sharpe", ".3f"),
        ("probability of overfitting", "probability_of_overfitting", ".0%"),
    )
    for title, name, form in rows:
        cells = [_cell(each, name, form) for each in (search, locked)]
        table.add_row(title, *cells)
    table.caption = (
        f"probability of overfitting over the {search['n_overfitting'] or 0} trials that traded "
        "every day"
    )
    return table


def _cell(found: Mapping[str, Any], name: str | None, form: str) -> str:
    if name is None:
        value = found.get("n_trials", found.get("n_variants"))
    elif name in ("low", "high"):
        value = found["log_return"][name]
    else:
        value = found["log_return"]["value"] if name == "log_return" else found.get(name)
    return "-" if value is None else f"{value:{form}}"


def _trials(told: Sequence[Told]) -> Table:
    complete = [each for each in told if each.outcome.objective is not None]
    ranked = sorted(complete, key=lambda each: -(each.outcome.objective or 0.0))
    rows = ranked[:MOST_ROWS]
    rows += [told[0]] if told[0] not in rows else []
    table = Table(title="Best trials, and the configuration's: log returns of a window")
    table.add_column("trial", no_wrap=True)
    for heading in ("mean", "standard error", "less it", "worst", "best"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in rows:
        name = f"{each.number}{', as configured' if each is told[0] else ''}"
        if each.outcome.objective is None:
            table.add_row(name, each.outcome.state, "", "", "", "")
            continue
        windows = np.asarray(each.outcome.windows)
        error = windows.std(ddof=1) / np.sqrt(len(windows))
        figures = (windows.mean(), error, each.outcome.objective, windows.min(), windows.max())
        table.add_row(name, *(f"{figure:+.4f}" for figure in figures))
    return table


def _values(best: Told, base: Mapping[str, Any]) -> Table:
    table = Table(title="What the best trial sets")
    table.add_column("setting", no_wrap=True)
    for heading in ("configuration", "best"):
        table.add_column(heading, justify="right")
    for name, value in best.values.items():
        table.add_row(escape(name), _text(base.get(name)), _text(value))
    return table


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))

"""Run records as tables and lines for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from mtf_scalper.records import files
from mtf_scalper.records.events import detail
from mtf_scalper.records.reader import Run, Status
from mtf_scalper.records.trainings import trainings

_COLORS = {Status.FAILED: "bold red", Status.KILLED: "red", Status.RUNNING: "cyan"}
_KEYS = ("pair", "window", "seed")
_MOST_FIGURES = 40
_WIDTH = 80


def runs_lines(runs: Sequence[Run]) -> list[str]:
    """Return a line per run, and its verdict below; an id tells kind, day and time (UTC)."""
    width = max(len(run.run_id) for run in runs) if runs else 0
    lines = [f"{'run':{width}}  {'status':8}  {'took':>7}  pairs"]
    for run in runs:
        took = _duration(_tried(lambda run: run.seconds, run))
        status = _tried(lambda run: run.status, run) or "damaged"
        lines.append(f"{run.run_id:{width}}  {status:8}  {took:>7}  {_pairs(run)}".rstrip())
        verdict = _tried(lambda run: run.verdict, run) or ""
        lines += textwrap.wrap(verdict, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return lines


def summary(run: Run) -> list[Table]:
    """Return what a run was, how far it came and what it left."""
    tables = [_facts(run)]
    if _tried(lambda run: run.status, run) in (Status.RUNNING, Status.KILLED):
        tables += _progress(run)
    tables += _tried_tables(_figure_tables, run) + _tried_tables(_check_tables, run)
    return [*tables, _paths(run)]


def comparison(one: Run, other: Run) -> list[Table]:
    """Return what differs between two runs: settings and candles; and their figures."""
    runs = (one, other)
    settings = _side_by_side("What differs", runs)
    facts = [_compared_facts(run) for run in runs]
    for name in _union(facts):
        values = [_value(each.get(name)) for each in facts]
        if values[0] != values[1]:
            settings.add_row(escape(name), *(escape(value) for value in values))
    if not settings.row_count:
        settings.add_row("nothing", "", "")
    figures = _side_by_side("Figures", runs)
    by_run = [_pooled(run.figures()) for run in runs]
    for key in _union(by_run):
        rows = [each.get(key, {}) for each in by_run]
        figures.add_row(f"[bold]{escape(key)}[/bold]", "", "")
        for name in _union(rows):
            values = [_value(row.get(name)) for row in rows]
            figures.add_row(f"  {escape(name)}", *(escape(value) for value in values))
        figures.add_section()
    return [settings, figures] if figures.row_count else [settings]


def _facts(run: Run) -> Table:
    manifest = run.manifest
    machine, versions = manifest.get("machine", {}), manifest.get("versions", {})
    table = _plain_table(escape(run.run_id))
    commit = manifest.get("commit") or "not from a checkout"
    changed = ", with changes" if manifest.get("is_clean") is False else ""
    took = _duration(_tried(lambda run: run.seconds, run))
    gigabytes = machine.get("memory_bytes", 0) / 1e9
    rows = (
        ("status", _status(run)),
        ("verdict", escape(_tried(lambda run: run.verdict, run) or "none")),
        ("began", f"{run.began:%Y-%m-%d %H:%M:%S} UTC, took {took}"),
        ("command", escape(" ".join(map(str, manifest.get("command", []))))),
        ("pairs", escape(", ".join(manifest.get("pairs", [])) or "none named")),
        ("period", escape(manifest.get("timerange") or "not given")),
        ("candles", escape(manifest.get("datadir") or "not from a folder")),
        ("seeds", ", ".join(map(str, manifest.get("seeds", []))) or "none named"),
        ("versions", escape(", ".join(f"{k} {v}" for k, v in versions.items() if v))),
        ("commit", escape(f"{commit}{changed}")),
        (
            "machine",
            escape(f"{machine.get('processor')}, {machine.get('cpus')} CPUs, {gigabytes:.1f} GB"),
        ),
        ("left", escape(_left(run))),
    )
    for name, value in rows:
        table.add_row(name, value)
    return table


def _left(run: Run) -> str:
    """Say how many lines and rows of what there are."""
    counts: dict[str, Callable[[], int]] = {
        "events": lambda: len(run.events()),
        "updates": lambda: len(run.history()),
        "samples": lambda: len(run.samples()),
        "trades": lambda: len(run.trades()),
        "candles": lambda: len(run.candles()),
        "predictions": lambda: len(run.predictions()),
        "points of equity": lambda: len(run.equity()),
    }
    parts = []
    for name, count in counts.items():
        try:
            parts.append(f"{count():,} {name}")
        except files.RecordError as error:
            parts.append(str(error))
    return ", ".join(parts)


def _progress(run: Run) -> list[Table]:
    """Return how far each unfinished training is."""
    table = _plain_table("Trainings under way" if run.status is Status.RUNNING else "Cut short")
    for training in trainings(run.events()):
        progress = training.progress
        if training.ended is None and progress is not None:
            share = progress.steps / max(1, progress.total_steps)
            text = f"{share:.0%}, {detail(progress)}"
            table.add_row(escape(_key_text(training.key)), escape(text))
    return [table] if table.row_count else []


def _figure_tables(run: Run) -> list[Table]:
    figures = run.figures()
    if not figures:
        return []
    table = _plain_table("Figures")
    shown = _pooled(figures)
    for key, row in shown.items():
        table.add_row(f"[bold]{escape(key)}[/bold]", "")
        for name, value in row.items():
            table.add_row(f"  {escape(name)}", escape(_value(value)))
        if table.row_count > _MOST_FIGURES:
            table.add_row("...", f"{len(figures)} in all, in {files.FIGURES}")
            break
    return [table]


def _check_tables(run: Run) -> list[Table]:
    checks = run.checks()
    if not checks:
        return []
    table = Table(title="Checks", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for heading in ("check", "measured", "expected", "verdict"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        color = "green" if check.get("verdict") == "passed" else "bold red"
        texts = (escape(str(check.get(name, ""))) for name in ("name", "measured", "expected"))
        table.add_row(*texts, f"[{color}]{escape(str(check.get('verdict')))}[/{color}]")
    return [table]


def _paths(run: Run) -> Table:
    table = _plain_table("Files")
    table.add_row("folder", escape(str(run.folder)))
    for name, path in ((_tried(lambda run: run.outcome, run) or {}).get("results") or {}).items():
        table.add_row(escape(name), escape(str(path)))
    return table


def _pooled(figures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return figures by what they are about; those of single windows and seeds are left out.

    Where there are no others, all are shown.
    """
    whole = [row for row in figures if row.get("window") is None and row.get("seed") is None]
    named = {}
    for row in whole or figures:
        key = _key_text(tuple(row.get(name) for name in _KEYS))
        named[key] = {name: value for name, value in row.items() if name not in _KEYS}
    return named


def _compared_facts(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    facts = {name: manifest.get(name) for name in ("kind", "timerange", "pairs", "seeds", "engine")}
    versions = {f"version of {k}": v for k, v in manifest.get("versions", {}).items()}
    digests = {f"candles of {k}": v for k, v in manifest.get("data_digest", {}).items()}
    return {**facts, **versions, **digests, **_flat(run.settings)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _side_by_side(title: str, runs: Sequence[Run]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("", overflow="fold")
    for run in runs:
        table.add_column(escape(run.run_id), overflow="fold")
    return table


def _plain_table(title: str) -> Table:
    table = Table(
        title=title, box=None, title_justify="left", show_header=False, padding=(0, 2, 0, 0)
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _status(run: Run) -> str:
    try:
        status = run.status
    except (files.RecordError, KeyError, ValueError) as error:
        return f"[bold red]{escape(str(error))}[/bold red]"
    color = _COLORS.get(status)
    return f"[{color}]{status}[/{color}]" if color else str(status)


def _pairs(run: Run) -> str:
    names = [str(pair).split("/")[0] for pair in run.manifest.get("pairs", [])]
    return ", ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")


def _key_text(key: Sequence[Any]) -> str:
    pair, window, seed = key
    parts = ["all" if pair is None else str(pair)]
    parts += [] if window is None else [str(window)]
    parts += [] if seed is None else [f"seed {seed}"]
    return " ".join(parts)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping) and {"low", "high"} <= set(value):
        middle = value.get("value", value.get("median"))
        return f"{_value(middle)} [{_value(value['low'])}, {_value(value['high'])}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(each) for each in value)
    return str(value)


def _tried(read: Callable[[Run], Any], run: Run) -> Any:
    """Return what is read, None where its file is damaged: the status says so."""
    try:
        return read(run)
    except files.RecordError:
        return None


def _tried_tables(make: Callable[[Run], list[Table]], run: Run) -> list[Table]:
    """Return the tables, or one that names the damaged file."""
    try:
        return make(run)
    except files.RecordError as error:
        table = _plain_table("Damaged")
        table.add_row(escape(str(error)))
        return [table]

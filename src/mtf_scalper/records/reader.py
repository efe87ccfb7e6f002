"""``Run``: reads the folder that a run left, or is leaving: finished, failed, running or killed.

What is not there yet, or never came, is an empty table or None. Damaged lines of files that grow
are left out and named in the log. Any other damaged file is an error of one line that names it.
What is read was judged by ``schema`` and ``tables``, and can be trusted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import BaseModel

from mtf_scalper.lifetimes import is_alive
from mtf_scalper.paths import printable, shown
from mtf_scalper.records import files, schema, tables
from mtf_scalper.records.events import HistoryRow
from mtf_scalper.records.files import RecordError, read_whole
from mtf_scalper.records.lines import read_lines
from mtf_scalper.records.tables import PROBABILITIES as PROBABILITIES
from mtf_scalper.records.trainings import Span, spans

logger = logging.getLogger(__name__)

_EVENT_KEYS = ("pair", "window", "seed")
_HISTORY = (
    *_EVENT_KEYS,
    "time",
    *(column.name for column in fields(HistoryRow)),
)
_TRADES = (
    "series",
    *_EVENT_KEYS,
    "side",
    "open_date",
    "close_date",
    "open_rate",
    "close_rate",
    "leverage",
    "profit_ratio",
    "log_return",
    "exit_reason",
    "enter_tag",
)
_SAMPLES = (
    "time",
    "seconds",
    "machine_percent",
    "tree_percent",
    "processes",
    "workers",
    "resident_bytes",
    "unique_bytes",
    "worker_unique_bytes",
    "is_unique_measured",
)


class Status(StrEnum):
    """How a run stands."""

    FINISHED = "finished"
    FAILED = "failed"
    RUNNING = "running"
    KILLED = "killed"


class Run:
    """The record of one run; ``Run.open`` reads its manifest, methods read the rest when asked."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a run's folder.

        Raises
        ------
        RecordError
            If it holds no readable manifest: names the file.
        """
        manifest = _read_json(folder / files.MANIFEST, schema.Manifest)
        if manifest is None:
            raise RecordError(f"{shown(folder)} is no run folder: it has no {files.MANIFEST}")
        return cls(folder, manifest)

    @property
    def run_id(self) -> str:
        """Name of the folder, as it can be shown."""
        return printable(self.folder.name)

    @property
    def kind(self) -> str:
        """``"demo"``, ``"backtest"`` and the like."""
        return str(self.manifest.get("kind", "unknown"))

    @property
    def began(self) -> datetime:
        """When the run began, UTC."""
        return schema.began_at(self.manifest)

    @property
    def clock_began(self) -> datetime:
        """When the run began by the clock of its events and samples, which a soak's bot has made.

        It is ``began`` where the manifest says nothing else.
        """
        if self.manifest.get("clock_began") is None:
            return self.began
        return schema.began_at(self.manifest, "clock_began")

    @property
    def outcome(self) -> dict[str, Any] | None:
        """How the run ended, None where it has not or could not say so."""
        found: dict[str, Any] | None = _read_json(self.folder / files.OUTCOME, schema.Outcome)
        return found

    @property
    def status(self) -> Status:
        """How the run stands: without an outcome it is running while its process lives."""
        outcome = self.outcome
        if outcome is not None:
            return Status(outcome["status"])
        process = self.manifest.get("process") or {}
        if process and is_alive(int(process["pid"]), float(process["started"])):
            return Status.RUNNING
        return Status.KILLED

    @property
    def seconds(self) -> float | None:
        """Wall time of the run; of one without an outcome up to the last thing that it wrote."""
        outcome = self.outcome
        if outcome is not None:
            return float(outcome["seconds"])
        last = max((event["time"] for event in self.events()), default=None)
        return None if last is None else max(0.0, float(last) - self.clock_began.timestamp())

    @property
    def verdict(self) -> str | None:
        """The verdict in words, or what made the run fail; None where there is neither."""
        outcome = self.outcome or {}
        return outcome.get("verdict") or outcome.get("error")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that were used, or what the run was told where it did not come that far."""
        found = _read_json(self.folder / files.SETTINGS, schema.SettingsFile)
        return dict(found if found is not None else self.manifest.get("settings") or {})

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the events in order, of one name if given."""
        found = read_lines(self.folder / files.EVENTS, schema.RunEvent)
        return [event for event in found if name is None or event["event"] == name]

    def history(self) -> pd.DataFrame:
        """Return one row per update: pair, window and seed, and ``telemetry.HistoryRow``'s."""
        return _table(self.events("update"), _HISTORY)

    def phases(self) -> pd.DataFrame:
        """Return ``spans`` as a table."""
        return pd.DataFrame(self.spans(), columns=list(Span._fields))

    def spans(self) -> list[Span]:
        """Return when the run was in which phase."""
        ended = (self.outcome or {}).get("ended")
        until = None if ended is None else datetime.fromisoformat(ended).timestamp()
        return spans(self.events(), until)

    def samples(self) -> pd.DataFrame:
        """Return one row per sample: ``monitoring.sampler.Sample``'s fields.

        ``core_percent`` is spread over ``core_0_percent`` and so on; ``machine_percent`` is their
        mean.
        """
        rows, most = [], 0
        for entry in read_lines(self.folder / files.SAMPLES, schema.SampleLine):
            cores = entry.get("core_percent", [])
            most = max(most, len(cores))
            named = dict(zip(map(_core, range(most)), cores, strict=False))
            mean = sum(cores) / len(cores) if cores else 0.0
            rows.append({**entry, **named, "machine_percent": mean})
        return _table(rows, (*_SAMPLES, *map(_core, range(most))))

    def trades(self) -> pd.DataFrame:
        """Return the closed trades, one row each; dates are UTC."""
        found = list(read_lines(self.folder / files.TRADES, schema.TradeLine))
        table = _table(found, _TRADES)
        for name in ("open_date", "close_date"):
            table[name] = pd.to_datetime(table[name], utc=True, format="ISO8601")
        return table

    def candles(self) -> pd.DataFrame:
        """Return what was traded: pair, date, open, high, low, close, volume."""
        table = self._tables(files.CANDLES, tables.CANDLES)
        live = self._live(tables.CANDLES).dropna(subset=["open", "high", "low", "close"])
        return _joined(table, live.drop_duplicates(["pair", "date"], keep="last"))

    def predictions(self) -> pd.DataFrame:
        """Return pair, window, date, ``PROBABILITIES`` and confidence, in the order of files."""
        table = self._tables(files.PREDICTIONS, tables.PREDICTIONS)
        return _joined(table, self._live(tables.PREDICTIONS))

    def _live(self, names: Iterable[str]) -> pd.DataFrame:
        """Return the columns of what a bot has predicted candle by candle."""
        lines = read_lines(self.folder / files.LIVE_PREDICTIONS, schema.PredictionLine)
        made = _table(list(lines), names)
        made["date"] = pd.to_datetime(made["date"], utc=True, format="ISO8601")
        return made

    def equity(self) -> pd.DataFrame:
        """Return date, pair, seed, series and the cumulative log return after costs."""
        return self._tables(files.EQUITY, tables.EQUITY)

    def daily(self) -> pd.DataFrame:
        """Return date, series and the log return of each day of all pairs together."""
        return self._tables(files.DAILY, tables.DAILY)

    def figures(self) -> list[dict[str, Any]]:
        """Return the figures: by pair, window and seed, and pooled."""
        return list(_read_json(self.folder / files.FIGURES, schema.Figures) or [])

    def checks(self) -> list[dict[str, Any]]:
        """Return the checks: name, measured, expected, verdict, reason."""
        return list(_read_json(self.folder / files.CHECKS, schema.Checks) or [])

    def statistics(self) -> dict[str, Any] | None:
        """Return the tests and what they were made from."""
        found: dict[str, Any] | None = _read_json(self.folder / files.STATISTICS, schema.Statistics)
        return found

    def random_exits(self) -> dict[str, list[float]] | None:
        """Return the log returns of the draws with random exits, by pair."""
        found: dict[str, list[float]] | None = _read_json(
            self.folder / files.RANDOM_EXITS, schema.RandomExits
        )
        return found

    def importance(self) -> dict[str, Any] | None:
        """Return the permutation importance by feature: median, low, high."""
        found: dict[str, Any] | None = _read_json(
            self.folder / files.IMPORTANCE, schema.Importances
        )
        return found

    def study(self) -> dict[str, Any] | None:
        """Return the trials of a search, what is tried and what was found."""
        found: dict[str, Any] | None = _read_json(self.folder / files.STUDY, schema.Study)
        return found

    def _tables(self, pattern: str, wanted: tables.Schema) -> pd.DataFrame:
        found = [_read_table(path, wanted) for path in sorted(self.folder.glob(pattern))]
        full = [table for table in found if not table.empty]
        if not full:
            return pd.DataFrame(columns=list(wanted))
        return pd.concat(full, ignore_index=True)


def runs_in(root: Path) -> list[Run]:
    """Return the runs of a folder, newest first; the log names a damaged manifest."""
    found = []
    for path in root.glob(f"[!.]*/{files.MANIFEST}"):
        try:
            run = Run.open(path.parent)
        except RecordError as error:
            logger.warning("a run is left out: %s", error)
        else:
            found.append((run.began, run.run_id, run))
    return [run for *_, run in sorted(found, key=lambda each: each[:2], reverse=True)]


def _read_json(path: Path, model: type[BaseModel]) -> Any:
    """Return the content, None where there is no file."""
    content = read_whole(path)
    if content is None:
        return None
    try:
        return schema.parsed(content, model)
    except RecordError as error:
        raise RecordError(f"{shown(path)} is damaged: {error}") from None


def _read_table(path: Path, wanted: tables.Schema) -> pd.DataFrame:
    content = read_whole(path)
    if content is None:  # removed since the folder was looked through
        return pd.DataFrame(columns=list(wanted))
    try:
        return tables.parsed_table(content, wanted)
    except RecordError as error:
        raise RecordError(f"{shown(path)} is damaged: {error}") from None


def _joined(table: pd.DataFrame, live: pd.DataFrame) -> pd.DataFrame:
    if live.empty:
        return table
    return live if table.empty else pd.concat([table, live], ignore_index=True)


def _core(number: int) -> str:
    return f"core_{number}_percent"


def _table(rows: list[dict[str, Any]], names: Iterable[str]) -> pd.DataFrame:
    """Return the rows as a table of these columns; what else a line has was not checked."""
    return pd.DataFrame(rows, columns=list(names))

"""``RunRecord``: writes a run's folder, so that whatever ends the run, what it had can be read."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import pyarrow
from pyarrow.feather import write_feather

from mtf_scalper.lifetimes import process_facts
from mtf_scalper.paths import written_whole
from mtf_scalper.records import files
from mtf_scalper.records.events import EventLog
from mtf_scalper.records.files import append, file_stem, plain, written_once
from mtf_scalper.records.manifest import (
    commit_facts,
    engine_digest,
    machine_facts,
    version_facts,
)
from mtf_scalper.records.secrets import command_without_secrets, without_secrets
from mtf_scalper.unfinished import PARTS, remove_unfinished

RUN_VARIABLE = "MTF_SCALPER_RUN"
"""Environment variable by which a program tells one that it starts whose record to write into."""
RESUMED = "resumed"
"""Event of a run that was cut off, and goes on."""
RUN_OFF = "off"
"""Its value where the started program is to leave no record."""


class RunRecord:
    """One run's folder, open for writing.

    ``RunRecord.begin`` makes a new one; as a context manager it ends the record: ``finished``, or
    ``failed`` with its one line where an exception leaves it. ``RunRecord(folder)`` writes into one
    that another process began, and leaves its end to that.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._began = time.monotonic()

    @classmethod
    def begin(
        cls,
        root: Path,
        kind: str,
        *,
        settings: Any = None,
        pairs: Sequence[str] = (),
        seeds: Sequence[int] = (),
        timerange: str | None = None,
        datadir: Path | None = None,
        data_digest: Mapping[str, str | None] | None = None,
        command: Sequence[str] | None = None,
        **facts: Any,
    ) -> Self:
        """Make the folder ``root/<kind>-<YYYYMMDD>-<HHMMSS>[-n]`` with its manifest.

        The folder appears together with the manifest, and its name is the run's id.

        Parameters
        ----------
        root : Path
            ``user_data/runs``; made if missing.
        kind : str
            ``"demo"``, ``"backtest"`` and the like.
        settings : Settings or mapping, optional
            All that the run was told.
        pairs, seeds : sequence, optional
        timerange : str, optional
            ``YYYYMMDD-YYYYMMDD``.
        datadir : Path, optional
        data_digest : mapping, optional
            By pair; see ``manifest.candle_digest`` and ``manifest.datadir_digests``.
        command : sequence of str, optional
            Command line; this process's by default.
        **facts
            More for the manifest.
        """
        now = datetime.now(UTC)
        manifest = {
            "kind": kind,
            "command": command_without_secrets(command if command is not None else _command_line()),
            "began": now.isoformat(timespec="milliseconds"),
            "process": process_facts(),
            "versions": version_facts(),
            **commit_facts(),
            "engine": engine_digest(),
            "machine": machine_facts(),
            "settings": {} if settings is None else plain(settings),
            "pairs": list(pairs),
            "seeds": [int(seed) for seed in seeds],
            "timerange": timerange,
            "datadir": None if datadir is None else str(datadir),
            "data_digest": dict(data_digest or {}),
            **plain(facts),
        }
        root.mkdir(parents=True, exist_ok=True)
        return cls(_make_folder(root, f"{file_stem(kind)}-{now:%Y%m%d-%H%M%S}", manifest))

    @classmethod
    def resume(cls, folder: Path, *, keep: str) -> Self:
        """Go on with a record that was cut off, or failed; who else may write it has been asked.

        Events and samples stay, and so does the folder ``keep``. All else is made anew.
        """
        stays = {files.MANIFEST, files.EVENTS, files.SAMPLES, keep}
        for path in folder.iterdir():
            if path.name not in stays:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        path = folder / files.MANIFEST
        manifest = json.loads(path.read_text(encoding="utf-8"))
        with written_whole(path) as part:
            _write_json(part, {**manifest, "process": process_facts()})
        record = cls(folder)
        record.events().write(RESUMED, command=command_without_secrets(_command_line()))
        return record

    def __enter__(self) -> Self:
        """Return the record itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the record, if the run has not done so."""
        if self.has_ended:
            return
        if error is None:
            self.finish()
        else:
            self.fail(error)

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def has_ended(self) -> bool:
        """Whether the outcome is written."""
        return (self.folder / files.OUTCOME).exists()

    def events(self, **common: Any) -> EventLog:
        """Return a log whose events go to ``events.jsonl``, each with the facts given."""
        return EventLog(self.folder / files.EVENTS, **common)

    @contextmanager
    def phase(self, name: str, **common: Any) -> Iterator[None]:
        """Note when a phase outside a training began and ended: ``features``, ``backtest`` ..."""
        events = self.events(**common)
        events.write("phase", name=name, state="began")
        try:
            yield
        finally:
            events.write("phase", name=name, state="ended")

    def append_trades(self, trades: Iterable[Mapping[str, Any]]) -> None:
        """Append closed trades; ``docs/records.md`` names their fields."""
        self._append(files.TRADES, trades)

    def append_sample(self, sample: Any) -> None:
        """Append a ``monitoring.sampler.Sample``."""
        self._append(files.SAMPLES, [sample])

    def append_predictions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append what is predicted candle by candle, live: pair, candle, probabilities."""
        self._append(files.LIVE_PREDICTIONS, rows)

    def write_table(self, name: str, table: pd.DataFrame) -> Path:
        """Write a table whole: ``"equity"`` goes to ``equity.feather``.

        Raises
        ------
        RecordError
            If it is there already.
        """
        path = self.folder / f"{name}.feather"
        # On this thread alone: a program that is ending cannot start others.
        content = pyarrow.Table.from_pandas(table.reset_index(drop=True), nthreads=1)
        with written_once(path) as part:
            write_feather(content, str(part))
        return path

    def write_candles(self, pair: str, candles: pd.DataFrame) -> Path:
        """Write what was traded: date, open, high, low, close, volume; the pair is added."""
        return self.write_table(f"candles-{file_stem(pair)}", candles.assign(pair=pair))

    def write_predictions(
        self, pair: str, predictions: pd.DataFrame, window: str | None = None
    ) -> Path:
        """Write the predictions of a pair, or of one window: date, probabilities, confidence."""
        table = predictions.assign(pair=pair, window=window)
        return self.write_table(_predictions_name(pair, window), table)

    def has_predictions(self, pair: str, window: str | None = None) -> bool:
        """Whether those predictions are written."""
        return (self.folder / f"{_predictions_name(pair, window)}.feather").exists()

    def write_settings(self, settings: Any) -> None:
        """Write the settings that are used, where the manifest could not know them; once."""
        if not (self.folder / files.SETTINGS).exists():
            self.write_json(Path(files.SETTINGS).stem, settings)

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file whole: ``"figures"`` goes to ``figures.json``.

        Raises
        ------
        RecordError
            If it is there already.
        """
        path = self.folder / f"{name}.json"
        with written_once(path) as part:
            _write_json(part, content)
        return path

    def finish(
        self, verdict: str | None = None, results: Mapping[str, Path | str] | None = None
    ) -> None:
        """End the record well.

        Parameters
        ----------
        verdict : str, optional
            What came of it in words, one line.
        results : mapping of str to path, optional
            Where other results lie; inside the folder they are noted relative to it.
        """
        self._end("finished", verdict=verdict, results=results or {})

    def fail(self, error: BaseException | str) -> None:
        """End the record with the one line that says what went wrong."""
        if isinstance(error, KeyboardInterrupt):
            text = "interrupted"
        elif isinstance(error, BaseException):
            text = str(error) or type(error).__name__
        else:
            text = error
        self._end("failed", error=text.strip().partition("\n")[0])

    def _append(self, name: str, entries: Iterable[Any]) -> None:
        found = (without_secrets(plain(each)) for each in entries)
        lines = "".join(f"{json.dumps(each, allow_nan=False)}\n" for each in found)
        if lines:
            append(self.folder / name, lines)

    def _end(
        self,
        status: str,
        *,
        verdict: str | None = None,
        error: str | None = None,
        results: Mapping[str, Path | str] | None = None,
    ) -> None:
        content = {
            "status": status,
            "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "seconds": round(time.monotonic() - self._began, 3),
            "verdict": verdict,
            "error": error,
            "results": {name: self._shown(path) for name, path in (results or {}).items()},
        }
        self.write_json(Path(files.OUTCOME).stem, content)

    def _shown(self, path: Path | str) -> str:
        absolute = Path(path).resolve()
        home = self.folder.resolve()
        inside = absolute.is_relative_to(home)
        return absolute.relative_to(home).as_posix() if inside else str(absolute)


def _make_folder(root: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    """Make a folder that is nobody else's, with its manifest, in one step."""
    remove_unfinished(root.glob(PARTS))
    part = root / f".{name}.{os.getpid()}.{secrets.token_hex(4)}.part"
    part.mkdir()
    try:
        return _named(root, name, part, manifest)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)  # of a full disk: nobody would read it
        raise


def _named(root: Path, name: str, part: Path, manifest: Mapping[str, Any]) -> Path:
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        _write_json(part / files.MANIFEST, {"id": folder.name, **manifest})
        try:
            if not folder.exists():
                # Onto a folder that somebody made meanwhile it fails: theirs is not empty.
                part.rename(folder)
                return folder
        except OSError:
            if not folder.exists():
                raise
        number += 1


def _predictions_name(pair: str, window: str | None) -> str:
    return f"predictions-{file_stem(pair)}" + (f"-{file_stem(window)}" if window else "")


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(without_secrets(plain(content)), indent=1, allow_nan=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _command_line() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []

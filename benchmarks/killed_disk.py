"""What a killed bot leaves on the disk, and what must not be found there or in its log."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from marks import Marks

from mtf_scalper.freqai.vetting import BACKUP, HISTORY, newest_models
from mtf_scalper.kept_files import LIST
from mtf_scalper.page.render import write_page
from mtf_scalper.records import files
from mtf_scalper.records.lines import read_lines
from mtf_scalper.records.reader import Run, Status
from mtf_scalper.records.schema import PredictionLine
from mtf_scalper.records.trainings import FINISHED, STARTED
from mtf_scalper.runs.soak import SoakPlan
from mtf_scalper.trusted import TrustedFiles
from mtf_scalper.unfinished import PARTS

_ERRORS = re.compile(r"^.* - (?:ERROR|CRITICAL) - .*$|^Traceback .*$", re.MULTILINE)
_DAMAGE = re.compile(r"^.*(?:is missing: the files|is damaged).*$", re.MULTILINE)
_FILLED = (
    "select distinct ft_trade_id from orders join trades on trades.id = ft_trade_id "
    "where orders.status = 'closed'"
)


class Phase(StrEnum):
    """What a kill is aimed at, and what it hit."""

    STARTING = "starting"
    TRAINING = "training"
    SAVING = "saving"
    PREDICTING = "predicting"
    TRADING = "trading"


@dataclass(frozen=True)
class Left:
    """What a killed bot left on the disk.

    Attributes
    ----------
    models : dict of str to str
        Folder of the newest whole model, by pair.
    half : list of str
        Folders of models without a list of their files.
    parts : list of str
        Files that were being written.
    open_trades : list of int
    positions : list of int
        Open trades whose entry has filled.
    filled : list of int
        Open and closed ones.
    in_training : list of str
        Trainings that had begun and not ended.
    marks : list of list of str
        What the strategy did, oldest first: time in ns, word, and what it was about.
    """

    models: dict[str, str]
    half: list[str]
    parts: list[str]
    open_trades: list[int]
    positions: list[int]
    filled: list[int]
    in_training: list[str]
    marks: list[list[str]]

    def phases(self, before: Left) -> set[Phase]:
        """Return in what it was killed; ``before`` is what there was before it was started."""
        found = set()
        words = [mark[1] for mark in self.marks]
        if "predicted" not in words:
            found.add(Phase.STARTING)
        if self.in_training:
            found.add(Phase.TRAINING)
        if {*self.half, *self.parts} - {*before.half, *before.parts}:
            found.add(Phase.SAVING)
        if words and words[-1] == "predicting":
            found.add(Phase.PREDICTING)
        if self.open_trades:
            found.add(Phase.TRADING)
        return found


@dataclass
class Kill:
    """One life of the bot: how its start went after the kill before, and how it was killed.

    Attributes
    ----------
    number : int
    aim : Phase
    hit : list of Phase
    half : list of str
        Models and files that were being written.
    seconds : float
        From the start to the end of the first loop; 0 where it was killed before.
    lost : int
        Trainings that had begun and not ended.
    positions, asked : int
        Open ones at the start; those that the strategy was asked about in the first loop.
    left_at_once : list of str
        Why positions were left by the end of the first loop.
    told : list of str
        What the log says of damaged files.
    faults : list of str
        What must not be.
    """

    number: int
    aim: Phase
    hit: list[Phase] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    seconds: float = 0.0
    lost: int = 0
    positions: int = 0
    asked: int = 0
    left_at_once: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def as_row(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


class Disk:
    """The folders and the database of a bot that is killed and started again.

    Parameters
    ----------
    plan : SoakPlan
    marks : Marks
    """

    def __init__(self, plan: SoakPlan, marks: Marks) -> None:
        self._user_data = plan.bot
        self.models = plan.bot / "models" / plan.folder.name
        self._database = plan.folder / "trades.sqlite"
        self._marks = marks
        self._known_runs: set[Path] = set()

    def _rows(self, query: str) -> list[Any]:
        if not self._database.exists():
            return []
        with contextlib.closing(sqlite3.connect(self._database, timeout=30.0)) as connection:
            return list(connection.execute(query))

    def _ids(self, query: str) -> list[int]:
        return [row[0] for row in self._rows(query)]

    def open_trades(self) -> list[int]:
        """Return the trades that are open."""
        return self._ids("select id from trades where is_open = 1")

    def closed(self) -> dict[int, str]:
        """Return why trades were closed."""
        return dict(self._rows("select id, exit_reason from trades where is_open = 0"))

    def _runs(self) -> set[Path]:
        return set((self._user_data / "runs").glob("[!.]*"))

    def in_training(self) -> list[str]:
        """Return trainings that have begun and not ended in the records of this life."""
        begun: list[str] = []
        for folder in self._runs() - self._known_runs:
            if not (folder / files.MANIFEST).exists():
                continue
            for event in Run.open(folder).events():
                if event["event"] == STARTED:
                    begun.append(event["window"])
                elif event["event"] == FINISHED and event["window"] in begun:
                    begun.remove(event["window"])
        return begun

    def look(self) -> Left:
        """Return what is there."""
        models = newest_models(self.models) if self.models.is_dir() else {}
        folders = list(self.models.glob("sub-train-*"))
        return Left(
            models={pair: Path(each["data_path"]).name for pair, each in models.items()},
            half=[
                folder.name
                for folder in folders
                if not (folder / LIST).exists() and list(folder.glob("*_model.zip"))
            ],
            parts=[str(path) for path in self._user_data.rglob(PARTS)],
            open_trades=self.open_trades(),
            positions=self._ids(f"{_FILLED} and trades.is_open = 1"),
            filled=self._ids(_FILLED),
            in_training=self.in_training(),
            marks=self._marks.lines(),
        )

    def judge(
        self, kill: Kill, log: Path, before: Left, after: Left, status: Status = Status.KILLED
    ) -> None:
        """Note the faults of a life that has ended, and let the next one begin.

        Parameters
        ----------
        kill : Kill
            Gets them, and what the log says of damaged files.
        log : Path
        before, after : Left
            What it found and what it left.
        status : Status
            Of its record.
        """
        text = log.read_text(encoding="utf-8", errors="replace")
        text = text.replace(f"{self._user_data}{os.sep}", "")  # of no other machine
        kill.faults += _ERRORS.findall(text)
        kill.told = [line.split(" - ", 3)[-1].strip() for line in _DAMAGE.findall(text)]
        if kill.told and not (before.half or before.parts):
            kill.faults += [f"told without a reason: {line}" for line in kill.told]
        kill.faults += [f"trade {each} is lost" for each in {*before.filled} - {*after.filled}]
        if len(after.in_training) > 1:
            kill.faults.append(f"{after.in_training} were lost together")
        self._judge_history(kill)
        for folder in self._runs() - self._known_runs:
            self._judge_record(folder, kill, before, status)
        self._known_runs = self._runs()

    def _judge_history(self, kill: Kill) -> None:
        """See whether a start finds one of the two files whole."""
        trusted = TrustedFiles(self._user_data)
        found = [self.models / name for name in (HISTORY, BACKUP)]
        there = [path for path in found if path.exists()]
        if there and not any(trusted.knows(path.read_bytes()) for path in there):
            kill.faults.append("neither the history of predictions nor its backup is whole")

    def _judge_record(self, folder: Path, kill: Kill, before: Left, status: Status) -> None:
        run = Run.open(folder)
        if run.status is not status:
            kill.faults.append(f"the record {run.run_id} is {run.status}, not {status}")
        for read in (run.samples, run.trades, run.candles, run.predictions, run.equity):
            read()
        run.history()
        write_page(folder)
        first: dict[str, str] = {}
        for line in read_lines(folder / files.LIVE_PREDICTIONS, PredictionLine):
            first.setdefault(line["pair"], line["window"])
        for pair, window in first.items():
            newest = before.models.get(pair, "")
            if window < newest:
                kill.faults.append(f"{pair} goes on with {window}, and {newest} was whole")

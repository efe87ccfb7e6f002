"""The real bot, killed at chosen moments and started again, and what is looked at after each start.

``freqtrade trade`` in dry run against the live replay exchange, by the exchange's clock, always in
the same user directory and with the same database. Its strategy is the project's, with two changes
that are written below: it enters at every candle with a prediction, so that there are trades to be
killed in, and it marks in a file what it is doing.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from mtf_scalper.clock import RunningClock
from mtf_scalper.exchange import running_exchange
from mtf_scalper.freqai.vetting import BACKUP, HISTORY, newest_models
from mtf_scalper.kept_files import LIST
from mtf_scalper.page.render import write_page
from mtf_scalper.records import files
from mtf_scalper.records.lines import read_lines
from mtf_scalper.records.reader import Run, Status
from mtf_scalper.records.schema import PredictionLine
from mtf_scalper.records.trainings import FINISHED, STARTED
from mtf_scalper.records.writer import RUN_VARIABLE
from mtf_scalper.runs.clocked import clocked_command
from mtf_scalper.runs.program import STRATEGY
from mtf_scalper.runs.soak import SoakPlan
from mtf_scalper.runs.watched import watched_command
from mtf_scalper.trusted import TrustedFiles
from mtf_scalper.unfinished import PARTS

Ready = Callable[[Sequence[str]], Sequence[str]]

START_SECONDS = 300.0
"""No start takes as long on any machine that this is run on."""
MISSED_SECONDS = 60.0
"""What has not happened by then is missed, and the bot is killed all the same."""
_POLL_SECONDS = 0.002
_SLOW_POLL_SECONDS = 0.03
_ERRORS = re.compile(r"^.* - (?:ERROR|CRITICAL) - .*$|^Traceback .*$", re.MULTILINE)
_DAMAGE = re.compile(r"^.*(?:is missing: the files|is damaged).*$", re.MULTILINE)
_FILLED = (
    "select distinct ft_trade_id from orders join trades on trades.id = ft_trade_id "
    "where orders.status = 'closed'"
)
_STRATEGY_FILE = '''\
"""{name} of the project, which enters wherever there is a prediction and marks what it does."""

import importlib.util
import os
import sys
import time

import numpy as np

from mtf_scalper.freqai.opinions import predicted

_spec = importlib.util.spec_from_file_location("killed_strategy", {path!r})
_module = importlib.util.module_from_spec(_spec)
sys.modules["killed_strategy"] = _module
_spec.loader.exec_module(_module)


def mark(*words):
    file = os.open({marks!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, (time.monotonic_ns(), *words))) + "\\n").encode())
    os.close(file)


mark("process", os.getpid())


class {name}(_module.{name}):
    protections = []

    def bot_loop_start(self, **kwargs):
        mark("loop")
        super().bot_loop_start(**kwargs)

    def populate_indicators(self, dataframe, metadata):
        mark("predicting", metadata["pair"])
        frame = super().populate_indicators(dataframe, metadata)
        mark("predicted", metadata["pair"])
        return frame

    def populate_entry_trend(self, dataframe, metadata):
        frame = super().populate_entry_trend(dataframe, metadata)
        is_long = np.arange(len(frame)) % 4 < 2
        frame["enter_long"] = (predicted(frame) & is_long).astype(int)
        frame["enter_short"] = (predicted(frame) & ~is_long).astype(int)
        return frame

    def custom_exit(self, pair, trade, *args, **kwargs):
        mark("asked", trade.id)
        answer = super().custom_exit(pair, trade, *args, **kwargs)
        if answer:
            mark("leaving", trade.id, answer)
        return answer

    def confirm_trade_entry(self, *args, **kwargs):
        mark("entering")
        return super().confirm_trade_entry(*args, **kwargs)

    def order_filled(self, **kwargs):
        mark("filled", kwargs["trade"].id)
        super().order_filled(**kwargs)
'''


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


class KilledBot:
    """Starts the bot, kills it, and looks at what it left and how it goes on.

    Parameters
    ----------
    plan : SoakPlan
    command : sequence of str
        The plan's, at a live exchange and by its clock.
    seed : int
        Of the moments.
    """

    def __init__(self, plan: SoakPlan, command: Sequence[str], seed: int = 0) -> None:
        self.plan = plan
        self._command = command
        self._marks = plan.folder / "marks"
        strategy = plan.bot / "strategies" / f"{STRATEGY}.py"
        source = plan.project / "user_data" / "strategies" / strategy.name
        strategy.write_text(
            _STRATEGY_FILE.format(
                name=STRATEGY, path=str(source.resolve()), marks=str(self._marks.resolve())
            ),
            encoding="utf-8",
        )
        self._random = random.Random(seed)
        self._models = plan.bot / "models" / plan.folder.name
        self._database = plan.folder / "trades.sqlite"
        self.kills: list[Kill] = []
        self._left = self._look()
        self._records: set[Path] = set()

    def kill_in(self, aim: Phase) -> Kill:
        """Start the bot, look whether it goes on from where it was killed, and kill it again."""
        before = self._left
        kill = Kill(len(self.kills), aim, positions=len(before.positions))
        with self._started(kill) as process:
            began = time.monotonic()
            if aim is Phase.STARTING:
                usual = [each.seconds for each in self.kills if each.seconds]
                self._sleep(process, self._random.uniform(0.0, max(usual, default=10.0)))
            else:
                self._first_loop(process, kill)
                kill.seconds = time.monotonic() - began
                self._await(process, aim)
            if process.poll() is not None:
                kill.faults.append(f"it ended by itself with {process.returncode}")
            process.kill()
            process.wait()
        if not wait_for_descendants():
            kill.faults.append("a process of it lives on")
        self._left = self._look()
        kill.hit = sorted(self._left.phases(before))
        kill.half = [Path(each).name for each in (*self._left.half, *self._left.parts)]
        kill.lost = len(self._left.in_training)
        self._judge(kill, before)
        self.kills.append(kill)
        return kill

    def last_start(self) -> Kill:
        """Start the bot once more after the last kill, and end it as Ctrl-C does."""
        before = self._left
        kill = Kill(len(self.kills), Phase.STARTING, positions=len(before.positions))
        with self._started(kill) as process:
            began = time.monotonic()
            self._first_loop(process, kill)
            kill.seconds = time.monotonic() - began
            psutil.Process(self._process_id()).terminate()
            process.wait(START_SECONDS)
        self._left = self._look()
        self._judge(kill, before, status=Status.FINISHED)
        kill.faults += [f"{name} was left behind" for name in self._left.parts]
        return kill

    @contextlib.contextmanager
    def _started(self, kill: Kill) -> Iterator[subprocess.Popen[bytes]]:
        self._marks.write_bytes(b"")
        environment = {**os.environ, "COLUMNS": "400", "PYTHONIOENCODING": "utf-8"}
        environment.pop(RUN_VARIABLE, None)  # each start leaves a record of its own
        with self._log(kill).open("wb") as log:
            process = subprocess.Popen(
                self._command,
                cwd=self.plan.project,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _process_id(self) -> int:
        """Return the bot's own id, which is not that of the command where that is forked."""
        return int(next(mark[2] for mark in self._marked() if mark[1] == "process"))

    def _log(self, kill: Kill) -> Path:
        return self.plan.folder / f"bot-{kill.number:03}.log"

    def _marked(self) -> list[list[str]]:
        text = self._marks.read_text() if self._marks.exists() else ""
        return [line.split() for line in text.splitlines()]

    def _words(self) -> list[str]:
        return [mark[1] for mark in self._marked()]

    def _first_loop(self, process: subprocess.Popen[bytes], kill: Kill) -> None:
        """Wait for the end of the first loop, and see who was asked in it."""
        if not self._until(
            process, lambda: self._words().count("loop") >= 2, START_SECONDS, _SLOW_POLL_SECONDS
        ):
            kill.faults.append("the start did not come to a second loop")
            return
        marks = self._marked()
        second = [number for number, mark in enumerate(marks) if mark[1] == "loop"][1]
        asked = {int(mark[2]) for mark in marks[:second] if mark[1] == "asked"}
        kill.asked = len(asked & set(self._left.positions))
        closed = self._closed()
        kill.left_at_once = [closed[each] for each in self._left.positions if each in closed]
        never = set(self._left.positions) - asked - set(closed)
        kill.faults += [f"trade {each} was not asked about in the first loop" for each in never]

    def _await(self, process: subprocess.Popen[bytes], aim: Phase) -> None:
        """Wait for the moment to kill."""
        uniform = self._random.uniform
        if aim is Phase.TRAINING:
            self._until(process, lambda: bool(self._in_training()), poll_seconds=_SLOW_POLL_SECONDS)
            self._sleep(process, uniform(0.0, 0.5))
        elif aim is Phase.SAVING:
            known = {path.parent for path in self._models.glob("sub-train-*/*_model.zip")}
            self._until(
                process,
                lambda: any(
                    path.parent not in known
                    for path in self._models.glob("sub-train-*/*_model.zip")
                ),
            )
            self._sleep(process, uniform(0.0, 0.06))
        elif aim is Phase.PREDICTING:
            n_before = self._words().count("predicting")
            self._until(process, lambda: self._words().count("predicting") > n_before)
            self._sleep(process, uniform(0.0, 0.3))
        elif self._random.random() < 0.5:  # in an order
            events = ("entering", "filled", "leaving")
            n_before = sum(word in events for word in self._words())
            self._until(process, lambda: sum(word in events for word in self._words()) > n_before)
            self._sleep(process, uniform(0.0, 0.1))
        else:  # between two
            self._until(process, lambda: bool(self._open_trades()), poll_seconds=_SLOW_POLL_SECONDS)
            self._sleep(process, uniform(0.0, 2.0))

    def _until(
        self,
        process: subprocess.Popen[bytes],
        is_there: Callable[[], bool],
        seconds: float = MISSED_SECONDS,
        poll_seconds: float = _POLL_SECONDS,
    ) -> bool:
        """Wait for something; return whether it came."""
        deadline = time.monotonic() + seconds
        while not is_there():
            if process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(poll_seconds)
        return True

    def _sleep(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    def _rows(self, query: str) -> list[Any]:
        if not self._database.exists():
            return []
        with contextlib.closing(sqlite3.connect(self._database, timeout=30.0)) as connection:
            return list(connection.execute(query))

    def _ids(self, query: str) -> list[int]:
        return [row[0] for row in self._rows(query)]

    def _open_trades(self) -> list[int]:
        return self._ids("select id from trades where is_open = 1")

    def _closed(self) -> dict[int, str]:
        """Return why trades were closed."""
        return dict(self._rows("select id, exit_reason from trades where is_open = 0"))

    def _runs(self) -> set[Path]:
        return set((self.plan.bot / "runs").glob("[!.]*"))

    def _in_training(self) -> list[str]:
        """Return trainings that have begun and not ended in the records of this life."""
        begun: list[str] = []
        for folder in self._runs() - self._records:
            if not (folder / files.MANIFEST).exists():
                continue
            for event in Run.open(folder).events():
                if event["event"] == STARTED:
                    begun.append(event["window"])
                elif event["event"] == FINISHED and event["window"] in begun:
                    begun.remove(event["window"])
        return begun

    def _look(self) -> Left:
        models = newest_models(self._models) if self._models.is_dir() else {}
        folders = list(self._models.glob("sub-train-*"))
        return Left(
            models={pair: Path(each["data_path"]).name for pair, each in models.items()},
            half=[
                folder.name
                for folder in folders
                if not (folder / LIST).exists() and list(folder.glob("*_model.zip"))
            ],
            parts=[str(path) for path in self.plan.bot.rglob(PARTS)],
            open_trades=self._open_trades(),
            positions=self._ids(f"{_FILLED} and trades.is_open = 1"),
            filled=self._ids(_FILLED),
            in_training=self._in_training() if self.kills or self._marks.exists() else [],
            marks=self._marked(),
        )

    def _judge(self, kill: Kill, before: Left, status: Status = Status.KILLED) -> None:
        """Look at the log, the models, the records and the trades of a life that has ended."""
        log = self._log(kill).read_text(encoding="utf-8", errors="replace")
        kill.faults += _ERRORS.findall(log)
        kill.told = [line.split(" - ", 3)[-1].strip() for line in _DAMAGE.findall(log)]
        if kill.told and not (before.half or before.parts):
            kill.faults += [f"told without a reason: {line}" for line in kill.told]
        lost = set(before.filled) - set(self._left.filled)
        kill.faults += [f"trade {each} is lost" for each in lost]
        if len(self._left.in_training) > 1:
            kill.faults.append(f"{self._left.in_training} were lost together")
        self._judge_history(kill)
        for folder in self._runs() - self._records:
            self._judge_record(folder, kill, before, status)
        self._records = self._runs()

    def _judge_history(self, kill: Kill) -> None:
        """See whether a start finds one of the two files whole."""
        trusted = TrustedFiles(self.plan.bot)
        found = [self._models / name for name in (HISTORY, BACKUP)]
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


def wait_for_descendants(seconds: float = 30.0) -> bool:
    """Wait until no child of this process has children of its own; return whether it came to it."""
    deadline = time.monotonic() + seconds
    while any(map(_has_children, psutil.Process().children())):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _has_children(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(each.status() != psutil.STATUS_ZOMBIE for each in process.children())
    return False


@contextlib.contextmanager
def killed_bot(plan: SoakPlan, ready: Ready, *, seed: int = 0) -> Iterator[KilledBot]:
    """Yield a bot at a live exchange whose clock begins at the plan's moment.

    Parameters
    ----------
    plan : SoakPlan
    ready : callable
        Makes ``python -m module ...`` a command that finds its libraries imported.
    seed : int
        Of the moments.
    """
    clock = RunningClock.starting_at(plan.begin, plan.speed)
    with running_exchange(plan.datadir, now=clock) as url:
        command = watched_command(clocked_command(clock, plan.command(url)))
        yield KilledBot(plan, ready(command), seed)

"""The real bot, killed at chosen moments and started again, and what is looked at after each start.

``freqtrade trade`` in dry run against the live replay exchange, by the exchange's clock, always in
the same user directory and with the same database.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
from killed_disk import Disk, Kill, Phase
from marks import Marks

from mtf_scalper.clock import RunningClock
from mtf_scalper.exchange import running_exchange
from mtf_scalper.records.reader import Status
from mtf_scalper.records.writer import RUN_VARIABLE
from mtf_scalper.runs.clocked import clocked_command
from mtf_scalper.runs.soak import SoakPlan
from mtf_scalper.runs.watched import watched_command

Ready = Callable[[Sequence[str]], Sequence[str]]

START_SECONDS = 1800.0
"""No start takes as long on any machine that this is run on."""
MISSED_SECONDS = 60.0
"""What has not happened by then is missed, and the bot is killed all the same."""
_POLL_SECONDS = 0.002
_SLOW_POLL_SECONDS = 0.03


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
        self._marks = Marks(plan)
        self._disk = Disk(plan, self._marks)
        self._random = random.Random(seed)
        self._left = self._disk.look()
        self.kills: list[Kill] = []

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
        self._left = self._disk.look()
        kill.hit = sorted(self._left.phases(before))
        begun = {*self._left.half, *self._left.parts} - {*before.half, *before.parts}
        kill.half = sorted(Path(each).name for each in begun)
        kill.lost = len(self._left.in_training)
        self._disk.judge(kill, self.log(kill), before, self._left)
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
            psutil.Process(self._marks.process_id()).terminate()
            process.wait(START_SECONDS)
        self._left = self._disk.look()
        self._disk.judge(kill, self.log(kill), before, self._left, Status.FINISHED)
        kill.faults += [f"{name} was left behind" for name in self._left.parts]
        return kill

    @contextlib.contextmanager
    def _started(self, kill: Kill) -> Iterator[subprocess.Popen[bytes]]:
        self._marks.clear()
        environment = {**os.environ, "COLUMNS": "400", "PYTHONIOENCODING": "utf-8"}
        environment.pop(RUN_VARIABLE, None)  # each start leaves a record of its own
        with self.log(kill).open("wb") as log:
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

    def log(self, kill: Kill) -> Path:
        """Return the file with all that the bot has printed in this life."""
        return self.plan.folder / f"bot-{kill.number:03}.log"

    def _first_loop(self, process: subprocess.Popen[bytes], kill: Kill) -> None:
        """Wait for the end of the first loop, and see who was asked in it."""
        if not self._until(
            process, lambda: self._marks.count("loop") >= 2, START_SECONDS, _SLOW_POLL_SECONDS
        ):
            kill.faults.append("the start did not come to a second loop")
            return
        positions, asked = set(self._left.positions), self._marks.first_loop()
        closed = self._disk.closed()
        kill.asked = len(asked & positions)
        kill.left_at_once = [closed[each] for each in positions & set(closed)]
        never = positions - asked - set(closed)
        kill.faults += [f"trade {each} was not asked about in the first loop" for each in never]

    def _await(self, process: subprocess.Popen[bytes], aim: Phase) -> None:
        """Wait for the moment to kill."""
        uniform, marks, disk = self._random.uniform, self._marks, self._disk
        if aim is Phase.TRAINING:
            self._until(process, lambda: bool(disk.in_training()), poll_seconds=_SLOW_POLL_SECONDS)
            self._sleep(process, uniform(0.0, 0.5))
        elif aim is Phase.SAVING:
            pattern = "sub-train-*/*_model.zip"
            known = set(disk.models.glob(pattern))
            self._until(process, lambda: bool(set(disk.models.glob(pattern)) - known))
            self._sleep(process, uniform(0.0, 0.06))
        elif aim is Phase.PREDICTING:
            n_before = marks.count("predicting")
            self._until(process, lambda: marks.count("predicting") > n_before)
            self._sleep(process, uniform(0.0, 0.3))
        elif self._random.random() < 0.5:  # in an order
            events = ("entering", "filled", "leaving")
            n_before = marks.count(*events)
            self._until(process, lambda: marks.count(*events) > n_before)
            self._sleep(process, uniform(0.0, 0.1))
        else:  # between two
            self._until(process, lambda: bool(disk.open_trades()), poll_seconds=_SLOW_POLL_SECONDS)
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

"""A soak: the unmodified ``freqtrade trade`` on history, faster than time, and what came of it.

The bot runs in dry run against a live replay exchange on loopback, in a process that lives by the
exchange's clock. It has a user directory of its own with the project's strategy, trains, trades and
retrains in FreqAI's thread while it trades. Then its decisions are set beside those of a backtest
with the same weights.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mtf_scalper.clock import RunningClock, to_ms
from mtf_scalper.exchange import FaultPlan, offline_exchange_config, running_exchange
from mtf_scalper.freqai.decision_log import read_decisions
from mtf_scalper.paths import user_data
from mtf_scalper.records.files import LIVE_PREDICTIONS
from mtf_scalper.records.sampler import ProcessSampler, Sample
from mtf_scalper.records.secrets import without_secrets
from mtf_scalper.records.writer import RUN_OFF, RUN_VARIABLE, RunRecord
from mtf_scalper.runs.clocked import clocked_command
from mtf_scalper.runs.program import (
    MODEL,
    STRATEGY,
    RunError,
    last_error,
    log_config,
    merged,
    stop_program,
)
from mtf_scalper.runs.watched import watched_command

_POLL_SECONDS = 0.25
_SAMPLE_SECONDS = 1.0
_STOP_SECONDS = 120.0
"""A training that runs is waited for."""
_LEAST_LOOP_SECONDS = 5
_REAL_LOOP_SECONDS = 0.25
"""The bot looks at prices at most four times a real second, however fast its clock is."""

_OFF = {"enabled": False}
_ALONE: dict[str, Any] = {
    "dry_run": True,
    "telegram": {**_OFF, "token": "", "chat_id": "0"},
    "discord": _OFF,
    "webhook": _OFF,
    "api_server": {
        **_OFF,
        **{"listen_ip_address": "127.0.0.1", "listen_port": 8080},
        **{"username": "", "password": "", "jwt_secret_key": "-" * 32},
    },
}
"""No orders, no messages and no server, in the form that freqtrade asks of these sections."""

_STRATEGY_FILE = '''\
"""{name} of the project, which also writes down what it decides."""

import importlib.util
import sys
from pathlib import Path

from mtf_scalper.freqai.decision_log import log_decisions

_spec = importlib.util.spec_from_file_location("soaked_strategy", {path!r})
_module = importlib.util.module_from_spec(_spec)
sys.modules["soaked_strategy"] = _module
_spec.loader.exec_module(_module)


class {name}(_module.{name}):
    def bot_start(self, **kwargs):
        super().bot_start(**kwargs)
        log_decisions(self, Path({log!r}))
'''


_IDLE = "DoesNothing"
_IDLE_FILE = f'''\
"""A strategy that does nothing: what freqtrade itself takes."""

from freqtrade.strategy import IStrategy


class {_IDLE}(IStrategy):
    INTERFACE_VERSION = 3
    can_short = True
    minimal_roi = {{"0": 100.0}}
    stoploss = -0.99

    def populate_indicators(self, dataframe, metadata):
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe
'''
DAYS_OF_GROWTH = 2.0
"""From so many days on freqtrade runs beside the bot with a strategy that does nothing."""


@dataclass(frozen=True)
class SoakPlan:
    """What to soak.

    Attributes
    ----------
    project : Path
        The project's root, with ``configs`` and ``user_data``.
    folder : Path
        The run's record, where all of the bot's own files go as well.
    datadir : Path
        freqtrade data directory; the replay exchange serves it, the bot never sees it.
    last : datetime
        When the last candle closes, with time zone.
    begin : datetime
        What the clock shows when the bot starts, with time zone.
    days : float
        How long the clock runs after the first candle that is decided with a prediction: how long
        the bot takes to start depends on the machine.
    speed : float
        Seconds of the clock per second.
    overrides : mapping
        Configuration laid over ``configs/config_rl_hybrid.json``.
    fault : FaultPlan, optional
        What goes wrong at the exchange.
    """

    project: Path
    folder: Path
    datadir: Path
    last: datetime
    begin: datetime
    days: float
    speed: float
    overrides: Mapping[str, Any] = field(default_factory=dict)
    fault: FaultPlan | None = None

    @property
    def bot(self) -> Path:
        """The bot's user directory."""
        return self.folder / "bot"

    @property
    def log(self) -> Path:
        """File with all that the bot printed."""
        return self.folder / "freqtrade.log"

    @property
    def is_beside_idle(self) -> bool:
        """Whether freqtrade with a strategy that does nothing runs beside the bot."""
        return self.days >= DAYS_OF_GROWTH

    @property
    def decisions(self) -> Path:
        """File with what the bot's strategy decided."""
        return self.folder / "decisions.jsonl"

    @property
    def predictions(self) -> Path:
        """File with what the bot's models predicted."""
        return self.folder / LIVE_PREDICTIONS

    def configs(self, url: str, name: str) -> list[Path]:
        """Write the configuration of a program at an exchange, and return its files."""
        throttle = max(_LEAST_LOOP_SECONDS, round(_REAL_LOOP_SECONDS * self.speed))
        ours = {
            "internals": {"process_throttle_secs": throttle, "heartbeat_interval": 3600},
            "freqai": {
                "identifier": self.folder.name,
                "purge_old_models": 0,  # the comparison needs the weights of every candle
                "rl_config": {"progress_bar": False},
            },
        }
        content = merged(merged(ours, self.overrides), offline_exchange_config(url))
        # The folder is a record's; and nobody is told of history, whatever a configuration says.
        content = merged(without_secrets(content), _ALONE) | {
            "db_url": f"sqlite:///{(self.folder / 'trades.sqlite').as_posix()}"
        }
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return [self.project / "configs" / "config_rl_hybrid.json", file]

    def command(self, url: str) -> list[str]:
        """Make the bot's user directory, and return its command line."""
        strategies = self.bot / "strategies"
        strategies.mkdir(parents=True)
        (self.bot / "data").mkdir()
        source = user_data(self.project) / "strategies" / f"{STRATEGY}.py"
        text = _STRATEGY_FILE.format(
            name=STRATEGY, path=str(source.resolve()), log=str(self.decisions.resolve())
        )
        (strategies / source.name).write_text(text, encoding="utf-8")
        return [
            *(sys.executable, "-m", "freqtrade", "trade"),
            *("--strategy", STRATEGY, "--freqaimodel", MODEL),
            *(f"--config={file}" for file in self.configs(url, "bot")),
            *("--userdir", str(self.bot), "--datadir", str(self.bot / "data")),
            *("--freqaimodel-path", str(user_data(self.project) / "freqaimodels")),
        ]

    def idle_command(self, url: str) -> list[str]:
        """Make the user directory of a bot that does nothing, and return its command line."""
        folder = self.folder / "idle"
        (folder / "strategies").mkdir(parents=True)
        (folder / "data").mkdir()
        (folder / "strategies" / f"{_IDLE}.py").write_text(_IDLE_FILE, encoding="utf-8")
        files = self.configs(url, "idle")
        content = json.loads(files[-1].read_text(encoding="utf-8"))
        content["db_url"] = f"sqlite:///{(folder / 'trades.sqlite').as_posix()}"
        content["freqai"]["enabled"] = False
        files[-1].write_text(json.dumps(content, indent=1), encoding="utf-8")
        return [
            *(sys.executable, "-m", "freqtrade", "trade", "--strategy", _IDLE),
            *(f"--config={file}" for file in files),
            *("--userdir", str(folder), "--datadir", str(folder / "data")),
        ]


@dataclass
class Soaked:
    """What was seen of a bot while it ran.

    Attributes
    ----------
    memory : list of (int, int)
        The clock in milliseconds since 1970, and bytes of all its processes.
    idle_memory : list of (int, int)
        The same of freqtrade with a strategy that does nothing; empty where none ran beside it.
    end : datetime
        When it had ended, by its clock.
    seconds : float
        How long it took in real time.
    """

    end: datetime
    memory: list[tuple[int, int]] = field(default_factory=list)
    idle_memory: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0


def run_bot(
    plan: SoakPlan, record: RunRecord, on_poll: Callable[[datetime], None] | None = None
) -> Soaked:
    """Run the bot until the clock has gone through the plan's days.

    The bot and all its children are ended if this is interrupted.

    Parameters
    ----------
    plan : SoakPlan
    record : RunRecord
        Where the bot tells of its trainings, predictions and trades.
    on_poll : callable, optional
        Gets the clock four times a second.

    Raises
    ------
    RunError
        If the bot ends by itself, or the candles end first.
    """
    soaked = Soaked(plan.last)
    clock = RunningClock.starting_at(plan.begin, plan.speed)
    with running_exchange(plan.datadir, now=clock, fault=plan.fault) as url:
        # The clock begins when everything else is there.
        command = watched_command(clocked_command(clock, plan.command(url)))
        started = time.monotonic()
        with ExitStack() as stack:
            bot = stack.enter_context(_started(plan, plan.log, command, str(record.folder)))

            def note(sample: Sample) -> None:
                soaked.memory.append((clock.now_ms(), sample.resident_bytes))
                record.append_sample(replace(sample, time=clock.now_ms() / 1000))

            programs = [(bot, plan.log)]
            stack.enter_context(_sampler(bot, note))
            if plan.is_beside_idle:
                log = plan.folder / "idle.log"
                command = watched_command(clocked_command(clock, plan.idle_command(url)))
                idle = stack.enter_context(_started(plan, log, command, RUN_OFF))

                def note_idle(sample: Sample) -> None:
                    soaked.idle_memory.append((clock.now_ms(), sample.resident_bytes))

                programs.append((idle, log))
                stack.enter_context(_sampler(idle, note_idle))
            _await_end(plan, programs, clock, on_poll)
        # What it has decided until it had ended is compared too.
        soaked.end = min(datetime.fromtimestamp(clock.now_ms() / 1000, UTC), plan.last)
        soaked.seconds = time.monotonic() - started
    return soaked


def _sampler(
    process: subprocess.Popen[bytes], on_sample: Callable[[Sample], None]
) -> ProcessSampler:
    return ProcessSampler(
        process.pid, interval_seconds=_SAMPLE_SECONDS, on_sample=on_sample, keeps=False
    )


def _await_end(
    plan: SoakPlan,
    programs: Sequence[tuple[subprocess.Popen[bytes], Path]],
    clock: RunningClock,
    on_poll: Callable[[datetime], None] | None,
) -> None:
    """Wait until the bot has decided candles for as long as planned."""
    end = None
    while True:
        now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
        for process, log in programs:
            if process.poll() is not None:
                raise RunError(
                    f"freqtrade ended by itself with exit code {process.returncode}: "
                    f"{last_error(log)} (see {log})"
                )
        if end is None and any(each.get("predicted") for each in read_decisions(plan.decisions)):
            end = now + timedelta(days=plan.days)
        if end is not None and now >= end:
            return
        if now >= plan.last:
            missing = "had decided one" if end is None else f"had decided {plan.days:g} days"
            raise RunError(
                f"the candles ended on {plan.last:%Y-%m-%d %H:%M} before the bot {missing}; "
                f"choose an earlier --from or a lower --speed (see {plan.log})"
            )
        if on_poll is not None:
            on_poll(now)
        time.sleep(_POLL_SECONDS)


@contextmanager
def _started(
    plan: SoakPlan, log_file: Path, command: Sequence[str], record: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=plan.project,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "COLUMNS": "160",
                "PYTHONIOENCODING": "utf-8",
                RUN_VARIABLE: record,
            },
        )
        try:
            yield process
        finally:
            # A bot ends by it as by Ctrl-C, which is ignored where this is a job in the background.
            stop_program(process, _STOP_SECONDS, signal.SIGTERM)


def check_arguments(plan: SoakPlan, url: str, end: datetime) -> dict[str, Any]:
    """Return what freqtrade is told to backtest beside the bot, by its names inside freqtrade.

    Parameters
    ----------
    plan : SoakPlan
    url : str
        An exchange that has all candles.
    end : datetime
        When the bot was stopped.
    """
    *files, last = plan.configs(url, "backtest")
    content = json.loads(last.read_text(encoding="utf-8"))
    content["log_config"] = log_config(plan.folder / "backtest.log")
    last.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return {
        "config": [str(file) for file in (*files, last)],
        "user_data_dir": str(plan.bot),
        "datadir": str(plan.datadir),
        "strategy": STRATEGY,
        "strategy_path": str(user_data(plan.project) / "strategies"),
        "freqaimodel": MODEL,
        "freqaimodel_path": str(user_data(plan.project) / "freqaimodels"),
        "timerange": f"{to_ms(plan.begin) // 1000}-{to_ms(end) // 1000}",
        "export": "none",
    }

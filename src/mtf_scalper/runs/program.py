"""Run the unmodified ``freqtrade backtesting`` offline and collect what it did.

The program runs as a process of its own, which ends with this one whatever happens, against the
replay exchange on loopback. Its models and results go to a folder of this run, from where the
events of every training window are read while it works.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.exchange import offline_exchange_config, running_exchange
from mtf_scalper.paths import user_data
from mtf_scalper.records.events import EVENTS_FILE, read_events
from mtf_scalper.records.secrets import without_secrets
from mtf_scalper.records.writer import RUN_OFF, RUN_VARIABLE, RunRecord
from mtf_scalper.runs.watched import watched_command

STRATEGY = "MtfScalper_RL_Hybrid"
MODEL = "MtfScalperRLModel"
_POLL_SECONDS = 0.25
_STOP_SECONDS = 15.0
_CHILDREN_STOP_SECONDS = 3.0


class RunError(MtfScalperError):
    """The freqtrade program failed; names its log.

    Attributes
    ----------
    reason : str
        Without the log's place, for those whose log does not stay.
    """

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{reason}{where}")
        self.reason = reason


@dataclass(frozen=True)
class BacktestRequest:
    """What to backtest.

    Attributes
    ----------
    project : Path
        The project's root, with ``configs`` and ``user_data``.
    folder : Path
        Where this run's models, results, overrides and log go; made if missing.
    datadir : Path
        freqtrade data directory; the replay exchange serves it.
    timerange : str
        As freqtrade writes it, ``YYYYMMDD-YYYYMMDD``.
    overrides : mapping
        Configuration laid over ``configs/config_rl_hybrid.json``.
    name : str, optional
        FreqAI identifier of this run's models; the folder's name by default.
    """

    project: Path
    folder: Path
    datadir: Path
    timerange: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    @property
    def identifier(self) -> str:
        """FreqAI identifier of this run's models."""
        return self.name or self.folder.name

    @property
    def models(self) -> Path:
        """Folder of this run's models."""
        return user_data(self.project) / "models" / self.identifier

    @property
    def log(self) -> Path:
        """File with all that the program printed."""
        return self.folder / "freqtrade.log"

    def command(self, config: Path) -> list[str]:
        """Return the command line."""
        return [
            *(sys.executable, "-m", "freqtrade", "backtesting"),
            *("--strategy", STRATEGY, "--freqaimodel", MODEL),
            *("--config", str(self.project / "configs" / "config_rl_hybrid.json")),
            *("--config", str(config)),
            *("--userdir", str(user_data(self.project))),
            *("--datadir", str(self.datadir)),
            *("--timerange", self.timerange),
            *("--backtest-directory", str(self.folder)),
            *("--cache", "none"),
        ]


@dataclass(frozen=True)
class BacktestOutcome:
    """What a finished backtest left.

    Attributes
    ----------
    strategy : dict
        freqtrade's result of the strategy: trades, profit, drawdown, exit reasons ...
    events : list of dict
        Events of every training window, in the order of their time.
    seconds : float
        Wall time of the program.
    results : Path
        freqtrade's result file.
    """

    strategy: dict[str, Any]
    events: list[dict[str, Any]]
    seconds: float
    results: Path


class BacktestRun:
    """A running freqtrade program."""

    def __init__(self, request: BacktestRequest, process: subprocess.Popen[bytes]) -> None:
        self.request = request
        self.process = process
        self.started = time.monotonic()

    def events(self) -> list[dict[str, Any]]:
        """Return the events written so far, in the order of their time."""
        files = self.request.models.glob(f"sub-train-*/{EVENTS_FILE}")
        found = [event for file in files for event in read_events(file)]
        return sorted(found, key=lambda event: float(event["time"]))

    def outcome(self) -> BacktestOutcome:
        """Return what the finished program left.

        Raises
        ------
        RunError
            If it failed or left no result: says its last error.
        """
        seconds = time.monotonic() - self.started
        if self.process.returncode != 0:
            raise RunError(
                f"freqtrade ended with exit code {self.process.returncode}: "
                f"{last_error(self.request.log)}",
                f" (see {self.request.log})",
            )
        archives = sorted(self.request.folder.glob("backtest-result-*.zip"))
        if not archives:
            raise RunError("freqtrade left no result", f" in {self.request.folder}")
        with zipfile.ZipFile(archives[-1]) as archive:
            content = json.loads(archive.read(f"{archives[-1].stem}.json"))
        return BacktestOutcome(
            strategy=content["strategy"][STRATEGY],
            events=self.events(),
            seconds=seconds,
            results=archives[-1],
        )


def run_backtest(
    request: BacktestRequest,
    on_poll: Callable[[BacktestRun], None] | None = None,
    record: RunRecord | None = None,
) -> BacktestOutcome:
    """Run the program to its end.

    The program and all its children are ended if this is interrupted.

    Parameters
    ----------
    request : BacktestRequest
    on_poll : callable, optional
        Called about four times a second meanwhile.
    record : RunRecord, optional
        Where the program tells of its events, candles, predictions and trades.

    Raises
    ------
    RunError
        If the program fails.
    """
    with _started(request, record) as run:
        while run.process.poll() is None:
            if on_poll is not None:
                on_poll(run)
            time.sleep(_POLL_SECONDS)
        if on_poll is not None:
            on_poll(run)
        return run.outcome()


@contextlib.contextmanager
def _started(request: BacktestRequest, record: RunRecord | None) -> Iterator[BacktestRun]:
    request.folder.mkdir(parents=True, exist_ok=True)
    with running_exchange(request.datadir) as url:
        config = request.folder / "overrides.json"
        overrides = merged(request.overrides, offline_exchange_config(url))
        overrides = merged(overrides, {"freqai": {"identifier": request.identifier}})
        config.write_text(json.dumps(without_secrets(overrides), indent=1), encoding="utf-8")
        with request.log.open("wb") as log:
            process = subprocess.Popen(
                watched_command(request.command(config)),
                cwd=request.project,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "COLUMNS": "160",
                    "PYTHONIOENCODING": "utf-8",
                    RUN_VARIABLE: RUN_OFF if record is None else str(record.folder),
                },
            )
            try:
                yield BacktestRun(request, process)
            finally:
                stop_program(process)


def stop_program(
    process: subprocess.Popen[bytes],
    seconds: float = _STOP_SECONDS,
    politely: signal.Signals = signal.SIGINT,
) -> None:
    """End the program: politely, so that it ends its own children, and after a while by force."""
    if process.poll() is not None:
        return
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    if os.name == "nt":
        process.terminate()
    else:
        process.send_signal(politely)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Environments end when their pipe closes; a child that was busy otherwise may not.
    _, left = psutil.wait_procs(children, timeout=_CHILDREN_STOP_SECONDS)
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(left, timeout=_CHILDREN_STOP_SECONDS)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid over it, section by section."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def log_config(path: Path) -> dict[str, Any]:
    """Return a configuration of ``logging`` that keeps freqtrade's log out of the terminal."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "standard": {"format": "%(asctime)s - %(name)s - %(levelname)s - %(message)s"}
        },
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "formatter": "standard",
                "filename": str(path),
                "encoding": "utf-8",
            }
        },
        "root": {"handlers": ["file"], "level": "INFO"},
    }


def last_error(log: Path) -> str:
    """Return the last error that a program has logged, or the last line that it printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if " - ERROR - " in line or " - CRITICAL - " in line]
    if errors:
        return errors[-1].split(" - ", 3)[-1].strip()
    return lines[-1].strip() if lines else "it printed nothing"

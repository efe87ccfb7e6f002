"""What a training or a prediction did, as facts in a file: written while it runs, read by others.

One JSON object per line and event, appended with a single write, so that a reader never meets
half a line and a killed run keeps what it had.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtf_scalper.records.files import append, plain
from mtf_scalper.records.lines import read_lines
from mtf_scalper.records.schema import Event
from mtf_scalper.records.secrets import without_secrets

logger = logging.getLogger(__name__)

EVENTS_FILE = "run_events.jsonl"
"""Events of one training window, in the window's folder."""
SETTINGS_FILE = "mtf_scalper_settings.json"
"""Settings that an identifier's models were made with, in the identifier's folder."""

WEIGHTS = "weights"
"""Event that names the SHA-256 of the weights which predict a pair's window."""


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes
    ----------
    steps, total_steps : int
        Environment steps done, of all environments together, and wanted.
    seconds : float
        Since the training began.
    phase : str
        ``"rollout"`` or ``"update"``; ``"evaluation"`` with exact advantages.
    oracle_share : float or None
        Latest validation return as a share of the hindsight optimum there.
    """

    steps: int
    total_steps: int
    seconds: float
    phase: str
    oracle_share: float | None = None

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second so far, updates included."""
        return self.steps / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds to go at the speed so far, None before there is a speed."""
        speed = self.steps_per_second
        return max(0.0, (self.total_steps - self.steps) / speed) if speed > 0 else None


def detail(progress: Progress) -> str:
    """Return phase and speed, and the validation return against the oracle where it is known."""
    told = speed_and_share(progress.steps_per_second, progress.oracle_share)
    return ", ".join((progress.phase, *told))


def speed_and_share(steps_per_second: float, *oracle_shares: float | None) -> list[str]:
    """Return speed and shares of the optimum, those that are known, as people read them."""
    # Where the optimum earns next to nothing, losses are a huge multiple of it.
    shares = [
        "below -100% of oracle" if share < -1.0 else f"{share:.0%} of oracle"
        for share in oracle_shares
        if share is not None
    ]
    return [f"{steps_per_second:,.0f} steps/s", *shares]


@dataclass(frozen=True)
class HistoryRow:
    """State of a training after one update.

    Attributes
    ----------
    steps : int
        Steps so far: candles that were decided on.
    seconds : float
        Since the training began.
    mean_episode_return : float or None
        From rollouts the mean reward of the last 100 episodes; with exact advantages the expected
        reward of the policy from the first candle to the last, while it still explores, at the
        fees of that moment.
    validation_log_return : float or None
        Log of the final equity on the validation market.
    validation_trades : int or None
        Trades on the validation market.
    oracle_share : float or None
        Validation return as a share of the hindsight optimum there.
    """

    steps: int
    seconds: float
    mean_episode_return: float | None
    validation_log_return: float | None
    validation_trades: int | None
    oracle_share: float | None = None


ProgressCallback = Callable[[Progress], None]


class EventLog:
    """Appends events to a file; ``None`` as path makes it silent.

    Every event has ``event`` (its name), ``time`` (seconds since the epoch) and the facts given.

    Parameters
    ----------
    path : Path or None
    *copies : Path
        Files that get the same lines. One that cannot be written is given up, and the log says so.
    **common
        Facts of every event.
    """

    def __init__(self, path: Path | None, *copies: Path, **common: Any) -> None:
        self._path = path
        self._copies = list(copies)
        self._common = common
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **facts: Any) -> None:
        """Append one event."""
        if self._path is None and not self._copies:
            return
        content = without_secrets(
            plain({"event": event, "time": time.time(), **self._common, **facts})
        )
        text = json.dumps(without_secrets(plain(content)), allow_nan=False)
        if self._path is not None:
            append(self._path, f"{text}\n")
        for path in tuple(self._copies):
            try:
                append(path, f"{text}\n")
            except OSError as error:
                logger.warning("%s gets no more events: %s", path, error)
                self._copies.remove(path)


def read_events(path: Path, event: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of a file in order, of one name if given.

    A torn last line is left out, and the log names other damaged ones; see ``lines.read_lines``.
    """
    for entry in read_lines(path, Event):
        if event is None or entry["event"] == event:
            yield entry

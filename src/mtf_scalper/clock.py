"""The simulated clock: one that stands, and one that runs faster than time.

Programs on one machine share a running clock by three numbers: where it began, when that was by the
machine's own clock, and its speed. Nobody has to be asked what time it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

CLOCK_PATH = "/replay/clock"
"""Where a live exchange tells its clock."""
_NS_PER_MS = 1_000_000

machine_time_ns: Callable[[], int] = time.time_ns
"""The machine's own clock. A program whose time is scaled puts the unscaled one here."""


class Clock(Protocol):
    """What tells the exchange's time."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        ...


@dataclass(frozen=True)
class StandingClock:
    """A clock that stands at one moment.

    Attributes
    ----------
    at_ms : int
        Milliseconds since 1970.
    """

    at_ms: int

    def now_ms(self) -> int:
        """Return the moment."""
        return self.at_ms


@dataclass(frozen=True)
class RunningClock:
    """A clock that starts anywhere and runs at a multiple of the machine's.

    Attributes
    ----------
    from_ms : int
        What it showed when it began, in milliseconds since 1970.
    began_ns : int
        When that was by the machine's clock, in nanoseconds since 1970.
    speed : float
        Its seconds per second of the machine.
    """

    from_ms: int
    began_ns: int
    speed: float

    @classmethod
    def starting_at(cls, moment: datetime, speed: float) -> RunningClock:
        """Return a clock that begins now, at a moment with time zone."""
        return cls(to_ms(moment), machine_time_ns(), speed)

    @classmethod
    def from_text(cls, text: str) -> RunningClock:
        """Return the clock that ``str`` wrote; raises ``ValueError`` for anything else."""
        from_ms, began_ns, speed = text.split(",")
        return cls(int(from_ms), int(began_ns), float(speed))

    def __str__(self) -> str:
        return f"{self.from_ms},{self.began_ns},{self.speed!r}"

    def now_ns(self) -> int:
        """Return nanoseconds since 1970."""
        passed_ns = machine_time_ns() - self.began_ns
        return self.from_ms * _NS_PER_MS + int(passed_ns * self.speed)

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return self.now_ns() // _NS_PER_MS


@dataclass(frozen=True)
class ClockAhead:
    """A clock that is ahead of another one.

    Attributes
    ----------
    clock : Clock
    ahead_ms : int
    """

    clock: Clock
    ahead_ms: int

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return self.clock.now_ms() + self.ahead_ms


def to_ms(moment: datetime) -> int:
    """Return a moment in milliseconds since 1970.

    Raises
    ------
    ValueError
        It has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"now={moment.isoformat()} has no time zone; give it one, such as UTC")
    return round(moment.timestamp() * 1000)

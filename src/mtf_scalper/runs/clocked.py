"""``python -m mtf_scalper.runs.clocked``: a program that lives by the clock of a live exchange.

The program is run as it is; before it is imported the wall clock of this process is replaced:
``time.time``, ``datetime.now`` and all that Python makes of them, by time-machine, which changes
what these functions do and not the functions, so that every ``from time import time`` follows too.
``time.sleep`` sleeps as much shorter as the clock is faster.

``time.monotonic`` and ``time.perf_counter`` stay real, and with them whatever waits for the
network, for threads and for events (asyncio, sockets, ``threading``): a time-out of ten seconds is
ten real seconds. libfaketime was tried instead: with its monotonic clock Python's sleeps did not
end, and without it they were not shortened.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

import _time_machine
import time_machine

from mtf_scalper import clock as clocks
from mtf_scalper.clock import CLOCK_PATH, RunningClock
from mtf_scalper.errors import MtfScalperError

_ANSWER_SECONDS = 5.0
_MOST_BYTES = 10_000


class ClockError(MtfScalperError):
    """A program cannot live by an exchange's clock: says why."""


class _Follower(time_machine.Traveller):
    """time-machine's traveller, which asks the exchange's clock for the time."""

    def __init__(self, clock: RunningClock) -> None:
        super().__init__(clock.now_ns(), None, tick=True)
        self._clock = clock

    def time_ns(self) -> int:
        """Return nanoseconds since 1970."""
        return self._clock.now_ns()


def follow(clock: RunningClock) -> None:
    """Let this process live by a clock from now on."""
    real_sleep = time.sleep
    # The clock that is followed counts by the machine's own.
    clocks.machine_time_ns = _time_machine.original_time_ns
    time_machine.travel(0).start()
    time_machine.traveller_stack[-1] = _Follower(clock)

    def sleep(seconds: float) -> None:
        real_sleep(seconds / clock.speed)

    time.sleep = sleep  # type: ignore[assignment]


def clocked_command(clock: RunningClock, command: Sequence[str]) -> list[str]:
    """Return a command that lives by a clock.

    Parameters
    ----------
    clock : RunningClock
    command : sequence of str
        ``python -m module argument ...``.
    """
    python, dash_m, *module = command
    assert dash_m == "-m"
    return [python, "-m", __name__, str(clock), *module]


def run_freqtrade(url: str, arguments: Sequence[str]) -> None:
    """Run freqtrade in this process by the clock of a live exchange.

    Parameters
    ----------
    url : str
        The exchange's.
    arguments : sequence of str
        freqtrade's command line.

    Raises
    ------
    ClockError
        If there is no exchange, or its clock does not run.
    """
    follow(clock_of(url))
    sys.argv = ["freqtrade", *arguments]
    runpy.run_module("freqtrade", run_name="__main__", alter_sys=True)


def clock_of(url: str) -> RunningClock:
    """Return the clock of a live exchange.

    Raises
    ------
    ClockError
        If there is no exchange, or its clock does not run.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}{CLOCK_PATH}", timeout=_ANSWER_SECONDS) as answer:
            return RunningClock.from_text(json.loads(answer.read(_MOST_BYTES))["clock"])
    except urllib.error.HTTPError as error:
        error.close()
        raise ClockError(
            f"the exchange at {url} has no clock that runs; start it with: mtf-scalper exchange "
            "--live --from 20241001 --speed 60"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClockError(
            f"no live exchange at {url} ({error}); start one with: mtf-scalper exchange --live "
            "--from 20241001 --speed 60"
        ) from None


def main(arguments: Sequence[str]) -> None:
    """Run a module as Python itself does.

    Parameters
    ----------
    arguments : sequence of str
        The clock, the module, and its own arguments.
    """
    clock, module, *own = arguments
    follow(RunningClock.from_text(clock))
    sys.argv = [module, *own]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

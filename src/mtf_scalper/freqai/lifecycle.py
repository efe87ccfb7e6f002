"""How the freqtrade program that the model runs in was started, and how it ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from freqtrade.enums import RunMode

KINDS = {RunMode.BACKTEST: "backtest", RunMode.DRY_RUN: "dry-run", RunMode.LIVE: "live"}
"""What a program's record is called."""
_COMMANDS = ("backtesting", "trade")


def kind_of_program(runmode: RunMode, arguments: Sequence[str] | None = None) -> str | None:
    """Return what a record of this program is called, None where it leaves none of its own.

    Parameters
    ----------
    runmode : RunMode
    arguments : sequence of str, optional
        The program's command line; ``sys.argv`` by default.
    """
    given = sys.argv if arguments is None else arguments
    program = Path(given[0]) if given else Path()
    is_freqtrade = "freqtrade" in (program.stem.lower(), program.parent.name.lower())
    command = next((each for each in given[1:] if not each.startswith("-")), None)
    return KINDS.get(runmode) if is_freqtrade and command in _COMMANDS else None


class Fate(logging.Handler):
    """Hears from freqtrade's main program why it ends: it tells the log and nobody else."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said: list[tuple[int, str]] = []

    def watch(self) -> None:
        """Begin to listen."""
        logging.getLogger("freqtrade").addHandler(self)

    def forget(self) -> None:
        """Listen no more."""
        logging.getLogger("freqtrade").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what the main program says about its end."""
        if record.name != "freqtrade":  # of the main program itself and no module of it
            return
        if record.levelno >= logging.ERROR or record.msg.startswith("SIGINT received"):
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text = repr(record.exc_info[1])
            self._said.append((record.levelno, text))

    def problem(self, kind: str) -> str | None:
        """Return why the program fails; a bot that is stopped has not failed."""
        if self._said:
            level, text = self._said[-1]
            if level < logging.ERROR:
                return "interrupted" if kind == "backtest" else None
            return text.strip().partition("\n")[0]
        error = sys.exc_info()[1]
        if error is None or (isinstance(error, KeyboardInterrupt) and kind != "backtest"):
            return None
        return str(error).partition("\n")[0] or type(error).__name__

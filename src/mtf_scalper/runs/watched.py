"""``python -m mtf_scalper.runs.watched``: a program that ends with the one that started it.

The program is run as it is; all that is added is a thread that watches. Without it a freqtrade
program whose starter was killed would go on training for hours, with nobody to hear of it.
"""

from __future__ import annotations

import logging
import runpy
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from mtf_scalper.lifetimes import end_with_parent, process_facts
from mtf_scalper.records.secrets import without_secrets


def watched_command(command: Sequence[str]) -> list[str]:
    """Return a command that ends with this process.

    Parameters
    ----------
    command : sequence of str
        ``python -m module argument ...``.
    """
    python, dash_m, *module = command
    assert dash_m == "-m"
    me = process_facts()
    return [python, "-m", __name__, str(me["pid"]), repr(me["started"]), *module]


class SafeRecord(logging.LogRecord):
    """A line of a log, and its traceback, without secrets."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if self.exc_info and self.exc_info[0] is not None:
            # Where this is set a formatter makes nothing of its own.
            text = "".join(traceback.format_exception(*self.exc_info)).rstrip()
            self.exc_text = without_secrets(text)

    def getMessage(self) -> str:  # noqa: N802 - logging's own name
        """Return the message."""
        text: str = without_secrets(super().getMessage())
        return text


def main(arguments: Sequence[str]) -> None:
    """Run a module as Python itself does.

    Parameters
    ----------
    arguments : sequence of str
        Id and start time of the process to end with, the module, and its own arguments.
    """
    pid, started, module, *own = arguments
    end_with_parent({"pid": pid, "started": started})
    logging.setLogRecordFactory(SafeRecord)
    sys.argv = [module, *own]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

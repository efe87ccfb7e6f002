"""``python -m mtf_scalper.runs.watched``: a program that ends with the one that started it.

The program is run as it is; all that is added is a thread that watches. Without it a freqtrade
program whose starter was killed would go on training for hours, with nobody to hear of it.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from mtf_scalper.lifetimes import end_with_parent, process_facts


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


def main(arguments: Sequence[str]) -> None:
    """Run a module as Python itself does.

    Parameters
    ----------
    arguments : sequence of str
        Id and start time of the process to end with, the module, and its own arguments.
    """
    pid, started, module, *own = arguments
    end_with_parent({"pid": pid, "started": started})
    sys.argv = [module, *own]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

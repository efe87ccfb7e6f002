"""A training in a running bot gives way to the thread that trades.

FreqAI (freqtrade 2026.9) trains in a thread of the bot's process, so the two share the machine's
cores and Python's lock.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_NICENESS = 10
_SWITCH_SECONDS = 0.0005
"""Python's own is 0.005, which the trading thread waits each time that it has let go of the lock:
after a file, the network, and most calls into NumPy, some hundred times a candle."""


def give_way() -> None:
    """Lower the priority of this thread, and of those that it starts.

    Where the system has no priority of a thread (all but Linux) it stays; Python's lock changes
    hands sooner everywhere.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # the system may forbid it; trading goes on
            mine = threading.get_native_id()
            niceness = max(os.getpriority(os.PRIO_PROCESS, mine), _NICENESS)
            os.setpriority(os.PRIO_PROCESS, mine, niceness)

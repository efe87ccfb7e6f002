"""The strategy of a bot that is killed, and the marks that it leaves of what it does.

It is the project's, with two changes: it enters at every candle with a prediction, so that there
are trades to be killed in, and it marks in a file what it is doing.
"""

from __future__ import annotations

from mtf_scalper.paths import user_data
from mtf_scalper.runs.program import STRATEGY
from mtf_scalper.runs.soak import SoakPlan

_STRATEGY_FILE = '''\
"""{name} of the project, which enters wherever there is a prediction and marks what it does."""

import importlib.util
import os
import sys
import time

import numpy as np

from mtf_scalper.freqai.opinions import predicted

_spec = importlib.util.spec_from_file_location("killed_strategy", {path!r})
_module = importlib.util.module_from_spec(_spec)
sys.modules["killed_strategy"] = _module
_spec.loader.exec_module(_module)


def mark(*words):
    file = os.open({marks!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, (time.monotonic_ns(), *words))) + "\\n").encode())
    os.close(file)


mark("process", os.getpid())


class {name}(_module.{name}):
    protections = []

    def bot_loop_start(self, **kwargs):
        mark("loop")
        super().bot_loop_start(**kwargs)

    def populate_indicators(self, dataframe, metadata):
        mark("predicting", metadata["pair"])
        frame = super().populate_indicators(dataframe, metadata)
        mark("predicted", metadata["pair"])
        return frame

    def populate_entry_trend(self, dataframe, metadata):
        frame = super().populate_entry_trend(dataframe, metadata)
        is_long = np.arange(len(frame)) % 4 < 2
        frame["enter_long"] = (predicted(frame) & is_long).astype(int)
        frame["enter_short"] = (predicted(frame) & ~is_long).astype(int)
        return frame

    def custom_exit(self, pair, trade, *args, **kwargs):
        mark("asked", trade.id)
        answer = super().custom_exit(pair, trade, *args, **kwargs)
        if answer:
            mark("leaving", trade.id, answer)
        return answer

    def confirm_trade_entry(self, *args, **kwargs):
        mark("entering")
        return super().confirm_trade_entry(*args, **kwargs)

    def order_filled(self, **kwargs):
        mark("filled", kwargs["trade"].id)
        super().order_filled(**kwargs)
'''


class Marks:
    """What the strategy has done in this life of the bot.

    Parameters
    ----------
    plan : SoakPlan
        Its strategy is replaced.
    """

    def __init__(self, plan: SoakPlan) -> None:
        self.file = plan.folder / "marks"
        name = f"{STRATEGY}.py"
        source = user_data(plan.project) / "strategies" / name
        text = _STRATEGY_FILE.format(
            name=STRATEGY, path=str(source.resolve()), marks=str(self.file.resolve())
        )
        (plan.bot / "strategies" / name).write_text(text, encoding="utf-8")

    def clear(self) -> None:
        """Begin another life."""
        self.file.write_bytes(b"")

    def lines(self) -> list[list[str]]:
        """Return all marks, oldest first: time in ns, word, and what it is about."""
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        return [line.split() for line in text.splitlines()]

    def count(self, *words: str) -> int:
        """Return how many marks are one of the words."""
        return sum(mark[1] in words for mark in self.lines())

    def process_id(self) -> int:
        """Return the bot's own id, which is not that of the command where that is forked."""
        return int(next(mark[2] for mark in self.lines() if mark[1] == "process"))

    def first_loop(self) -> set[int]:
        """Return the trades that were asked about in the first of two loops or more."""
        lines = self.lines()
        second = [number for number, mark in enumerate(lines) if mark[1] == "loop"][1]
        return {int(mark[2]) for mark in lines[:second] if mark[1] == "asked"}

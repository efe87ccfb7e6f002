from __future__ import annotations

import io
import logging
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from mtf_scalper.progress import EventBars, LoggedProgress, WindowBar
from mtf_scalper.records.events import Progress

WINDOW = {"pair": "BTC/USDT:USDT", "window": "sub-train-BTC_1727740800"}


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def event(name: str, **facts: Any) -> dict[str, Any]:
    return {"event": name, **WINDOW, **facts}


def test_event_bars_show_window_speed_and_end() -> None:
    console = terminal()
    with EventBars(console) as bars:
        events = [event("candles"), event("training_started", total_steps=1000)]
        bars.show(events)
        facts = {"steps": 500, "total_steps": 1000, "seconds": 5.0, "phase": "update"}
        events.append(event("progress", **facts))
        bars.show(events)
        (task,) = bars.tasks
        assert (task.completed, task.total) == (500, 1000)
        assert task.fields["detail"] == "update, 100 steps/s"
        events.append(event("progress", **facts, oracle_share=0.5))
        bars.show(events)
        assert task.fields["detail"] == "update, 100 steps/s, 50% of oracle"
        events.append(event("training_finished", steps=1024, seconds=8.0, steps_per_second=128.0))
        bars.show(events)
        assert task.finished
        assert task.fields["detail"] == "8 s, 128 steps/s"
        ended = {**events[-1], "reports": [{"oracle_share": 0.42}, {"oracle_share": None}]}
        events.append(ended)
        bars.show(events)
        assert task.fields["detail"] == "8 s, 128 steps/s, 42% of oracle"
    assert "BTC/USDT:USDT to 2024-10-01" in printed(console)
    assert "8 s, 128 steps/s, 42% of oracle" in printed(console)


def test_window_bar_moves_inside_another_live_display() -> None:
    console = terminal()
    with EventBars(console), WindowBar("ETH to 2024-10-08", console) as bar:
        bar(Progress(steps=20, total_steps=100, seconds=2.0, phase="rollout"))
        assert bar.tasks[0].percentage == 20.0
        assert bar.tasks[0].fields["detail"] == "rollout, 10 steps/s"
        bar(Progress(20, 100, seconds=2.0, phase="evaluation", oracle_share=-40.0))
        assert bar.tasks[0].fields["detail"] == "evaluation, 10 steps/s, below -100% of oracle"
        bar(Progress(20, 100, seconds=2.0, phase="evaluation", oracle_share=-0.25))
    assert "ETH to 2024-10-08" in printed(console)
    assert "evaluation, 10 steps/s, -25% of oracle" in printed(console)


def test_log_lines_tell_speed_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(steps=250, total_steps=1000, seconds=5.0, phase="rollout")
    with caplog.at_level(logging.INFO):
        LoggedProgress("SOL", every_seconds=0.0)(progress)
        LoggedProgress("SOL", every_seconds=3600.0)(progress)
        LoggedProgress("SOL", every_seconds=0.0)(replace(progress, oracle_share=0.5))
    assert caplog.messages == [
        "SOL: 250 of 1000 steps, 50 steps/s, 15 s left",
        "SOL: 250 of 1000 steps, 50 steps/s, 50% of oracle, 15 s left",
    ]

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtf_scalper.records.events import EventLog, Progress, read_events


def test_events_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run_events.jsonl"
    log = EventLog(path, pair="BTC/USDT:USDT")
    log.write("started", steps=0)
    log.write("update", steps=10, loss=0.5)
    log.write("update", steps=20, loss=None)
    events = list(read_events(path))
    assert [event["event"] for event in events] == ["started", "update", "update"]
    assert all(event["pair"] == "BTC/USDT:USDT" for event in events)
    assert [event["steps"] for event in events] == [0, 10, 20]
    assert events[0]["time"] <= events[1]["time"] <= events[2]["time"]


def test_events_of_one_name_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for steps in range(3):
        log.write("update", steps=steps)
        log.write("progress", steps=steps)
    assert [event["steps"] for event in read_events(path, "update")] == [0, 1, 2]
    assert list(read_events(path, "prediction")) == []


def test_every_event_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write("failed", error="first line\nsecond line")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["error"] == "first line\nsecond line"


def test_a_later_log_appends(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write("one")
    EventLog(path).write("two")
    assert [event["event"] for event in read_events(path)] == ["one", "two"]


def test_facts_of_an_event_win_over_common_ones(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path, window="a").write("update", window="b")
    assert next(read_events(path))["window"] == "b"


def test_without_a_path_the_log_is_silent(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    EventLog(None, pair="x").write("update", not_json=object())
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write("update", steps=1)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "update", "ste')
    assert [event["steps"] for event in read_events(path)] == [1]


def test_a_file_that_does_not_exist_has_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "missing.jsonl")) == []


@pytest.mark.parametrize(
    ("steps", "seconds", "speed", "left"),
    [(0, 0.0, 0.0, None), (0, 5.0, 0.0, None), (100, 5.0, 20.0, 45.0), (1000, 5.0, 200.0, 0.0)],
)
def test_progress_knows_speed_and_time_left(steps, seconds, speed, left) -> None:
    progress = Progress(steps=steps, total_steps=1000, seconds=seconds, phase="rollout")
    assert progress.steps_per_second == speed
    assert progress.seconds_left == left


def test_progress_without_elapsed_time_has_no_time_left() -> None:
    progress = Progress(steps=10, total_steps=1000, seconds=0.0, phase="rollout")
    assert progress.steps_per_second == 0.0
    assert progress.seconds_left is None


def test_copies_get_the_same_lines_and_one_that_cannot_be_written_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, copy, missing = tmp_path / "own", tmp_path / "copy", tmp_path / "no" / "folder"
    log = EventLog(own, missing, copy, pair="A")
    log.write("one")
    log.write("two")
    assert own.read_bytes() == copy.read_bytes()
    assert [event["event"] for event in read_events(own)] == ["one", "two"]
    (said,) = caplog.messages
    assert said.startswith(f"{missing} gets no more events: ")

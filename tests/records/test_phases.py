from __future__ import annotations

from typing import Any

from mtf_scalper.records.phases import PHASE_COLUMNS, phase_spans


def event(time: float, kind: str, **facts: Any) -> dict[str, Any]:
    return {"time": time, "event": kind, "pair": "A", "window": "w", **facts}


def spans(events: list[dict[str, Any]], until: float | None = None) -> list[tuple[Any, ...]]:
    table = phase_spans(events, until=until)
    return list(table[["phase", "pair", "began", "ended"]].itertuples(index=False, name=None))


def test_a_training_is_divided_by_its_progress_and_neighbours_are_joined() -> None:
    events = [
        event(1.0, "training_started"),
        event(1.0, "progress", phase="evaluation"),
        event(2.0, "progress", phase="update"),
        event(3.0, "progress", phase="update"),
        event(4.0, "update"),
        event(4.5, "progress", phase="evaluation"),
        event(5.0, "training_finished"),
        event(8.0, "prediction", seconds=2.0),
    ]
    assert spans(events) == [
        ("evaluation", "A", 1.0, 2.0),
        ("update", "A", 2.0, 4.0),
        ("evaluation", "A", 4.5, 5.0),
        ("inference", "A", 6.0, 8.0),
    ]


def test_trainings_at_the_same_time_are_kept_apart() -> None:
    events = [
        event(1.0, "progress", phase="update"),
        {"time": 2.0, "event": "progress", "phase": "update", "pair": "B", "seed": 1},
        event(3.0, "training_finished"),
        {"time": 4.0, "event": "training_finished", "pair": "B", "seed": 1},
    ]
    assert spans(events) == [("update", "A", 1.0, 3.0), ("update", "B", 2.0, 4.0)]


def test_a_phase_that_nothing_ended_lasts_to_the_end_of_the_run() -> None:
    events = [
        event(1.0, "phase", name="features", state="began"),
        event(2.0, "phase", name="features", state="ended"),
        event(2.0, "phase", name="backtest", state="began"),
        event(3.0, "window"),
    ]
    assert spans(events) == [("features", "A", 1.0, 2.0), ("backtest", "A", 2.0, 3.0)]
    assert spans(events, until=9.0)[-1] == ("backtest", "A", 2.0, 9.0)
    assert list(phase_spans([]).columns) == list(PHASE_COLUMNS)

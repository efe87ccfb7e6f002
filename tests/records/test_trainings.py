from __future__ import annotations

from typing import Any

from mtf_scalper.records.trainings import Span, spans, trainings

ROLLOUT = {"steps": 10, "total_steps": 40, "seconds": 2.0, "phase": "rollout"}


def event(time: float, kind: str, **facts: Any) -> dict[str, Any]:
    return {"time": time, "event": kind, "pair": "A", "window": "w", **facts}


def shown(events: list[dict[str, Any]], until: float | None = None) -> list[tuple[Any, ...]]:
    return [(span.phase, span.pair, span.began, span.ended) for span in spans(events, until)]


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
    assert shown(events) == [
        ("evaluation", "A", 1.0, 2.0),
        ("update", "A", 2.0, 4.0),
        ("evaluation", "A", 4.5, 5.0),
        ("inference", "A", 6.0, 8.0),
    ]
    assert not any(span.is_open for span in spans(events))


def test_trainings_at_the_same_time_are_kept_apart() -> None:
    other = {"pair": "B", "seed": 1}
    events = [
        event(1.0, "training_started"),
        event(1.0, "progress", phase="update"),
        event(2.0, "training_started", **other),
        event(2.0, "progress", phase="update", **other),
        event(3.0, "training_finished"),
        event(4.0, "training_finished", **other),
    ]
    assert shown(events) == [("update", "A", 1.0, 3.0), ("update", "B", 2.0, 4.0)]
    assert [each.key for each in trainings(events)] == [("A", "w", None), ("B", "w", 1)]
    assert all(each.has_finished for each in trainings(events))


def test_a_phase_that_nothing_ended_lasts_to_the_end_of_the_run() -> None:
    events = [
        event(1.0, "phase", name="features", state="began"),
        event(2.0, "phase", name="features", state="ended"),
        event(2.0, "phase", name="backtest", state="began"),
        event(3.0, "window"),
    ]
    assert shown(events) == [("features", "A", 1.0, 2.0), ("backtest", "A", 2.0, 3.0)]
    last = spans(events, until=9.0)[-1]
    assert last == Span(2.0, 9.0, "backtest", "A", "w", None, is_open=True)
    assert spans([]) == []


def test_updates_of_a_member_are_those_of_the_training_that_tells_no_seed() -> None:
    events = [
        event(1.0, "training_started"),
        event(2.0, "progress", phase="update"),
        event(3.0, "update", seed=42),
        event(3.5, "progress", phase="evaluation"),
        event(4.0, "training_finished"),
        event(5.0, "update", seed=42),
    ]
    (training,) = trainings(events)
    assert [each["time"] for each in training.updates] == [3.0]
    assert shown(events) == [("update", "A", 2.0, 3.0), ("evaluation", "A", 3.5, 4.0)]


def test_a_training_says_how_far_it_is_and_how_it_ended() -> None:
    events = [event(1.0, "training_started")]
    (training,) = trainings(events)
    assert (training.phase, training.done, training.steps_per_second) == ("starting", 0.0, None)
    events.append(event(2.0, "progress", **ROLLOUT))
    (training,) = trainings(events)
    assert (training.phase, training.done, training.seconds) == ("rollout", 0.25, 2.0)
    assert (training.steps, training.steps_per_second) == (10, 5.0)
    failed = trainings([*events, event(3.0, "training_failed", error="no")])[0]
    assert (failed.phase, failed.done, failed.seconds) == ("failed", 0.25, None)
    finished = trainings([*events, event(3.0, "training_finished", steps=20, seconds=4.0)])[0]
    assert (finished.phase, finished.done, finished.steps_per_second) == ("finished", 1.0, 5.0)


def test_a_training_begun_anew_takes_the_place_of_the_one_before() -> None:
    events = [
        event(1.0, "training_started"),
        event(2.0, "progress", **ROLLOUT),
        event(3.0, "training_started"),
        event(4.0, "progress", **ROLLOUT),
    ]
    (training,) = trainings(events)
    assert training.events[0]["time"] == 3.0
    assert shown(events, until=5.0) == [("rollout", "A", 2.0, 3.0), ("rollout", "A", 4.0, 5.0)]

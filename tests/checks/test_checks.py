"""Every check passes on a good run, and fails when the one fact that it is about is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.checks.checks import CHECKS, judge, least_busy_cores
from mtf_scalper.checks.facts import CheckpointFacts, RunFacts
from mtf_scalper.checks.speed import SpeedComparison
from mtf_scalper.freqai.columns import ACTION, CONFIDENCE
from mtf_scalper.freqai.columns import PROBABILITIES as COLUMNS
from mtf_scalper.records.check import Check, Recipe, Verdict
from mtf_scalper.records.sampler import Sample

RECIPE = Recipe(train_cycles=4)
WINDOW = 10
PROBABILITIES = list(COLUMNS)
FOLDERS = ("sub-train-BTC_1", "sub-train-ETH_1")
MB = 1_000_000

Event = dict[str, Any]


def events_of(folder: str, begin: float) -> list[Event]:
    """Return what one training writes: 20 s of rollout, 10 s of update, and its prediction."""
    common = {"pair": folder[10:13], "window": folder}

    def event(name: str, after: float, **facts: Any) -> Event:
        return {"event": name, "time": begin + after, **common, **facts}

    return [
        event(
            "training_started",
            0.0,
            total_steps=29_376,
            n_envs=8,
            torch_threads=2,
            torch_interop_threads=2,
            device="cpu",
            batch_size=256,
            n_steps=4096,
            layer_sizes=[512, 512, 256],
        ),
        event("progress", 0.0, phase="rollout", steps=0),
        event("progress", 10.0, phase="rollout", steps=16_000),
        event("progress", 20.0, phase="update", steps=32_768),
        event("update", 30.0, steps=32_768),
        event("progress", 30.0, phase="update", steps=32_768),
        event("training_finished", 31.0, steps=32_768, seconds=31.0),
        event("prediction", 33.0, rows=2016, batch_sizes=[256] * 7 + [215], seconds=0.1),
    ]


def sample_at(time: float) -> Sample:
    is_training = time <= 30.0 or 40.0 <= time <= 70.0
    return Sample(
        time=time,
        seconds=0.05,
        core_percent=(99.0, 98.0),
        tree_percent=190.0 if is_training else 100.0,
        processes=11 if is_training else 1,
        workers=8 if is_training else 0,
        resident_bytes=2_400 * MB,
        unique_bytes=900 * MB,
        worker_unique_bytes=9 * MB if is_training else 0,
        is_unique_measured=True,
    )


def predictions(seed: int, rows: int = 2016) -> pd.DataFrame:
    """Return predictions as FreqAI saves them: none before the first full window."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(5, 8.0), rows)
    probabilities[: WINDOW - 1] = 0.0
    frame = pd.DataFrame(probabilities, columns=PROBABILITIES)
    frame[ACTION] = probabilities.argmax(axis=1).astype(float)
    frame[CONFIDENCE] = probabilities.max(axis=1)
    for name in list(frame.columns):
        frame[f"{name}_mean"] = frame[f"{name}_std"] = 0.0
    return frame


def checkpoint(name: str) -> CheckpointFacts:
    layers = (512, 512, 256)
    return CheckpointFacts(name, 8, 4096, 256, policy_layers=layers, value_layers=layers)


def good() -> RunFacts:
    return RunFacts(
        samples=[sample_at(0.25 + 0.5 * number) for number in range(170)],
        events=[*events_of(FOLDERS[0], 0.0), *events_of(FOLDERS[1], 40.0)],
        checkpoints=[checkpoint(name) for name in FOLDERS],
        predictions={name: predictions(seed) for seed, name in enumerate(FOLDERS)},
        freqai_config={
            "conv_width": WINDOW,
            "train_period_days": 30,
            "data_split_parameters": {"test_size": 0.15},
            "rl_config": {
                "advantage": "gae",
                "train_cycles": 4,
                "cpu_count": 8,
                "n_envs": 8,
                "n_steps": 4096,
                "batch_size": 256,
                "net_arch": [512, 512, 256],
                "device": "auto",
                "start_method": "forkserver",
            },
        },
        survivors=(),
        speed=SpeedComparison(32_768, 32_768, before=800.0, after=960.0),
        cpus=2,
    )


def with_event(name: str, **changes: Any) -> RunFacts:
    """Return good facts whose last event of that name says something else."""
    facts = good()
    events = [dict(event) for event in facts.events]
    next(event for event in reversed(events) if event["event"] == name).update(changes)
    return replace(facts, events=events)


def without_events(name: str) -> RunFacts:
    facts = good()
    return replace(facts, events=[event for event in facts.events if event["event"] != name])


def without_fact(name: str, key: str) -> RunFacts:
    events = [dict(event) for event in good().events]
    for event in events:
        if event["event"] == name:
            del event[key]
    return replace(good(), events=events)


def with_samples(is_changed: Callable[[Sample], bool], **changes: Any) -> RunFacts:
    samples = [replace(s, **changes) if is_changed(s) else s for s in good().samples]
    return replace(good(), samples=samples)


def with_checkpoint(**changes: Any) -> RunFacts:
    first, second = good().checkpoints
    return replace(good(), checkpoints=[first, replace(second, **changes)])


def with_config(**changes: Any) -> RunFacts:
    return replace(good(), freqai_config={**good().freqai_config, **changes})


def with_rl_config(**changes: Any) -> RunFacts:
    return with_config(rl_config={**good().freqai_config["rl_config"], **changes})


def with_frame(change: Callable[[pd.DataFrame], pd.DataFrame]) -> RunFacts:
    frame = change(predictions(1))
    return replace(good(), predictions={**good().predictions, FOLDERS[1]: frame})


def put(column: str, rows: slice, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame.index[rows], column] = value
        return frame

    return change


def make_constant(frame: pd.DataFrame) -> pd.DataFrame:
    row = frame.loc[100, [*PROBABILITIES, ACTION, CONFIDENCE]]
    frame.loc[WINDOW - 1 :, [*PROBABILITIES, ACTION, CONFIDENCE]] = row.to_numpy()
    return frame


def use_one_action(frame: pd.DataFrame) -> pd.DataFrame:
    values = np.sort(frame[PROBABILITIES].to_numpy(), axis=1)[:, ::-1]
    frame[PROBABILITIES] = values
    frame[ACTION] = 0.0
    return frame


def forget_rows(frame: pd.DataFrame) -> pd.DataFrame:
    frame.loc[500:510, [*PROBABILITIES, ACTION, CONFIDENCE]] = 0.0
    return frame


def drop(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.drop(columns=column)


def in_update(sample: Sample) -> bool:
    return 20.0 < sample.time < 30.0 or 60.0 < sample.time < 70.0


def always(_: Sample) -> bool:
    return True


SLOWER = SpeedComparison(32_768, 32_768, before=960.0, after=800.0)
UNEQUAL = SpeedComparison(2_048, 32_768, before=800.0, after=960.0)

BROKEN: list[tuple[str, str, Callable[[], RunFacts]]] = [
    ("freqtrade backtesting", "exit code 2", lambda: replace(good(), exit_error="exit code 2")),
    ("freqtrade backtesting", "models", lambda: without_events("training_finished")),
    ("freqtrade backtesting", "models", lambda: without_events("prediction")),
    ("freqtrade backtesting", "1 models", lambda: replace(good(), checkpoints=[checkpoint("a")])),
    ("freqtrade backtesting", "1 pred", lambda: replace(good(), predictions={"a": predictions(0)})),
    ("freqtrade backtesting", "no training", lambda: replace(good(), events=[])),
    ("environment processes", "7", lambda: with_samples(always, workers=7)),
    ("environment processes", "9", lambda: with_samples(always, workers=9)),
    ("environment processes", "0", lambda: with_samples(lambda s: s.time < 10.0, workers=0)),
    ("environment processes", "no sample", lambda: replace(good(), samples=[])),
    ("environment processes", "no sample", lambda: without_events("training_started")),
    ("torch threads", "not", lambda: with_event("training_started", torch_threads=1)),
    ("torch threads", "not", lambda: with_event("training_started", torch_interop_threads=1)),
    ("torch threads", "does not say", lambda: without_fact("training_started", "torch_threads")),
    ("torch threads", "wrote no", lambda: without_events("training_started")),
    ("batch size, rollout", "differ", lambda: with_event("training_started", batch_size=64)),
    ("batch size, rollout", "differ", lambda: with_event("training_started", n_steps=2048)),
    ("batch size, rollout", "differ", lambda: with_checkpoint(batch_size=64)),
    ("batch size, rollout", "differ", lambda: with_checkpoint(n_steps=2048)),
    ("batch size, rollout", "differ", lambda: with_checkpoint(n_envs=1)),
    ("batch size, rollout", "no saved model", lambda: replace(good(), checkpoints=())),
    ("layer sizes", "other", lambda: with_checkpoint(policy_layers=(256, 256, 128))),
    ("layer sizes", "other", lambda: with_checkpoint(value_layers=(512, 512))),
    ("layer sizes", "no saved model", lambda: replace(good(), checkpoints=())),
    ("batches in prediction", "[1", lambda: with_event("prediction", batch_sizes=[1] * 2007)),
    ("batches in prediction", "[128", lambda: with_event("prediction", batch_sizes=[128] * 16)),
    ("batches in prediction", "2015 rows", lambda: with_event("prediction", rows=2015)),
    ("batches in prediction", "wrote no", lambda: without_events("prediction")),
    ("batches in prediction", "conv_width", lambda: replace(good(), freqai_config={})),
    ("rl_config", "advantage is exact", lambda: with_rl_config(advantage="exact")),
    ("rl_config", "n_envs is 4", lambda: with_rl_config(n_envs=4)),
    ("rl_config", "train_cycles is 30", lambda: with_rl_config(train_cycles=30)),
    ("rl_config", "net_arch is [128", lambda: with_rl_config(net_arch=[128, 128])),
    ("rl_config", "cpu_count is missing", lambda: with_config(rl_config={"n_envs": 8})),
    ("rl_config", "no freqai.rl_config", lambda: replace(good(), freqai_config={})),
    ("steps per training", "not that", lambda: with_event("training_started", total_steps=14_688)),
    ("steps per training", "before its", lambda: with_event("training_finished", steps=20_000)),
    ("steps per training", "wrote no", lambda: without_events("training_finished")),
    ("CPU use in updates", "too low", lambda: with_samples(in_update, tree_percent=100.0)),
    ("CPU use in updates", "no sample", lambda: without_events("update")),
    ("CPU use in updates", "no sample", lambda: replace(good(), samples=[])),
    ("memory per environment", "not", lambda: with_samples(always, worker_unique_bytes=90 * MB)),
    ("memory per environment", "no sample", lambda: with_samples(always, workers=0)),
    ("processes left", "pid 7", lambda: replace(good(), survivors=("pid 7 (python)",))),
    ("processes left", "not sampled", lambda: replace(good(), survivors=None)),
    ("processes left", "not sampled", lambda: replace(good(), samples=[])),
    ("predictions are numbers", "NaN", lambda: with_frame(put(ACTION, slice(50, 51), np.nan))),
    ("predictions are numbers", "NaN", lambda: with_frame(put(CONFIDENCE, slice(0, 1), np.nan))),
    (
        "predictions are numbers",
        "infinity",
        lambda: with_frame(put(PROBABILITIES[2], slice(9, 12), np.inf)),
    ),
    (
        "predictions are numbers",
        "sum to 1",
        lambda: with_frame(put(PROBABILITIES[2], slice(90, 91), 0.99)),
    ),
    (
        "predictions are numbers",
        "the confidence",
        lambda: with_frame(put(CONFIDENCE, slice(WINDOW, None), 0.99)),
    ),
    ("predictions are numbers", "most probable", lambda: with_frame(put(ACTION, slice(None), 4.0))),
    ("predictions are numbers", "11 rows with a full", lambda: with_frame(forget_rows)),
    (
        "predictions are numbers",
        "no prediction",
        lambda: with_frame(lambda frame: 0.0 * frame),
    ),
    ("predictions are numbers", CONFIDENCE, lambda: with_frame(drop(CONFIDENCE))),
    ("predictions are numbers", "4 of 5", lambda: with_frame(drop(PROBABILITIES[0]))),
    ("predictions are numbers", "no saved", lambda: replace(good(), predictions={})),
    ("predictions vary", "constant", lambda: with_frame(make_constant)),
    ("predictions vary", "constant", lambda: with_frame(use_one_action)),
    ("predictions vary", "no saved", lambda: replace(good(), predictions={})),
    ("steps/s after / before", "slower", lambda: replace(good(), speed=SLOWER)),
    ("steps/s after / before", "2048 steps", lambda: replace(good(), speed=UNEQUAL)),
    ("steps/s after / before", "not made", lambda: replace(good(), speed=None)),
]


def named(checks: tuple[Check, ...], name: str) -> Check:
    (check,) = (check for check in checks if check.name == name)
    return check


def test_every_check_passes_on_a_good_run() -> None:
    checks = judge(good(), RECIPE)
    assert [(check.name, check.reason) for check in checks if not check.has_passed] == []
    assert len(checks) == len(CHECKS) == len({check.name for check in checks})
    assert all(check.measured not in ("", "-") and check.expected for check in checks)


@pytest.mark.parametrize(
    ("name", "reason", "broken"),
    BROKEN,
    ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(BROKEN)],
)
def test_a_check_fails_on_a_broken_fact_and_says_why(
    name: str, reason: str, broken: Callable[[], RunFacts]
) -> None:
    check = named(judge(broken(), RECIPE), name)
    assert check.verdict is Verdict.FAILED
    assert reason in check.reason


def test_every_check_is_broken_at_least_once_above() -> None:
    assert {name for name, _, _ in BROKEN} == {check.name for check in judge(good(), RECIPE)}


def test_without_any_facts_every_check_fails_because_it_could_not_be_made() -> None:
    checks = judge(RunFacts(), RECIPE)
    assert all(check.verdict is Verdict.FAILED for check in checks)
    assert all(check.measured == "-" for check in checks)
    assert all(check.reason.startswith("could not be made: ") for check in checks)


@pytest.mark.parametrize(
    ("fact", "empty", "names"),
    [
        ("speed", None, ["steps/s after / before"]),
        ("checkpoints", (), ["batch size, rollout", "layer sizes"]),
        ("predictions", {}, ["predictions are numbers", "predictions vary"]),
        ("freqai_config", {}, ["rl_config", "batches in prediction"]),
    ],
)
def test_the_reason_says_why_a_fact_is_missing(fact: str, empty: Any, names: list[str]) -> None:
    facts = replace(good(), **{fact: empty}, missing={fact: "the file is damaged"})
    checks = judge(facts, RECIPE)
    for name in names:
        assert named(checks, name).reason == "could not be made: the file is damaged"


def test_a_moment_with_another_number_of_processes_is_forgiven() -> None:
    facts = with_samples(lambda sample: sample.time in (5.25, 45.25), workers=9)
    assert named(judge(facts, RECIPE), "environment processes").has_passed


def test_environments_in_one_process_need_no_workers() -> None:
    recipe = replace(RECIPE, vec_env="batched")
    for name in ("environment processes", "memory per environment"):
        assert named(judge(with_samples(always, workers=0), recipe), name).has_passed
        assert not named(judge(good(), recipe), name).has_passed


def test_threads_are_limited_by_the_cpus_of_the_machine() -> None:
    assert not named(judge(replace(good(), cpus=4), RECIPE), "torch threads").has_passed
    recipe = replace(RECIPE, cpu_count=1)
    assert not named(judge(good(), recipe), "torch threads").has_passed


def test_on_a_gpu_threads_and_most_cores_are_left_alone() -> None:
    facts = good()
    events = [dict(event) for event in facts.events]
    for event in events:
        if event["event"] == "training_started":
            event.update(device="cuda", torch_threads=16, torch_interop_threads=16)
    on_gpu = with_samples(in_update, tree_percent=100.0)
    checks = judge(replace(on_gpu, events=events), RECIPE)
    assert "cuda" in named(checks, "torch threads").measured
    assert named(checks, "torch threads").has_passed
    assert named(checks, "CPU use in updates").has_passed


def test_a_spawned_environment_may_own_more_than_a_forked_one() -> None:
    facts = with_samples(always, worker_unique_bytes=250 * MB)
    assert not named(judge(facts, RECIPE), "memory per environment").has_passed
    rl_config = {**facts.freqai_config["rl_config"], "start_method": "spawn"}
    spawned = replace(facts, freqai_config={**facts.freqai_config, "rl_config": rl_config})
    assert named(judge(spawned, RECIPE), "memory per environment").has_passed


def test_memory_says_when_only_resident_memory_was_measured() -> None:
    facts = with_samples(always, is_unique_measured=False)
    assert "resident" in named(judge(facts, RECIPE), "memory per environment").measured


def test_only_samples_inside_updates_count_for_cpu_use() -> None:
    facts = with_samples(lambda sample: not in_update(sample), tree_percent=20.0)
    assert named(judge(facts, RECIPE), "CPU use in updates").has_passed


def test_one_busy_thread_is_never_enough_where_there_are_more() -> None:
    assert least_busy_cores(1) < 1.0
    assert all(1.0 < least_busy_cores(threads) < threads for threads in range(2, 129))


def test_a_check_becomes_plain_json_values() -> None:
    check = Check("a", "1", "2", Verdict.FAILED, "why")
    assert check.as_dict() == {
        "name": "a",
        "measured": "1",
        "expected": "2",
        "verdict": "failed",
        "reason": "why",
    }

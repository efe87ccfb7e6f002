"""Checks of a run: pure functions from what was observed to a verdict with its reason.

A check whose facts are missing counts as failed. Each check is a function of ``(RunFacts,
Recipe)``; ``judge`` makes them all.
"""

from __future__ import annotations

import multiprocessing as mp
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import pairwise
from typing import Any

from mtf_scalper.checks import predictions
from mtf_scalper.checks.facts import RunFacts
from mtf_scalper.records.check import CannotTellError, Check, Recipe
from mtf_scalper.records.files import plain
from mtf_scalper.records.sampler import Sample
from mtf_scalper.records.trainings import FINISHED, STARTED, spans, trainings

Judgement = tuple[str, str]
"""What was measured, and what is wrong with it (empty if nothing is)."""
MakeCheck = Callable[[RunFacts, Recipe], Check]
Interval = tuple[float, float]

CANDLES_PER_DAY = 288
_CANDLES_TOLERANCE = 0.05
_LEAST_AGREEMENT = 0.9
_BYTES_PER_MB = 1e6
_CONFIGURED = (
    *("advantage", "train_cycles", "cpu_count", "n_envs", "n_steps"),
    *("batch_size", "net_arch", "device"),
)
_MISSING = {
    "checkpoints": "no saved model was found",
    "predictions": "no saved predictions were found",
    "speed": "the two trainings were not made",
}
# A forked worker shares the pages of all that the fork server has imported and owns little more
# than its market and environment; a spawned one imports NumPy, torch and the package for itself.
_FORKED_ENV_MB = 60
_SPAWNED_ENV_MB = 400


def judge(facts: RunFacts, recipe: Recipe) -> tuple[Check, ...]:
    """Return every check, in the order in which a person reads them."""
    return tuple(each(facts, recipe) for each in CHECKS)


def check(
    name: str, expected: str | Callable[[RunFacts, Recipe], str]
) -> Callable[[Callable[[RunFacts, Recipe], Judgement]], MakeCheck]:
    """Return a decorator that makes a check of a judgement; it fails where that cannot tell."""

    def decorated(judged: Callable[[RunFacts, Recipe], Judgement]) -> MakeCheck:
        @wraps(judged)
        def checked(facts: RunFacts, recipe: Recipe) -> Check:
            wanted = expected if isinstance(expected, str) else expected(facts, recipe)
            try:
                measured, problem = judged(facts, recipe)
            except CannotTellError as error:
                measured, problem = "-", f"could not be made: {error}"
            return Check.of(name, measured, wanted, problem)

        return checked

    return decorated


def least_busy_cores(threads: int) -> float:
    """Return the cores that ``threads`` torch threads have to keep busy in an update.

    Between one thread's worth and all of them: 0.9 of one core, 1.4 of two (70%), 4.4 of eight
    (55%). A single busy thread fails from two threads on.
    """
    return 0.4 + 0.5 * threads


@check("freqtrade backtesting", "ends well, each training saved and used")
def check_program(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that the program ended well and that every window's training and prediction did."""
    if facts.exit_error is not None:
        return "it failed", facts.exit_error
    counts = Counter(event["event"] for event in facts.events)
    started, finished = counts[STARTED], counts[FINISHED]
    if not started:
        raise CannotTellError("no training was started")
    measured = f"{finished} of {started} trainings, {counts['prediction']} predictions"
    saved = len(facts.checkpoints)
    whole = finished == started == counts["prediction"] == saved == len(facts.predictions)
    problem = f"{saved} models and {len(facts.predictions)} predictions were saved"
    return measured, unless(whole, problem)


@check("environment processes", lambda facts, recipe: f"{recipe.n_workers}")
def check_processes(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check the number of environment processes while environments were open."""
    counts = Counter(sample.workers for sample in _training_samples(facts))
    usual, times = counts.most_common(1)[0]
    measured = f"{usual} (in {times} of {counts.total()} samples)"
    # A process that is just being started looks like the one that starts it for a moment.
    agreed = times >= _LEAST_AGREEMENT * counts.total()
    tally = ", ".join(f"{number} ({times} times)" for number, times in sorted(counts.items()))
    return measured, unless(usual == recipe.n_workers and agreed, f"seen: {tally}")


@check(
    "torch threads",
    lambda facts, recipe: f"{threads(facts, recipe)}, {recipe.interop_threads} interop",
)
def check_threads(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check torch's threads within and between operators; on a GPU they are left as they are."""
    started = _events(facts, STARTED)
    on_gpu = {device for event in started if (device := _fact(event, "device")) != "cpu"}
    if on_gpu:
        return f"left alone, the network is on {', '.join(sorted(on_gpu))}", ""
    seen = {
        (_fact(event, "torch_threads"), _fact(event, "torch_interop_threads")) for event in started
    }
    measured = "; ".join(f"{within}, {between} interop" for within, between in sorted(seen))
    wanted = {(threads(facts, recipe), recipe.interop_threads)}
    return measured, unless(seen == wanted, "not as expected")


@check(
    "batch size, rollout",
    lambda facts, recipe: f"{recipe.batch_size}, {recipe.n_envs} x {recipe.n_steps}",
)
def check_rollout(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check batch size and steps per rollout, in every training and in every saved model."""
    keys = ("batch_size", "n_steps", "n_envs")
    started = _events(facts, STARTED)
    seen = {tuple(_fact(event, key) for key in keys) for event in started}
    seen |= {(c.batch_size, c.n_steps, c.n_envs) for c in fact_of(facts, "checkpoints")}
    measured = "; ".join(f"{batch}, {n_envs} x {steps}" for batch, steps, n_envs in seen)
    wanted = {(recipe.batch_size, recipe.n_steps, recipe.n_envs)}
    return measured, unless(seen == wanted, "trainings or saved models differ from it")


@check("layer sizes", lambda facts, recipe: str(list(recipe.net_arch)))
def check_layers(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check the widths of the saved networks, read from the shapes of their weights."""
    saved = fact_of(facts, "checkpoints")
    seen = {layers for each in saved for layers in (each.policy_layers, each.value_layers)}
    return _layers(seen, facts, recipe, "network")


@check("layer sizes", lambda facts, recipe: str(list(recipe.net_arch)))
def check_policy_layers(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check the widths of the saved policies; with exact advantages there is no value network."""
    return _layers(
        {each.policy_layers for each in fact_of(facts, "checkpoints")}, facts, recipe, "policy"
    )


def _layers(seen: set[tuple[int, ...]], facts: RunFacts, recipe: Recipe, what: str) -> Judgement:
    shown = "; ".join(str(list(layers)) for layers in sorted(seen))
    problem = unless(seen == {recipe.net_arch}, f"a saved {what} has other layers")
    return f"{shown} in {len(facts.checkpoints)} models", problem


@check(
    "batches in prediction",
    lambda facts, recipe: f"batches of {recipe.inference_batch_size} and a rest",
)
def check_prediction_batches(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that the network saw full batches, and every window once."""
    size = recipe.inference_batch_size
    window = _config(facts, "conv_width")
    events = _events(facts, "prediction")
    wrong = []
    for event in events:
        full, rest = divmod(_fact(event, "rows") - window + 1, size)
        wanted = [size] * full + [rest] * bool(rest)
        if _fact(event, "batch_sizes") != wanted:
            wrong.append(f"{event['batch_sizes'][:4]} ... for {event['rows']} rows")
    batches = [batch for event in events for batch in event["batch_sizes"]]
    measured = f"{sum(batches)} windows in {len(batches)} batches of up to {max(batches)}"
    return measured, "; ".join(wrong)


@check("rl_config", lambda facts, recipe: f"the recipe, train_cycles {recipe.train_cycles}")
def check_configuration(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that ``rl_config``, as freqtrade loaded it, holds the recipe."""
    wanted = {name: plain(getattr(recipe, name)) for name in _CONFIGURED}
    held = _config(facts, "rl_config")
    wrong = [
        f"{key} is {held.get(key, 'missing')}"
        for key, value in wanted.items()
        if held.get(key) != value
    ]
    return f"{len(wanted) - len(wrong)} of {len(wanted)} keys as expected", ", ".join(wrong)


@check("steps per training", lambda facts, recipe: f"{recipe.train_cycles} passes over the candles")
def check_cycles(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that every training took as many steps as its passes over the candles need."""
    split = _config(facts, "data_split_parameters")
    days = _config(facts, "train_period_days")
    candles = days * CANDLES_PER_DAY * (1.0 - split["test_size"])
    wanted = recipe.train_cycles * candles
    finished = _events(facts, FINISHED)
    asked = [_fact(event, "total_steps") for event in _events(facts, STARTED)]
    done = [_fact(event, "steps") for event in finished]
    near = all(abs(steps - wanted) <= _CANDLES_TOLERANCE * wanted for steps in asked)
    enough = len(done) == len(asked) and all(d >= a for d, a in zip(done, asked, strict=True))
    measured = f"{min(asked):,} wanted, {min(done):,} done"
    if not near:
        return measured, f"{recipe.train_cycles} passes over {candles:.0f} candles are not that"
    return measured, unless(enough, "a training ended before its last step")


def _least_cores(facts: RunFacts, recipe: Recipe) -> float:
    devices = {event.get("device") for event in facts.events if event["event"] == STARTED}
    # On a GPU only the thread that feeds it is busy.
    return least_busy_cores(threads(facts, recipe) if devices <= {"cpu"} else 1)


@check(
    "CPU use in updates",
    lambda facts, recipe: f"{_least_cores(facts, recipe):.1f} cores or more",
)
def check_cpu(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that the updates keep the cores busy that torch's threads were given."""
    updates, rollouts = (cpu_samples(facts, phase_spans(facts, p)) for p in ("update", "rollout"))
    if not updates:
        raise CannotTellError("no sample lies inside an update")
    busy, measured = busy_cores(facts, updates)
    if rollouts:
        measured += f"; {busy_cores(facts, rollouts)[0] / facts.cpus:.0%} in rollouts"
    others = statistics.median(
        sample.machine_percent - sample.tree_machine_percent for sample in updates
    )
    problem = f"the median is too low; other programs took {others:.0f}% of the machine"
    return measured, unless(busy >= _least_cores(facts, recipe), problem)


def _memory_limit(facts: RunFacts, recipe: Recipe) -> tuple[int, str]:
    """Return megabytes and in words what an environment process may take."""
    if not recipe.n_workers:
        return 0, "no process of its own"
    chosen = facts.freqai_config.get("rl_config", {}).get("start_method")
    has_server = "forkserver" in mp.get_all_start_methods()
    method = str(chosen or ("forkserver" if has_server else "spawn"))
    limit_mb = _SPAWNED_ENV_MB if method == "spawn" else _FORKED_ENV_MB
    return limit_mb, f"at most {limit_mb} MB ({method})"


@check("memory per environment", lambda facts, recipe: _memory_limit(facts, recipe)[1])
def check_memory(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check the unique memory of an environment process, where environments have processes."""
    samples = _training_samples(facts)
    seen = [sample for sample in samples if sample.workers or not recipe.n_workers]
    if not seen:
        raise CannotTellError("no sample shows an environment process")
    in_all = f"{max(sample.unique_bytes for sample in seen) / _BYTES_PER_MB:,.0f} MB in all"
    if not recipe.n_workers:
        workers = max(sample.workers for sample in seen)
        return in_all, unless(workers == 0, f"{workers} environment processes were seen")
    largest_mb = max(sample.worker_unique_bytes for sample in seen) / _BYTES_PER_MB
    kind = "unique" if all(sample.is_unique_measured for sample in seen) else "resident"
    is_right = 0.0 < largest_mb <= _memory_limit(facts, recipe)[0]
    return f"{largest_mb:.0f} MB {kind}; {in_all}", unless(is_right, "not as expected")


@check("processes left", "0")
def check_left_processes(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that no process of the tree outlived the run."""
    if facts.survivors is None or not facts.samples:
        raise CannotTellError("the process tree was not sampled")
    return f"{len(facts.survivors)}", "; ".join(facts.survivors)


@check("predictions are numbers", "no NaN, probabilities sum to 1")
def check_prediction_values(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that predictions are numbers and probabilities, wherever there is a full window."""
    window = _config(facts, "conv_width")
    frames = fact_of(facts, "predictions")
    wrong = [
        f"{name}: {problem}"
        for name, frame in frames.items()
        if (problem := predictions.invalid_values(frame, window))
    ]
    rows = sum(len(frame) for frame in frames.values())
    return f"{rows:,} rows in {len(frames)} files, {len(wrong)} wrong", "; ".join(wrong)


@check("predictions vary", "2 actions or more, varying confidence")
def check_prediction_variety(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that predictions are not constant."""
    frames = fact_of(facts, "predictions")
    varieties = [predictions.variety(frame) for frame in frames.values()]
    actions = min(each.actions for each in varieties)
    deviation = min(each.confidence_deviation for each in varieties)
    measured = f"{actions} actions, confidence varies by {deviation:.3f}"
    constant = [n for n, v in zip(frames, varieties, strict=True) if v.is_constant]
    return measured, ", ".join(f"{name} is constant" for name in constant)


@check("steps/s after / before", "1.00 times or more")
def check_speed(facts: RunFacts, recipe: Recipe) -> Judgement:
    """Check that the present settings are not slower than those before."""
    speed = fact_of(facts, "speed")
    if speed.steps_before != speed.steps_after:
        raise CannotTellError(
            f"{speed.steps_before} steps before are not {speed.steps_after} steps after"
        )
    measured = f"{speed.after:,.0f} / {speed.before:,.0f} = {speed.ratio:.2f} times"
    return measured, unless(speed.ratio >= 1.0, "the present settings are slower")


CHECKS = (
    check_program,
    check_processes,
    check_threads,
    check_rollout,
    check_layers,
    check_prediction_batches,
    check_configuration,
    check_cycles,
    check_cpu,
    check_memory,
    check_left_processes,
    check_prediction_values,
    check_prediction_variety,
    check_speed,
)


def unless(is_right: bool, problem: str) -> str:
    """Return the problem, nothing where all is right."""
    return "" if is_right else problem


def threads(facts: RunFacts, recipe: Recipe) -> int:
    """Return the threads that torch should have."""
    return min(recipe.cpu_count, facts.cpus)


def training_spans(facts: RunFacts) -> list[Interval]:
    """Return when environments were open: from each training's start to its last progress."""
    return [
        (each.events[0]["time"], each.latest["time"])
        for each in trainings(facts.events)
        if each.latest is not None
    ]


def phase_spans(facts: RunFacts, phase: str) -> list[Interval]:
    """Return when trainings were in a phase; after its last update none is updated any more."""
    last = {each.key: each.updates[-1]["time"] for each in trainings(facts.events) if each.updates}
    return [
        (span.began, min(span.ended, last[span.key]))
        for span in spans(facts.events)
        if span.phase == phase and span.began < last.get(span.key, 0.0)
    ]


def cpu_samples(facts: RunFacts, within: Sequence[Interval]) -> list[Sample]:
    """Return the samples whose CPU use was measured inside one of the intervals.

    It is that of the time since the sample before, which therefore has to lie inside as well.
    """
    return [
        each
        for before, each in pairwise(facts.samples)
        if any(begin <= before.time and each.time + each.seconds <= end for begin, end in within)
    ]


def busy_cores(facts: RunFacts, samples: Sequence[Sample]) -> tuple[float, str]:
    """Return how many cores were busy in the median, and the same in words."""
    busy = statistics.median(sample.tree_cores for sample in samples)
    return busy, f"{busy:.2f} cores ({busy / facts.cpus:.0%} of {facts.cpus})"


def _events(facts: RunFacts, name: str) -> list[Mapping[str, Any]]:
    found = [event for event in facts.events if event["event"] == name]
    if not found:
        raise CannotTellError(f"the run wrote no {name} event")
    return found


def fact_of(facts: RunFacts, name: str) -> Any:
    """Return a fact of the run; where there is none the check says why."""
    found = getattr(facts, name)
    if not found:
        raise CannotTellError(facts.missing.get(name, _MISSING[name]))
    return found


def _fact(event: Mapping[str, Any], key: str) -> Any:
    if key not in event:
        raise CannotTellError(f"a {event['event']} event does not say {key}")
    return event[key]


def _config(facts: RunFacts, key: str) -> Any:
    if key not in facts.freqai_config:
        otherwise = f"freqtrade's record of the configuration has no freqai.{key}"
        raise CannotTellError(facts.missing.get("freqai_config", otherwise))
    return facts.freqai_config[key]


def _training_samples(facts: RunFacts) -> list[Sample]:
    within = training_spans(facts)
    found = [
        each
        for each in facts.samples
        if any(begin <= each.time and each.time + each.seconds <= end for begin, end in within)
    ]
    if not found:
        raise CannotTellError("no sample lies inside a training")
    return found

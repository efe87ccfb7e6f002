"""Checks of a run: pure functions from what was observed to a verdict with its reason.

A check whose facts are missing counts as failed. Each check is a function of ``(RunFacts,
Recipe)``; ``judge`` makes them all.
"""

from __future__ import annotations

import multiprocessing as mp
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mtf_scalper.monitoring import predictions
from mtf_scalper.monitoring.facts import CheckpointFacts, RunFacts
from mtf_scalper.monitoring.phases import (
    cpu_samples_within,
    rollout_spans,
    samples_within,
    training_spans,
    update_spans,
)
from mtf_scalper.monitoring.sampler import Sample
from mtf_scalper.monitoring.verdicts import (
    CannotTellError,
    Check,
    Judgement,
    Recipe,
    Verdict,
    make_check,
)

__all__ = ["CHECKS", "Check", "Recipe", "Verdict", "judge", "least_busy_cores"]

CANDLES_PER_DAY = 288
_STARTED = "training_started"
_CANDLES_TOLERANCE = 0.05
_LEAST_AGREEMENT = 0.9
_BYTES_PER_MB = 1e6
# A forked worker shares the pages of all that the fork server has imported and owns little more
# than its market and environment; a spawned one imports NumPy, torch and the package for itself.
_FORKED_ENV_MB = 60
_SPAWNED_ENV_MB = 400


def judge(facts: RunFacts, recipe: Recipe) -> tuple[Check, ...]:
    """Return every check, in the order in which a person reads them."""
    return tuple(check(facts, recipe) for check in CHECKS)


def least_busy_cores(threads: int) -> float:
    """Return the cores that ``threads`` torch threads have to keep busy in an update.

    Between one thread's worth and all of them: 0.9 of one core, 1.4 of two (70%), 4.4 of eight
    (55%). A single busy thread fails from two threads on.
    """
    return 0.4 + 0.5 * threads


def check_program(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that the program ended well and that every window's training and prediction did."""

    def made() -> Judgement:
        if facts.exit_error is not None:
            return "it failed", facts.exit_error
        counts = Counter(event["event"] for event in facts.events)
        started, finished = counts[_STARTED], counts["training_finished"]
        if not started:
            raise CannotTellError("no training was started")
        measured = f"{finished} of {started} trainings, {counts['prediction']} predictions"
        saved = len(facts.checkpoints)
        whole = finished == started == counts["prediction"] == saved == len(facts.predictions)
        problem = f"{saved} models and {len(facts.predictions)} predictions were saved"
        return measured, _unless(whole, problem)

    return make_check("freqtrade backtesting", "ends well, each training saved and used", made)


def check_processes(facts: RunFacts, recipe: Recipe) -> Check:
    """Check the number of environment processes while environments were open."""

    def made() -> Judgement:
        counts = Counter(sample.workers for sample in _training_samples(facts))
        usual, times = counts.most_common(1)[0]
        measured = f"{usual} (in {times} of {counts.total()} samples)"
        # A process that is just being started looks like the one that starts it for a moment.
        agreed = times >= _LEAST_AGREEMENT * counts.total()
        problem = "" if usual == recipe.n_workers and agreed else f"seen: {_tally(counts)}"
        return measured, problem

    return make_check("environment processes", f"{recipe.n_workers}", made)


def check_threads(facts: RunFacts, recipe: Recipe) -> Check:
    """Check torch's threads within and between operators; on a GPU they are left as they are."""
    threads = min(recipe.cpu_count, facts.cpus)

    def made() -> Judgement:
        started = _events(facts, _STARTED)
        on_gpu = {device for event in started if (device := _fact(event, "device")) != "cpu"}
        if on_gpu:
            return f"left alone, the network is on {', '.join(sorted(on_gpu))}", ""
        seen = {
            (_fact(event, "torch_threads"), _fact(event, "torch_interop_threads"))
            for event in started
        }
        measured = "; ".join(f"{within}, {between} interop" for within, between in sorted(seen))
        return measured, _unless(seen == {(threads, recipe.interop_threads)}, "not as expected")

    return make_check("torch threads", f"{threads}, {recipe.interop_threads} interop", made)


def check_rollout(facts: RunFacts, recipe: Recipe) -> Check:
    """Check batch size and steps per rollout, in every training and in every saved model."""

    def made() -> Judgement:
        keys = ("batch_size", "n_steps", "n_envs")
        started = _events(facts, _STARTED)
        seen = {tuple(_fact(event, key) for key in keys) for event in started}
        seen |= {(c.batch_size, c.n_steps, c.n_envs) for c in _checkpoints(facts)}
        measured = "; ".join(f"{batch}, {n_envs} x {steps}" for batch, steps, n_envs in seen)
        wanted = {(recipe.batch_size, recipe.n_steps, recipe.n_envs)}
        return measured, _unless(seen == wanted, "trainings or saved models differ from it")

    expected = f"{recipe.batch_size}, {recipe.n_envs} x {recipe.n_steps}"
    return make_check("batch size, rollout", expected, made)


def check_layers(facts: RunFacts, recipe: Recipe) -> Check:
    """Check the widths of the saved networks, read from the shapes of their weights."""

    def made() -> Judgement:
        saved = _checkpoints(facts)
        seen = {layers for each in saved for layers in (each.policy_layers, each.value_layers)}
        measured = (
            f"{'; '.join(str(list(layers)) for layers in sorted(seen))} in {len(saved)} models"
        )
        return measured, _unless(seen == {recipe.net_arch}, "a saved network has other layers")

    return make_check("layer sizes", str(list(recipe.net_arch)), made)


def check_policy_layers(facts: RunFacts, recipe: Recipe) -> Check:
    """Check the widths of the saved policies; with exact advantages there is no value network."""

    def made() -> Judgement:
        saved = _checkpoints(facts)
        seen = {each.policy_layers for each in saved}
        shown = "; ".join(str(list(layers)) for layers in sorted(seen))
        problem = _unless(seen == {recipe.net_arch}, "a saved policy has other layers")
        return f"{shown} in {len(saved)} models", problem

    return make_check("layer sizes", str(list(recipe.net_arch)), made)


def check_prediction_batches(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that the network saw full batches, and every window once."""
    size = recipe.inference_batch_size

    def made() -> Judgement:
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

    return make_check("batches in prediction", f"batches of {size} and a rest", made)


def check_configuration(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that ``rl_config``, as freqtrade loaded it, holds the recipe."""
    keys = (
        "advantage",
        "train_cycles",
        "cpu_count",
        "n_envs",
        "n_steps",
        "batch_size",
        "net_arch",
        "device",
    )
    wanted = {key: _plain(getattr(recipe, key)) for key in keys}

    def made() -> Judgement:
        held = _config(facts, "rl_config")
        wrong = [
            f"{key} is {held.get(key, 'missing')}"
            for key, value in wanted.items()
            if held.get(key) != value
        ]
        return f"{len(wanted) - len(wrong)} of {len(wanted)} keys as expected", ", ".join(wrong)

    return make_check("rl_config", f"the recipe, train_cycles {recipe.train_cycles}", made)


def check_cycles(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that every training took as many steps as its passes over the candles need."""

    def made() -> Judgement:
        split = _config(facts, "data_split_parameters")
        days = _config(facts, "train_period_days")
        candles = days * CANDLES_PER_DAY * (1.0 - split["test_size"])
        wanted = recipe.train_cycles * candles
        finished = _events(facts, "training_finished")
        asked = [_fact(event, "total_steps") for event in _events(facts, _STARTED)]
        done = [_fact(event, "steps") for event in finished]
        near = all(abs(steps - wanted) <= _CANDLES_TOLERANCE * wanted for steps in asked)
        enough = len(done) == len(asked) and all(d >= a for d, a in zip(done, asked, strict=True))
        measured = f"{min(asked):,} wanted, {min(done):,} done"
        if not near:
            return measured, f"{recipe.train_cycles} passes over {candles:.0f} candles are not that"
        return measured, _unless(enough, "a training ended before its last step")

    return make_check("steps per training", f"{recipe.train_cycles} passes over the candles", made)


def check_cpu(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that the updates keep the cores busy that torch's threads were given."""
    devices = {event.get("device") for event in facts.events if event["event"] == _STARTED}
    # On a GPU only the thread that feeds it is busy.
    least = least_busy_cores(min(recipe.cpu_count, facts.cpus) if devices <= {"cpu"} else 1)

    def made() -> Judgement:
        updates = cpu_samples_within(facts.samples, update_spans(facts.events))
        if not updates:
            raise CannotTellError("no sample lies inside an update")
        rollouts = cpu_samples_within(facts.samples, rollout_spans(facts.events))
        busy = statistics.median(sample.tree_cores for sample in updates)
        measured = f"{busy:.2f} cores ({busy / facts.cpus:.0%} of {facts.cpus})"
        if rollouts:
            share = statistics.median(sample.tree_cores for sample in rollouts) / facts.cpus
            measured += f"; {share:.0%} in rollouts"
        others = statistics.median(
            sample.machine_percent - sample.tree_machine_percent for sample in updates
        )
        problem = f"the median is too low; other programs took {others:.0f}% of the machine"
        return measured, _unless(busy >= least, problem)

    return make_check("CPU use in updates", f"{least:.1f} cores or more", made)


def check_memory(facts: RunFacts, recipe: Recipe) -> Check:
    """Check the unique memory of an environment process, where environments have processes."""
    if not recipe.n_workers:
        return make_check(
            "memory per environment", "no process of its own", lambda: _memory_in_all(facts)
        )
    method = _start_method(facts.freqai_config)
    limit_mb = _SPAWNED_ENV_MB if method == "spawn" else _FORKED_ENV_MB

    def made() -> Judgement:
        seen = [sample for sample in _training_samples(facts) if sample.workers]
        if not seen:
            raise CannotTellError("no sample shows an environment process")
        largest_mb = max(sample.worker_unique_bytes for sample in seen) / _BYTES_PER_MB
        tree_mb = max(sample.unique_bytes for sample in seen) / _BYTES_PER_MB
        kind = "unique" if all(sample.is_unique_measured for sample in seen) else "resident"
        measured = f"{largest_mb:.0f} MB {kind}; {tree_mb:,.0f} MB in all"
        return measured, _unless(0.0 < largest_mb <= limit_mb, "not as expected")

    return make_check("memory per environment", f"at most {limit_mb} MB ({method})", made)


def _memory_in_all(facts: RunFacts) -> Judgement:
    samples = _training_samples(facts)
    tree_mb = max(sample.unique_bytes for sample in samples) / _BYTES_PER_MB
    workers = max(sample.workers for sample in samples)
    problem = _unless(workers == 0, f"{workers} environment processes were seen")
    return f"{tree_mb:,.0f} MB in all", problem


def check_left_processes(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that no process of the tree outlived the run."""

    def made() -> Judgement:
        if facts.survivors is None or not facts.samples:
            raise CannotTellError("the process tree was not sampled")
        return f"{len(facts.survivors)}", "; ".join(facts.survivors)

    return make_check("processes left", "0", made)


def check_prediction_values(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that predictions are numbers and probabilities, wherever there is a full window."""

    def made() -> Judgement:
        window = _config(facts, "conv_width")
        frames = _predictions(facts)
        wrong = [
            f"{name}: {problem}"
            for name, frame in frames.items()
            if (problem := predictions.invalid_values(frame, window))
        ]
        rows = sum(len(frame) for frame in frames.values())
        return f"{rows:,} rows in {len(frames)} files, {len(wrong)} wrong", "; ".join(wrong)

    return make_check("predictions are numbers", "no NaN, probabilities sum to 1", made)


def check_prediction_variety(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that predictions are not constant."""

    def made() -> Judgement:
        frames = _predictions(facts)
        varieties = [predictions.variety(frame) for frame in frames.values()]
        actions = min(each.actions for each in varieties)
        deviation = min(each.confidence_deviation for each in varieties)
        measured = f"{actions} actions, confidence varies by {deviation:.3f}"
        constant = [n for n, v in zip(frames, varieties, strict=True) if v.is_constant]
        return measured, ", ".join(f"{name} is constant" for name in constant)

    return make_check("predictions vary", "2 actions or more, varying confidence", made)


def check_speed(facts: RunFacts, recipe: Recipe) -> Check:
    """Check that the settings in force are not slower than those before."""

    def made() -> Judgement:
        speed = facts.speed
        if speed is None:
            raise _missing(facts, "speed", "the two trainings were not made")
        if speed.steps_before != speed.steps_after:
            raise CannotTellError(
                f"{speed.steps_before} steps before are not {speed.steps_after} steps after"
            )
        measured = f"{speed.after:,.0f} / {speed.before:,.0f} = {speed.ratio:.2f} times"
        return measured, _unless(speed.ratio >= 1.0, "the settings in force are slower")

    return make_check("steps/s after / before", "1.00 times or more", made)


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


def _unless(is_right: bool, problem: str) -> str:
    return "" if is_right else problem


def _events(facts: RunFacts, name: str) -> list[Mapping[str, Any]]:
    found = [event for event in facts.events if event["event"] == name]
    if not found:
        raise CannotTellError(f"the run wrote no {name} event")
    return found


def _missing(facts: RunFacts, name: str, otherwise: str) -> CannotTellError:
    return CannotTellError(facts.missing.get(name, otherwise))


def _fact(event: Mapping[str, Any], key: str) -> Any:
    if key not in event:
        raise CannotTellError(f"a {event['event']} event does not say {key}")
    return event[key]


def _config(facts: RunFacts, key: str) -> Any:
    if key not in facts.freqai_config:
        otherwise = f"freqtrade's record of the configuration has no freqai.{key}"
        raise _missing(facts, "freqai_config", otherwise)
    return facts.freqai_config[key]


def _checkpoints(facts: RunFacts) -> Sequence[CheckpointFacts]:
    if not facts.checkpoints:
        raise _missing(facts, "checkpoints", "no saved model was found")
    return facts.checkpoints


def _predictions(facts: RunFacts) -> Mapping[str, pd.DataFrame]:
    if not facts.predictions:
        raise _missing(facts, "predictions", "no saved predictions were found")
    return facts.predictions


def _training_samples(facts: RunFacts) -> list[Sample]:
    found = samples_within(facts.samples, training_spans(facts.events))
    if not found:
        raise CannotTellError("no sample lies inside a training")
    return found


def _start_method(freqai_config: Mapping[str, Any]) -> str:
    chosen = freqai_config.get("rl_config", {}).get("start_method")
    return str(chosen or ("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"))


def _tally(counts: Counter[int]) -> str:
    return ", ".join(f"{number} ({times} times)" for number, times in sorted(counts.items()))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""Every benchmark measures a tiny market and writes its file and its part of the document."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from mtf_scalper.ppo import kernels
from mtf_scalper.ppo.towers import Tower
from mtf_scalper.settings import EntryMode

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
DOCUMENT = BENCHMARKS.parent / "docs" / "performance.md"
NAMES = ("training", "update", "environment", "scaling", "memory", "startup", "inference")

pytest.importorskip(
    "freqtrade.freqai.prediction_models.ReinforcementLearner", reason="freqtrade is not installed"
)


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[dict[str, ModuleType]]:
    """Import the benchmarks as a script among them does, and leave no trace."""
    files = [file.stem for file in BENCHMARKS.glob("*.py")]
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: __import__(name) for name in files}
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in files:
            sys.modules.pop(name, None)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a copy of the document."""
    (tmp_path / "docs").mkdir()
    text = DOCUMENT.read_text(encoding="utf-8")
    (tmp_path / "docs" / "performance.md").write_text(text, encoding="utf-8")
    return tmp_path


def written(
    benchmarks: dict[str, ModuleType], project: Path, name: str, measured: Any
) -> dict[str, Any]:
    """Write what was measured; return its file, after a look at the document."""
    path = benchmarks["report"].write(name, measured, 1, project)
    assert path == project / "benchmarks" / "results" / f"{name}.json"
    text = (project / "docs" / "performance.md").read_text(encoding="utf-8")
    section = text.split(f"<!-- {name}: ")[1].split(f"<!-- end of {name} -->")[0]
    for table in measured.tables:
        assert table in section
    for requirement in measured.requirements:
        assert requirement.what in section
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert {"cpu", "cpus", "cores", "versions", "commit"} <= set(results["machine"])
    assert results["repeats"] == 1
    return results


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers_in(each)]
    if isinstance(value, list):
        return [number for each in value for number in numbers_in(each)]
    return [value] if isinstance(value, int | float) else []


def test_training(benchmarks: dict[str, ModuleType], project: Path) -> None:
    quick = benchmarks["report"].QUICK
    opponents = {EntryMode.ALWAYS: tuple("acdf"), EntryMode.ANY: tuple("df")}
    measured = benchmarks["training"].measure(quick, 1, opponents)
    results = written(benchmarks, project, "training", measured)
    assert results["steps"] == quick.steps
    always = results["entry_modes"]["always"]
    assert list(always) == list("acdf")
    for row in always.values():
        assert row["steps_per_second"]["median"] > 0
        assert row["rollout_seconds"]["median"] > 0
        assert row["update_seconds"]["median"] > 0
    assert always["f"]["ours_is_times_as_fast"]["median"] == 1.0
    judged = [requirement["what"] for requirement in results["requirements"]]
    assert "whole training, (f) over (d), `any`" in judged


def test_all_opponents_are_in_the_main_table(benchmarks: dict[str, ModuleType]) -> None:
    by_mode = benchmarks["training"].OPPONENTS_IN
    assert (
        list(by_mode[EntryMode.ALWAYS]) == list(benchmarks["opponents"].OPPONENTS) == list("abcdef")
    )
    assert {"d", "f"} <= set(by_mode[EntryMode.ANY])


def test_an_opponent_that_is_not_installed_is_named_as_such(
    benchmarks: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    opponents = benchmarks["opponents"]
    missing = opponents.Opponent("theirs", opponents.sbx_on_batched, needs="no_such_module")
    monkeypatch.setitem(opponents.OPPONENTS, "e", missing)
    measured = benchmarks["training"].measure(
        benchmarks["report"].QUICK, 1, {EntryMode.ALWAYS: ("e", "f")}
    )
    theirs = measured.results["entry_modes"]["always"]["e"]
    assert theirs == {"name": "theirs", "not_installed": "no_such_module"}
    (row,) = [line for line in measured.tables[0].splitlines() if "theirs" in line]
    assert "not installed" in row


def test_another_number_of_steps_is_no_comparison(benchmarks: dict[str, ModuleType]) -> None:
    report, opponents = benchmarks["report"], benchmarks["opponents"]
    more = opponents.Opponent("more", opponents.through_train(n_steps=2 * report.QUICK.n_steps))
    with pytest.raises(report.ParityError, match="more: 256 steps, not 128"):
        more.measure(report.QUICK.market(), report.QUICK, EntryMode.ALWAYS)


def test_update(benchmarks: dict[str, ModuleType], project: Path) -> None:
    measured = benchmarks["update"].measure(benchmarks["report"].QUICK, 1, epochs=1, peak_size=64)
    results = written(benchmarks, project, "update", measured)
    always, any_ = results["entry_modes"]["always"], results["entry_modes"]["any"]
    assert 0 < always["share_of_choices"] < any_["share_of_choices"] == 1
    assert always["fast"]["flops"] < any_["fast"]["flops"] == any_["stock"]["flops"]
    for mode in (always, any_):
        assert list(mode["fast"]["parts_ms"]) == list(benchmarks["update"].PARTS)
        whole = sum(mode["fast"]["parts_ms"].values())
        assert whole == pytest.approx(mode["fast"]["minibatch_ms"]["median"])
        for part in ("gather", "forward products", "backward products", "norm and Adam"):
            assert mode["fast"]["parts_ms"][part] > 0
            assert mode["stock"]["parts_ms"][part] > 0


def of_value_loss(fast: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.vf_coef *= 1.001


def of_learning_rate(fast: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.lr_schedule = lambda _: 1.001 * stock.learning_rate


def of_clipped_norm(fast: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.max_grad_norm *= 1.001


def of_adams_memory(fast: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.policy.optimizer.state[stock.policy.value_net.weight]["exp_avg"] *= 1.001


def of_one_sample(fast: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.rollout_buffer.advantages[-1, 0] += 0.001


def scaled_gradients(dtype: torch.dtype, rows: slice, factor: float) -> Callable[..., None]:
    """Return a wrong update: in one precision, part of a layer's weight gradient is scaled."""

    def spoil(fast: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        backward = Tower.backward

        def spoiled(tower: Tower, gradient: torch.Tensor) -> None:
            backward(tower, gradient)
            if gradient.dtype == dtype:
                tower.layers[1].weight_gradient[rows] *= factor

        monkeypatch.setattr(Tower, "backward", spoiled)

    return spoil


def wrong_losses(fast: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged is wrong, and only in single precision."""
    log = type(fast)._log

    def spoiled(model: Any, epochs: list[list[np.ndarray]], *args: Any) -> None:
        if model.policy.action_net.weight.dtype == torch.float32:
            epochs = [[losses * [1.0, 1.1, 1.0, 1.0, 1.0] for losses in epoch] for epoch in epochs]
        log(model, epochs, *args)

    monkeypatch.setattr(type(fast), "_log", spoiled)


def later_steps_turned(fast: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In single precision every gradient but the first is turned round."""
    kernel, calls = kernels.loss_gradients, Counter[str]()

    def spoiled(*args: Any) -> None:
        kernel(*args)
        gradients = args[-3:-1]
        calls[str(gradients[0].dtype)] += 1
        if calls["float32"] > 1:
            for gradient in gradients:
                gradient *= -1.0

    monkeypatch.setattr(kernels, "loss_gradients", spoiled)


SINGLE, DOUBLE = torch.float32, torch.float64
OF_ITS_WAY = "of its way apart after an epoch in double precision"
WRONG: dict[str, tuple[Callable[..., None], str]] = {
    "value loss": (of_value_loss, OF_ITS_WAY),
    "learning rate": (of_learning_rate, OF_ITS_WAY),
    "clipped norm": (of_clipped_norm, OF_ITS_WAY),
    "Adam's memory": (of_adams_memory, OF_ITS_WAY),
    "one sample": (of_one_sample, OF_ITS_WAY),
    "scaled gradient": (scaled_gradients(DOUBLE, slice(None), 1.001), OF_ITS_WAY),
    "gradient of one unit": (scaled_gradients(DOUBLE, slice(1), 1.001), OF_ITS_WAY),
    "scaled gradient, single": (
        scaled_gradients(SINGLE, slice(None), 1.05),
        r"gradient of mlp_extractor\.(policy|value)_net\.2\.weight is .* at minibatch 1",
    ),
    "losses, single": (wrong_losses, "value_loss: .* in single precision"),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG.values(), ids=WRONG)
def test_updates_that_differ_are_not_timed(
    spoil: Callable[..., None],
    message: str,
    benchmarks: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update, report = benchmarks["update"], benchmarks["report"]
    fast, stock = update.pair_of_models(report.QUICK, EntryMode.ANY)
    spoil(fast, stock, monkeypatch)
    with pytest.raises(report.ParityError, match=message):
        update.check_same_update(fast, stock)


def test_weights_that_go_another_way_are_not_timed(
    benchmarks: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In single precision, after the minibatches whose gradients are compared."""
    report, parity = benchmarks["report"], benchmarks["update_parity"]
    monkeypatch.setattr(parity, "MINIBATCHES", 1)
    monkeypatch.setattr(parity, "LOSS", np.inf)
    fast, stock = benchmarks["update"].pair_of_models(report.QUICK, EntryMode.ANY)
    later_steps_turned(fast, stock, monkeypatch)
    with pytest.raises(report.ParityError, match=r"the weights are .* of their way apart"):
        parity.check_same_update(fast, stock)


@pytest.mark.parametrize("entry", EntryMode)
def test_the_check_of_the_update_passes_and_leaves_single_precision(
    entry: EntryMode, benchmarks: dict[str, ModuleType]
) -> None:
    update, report = benchmarks["update"], benchmarks["report"]
    fast, stock = update.pair_of_models(report.QUICK, entry)
    apart = update.check_same_update(fast, stock)
    assert apart["double"] < 1e-12
    assert apart["gradient"] < 1e-4
    assert apart["loss"] < 1e-4
    assert apart["weights"] < 1e-4
    for model in (fast, stock):
        states = model.policy.optimizer.state.values()
        assert {p.dtype for p in model.policy.parameters()} == {torch.float32}
        assert {state["exp_avg_sq"].dtype for state in states} == {torch.float32}
        # One epoch in the rollout that both share, one in single precision: none is left of double.
        assert {int(state["step"]) for state in states} == {2 * report.QUICK.steps // 32}
        model.train()


def test_environment(benchmarks: dict[str, ModuleType], project: Path) -> None:
    measured = benchmarks["environment"].measure(
        benchmarks["report"].QUICK, 1, n_steps=1000, required={2: 1.0, 4: 1e30}
    )
    results = written(benchmarks, project, "environment", measured)
    assert [row["n_envs"] for row in results["combinations"]] == [2, 2, 4, 4]
    assert min(numbers_in(results["combinations"])) > 0
    # What is not met is recorded as well.
    assert [each["met"] for each in results["requirements"]] == [True, True, False, False]


def test_scaling(benchmarks: dict[str, ModuleType], project: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'bench' is not installed")
    measured = benchmarks["scaling"].measure(
        benchmarks["report"].QUICK, 1, factors=(1, 2), features=(2, 3, 5)
    )
    results = written(benchmarks, project, "scaling", measured)
    costs = results["microseconds_per_step"]
    assert list(costs["candles"]["1 thread"]) == ["120", "240"]
    assert list(costs["features"]["1 thread"]) == ["2", "3", "5"]
    assert min(numbers_in(costs)) > 0
    image = (project / "docs" / "images" / "scaling.svg").read_text(encoding="utf-8")
    assert image.startswith("<?xml")
    assert len(image) < 100_000


def test_distance_from_a_straight_line(benchmarks: dict[str, ModuleType]) -> None:
    off_line = benchmarks["scaling"].off_line
    assert off_line([1, 2, 4], [3.0, 5.0, 9.0]) == pytest.approx(0.0, abs=1e-12)
    assert off_line([1, 2, 4, 8], [1.0, 4.0, 16.0, 64.0]) > 0.5


def test_memory(benchmarks: dict[str, ModuleType], project: Path) -> None:
    memory, quick = benchmarks["memory"], benchmarks["report"].QUICK
    assert memory.training_megabytes("batched", "fast_ppo", 2, asdict(quick)) > 50
    measured = memory.measured(
        {"batched": {1: [300.0], 8: [307.0]}, "subproc": {1: [320.0], 8: [740.0]}}
    )
    results = written(benchmarks, project, "memory", measured)
    assert results["kinds"]["subproc"]["extra_megabytes"]["median"] == 420.0
    assert [each["measured"] for each in results["requirements"]] == [7.0]
    assert results["requirements"][0]["met"]


def test_startup(benchmarks: dict[str, ModuleType], project: Path) -> None:
    # Compiling takes longer than a test should; the tests' own cache is full.
    assert math.isfinite(benchmarks["startup"].seconds_beyond_work())
    measured = benchmarks["startup"].measured([21.0, 22.0], [0.5, 0.75])
    results = written(benchmarks, project, "startup", measured)
    assert results["seconds"]["empty_cache"]["median"] == 21.5
    assert [each["met"] for each in results["requirements"]] == [False, True]


def test_inference(benchmarks: dict[str, ModuleType], project: Path) -> None:
    measured = benchmarks["inference"].measure(benchmarks["report"].QUICK, 1, n_rows=60)
    results = written(benchmarks, project, "inference", measured)
    assert results["rows"] == 60
    assert results["ratio"]["median"] > 0


def test_a_function_runs_in_a_process_of_its_own(benchmarks: dict[str, ModuleType]) -> None:
    there = benchmarks["report"].in_fresh_process("report:number", 12.345)
    assert there == benchmarks["report"].number(12.345) == "12.3"


def test_every_benchmark_has_its_place_in_the_document_and_in_make(
    benchmarks: dict[str, ModuleType],
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    makefile = (BENCHMARKS.parent / "Makefile").read_text(encoding="utf-8")
    for name in NAMES:
        assert text.count(f"<!-- {name}: written by benchmarks/{name}.py -->") == 1
        assert text.count(f"<!-- end of {name} -->") == 1
        assert f"benchmarks/{name}.py\n" in makefile
        assert callable(benchmarks[name].measure)


def test_a_document_without_markers_is_an_error(
    benchmarks: dict[str, ModuleType], project: Path
) -> None:
    (project / "docs" / "performance.md").write_text("nothing", encoding="utf-8")
    measured = benchmarks["startup"].measured([1.0], [1.0])
    with pytest.raises(ValueError, match="no markers of 'startup'"):
        benchmarks["report"].write("startup", measured, 1, project)


def test_the_rules_are_those_of_the_shipped_strategy(benchmarks: dict[str, ModuleType]) -> None:
    strategy = pytest.importorskip("mtf_scalper.freqai.strategy").HybridStrategy
    rules = benchmarks["report"].shipped_rules(EntryMode.ALWAYS)
    assert {str(minutes): ratio for minutes, ratio in rules.minimal_roi.items()} == (
        strategy.minimal_roi
    )
    for name in (
        "can_short",
        "stoploss",
        "max_trade_duration_candles",
        "emergency_loss",
        "break_even_trigger",
        "break_even_floor",
    ):
        assert getattr(rules, name) == getattr(strategy, name)


def test_the_reference_recipe_is_measured(benchmarks: dict[str, ModuleType]) -> None:
    from mtf_scalper.monitoring.speed import BEFORE
    from mtf_scalper.settings import Settings

    workload = benchmarks["report"].Workload()
    assert workload.settings(EntryMode.ALWAYS) == Settings(
        train_cycles=4,
        cpu_count=2,
        device="cpu",
        rules=benchmarks["report"].shipped_rules(EntryMode.ALWAYS),
    )
    before = (workload.before_n_steps, workload.before_batch_size, workload.before_net_arch)
    assert before == (BEFORE["n_steps"], BEFORE["batch_size"], BEFORE["net_arch"])

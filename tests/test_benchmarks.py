"""Every benchmark measures a tiny market and writes its file and its part of the document."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from mtf_scalper.ppo.towers import Tower
from mtf_scalper.records.reader import runs_in
from mtf_scalper.rollouts import ppo_kernels as kernels
from mtf_scalper.settings import EntryMode

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
DOCUMENT = BENCHMARKS.parent / "docs" / "performance.md"
LEARNING_DOCUMENT = BENCHMARKS.parent / "docs" / "learning_results.md"
EVIDENCE_DOCUMENT = BENCHMARKS.parent / "docs" / "evidence.md"
TUNING_DOCUMENT = BENCHMARKS.parent / "docs" / "tuning.md"
NAMES = (
    "training",
    "update",
    "environment",
    "scaling",
    "memory",
    "startup",
    "inference",
    "simulate",
)
LEARNING_NAMES = ("evaluation", "learning", "families", "real_candles")

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
    """Return a folder with copies of the documents."""
    (tmp_path / "docs").mkdir()
    for document in (DOCUMENT, LEARNING_DOCUMENT, EVIDENCE_DOCUMENT, TUNING_DOCUMENT):
        text = document.read_text(encoding="utf-8")
        (tmp_path / "docs" / document.name).write_text(text, encoding="utf-8")
    return tmp_path


def written(
    benchmarks: dict[str, ModuleType],
    project: Path,
    name: str,
    measured: Any,
    document: Path = DOCUMENT,
) -> dict[str, Any]:
    """Write what was measured; return its file, after a look at the document."""
    path = benchmarks["report"].write(name, measured, 1, project, document.name)
    assert path == project / "benchmarks" / "results" / f"{name}.json"
    text = (project / "docs" / document.name).read_text(encoding="utf-8")
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
        gradients = args[-1][:2]
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


def test_simulate(
    benchmarks: dict[str, ModuleType], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without vectorbt; its trades, given by hand, have to be those of this side."""
    simulate = benchmarks["simulate"]
    monkeypatch.setattr(simulate.importlib.util, "find_spec", lambda _name: None)
    measured = simulate.measure(benchmarks["report"].QUICK, 1)
    results = written(benchmarks, project, "simulate", measured)
    assert results["vectorbt"] == "not installed"
    assert (results["candles"], results["requirements"]) == (1200, [])
    assert all(each["median"] > 0 for each in results["milliseconds"].values())
    market, decisions = simulate.market_and_decisions(1200)
    prepared = simulate.prepare(market, simulate.SETTINGS)
    (run,) = simulate.play_decided(prepared, decisions)
    inside = [trade.exit_reason in simulate.INSIDE_EXITS for trade in run.trades]
    theirs = np.array(
        [
            (
                trade.open_row - 1,
                trade.close_row - (not is_inside),
                trade.side < 0,
                trade.profit_ratio * (1.0 + trade.side * market.fee_rate),
            )
            for trade, is_inside in zip(run.trades, inside, strict=True)
        ]
    )
    simulate.check_trades(run, theirs, market.fee_rate)
    with pytest.raises(simulate.ParityError, match="trades here"):
        simulate.check_trades(run, theirs[3:], market.fee_rate)
    theirs[2, 3] += 1e-3
    with pytest.raises(simulate.ParityError, match=r"profits differ by 0\.001"):
        simulate.check_trades(run, theirs, market.fee_rate)
    theirs[1, 1] += 1
    with pytest.raises(simulate.ParityError, match="trade 1"):
        simulate.check_trades(run, theirs, market.fee_rate)


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


def test_builds(benchmarks: dict[str, ModuleType], project: Path) -> None:
    """This build stands beside itself here: what is checked is that both of them are timed."""
    builds = benchmarks["builds"]
    folder = str(BENCHMARKS.parent)
    plan = builds.Plan(against=folder, repeats=1, n_candles=300, n_features=3, commands=())
    results = written(benchmarks, project, "builds", builds.measure(plan))
    for name in builds.TRAININGS:
        assert results[name]["seconds"]["other"]["median"] > 0.0
        assert results[name]["cpu_seconds"]["this"]["median"] > 0.0
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count("<!-- builds: written by benchmarks/builds.py -->") == 1


def test_what_another_build_takes_more_is_told(benchmarks: dict[str, ModuleType]) -> None:
    builds = benchmarks["builds"]
    sides = {"other": [builds.Taken(9.0, 12.0)], "this": [builds.Taken(3.0, 4.0)]}
    measured = builds.measured({"evaluation": sides, "demo": sides}, "abc")
    assert [each.measured for each in measured.requirements] == [3.0, 3.0]
    assert all(each.met for each in measured.requirements)
    assert "build abc, s" in measured.tables[0]


def test_inference(benchmarks: dict[str, ModuleType], project: Path) -> None:
    measured = benchmarks["inference"].measure(benchmarks["report"].QUICK, 1, n_rows=60)
    results = written(benchmarks, project, "inference", measured)
    assert results["rows"] == 60
    assert results["ratio"]["median"] > 0


def test_evaluation(benchmarks: dict[str, ModuleType], project: Path) -> None:
    measured = benchmarks["evaluation"].measure(
        benchmarks["report"].QUICK, 1, n_candles=400, longest=20, n_calls=2
    )
    results = written(benchmarks, project, "evaluation", measured, LEARNING_DOCUMENT)
    assert list(results["milliseconds"]) == ["100", "200", "400", "800", "1600"]
    assert results["sizes"]["400"] == {"entries": 20, "states": 388}
    assert list(results["parity"]) == ["classic", "any", "any, renewed"]
    assert max(results["parity"].values()) < 1e-10
    assert [each["at_most"] for each in results["requirements"]] == [5.0, 1.2]


def test_the_evaluation_of_the_issue_is_measured(benchmarks: dict[str, ModuleType]) -> None:
    evaluation = benchmarks["evaluation"]
    assert (evaluation.CANDLES, evaluation.LONGEST_TRADE) == (10_000, 300)
    assert evaluation.CANDLES // evaluation.CANDLES_PER_ENTRY == 500
    assert evaluation.FACTORS[-1] / evaluation.FACTORS[0] == 16


@pytest.mark.parametrize("wrong", ["flat_values", "leave_advantages", "state_occupancy"])
def test_evaluations_that_differ_are_not_timed(
    wrong: str, benchmarks: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = benchmarks["evaluation"]
    right = evaluation.evaluate_policy

    def spoiled(*args: Any, **named: Any) -> Any:
        found = right(*args, **named)
        getattr(found, wrong)[20] += 1e-6
        return found

    monkeypatch.setattr(evaluation, "evaluate_policy", spoiled)
    with pytest.raises(benchmarks["report"].ParityError, match=wrong):
        evaluation.check_parity()


def test_families(benchmarks: dict[str, ModuleType], project: Path) -> None:
    """Two draws in tiny: every side trades, and all runs stand in the tables."""
    families = benchmarks["families"]
    plan = families.quick_plan(families.Plan())
    runs = [families.run(task) for task in families.tasks_of(plan).values()]
    ours, features = {"exact", "base", "ridge", "lightgbm"}, {"features"}
    assert [set(run["log_returns"]) for run in runs] == [ours, features] * 2
    assert len({run["form"] for run in runs}) == 2
    told = [
        {**run, "reference": 1.0, "log_returns": dict.fromkeys(run["log_returns"], 0.5)}
        for run in runs
    ]
    told[2]["log_returns"]["ridge"] = 0.6
    told[2]["edge_found"] = True
    measured = families.measured(plan, told)
    whole = written(benchmarks, project, "families", measured, LEARNING_DOCUMENT)
    assert len(whole["runs"]) == 4
    assert "finds an edge in 25 days: exact in 50%, features in 0%" in "".join(measured.tables)
    leads = [each.measured for each in measured.requirements]
    assert leads == pytest.approx([0.0, -0.1])
    nothing = families.measured(plan, [{**run, "reference": 0.01} for run in runs])
    assert not nothing.requirements
    assert "2 of 2 draws are left out" in nothing.tables[-1]


def tiny_learning(benchmarks: dict[str, ModuleType], **changes: Any) -> Any:
    learning = benchmarks["learning"]
    plan = learning.Plan(**{"kinds": ("linear", "none"), "seeds": (1,), "threads": 1, **changes})
    plan = learning.quick_plan(plan)
    # So few candles foretell nothing, and are learned all the same.
    return replace(plan, settings={**(plan.settings or {}), "evidence": 0.0})


def test_learning(benchmarks: dict[str, ModuleType], project: Path) -> None:
    """Every kind of side learns; the suite is done in two parts, and a third has nothing to do."""
    learning, store = benchmarks["learning"], benchmarks["run_store"].RunStore(project / "runs")
    run = benchmarks["learning_runs"].run
    done: list[str] = []

    def call(task: dict[str, Any]) -> dict[str, Any]:
        done.append(f"{task['kind']} {task['side']}")
        result: dict[str, Any] = run(task)
        return result

    plan = tiny_learning(benchmarks, sides=("exact", "after", "before", "before-sb3", "all-passes"))
    part = tiny_learning(benchmarks, kinds=("none",), sides=("exact",))
    learning.complete(part, store, call=call)
    for _ in range(2):
        learning.complete(plan, store, call=call)
    assert Counter(done) == Counter(
        [
            *(f"{kind} {side}" for side in ("exact", "after", "before") for kind in plan.kinds),
            "linear before-sb3",
            "linear all-passes",
        ]
    )
    runs = store.results(learning.tasks_of(plan))
    results = written(
        benchmarks, project, "learning", learning.measured(plan, runs), LEARNING_DOCUMENT
    )
    assert len(results["runs"]) == len(done)
    for each in results["runs"]:
        assert each["learned_candles"] == (400 if each["side"] == "all-passes" else 340)
        assert len(each["curve"]) == each["updates"] >= 1
        assert [row[0] for row in each["curve"]][-1] == each["steps"]
        assert sorted(row[1] for row in each["curve"]) == [row[1] for row in each["curve"]]
        assert each["log_return"] <= each["oracle"]
        assert (each["reference"] > 0.0) == (each["kind"] == "linear")
    judged = [requirement["what"] for requirement in results["requirements"]]
    assert "held out, exact less *after*, `linear`" in judged
    assert "trades, `none`" in judged
    assert "30 cycles on 400 candles, all included" in judged


def test_peers_are_sides_of_the_learning_suite(
    benchmarks: dict[str, ModuleType], project: Path
) -> None:
    """Alone they take seconds; what was run at another build stays in the table, and says so."""
    learning, store = benchmarks["learning"], benchmarks["run_store"].RunStore(project / "runs")
    plan = tiny_learning(benchmarks, kinds=("linear",), sides=("ridge", "lightgbm"))
    learning.complete(plan, store, call=benchmarks["learning_runs"].run)
    runs = store.results(learning.tasks_of(plan))
    assert [run["side"] for run in runs] == ["ridge", "lightgbm"]
    for run in runs:
        assert run["learned_candles"] == 340
        ((steps, seconds, log_return, n_trades),) = run["curve"]
        assert (steps, seconds) == (0, run["seconds"])
        assert (log_return, n_trades) == (run["log_return"], run["n_trades"])
        assert log_return < run["oracle"]
    assert learning.measured(plan, runs).tables[0].count("ridge regression") == 1  # no lead alone
    older = project / "older.json"
    facts = {"n_candles": 400, "threads": 1, "commit": "built-before"}
    ours = learned("exact", [[10, 1.0, 0.9, 5]], **facts)
    stale = {**runs[0], "commit": "built-before", "log_return": 99.0}
    older.write_text(json.dumps({"runs": [ours, stale]}), encoding="utf-8")
    kept = learning.kept_runs(older, runs)
    assert kept == [ours]
    assert learning.kept_runs(project / "missing.json", runs) == []
    whole = learning.Plan(kinds=("linear",), seeds=(1,))
    found = learning.measured(whole, [*runs, *kept])
    shares = found.tables[0].splitlines()
    assert "ridge regression | LightGBM" in shares[0]
    cells = [cell.strip() for cell in shares[2].split("|")]
    best = max(100.0 * run["log_return"] / run["reference"] for run in runs)
    assert cells[2] == "90.0"
    assert float(cells[5]) == pytest.approx(90.0 - best, abs=0.06)
    (row,) = [line for line in found.tables[1].splitlines() if "| exact advantages " in line]
    assert row.rstrip(" |").endswith("built-before")
    (lead,) = [each for each in found.requirements if "the better peer" in each.what]
    assert lead.at_least == -2.0
    peers = [line for line in found.tables[1].splitlines() if "| LightGBM " in line]
    assert [cell.strip() for cell in peers[0].split("|")][-3] == "-"


def learned(side: str, curve: list[list[float]], **facts: Any) -> dict[str, Any]:
    """Return a run on the linear market whose reference earns 1."""
    last = curve[-1]
    values = {"kind": "linear", "side": side, "seed": 1, "steps": last[0], "seconds": last[1]}
    values |= {"log_return": last[2], "n_trades": 5, "reference": 1.0, "oracle": 2.0}
    values |= {"learned_candles": 10, "wanted_steps": 100, "rollout_steps": 50, "commit": "a"}
    return {**values, "curve": curve, **facts}


def test_times_to_the_goal(benchmarks: dict[str, ModuleType]) -> None:
    learning = benchmarks["learning"]
    ours = learned("exact", [[10, 1.0, 0.5, 5], [20, 2.0, 0.8, 5], [30, 3.0, 0.9, 5]])
    late = learned("after", [[50, 4.0, 0.7, 5], [100, 8.0, 0.85, 5]])
    never = learned("before", [[100, 4.0, 0.6, 5], [150, 6.0, 0.3, 5]])
    stock = learned("after-sb3", [[50, 100.0, 0.5, 5], [100, 200.0, 0.6, 5]])
    assert learning.reached(ours) == (20, 2.0)
    assert learning.reached(never) is None
    plan = learning.Plan(kinds=("linear",), seeds=(1,))
    measured = learning.measured(plan, [ours, late, never, stock])
    times = measured.tables[1]
    (row,) = [line for line in times.splitlines() if "| *after*  " in line]
    # 100 steps at 2 seconds per step of stable-baselines3, 2 seconds of exact advantages.
    assert [cell.strip() for cell in row.split("|")][3:6] == ["1 of 1", "200 at SB3's speed", "100"]
    (row,) = [line for line in times.splitlines() if "| *before*  " in line]
    assert [cell.strip() for cell in row.split("|")][3:7] == [
        "0 of 1",
        "never in 30 cycles",
        "-",
        "60.0",
    ]
    (ratio,) = [each for each in measured.requirements if "time to" in each.what]
    assert (ratio.measured, ratio.met) == (100.0, True)
    # Without a run of stable-baselines3 there is no time to compare with.
    measured = learning.measured(plan, [ours, late, never])
    assert "speed not measured" in measured.tables[1]
    assert not [each for each in measured.requirements if "time to" in each.what]


def test_another_number_of_passes_is_no_comparison(benchmarks: dict[str, ModuleType]) -> None:
    learning = benchmarks["learning"]
    short = learned("after", [[50, 4.0, 0.7, 5]])
    with pytest.raises(benchmarks["report"].ParityError, match="linear after: 50 steps, not 100"):
        learning.measured(learning.Plan(kinds=("linear",)), [short])


def test_opponents_keep_their_settings(benchmarks: dict[str, ModuleType]) -> None:
    from mtf_scalper.checks.speed import BEFORE
    from mtf_scalper.settings import Settings

    settings_of = benchmarks["learning_runs"].settings_of
    report = benchmarks["report"]
    after = Settings(**settings_of("after", {}, 2))
    recipe = report.Workload().settings(EntryMode.ANY)
    for name in ("n_envs", "n_steps", "batch_size", "n_epochs", "net_arch", "gamma", "clip_range"):
        assert getattr(after, name) == getattr(recipe, name)
    assert after.train_cycles == 30
    before = Settings(**settings_of("before-sb3", {}, 2))
    assert {name: getattr(before, name) for name in BEFORE} == dict(BEFORE)
    for side in ("after", "before"):
        quicker = Settings(**settings_of(f"{side}-sb3", {}, 2)).changed(
            algorithm="fast_ppo", vec_env="batched"
        )
        assert Settings(**settings_of(side, {}, 2)) == quicker
    exact = Settings(**settings_of("exact", {}, 2))
    assert exact == Settings(cpu_count=2, device="cpu")


def test_a_run_is_done_again_when_its_task_has_changed(
    benchmarks: dict[str, ModuleType], tmp_path: Path
) -> None:
    store = benchmarks["run_store"].RunStore(tmp_path / "runs")
    calls: list[int] = []

    def call(task: dict[str, Any]) -> dict[str, Any]:
        calls.append(task["size"][0])
        return {"commit": "a", "log_return": 0.5}

    for size in (1, 1, 2):
        store.complete({"one": {"size": (size,)}}, call)
    assert calls == [1, 2]
    store.complete({"one": {"size": (2,)}}, call, again=True)
    assert calls == [1, 2, 2]
    assert store.load("one", {"size": (1,)}) is None
    assert store.results({"one": {"size": (2,)}, "two": {}}) == [{"commit": "a", "log_return": 0.5}]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".gitignore", "one.json"]


def test_real_candles(
    benchmarks: dict[str, ModuleType],
    project: Path,
    real_candles_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MTF_SCALPER_CANDLES", str(real_candles_folder))
    real, store = benchmarks["real_candles"], benchmarks["run_store"].RunStore(project / "runs")
    plan = real.quick_plan(real.Plan(pairs=("BTC/USDT:USDT",), entries=("any",), threads=1))
    real.complete(plan, store, call=real.run)
    runs = store.results(real.tasks_of(plan))
    results = written(benchmarks, project, "real_candles", real.measured(runs), LEARNING_DOCUMENT)
    assert [run["side"] for run in results["runs"]] == ["exact", "after", "before"]
    for name in ("flat", "buy_and_hold", "classic_exits", "oracle"):
        assert len({run[name] for run in results["runs"]}) == 1
    for run in results["runs"]:
        assert len(run["random_exits"]) == 100
        assert run["log_return"] <= run["oracle"]


def test_windows_of_real_candles(
    benchmarks: dict[str, ModuleType],
    real_candles_folder: Path,
) -> None:
    real = benchmarks["real_candles"]
    market = real.whole_market(real_candles_folder, "SOL/USDT:USDT")
    learned, tested = real.window_of(market, 12, real.Plan(), 10)
    assert (len(learned), len(tested)) == (30 * 288, 7 * 288 + 9)
    # The first decision, at the tenth row, is made at the first candle after those of the training.
    assert tested.dates[9] == learned.dates[-1] + np.timedelta64(5, "m")
    assert tested.dates[-1] == np.datetime64("2024-12-30T23:55")
    assert np.abs(learned.features[: -int(0.15 * len(learned))]).max() <= 1.0 + 1e-6
    due = learned.dates[learned.funding != 0.0]
    assert len(due) == 90
    assert not due[due.astype("datetime64[h]").astype(int) % 8 != 0].size


def test_without_real_candles_the_reason_is_told(
    benchmarks: dict[str, ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MTF_SCALPER_CANDLES", str(tmp_path / "none"))
    assert benchmarks["real_candles"].main([]) == 0
    assert "nothing was measured: MTF_SCALPER_CANDLES" in capsys.readouterr().out


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


def test_every_learning_benchmark_has_its_place_in_the_document(
    benchmarks: dict[str, ModuleType],
) -> None:
    text = LEARNING_DOCUMENT.read_text(encoding="utf-8")
    for name in LEARNING_NAMES:
        assert text.count(f"<!-- {name}: written by benchmarks/{name}.py -->") == 1
        assert text.count(f"<!-- end of {name} -->") == 1
        assert LEARNING_DOCUMENT.name == benchmarks[name].DOCUMENT


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
    from mtf_scalper.checks.speed import BEFORE
    from mtf_scalper.settings import Settings

    workload = benchmarks["report"].Workload()
    assert workload.settings(EntryMode.ALWAYS) == Settings(
        advantage="gae",
        n_epochs=10,
        train_cycles=4,
        cpu_count=2,
        device="cpu",
        rules=benchmarks["report"].shipped_rules(EntryMode.ALWAYS),
    )
    before = (workload.before_n_steps, workload.before_batch_size, workload.before_net_arch)
    assert before == (BEFORE["n_steps"], BEFORE["batch_size"], BEFORE["net_arch"])


def test_every_run_of_a_benchmark_leaves_a_record(
    benchmarks: dict[str, ModuleType], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = benchmarks["report"]
    bounds = [report.Requirement("ratio", 2.0, at_least=1.0), report.Requirement("s", 9, at_most=1)]
    found = report.Measured({"ratio": 2.0}, ["| a |"], bounds)
    monkeypatch.setattr(report, "quick_project", lambda _: project)
    monkeypatch.setattr(sys, "argv", ["startup.py", "--quick", "--repeats", "1"])
    assert report.run("startup", "What it is.", lambda *_: found) == 0
    (run,) = runs_in(project / "user_data" / "runs")
    assert (run.kind, run.verdict) == ("benchmark-startup", "1 of 2 requirements met")
    assert run.settings["repeats"] == 1
    assert [check["verdict"] for check in run.checks()] == ["passed", "failed"]
    results = json.loads((run.folder / "results.json").read_text())
    assert results == json.loads((project / "benchmarks/results/startup.json").read_text())

    def without_parity(*_: object) -> None:
        raise report.ParityError("other trades")

    assert report.run("startup", "What it is.", without_parity) == 1
    assert (runs_in(run.folder.parent)[0].status, runs_in(run.folder.parent)[0].verdict) == (
        "failed",
        "other trades",
    )


def test_false_alarms(benchmarks: dict[str, ModuleType], project: Path) -> None:
    alarms = benchmarks["false_alarms"]
    names = ["planted: linear", "synthetic, strength 0, noise traded, no fees"]
    changes = {
        "timerange": "20240201-20240203",
        "days": [2, 1],
        "small": {"net_arch": [8], "train_cycles": 1},
    }
    tasks = alarms.tasks_of(names, 1, changes)
    store = benchmarks["run_store"].RunStore(project / "runs")
    store.complete(tasks, alarms.run)
    runs = store.results(tasks)
    assert [run["market"] for run in runs] == names
    # Two days are too few for any verdict but this.
    assert all("2 days are too few" in run["verdict"] or run["degenerate"] for run in runs)
    assert runs[1]["n_trades"] > 0
    # As if one of them had been an alarm: a share of one in one, of which little is known.
    alarmed = [{**run, "found": run["market"] == names[1]} for run in runs]
    measured = alarms.measured(alarmed)
    results = written(benchmarks, project, "false_alarms", measured, EVIDENCE_DOCUMENT)
    assert [run["found"] for run in results["runs"]] == [False, True]
    (requirement,) = measured.requirements
    assert requirement.what == f"false alarms, {names[1]}"
    assert not requirement.met
    assert "1 (100%)" in measured.tables[0]
    assert "21% to 100%" in measured.tables[0]


def test_tuning(benchmarks: dict[str, ModuleType], project: Path) -> None:
    tuning = benchmarks["tuning"]
    changes = {
        "timerange": "20240201-20240218",
        "days": [2, 1],
        "locked": 0.82,
        "trials": 2,
        "settings": {"net_arch": [8], "train_cycles": 1},
    }
    tasks = tuning.tasks_of(1, changes)
    store = benchmarks["run_store"].RunStore(project / "runs")
    store.complete(tasks, tuning.run)
    runs = store.results(tasks)
    assert [run["n_trials"] for run in runs] == [2, 2]
    assert all("on the 14 locked days" in run["sentence"] for run in runs)
    # As if something had been found where there is nothing, and a rate at once where there is.
    shown = [
        {**runs[0], "best": 1.0, "base": 0.0, "found_at": 2},
        {**runs[1], "found": True},
    ]
    measured = tuning.measured(shown)
    results = written(benchmarks, project, "tuning", measured, TUNING_DOCUMENT)
    assert [run["seed"] for run in results["runs"]] == [0, 0]
    at, found, alarms = measured.requirements
    assert (at.measured, at.met) == (2, True)
    assert found.measured == float(runs[0]["found"])
    assert (alarms.measured, alarms.met) == (1.0, False)
    assert "1 (100%)" in measured.tables[1]


def test_interval_of_a_share(benchmarks: dict[str, ModuleType]) -> None:
    """The example of 15 in 30 is Wilson's by hand: z = 1.96, half = 0.168."""
    wilson = benchmarks["false_alarms"].wilson
    assert wilson(15, 30) == pytest.approx((0.3315, 0.6685), abs=1e-3)
    assert wilson(0, 50)[0] == 0.0


def test_scale(benchmarks: dict[str, ModuleType], project: Path) -> None:
    """The gain is that of walls of one round, the overhead what a worker does beside its work."""
    scale = benchmarks["scale"]
    works, digests = [1.0] * 60, ["a"] * 60
    sides = [
        scale.Throughput("one process, two threads", 1, 42.0, works, digests),
        scale.Throughput("Ray, one worker of one CPU", 1, 61.0, works, digests),
        scale.Throughput("Ray, two workers of one CPU", 2, 31.0, works, digests),
        scale.Throughput("two processes", 2, 30.5, works, digests),
    ]
    slow = [replace(each, wall=4.0 * each.wall) for each in sides[:2]]
    quick = [replace(each, wall=each.wall / 4.0) for each in sides[:2]]
    rounds = [[*slow, *sides[2:]], sides, [*quick, *sides[2:]]]
    many = [
        scale.Simulated(1_000, 0, 2.0, 1.0, 0, 3, 1.0),
        scale.Simulated(100_000, 0, 320.0, 100.0, 0, 300, 9.0),
        scale.Simulated(10_000, 2, 40.0, 10.0, 8, 30, 2.0),
    ]
    measured = scale.measured(rounds, many)
    gain, over_threads, overhead, growth, memory = measured.requirements
    assert gain.measured == pytest.approx(61 / 31)
    assert over_threads.measured == pytest.approx(42 / 31)
    assert overhead.measured == pytest.approx(2 * 31 / 60 - 1.0)
    assert growth.measured == pytest.approx(3.2 / 2.0)
    met = [each.met for each in (gain, over_threads, overhead, growth, memory)]
    assert met == [True, True, True, False, True]
    assert "| 10,000  | 2 " in measured.tables[1]
    document = BENCHMARKS.parent / "docs" / "scale.md"
    path = project / "docs" / document.name
    path.write_text(document.read_text(encoding="utf-8"), encoding="utf-8")
    benchmarks["report"].write("scale", measured, 1, project, document.name)
    assert "two workers over one worker" in path.read_text(encoding="utf-8")

"""The validation: its plan, its exit code, and what it observes of a tiny exact run."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mtf_scalper.checks.checks import judge
from mtf_scalper.checks.exact_checks import judge_exact
from mtf_scalper.checks.facts import RunFacts
from mtf_scalper.checks.speed import BEFORE
from mtf_scalper.errors import MarketError
from mtf_scalper.records.check import Check, Recipe, Verdict
from mtf_scalper.records.reader import Run, Status, runs_in
from mtf_scalper.runs import validation
from mtf_scalper.runs import validation_plan as plan_module
from mtf_scalper.runs.program import RunError
from mtf_scalper.runs.validation import observe, run_validation
from mtf_scalper.runs.validation_plan import ValidationPlan, plan_validation, training_market
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

# A training of the tiny run is over between two samples.
NOT_OF_A_TINY_EXACT_RUN = {
    "exact: environment processes",
    "exact: CPU use in trainings",
}
TINY_BEFORE = {"vec_env": "dummy", "n_steps": 32, "batch_size": 16, "net_arch": (8,)}

ROOT = Path(__file__).resolve().parents[2]
PAIR, ETH, SOL = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"


def test_a_program_that_fails_fails_every_check(
    tiny_plan: ValidationPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise RunError("freqtrade ended with exit code 2: no such pair")

    monkeypatch.setattr(validation, "run_backtest", fail)
    request = replace(tiny_plan.request, folder=tmp_path / "failed")
    facts, outcome = observe(replace(tiny_plan, request=request), Console(file=io.StringIO()))
    assert outcome is None
    checks = judge(facts, tiny_plan.recipe)
    assert [check.name for check in checks if check.has_passed] == []
    assert checks[0].reason == "freqtrade ended with exit code 2: no such pair"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.PASSED, Verdict.PASSED], 0),
        ([Verdict.PASSED, Verdict.FAILED], 1),
        ([Verdict.FAILED, Verdict.FAILED], 1),
    ],
)
def test_the_exit_code_is_zero_only_if_every_check_passed(
    verdicts: list[Verdict],
    code: int,
    tiny_plan: ValidationPlan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    checks = tuple(
        Check(f"check {number}", "[512, 256]", "2", verdict, "the reason" * (verdict == "failed"))
        for number, verdict in enumerate(verdicts)
    )
    monkeypatch.setattr(validation, "find_project", lambda: tiny_plan.request.project)
    monkeypatch.setattr(validation, "plan_validation", lambda *_, **__: tiny_plan)
    monkeypatch.setattr(validation, "observe", lambda *_: (RunFacts(), None))
    monkeypatch.setattr(validation, "judge", lambda *_: checks)
    output = tmp_path / "elsewhere"
    assert run_validation(False, output, None) == code
    printed = capsys.readouterr().out
    assert "[512, 256]" in printed
    assert ("check 1: the reason" in printed) is (code == 1)
    (folder,) = output.iterdir()
    written = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    assert written["passed"] is (code == 0)
    run = Run.open(tiny_plan.request.folder.parent / folder.name)
    assert run.kind == "validation"
    assert run.checks() == [check.as_dict() for check in checks]
    passed = sum(check.has_passed for check in checks)
    assert run.verdict == f"{passed} of {len(checks)} checks passed"


@pytest.mark.filterwarnings(
    # freqtrade's own use of pandas
    "ignore:The inplace keyword in:pandas.errors.Pandas4Warning",
    "ignore:Series.values returning an ndarray that drops:pandas.errors.Pandas4Warning",
)
def test_the_checks_hold_for_a_tiny_exact_run_and_it_leaves_a_whole_record(
    make_request: Any, tiny_plan: ValidationPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learned = {"advantage": "exact", "vec_env": "batched", "train_cycles": 3}
    request = make_request("exact", entry="always", **learned)  # so that there are trades
    recipe = replace(tiny_plan.recipe, advantage="exact", vec_env="batched", train_cycles=3)
    plan = replace(tiny_plan, request=request, recipe=recipe, before={**BEFORE, **TINY_BEFORE})
    observed: list[RunFacts] = []

    def judge_and_keep(facts: RunFacts, recipe: Recipe) -> tuple[Check, ...]:
        observed.append(facts)
        return judge_exact(facts, recipe)

    monkeypatch.setattr(validation, "judge", judge_and_keep)
    monkeypatch.setattr(validation, "find_project", lambda: request.project)
    monkeypatch.setattr(validation, "plan_validation", lambda *_, **__: plan)
    monkeypatch.chdir(request.project)
    before = {run.run_id for run in runs_in(request.folder.parent)}
    run_validation(False, None, None)
    (facts,) = observed
    assert facts.missing == {}
    failed = [check for check in judge_exact(facts, recipe) if not check.has_passed]
    assert [check for check in failed if check.name not in NOT_OF_A_TINY_EXACT_RUN] == []
    assert facts.speed is not None
    # Passes over all candles against one rollout of the settings before.
    assert (facts.speed.steps_before, facts.speed.steps_after % 4) == (32, 0)
    (run,) = (r for r in runs_in(request.folder.parent) if r.run_id not in before)
    assert run.status is Status.FINISHED
    assert run.manifest["pairs"] == [PAIR]
    assert (run.folder / "report.html").is_file()
    assert run.manifest["seeds"] == [42]
    assert run.manifest["data_digest"][PAIR]
    assert run.settings["train_cycles"] == 3
    assert run.settings["rules"]["stoploss"] == -0.1
    assert len(run.events("training_finished")) == 2
    assert {"update", "inference", "features", "backtest", "judging"} <= set(run.phases()["phase"])
    with (run.folder / "samples.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(run.samples()) > 0
    (archive,) = run.folder.glob("*.zip")
    assert run.outcome is not None
    assert run.outcome["results"]["freqtrade"] == archive.name
    trades = run.trades()
    assert len(trades) > 0
    equity = run.equity()
    assert set(equity["series"]) == {"agent", "oracle", "classic exits", "buy and hold", "flat"}
    last = equity.groupby("series")["log_return"].last()
    (figures,) = run.figures()
    log_return = figures["log_return"]["value"]
    assert last["agent"] == pytest.approx(log_return, abs=1e-12)
    assert last["oracle"] == pytest.approx(figures["oracle"], abs=1e-12)
    assert last["classic exits"] == pytest.approx(figures["classic_exits"], abs=1e-12)
    assert figures["n_trades"] == len(trades)
    assert trades["log_return"].sum() == pytest.approx(log_return, abs=1e-6)
    statistics = run.statistics()
    assert statistics is not None
    assert statistics["verdict"].startswith("no evidence of an edge: ")
    assert statistics["verdict"] in str(run.verdict)
    draws = run.random_exits()
    assert draws is not None
    assert len(draws[PAIR]) == 100
    assert run.checks()
    assert len(run.candles()) == len(equity) / 5
    assert len(run.predictions()) == 2 * 288


@pytest.fixture(scope="module")
def seven_weeks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory with ETH and SOL, enough for a plan, that ends in mid-day."""
    datadir = tmp_path_factory.mktemp("seven-weeks")
    spec = SyntheticSpec(pairs=(pair_spec(SOL), pair_spec(ETH)))
    write_datadir(spec, datadir, "2024-01-01", "2024-02-19 05:00")
    return datadir


def test_a_plan_takes_the_configured_pairs_first_and_the_last_whole_week(
    project: Path, seven_weeks: Path
) -> None:
    plan = plan_validation(project, full=False, datadir=seven_weeks)
    assert plan.request.overrides["exchange"] == {"pair_whitelist": [ETH, SOL]}
    assert plan.request.timerange == "20240212-20240219"
    assert plan.request.overrides["freqai"]["rl_config"]["train_cycles"] == 4
    assert plan.recipe == Recipe(train_cycles=4)
    reference = (project / "configs" / "reference_recipe.json").read_text(encoding="utf-8")
    changed = {"train_cycles": 4, "progress_bar": False}
    expected = dict(plan.request.overrides["freqai"])
    assert expected["rl_config"] == {**json.loads(reference)["freqai"]["rl_config"], **changed}
    assert plan.recipe.n_workers == 8
    assert plan.exact is not None
    shipped = Recipe(train_cycles=4, advantage="exact", vec_env="batched")
    assert plan.exact.recipe == shipped
    assert plan.exact.request.folder == Path(f"{plan.request.folder}-exact")
    expected["rl_config"] = {"advantage": "exact", **changed}
    assert plan.exact.request.overrides["freqai"] == expected
    assert plan.exact.request.timerange == plan.request.timerange
    assert plan.request.folder.parent == project / "user_data" / "runs"
    market = training_market(seven_weeks, plan.pair, plan.until)
    assert len(market) == 30 * 288
    assert market.entry_long.any()


def test_a_full_plan_trains_every_cycle(project: Path, seven_weeks: Path) -> None:
    plan = plan_validation(project, full=True, datadir=seven_weeks)
    assert plan.request.overrides["freqai"]["rl_config"]["train_cycles"] == 30
    assert plan.recipe == Recipe()


def test_a_given_folder_has_to_hold_candles_enough(
    project: Path, tiny_datadir: Path, tmp_path: Path
) -> None:
    for folder in (tiny_datadir, tmp_path):
        with pytest.raises(MarketError, match="no pair has 46 days of candles"):
            plan_validation(project, full=False, datadir=folder)


def test_without_data_the_demo_market_is_made(
    project: Path, seven_weeks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def demo_market(folder: Path) -> Path:
        made.append(folder)
        return seven_weeks

    monkeypatch.setattr(plan_module, "demo_market", demo_market)
    plan = plan_validation(project, full=False, datadir=None)
    assert made == [project]
    assert plan.request.datadir == seven_weeks


def test_own_candles_come_before_the_demo_market(
    project: Path, seven_weeks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "own_candles", lambda _: seven_weeks)
    monkeypatch.setattr(plan_module, "demo_market", lambda _: pytest.fail("not needed"))
    plan = plan_validation(project, full=False, datadir=None)
    assert plan.request.datadir == seven_weeks


def test_the_script_is_the_command() -> None:
    command = [sys.executable, "validate_monitoring.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--full" in done.stdout
    assert "--datadir" in done.stdout


def test_the_script_says_in_one_line_what_to_do_where_the_package_is_missing() -> None:
    command = [sys.executable, "-I", "-S", "validate_monitoring.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "mtf_scalper" in line
    assert "make install" in line

"""A search on a planted market: what it finds, what it never looks at, and what it leaves."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from rich.console import Console
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.engines.tasks import TaskError
from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.market.stored import FEE_RATE, RecordedPair
from mtf_scalper.records.reader import Run, Status, runs_in
from mtf_scalper.runs import tuning
from mtf_scalper.runs.evaluation import run_evaluation
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.runs.program import MODEL, STRATEGY
from mtf_scalper.runs.recipe_reader import read_recipe
from mtf_scalper.runs.tuning import run_final, run_search
from mtf_scalper.runs.tuning_plan import TuningPlan, tuning_plan
from mtf_scalper.settings import Settings
from mtf_scalper.tuning.space import search_space
from mtf_scalper.tuning.trials import FIRST_RUNG
from mtf_scalper.walk_forward import orders
from mtf_scalper.walk_forward.sources import PairSource, PlantedPairs, planted_recipe
from mtf_scalper.walk_forward.windows import Window

pytest.importorskip("optuna", reason="the extra tune is not installed")

# Of three days some policy is learned whose last weights are kept; at 1e-4 it learns nothing.
SMALL = {
    "net_arch": (16,),
    "train_cycles": 6,
    "window_size": 5,
    "cpu_count": 1,
    "device": "cpu",
    "policy_inputs": "features",
    "validation_share": 0.0,
    "weight_average": 0.0,
    "keep_bias": 0.5,
    "learning_rate": 1e-4,
}
RATE = "defaults = false\n[learning_rate]\nlow = 1e-3\nhigh = 1e-1\nlog = true\n"
N_TRIALS = 6


def plan_of(
    tmp_path: Path,
    kind: str = "linear",
    *,
    n_trials: int = N_TRIALS,
    text: str = RATE,
    source: PairSource | None = None,
    jobs: int = 1,
    **settings: Any,
) -> TuningPlan:
    recipe = planted_recipe(kind)
    recipe = replace(recipe, settings=recipe.settings.changed(**{**SMALL, **settings}))
    plan = EvaluationPlan(
        recipe=recipe,
        # Three days are too few to earn the fees as well.
        source=source or PlantedPairs(kind, 1, FEE_RATE if kind == "none" else 0.0),
        timerange="20240201-20240220",
        train_days=3,
        test_days=1,
        jobs=jobs,
    )
    file = tmp_path / "space.toml"
    file.write_text(text, encoding="utf-8")
    return tuning_plan(plan, name="mine", n_trials=n_trials, space=file, locked=0.73)


def searched(plan: TuningPlan, project: Path) -> str:
    text = io.StringIO()
    assert run_search(plan, project, Console(file=text, width=80)) == 0
    return text.getvalue()


def looked_at(plan: TuningPlan, project: Path) -> str:
    text = io.StringIO()
    assert run_final(plan, project, Console(file=text, width=80)) == 0
    return text.getvalue()


def latest(project: Path) -> Run:
    return runs_in(project / "user_data" / "runs")[0]


def study_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "study.json").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Done:
    """A search that is over."""

    project: Path
    plan: TuningPlan
    text: str
    run: Run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    project = tmp_path_factory.mktemp("project")
    plan = plan_of(project)
    text = searched(plan, project)
    return Done(project, plan, text, latest(project))


def test_a_mis_set_learning_rate_is_found(done):
    study = study_of(done.run)
    assert len(study["trials"]) == N_TRIALS
    assert study["trials"][0]["values"] == {"learning_rate": 1e-4}
    best = study["trials"][study["best"]]
    assert best["values"]["learning_rate"] > 1e-3
    assert best["objective"] > study["trials"][0]["objective"]
    assert best["objective"] == max(each["objective"] or -1.0 for each in study["trials"])
    configuration = json.loads(
        (done.project / "user_data" / "studies" / "mine" / "best.json").read_text(encoding="utf-8")
    )
    assert configuration["freqai"]["rl_config"] == best["values"]


def test_the_search_says_that_it_says_nothing_yet(done):
    lines = done.text.splitlines()
    assert lines[0] == done.run.verdict
    assert "the locked ones say, once, with --final" in lines[0]
    assert "0, as configured" in done.text
    assert max(len(line) for line in lines if line.startswith(("┃", "│"))) <= 80
    assert done.run.kind == "tune"
    assert done.run.status is Status.FINISHED


def test_poor_trials_are_stopped_after_few_windows(tmp_path, done):
    """Beside a good configuration the mis-set rates of a generation are poor."""
    text = "defaults = false\n[learning_rate]\nlow = 1e-7\nhigh = 2e-7\n"
    plan = plan_of(tmp_path, text=text, learning_rate=5e-3)
    searched(plan, tmp_path)
    states = [
        (each["state"], len(each["windows"])) for each in study_of(latest(tmp_path))["trials"]
    ]
    assert states[:4] == [("complete", 5)] * 4  # there is nothing to be worse than yet
    assert ("stopped", 4) in states[4:]


class Disturbed:
    """Another source's pairs whose candles are others from a day on."""

    def __init__(self, source: PairSource, day: str) -> None:
        self._source, self._day = source, np.datetime64(day)
        self.name = source.name

    def load(self, pair: str, windows: Sequence[Window]) -> RecordedPair:
        recorded = self._source.load(pair, windows)
        market = recorded.market
        rows = np.flatnonzero(market.dates >= self._day)
        rng = np.random.default_rng(0)
        features, ohlc = recorded.features.copy(), market.ohlc.copy()
        features[rows] += rng.normal(5.0, 3.0, features[rows].shape)
        ohlc[rows] *= np.linspace(1.0, 1.5, len(rows))[:, None]
        changed = replace(market, features=features.astype(np.float32), ohlc=ohlc)
        return RecordedPair(changed, features, recorded.candles)


def test_what_is_locked_away_has_no_part_in_the_search(tmp_path, done):
    assert done.plan.search.timerange == "20240201-20240206"
    assert done.plan.locked.timerange == "20240206-20240220"
    # The candle at whose open the last trade of the search is closed belongs to it.
    source = Disturbed(PlantedPairs("linear", 1, 0.0), "2024-02-06T00:05")
    searched(plan_of(tmp_path, source=source), tmp_path)
    ours, theirs = study_of(done.run), study_of(latest(tmp_path))
    assert ours["trials"] == theirs["trials"]


@pytest.mark.processes
@pytest.mark.parametrize("on_ray", [False, True], ids=["processes", "ray"])
def test_the_same_trials_whoever_learns(tmp_path, done, on_ray):
    if on_ray:
        pytest.importorskip("ray", reason="the extra cluster is not installed")
    plan = plan_of(tmp_path, n_trials=2, jobs=2)
    searched(replace(plan, search=replace(plan.search, on_ray=on_ray)), tmp_path)
    run = latest(tmp_path)
    assert study_of(run)["trials"] == study_of(done.run)["trials"][:2]
    tasks = run.events("task")
    assert len(tasks) == 2 * len(plan.search.windows())
    assert {each["trial"] for each in tasks} == {0, 1}
    assert all(each["node"] and each["state"] == "finished" for each in tasks)


PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from rich.console import Console
from mtf_scalper.runs.tuning import run_search
from test_tuning import plan_of
run_search(plan_of(Path(), n_trials=5), Path(), Console())
"""


@pytest.mark.processes
@pytest.mark.parametrize("n_tasks", [2, 21], ids=["first generation", "second generation"])
def test_a_search_that_was_killed_goes_on_as_if_it_never_had_been(tmp_path, done, n_tasks):
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path) as program:
        while program.poll() is None:
            told = list(tmp_path.glob("user_data/runs/*/events.jsonl"))
            if told and told[0].read_text(encoding="utf-8").count('"event": "task"') >= n_tasks:
                program.kill()
                break
            time.sleep(0.01)
        assert program.wait() != 0, "it ended by itself"
    assert latest(tmp_path).status is Status.KILLED
    searched(plan_of(tmp_path, n_trials=5), tmp_path)
    assert study_of(latest(tmp_path))["trials"] == study_of(done.run)["trials"][:5]


@pytest.fixture
def lost_trial(monkeypatch):
    """Let trainings of one learning rate end as if their process were killed each time."""
    learn = orders.learn_order

    def lose(recorded, order):
        if order.settings.learning_rate == 1e-4:
            raise TaskError("its process was killed")
        return learn(recorded, order)

    monkeypatch.setattr(orders, "learn_order", lose)


@pytest.mark.usefixtures("lost_trial")
def test_a_trial_that_is_killed_each_time_is_untradable_and_the_others_go_on(tmp_path, done):
    searched(plan_of(tmp_path, n_trials=3), tmp_path)
    run = latest(tmp_path)
    lost, *others = study_of(run)["trials"]
    assert lost["state"] == "untradable"
    assert lost["reason"] == "planted-linear, window 20240201, seed 42: its process was killed"
    assert others == study_of(done.run)["trials"][1:3]
    states = [each["state"] for each in run.events("task") if each["trial"] == 0]
    assert states == ["retried", "retried", "failed"] * FIRST_RUNG
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert f"{FIRST_RUNG} tasks failed for good" in page
    assert 'class="sort">trial<' in page


def test_a_later_verdict_on_these_days_counts_all_trials(done):
    plan = done.plan.search
    assert run_evaluation(plan, done.project, Console(file=io.StringIO())) == 0
    run = runs_in(done.project / "user_data" / "runs")[0]
    assert run.kind == "evaluate"
    kept = runs_in(done.run.folder / "trials")
    assert len(kept) == N_TRIALS
    days = [each.daily().query("series == 'agent'")["log_return"].to_numpy() for each in kept]
    different = {tuple(each.round(9)) for each in days}
    # The configuration's own trial is this very variant.
    assert run.statistics()["n_variants"] == len(different)


def test_the_locked_days_are_looked_at_once(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, n_trials=2, learning_rate=2e-2)
    searched(plan, tmp_path)
    first = looked_at(plan, tmp_path)
    assert first.startswith("found: evidence of an edge over flat, buy and hold and random exits")
    assert "the best of 2 trials (deflated Sharpe ratio" in first
    assert "probability of overfitting" in first
    tune, evaluated = runs_in(tmp_path / "user_data" / "runs")[:2]
    if tune.kind != "tune":
        tune, evaluated = evaluated, tune
    assert evaluated.manifest["timerange"] == "20240206-20240220"
    assert tune.verdict == first.splitlines()[0]
    final = study_of(tune)["final"]
    assert final["found"]
    assert final["run"] == evaluated.run_id
    assert final["search"]["n_trials"] == 2

    def never(*_: Any) -> Any:
        raise AssertionError("the locked days are looked at again")

    monkeypatch.setattr(tuning, "recorded_evaluation", never)
    again = looked_at(plan, tmp_path)
    assert again.splitlines()[0] == first.splitlines()[0]
    assert "is told again" in again
    with pytest.raises(SettingsError, match="the locked part of 'mine' was looked at on"):
        run_search(replace(plan, n_trials=50), tmp_path, Console(file=io.StringIO()))


def test_where_there_is_no_signal_nothing_is_found(tmp_path):
    plan = plan_of(tmp_path, "none", n_trials=3, learning_rate=5e-3)
    searched(plan, tmp_path)
    said = looked_at(plan, tmp_path)
    assert said.startswith("nothing was found: on the 14 locked days no evidence of an edge")


REWARD = """
from mtf_scalper import reward


@reward
def mine(state, parameters):
    if parameters.rr > 1.5:
        return float("nan")
    return state.log_return
"""


def test_rewards_of_the_users_own_and_their_parameters_are_searched(tmp_path):
    """Those whose rewards are no numbers are untradable, and the search goes on."""
    (tmp_path / "own.py").write_text(REWARD, encoding="utf-8")
    own = f"{(tmp_path / 'own.py').as_posix()}:mine"
    text = (
        f"defaults = false\n[reward]\nchoices = ['log_return', '{own}']\n"
        f"[reward_parameters.rr]\nchoices = [1.0, 2.0]\nwhen = {{ reward = '{own}' }}\n"
    )
    plan = plan_of(tmp_path, text=text, learning_rate=5e-3, n_trials=8)
    assert plan.facts({})["rewards"].keys() == {own}
    searched(plan, tmp_path)
    by_values = {
        tuple(each["values"].values()): (each["state"], each["reason"])
        for each in study_of(latest(tmp_path))["trials"]
    }
    assert by_values["log_return",][0] == "complete"
    assert by_values[own, 1.0][0] == "complete"
    state, reason = by_values[own, 2.0]
    assert state == "untradable"
    assert "mine" in reason


def test_settings_that_do_not_go_together_are_untradable(tmp_path):
    text = "defaults = false\n[batch_size]\nchoices = [250]\n"
    plan = plan_of(tmp_path, text=text, n_trials=4)
    searched(plan, tmp_path)
    trials = study_of(latest(tmp_path))["trials"]
    wrong = [each for each in trials if each["values"]["batch_size"] == 250]
    assert wrong
    assert all(each["state"] == "untradable" for each in wrong)
    assert "is not a multiple of batch_size 250" in wrong[0]["reason"]


def test_a_search_in_which_nothing_can_be_traded_is_one_line(tmp_path):
    (tmp_path / "own.py").write_text(REWARD.replace("1.5", "0.0"), encoding="utf-8")
    own = f"{(tmp_path / 'own.py').as_posix()}:mine"
    plan = plan_of(tmp_path, n_trials=1, reward=own)
    with pytest.raises(MtfScalperError, match="'mine' has no trial that was traded to the end, of"):
        run_search(plan, tmp_path, Console(file=io.StringIO()))
    assert latest(tmp_path).status is Status.FAILED


def test_a_second_search_of_a_study_is_refused(tmp_path):
    folder = tmp_path / "user_data" / "studies" / "mine"
    folder.mkdir(parents=True)
    with (
        FileLock(folder / ".lock"),
        pytest.raises(SettingsError, match="--study: 'mine' is in use by another program"),
    ):
        run_search(plan_of(tmp_path), tmp_path, Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"locked": 0.5}, "--locked: 0.5 of 19 days are 10, and a verdict needs 14"),
        ({"locked": 0.9}, "--timerange: 1 days are left to search on, which is one window of"),
        ({"name": "../mine"}, "--study: '../mine' is no name"),
    ],
)
def test_what_cannot_be_searched_is_one_line(tmp_path, options, message):
    plan = replace(plan_of(tmp_path).search, timerange="20240201-20240220")
    with pytest.raises(SettingsError, match=message):
        tuning_plan(plan, **{"name": "mine", "n_trials": 4, **options})


def test_the_embargo_is_as_long_as_the_longest_trade_that_is_tried(tmp_path):
    text = "[rules.max_trade_duration_candles]\nlow = 12\nhigh = 96\n"
    assert plan_of(tmp_path).search.embargo == 49
    assert plan_of(tmp_path, text=text).search.embargo == 97


SPACE = """
[window_size]
low = 5
high = 20
[validation_share]
low = 0.05
high = 0.3
[policy_inputs]
choices = ["features", "forecasts"]
[reward_parameters.rr]
low = 0.5
high = 2.0
[rules]
entry = { choices = ["any", "classic"] }
max_trade_duration_candles = { low = 12, high = 96 }
stoploss = { low = -0.2, high = -0.02 }
trailing_stop = { choices = [true] }
trailing_stop_positive = { low = 0.01, high = 0.05, when = { "rules.trailing_stop" = true } }
"""


def test_a_configuration_with_the_best_laid_over_it_is_that_of_its_trial(project, tmp_path):
    """As freqtrade reads both, whatever section of it a setting stands in."""

    def read(*more: Path) -> Settings:
        shipped = project / "configs" / "config_rl_hybrid.json"
        files = (shipped, *more)
        return read_recipe(files, project / "user_data", tmp_path, STRATEGY, MODEL).settings

    (tmp_path / "space.toml").write_text(SPACE, encoding="utf-8")
    space = search_space(read(), tmp_path / "space.toml")
    values = {
        **space.base_values(),
        "learning_rate": 2e-4,
        "net_arch": [64, 64],
        "window_size": 7,
        "validation_share": 0.2,
        "policy_inputs": "features",
        "fee_warmup": 0.3,
        "reward_parameters.rr": 1.5,
        "rules.entry": "any",
        "rules.max_trade_duration_candles": 24,
        "rules.stoploss": -0.05,
        "rules.trailing_stop": True,
        "rules.trailing_stop_positive": 0.02,
    }
    best = tmp_path / "best.json"
    best.write_text(json.dumps(space.configuration(values, "mine")), encoding="utf-8")
    assert read(best) == space.settings(values)


def test_the_command_takes_a_planted_market(project, monkeypatch):
    monkeypatch.chdir(project)
    days = ["--timerange", "20240201-20240219", "--train-days", "3", "--test-days", "2"]
    words = ["tune", *days, "--planted", "none", "--trials", "1", "--locked", "0.75", "--jobs", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("best of 1 trials: the configuration as it is, held-out log")
    final = CliRunner().invoke(app, [*words, "--final"])
    assert final.exit_code == 0, final.output
    assert final.output.startswith("nothing was found: on the 14 locked days no evidence")
    both = CliRunner().invoke(app, [*words, "--final", "--output", "best.json"])
    assert both.exit_code == 2

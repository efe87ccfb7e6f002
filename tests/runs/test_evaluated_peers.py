"""Ridge and LightGBM as baselines of an evaluation: same windows, boundaries and costs."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.evaluation.peer_words import TITLES, beside_peers
from mtf_scalper.evaluation.peers import peer_runs
from mtf_scalper.records.reader import runs_in
from mtf_scalper.records.terminal import summary
from mtf_scalper.runs.evaluation import run_evaluation
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.walk_forward.learned_window import learn_window, window_task
from mtf_scalper.walk_forward.peer_walks import walk_peers
from mtf_scalper.walk_forward.sources import PlantedPairs, planted_recipe
from mtf_scalper.walk_forward.walk import walk

SMALL = {"net_arch": (8,), "train_cycles": 2, "cpu_count": 1, "device": "cpu"}


def plan_of(**fields):
    recipe = planted_recipe("linear")
    settings = recipe.settings.changed(**{**SMALL, **fields.pop("settings", {})})
    chosen = {"seeds": (1, 2), "train_days": 5, "test_days": 8, "with_peers": True, **fields}
    return EvaluationPlan(
        recipe=replace(recipe, settings=settings),
        source=PlantedPairs("linear", 1),
        timerange="20240201-20240217",
        n_draws=10,
        **chosen,
    )


def evaluated(plan, project):
    text = io.StringIO()
    code = run_evaluation(plan, project, Console(file=text, width=80))
    assert code == 0
    return text.getvalue(), runs_in(project / "user_data" / "runs")[0]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return evaluated(plan_of(), tmp_path_factory.mktemp("project"))


def test_record_table_and_page_have_them(done):
    text, run = done
    (pooled,) = [row for row in run.figures() if row["window"] is None and row["seed"] is None]
    tests = run.statistics()["superiority"]
    last = run.equity().sort_values("date").groupby("series")["log_return"].last()
    for name, title in TITLES.items():
        excess = pooled[f"excess_over_{name}"]
        assert excess["low"] <= excess["value"] <= excess["high"]
        assert pooled[name] == pytest.approx(last[title])
        assert excess["value"] == pytest.approx(pooled["log_return"]["value"] - pooled[name])
        assert 0.0 < tests[title]["p_value"] <= 1.0
        assert any(line.startswith(f"│ {title} ") for line in text.splitlines())
    assert beside_peers(pooled) in text.splitlines()
    assert "…" not in text
    assert max(len(line) for line in text.splitlines() if line.startswith(("┃", "│"))) <= 80
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for words in (
        "By days, the policy is",
        "above LightGBM",
        "above ridge",
        "beside best in hindsight",
    ):
        assert words in page
    shown = io.StringIO()
    for table in summary(run):
        Console(file=shown, width=80).print(table)
    assert "excess_over_lightgbm" in shown.getvalue()


def test_two_jobs_give_the_same(done, tmp_path):
    _, alone = done
    _, together = evaluated(plan_of(jobs=2), tmp_path)
    pd.testing.assert_frame_equal(alone.equity(), together.equity())
    assert alone.figures() == together.figures()
    assert alone.statistics() == together.statistics()


def test_without_the_option_there_are_none(tmp_path):
    text, run = evaluated(plan_of(with_peers=False, seeds=(1,)), tmp_path)
    assert "LightGBM" not in text
    assert set(run.statistics()["superiority"]) == {"flat", "buy and hold", "random exits"}
    assert "excess_over_ridge" not in run.figures()[0]


def test_they_learn_and_choose_as_the_policy_does_and_trade_all_tests_as_one_account():
    """In a single window that is what ``peer_runs`` does with the policy's own candles."""
    plan = plan_of(test_days=16, seeds=(1,))
    windows = plan.windows()
    recorded = plan.source.load(plan.recipe.pairs[0], windows)
    (window,) = windows
    task = replace(window_task(recorded, window, plan.settings, seed=1), with_peers=True)
    found = walk(recorded, windows, [learn_window(task)], plan.settings)
    alone = peer_runs(task.seen, task.choosing, task.tested, task.settings)
    (reference, *_), history = alone.values(), task.n_history
    assert history == 9
    for (name, run), title in zip(alone.items(), TITLES.values(), strict=True):
        walked = walk_peers(found)[title]
        assert len(walked.equity) == len(found.market)
        np.testing.assert_array_equal(
            run.actions[history:-2], walked.actions[: len(run.actions) - 11]
        )
        assert walked.trades, name
    assert reference.trades


def test_a_trade_goes_on_from_one_window_to_the_next():
    """Halves of a test decided by the same peers trade as the whole, boundary included."""
    plan = plan_of(test_days=16, seeds=(1,))
    windows = plan.windows()
    recorded = plan.source.load(plan.recipe.pairs[0], windows)
    task = replace(window_task(recorded, windows[0], plan.settings, seed=1), with_peers=True)
    whole = learn_window(task)
    held = np.zeros_like(whole.peers["ridge"])
    held[:, 1] = 1  # a long wherever there is none, never left
    both = {"ridge": held, "lightgbm": held}
    middle = len(held) // 2
    parts = [
        replace(
            whole,
            first_row=whole.first_row + rows.start,
            probabilities=whole.probabilities[rows],
            peers={name: each[rows] for name, each in both.items()},
        )
        for rows in (slice(0, middle), slice(middle, len(held)))
    ]
    settings = plan.settings.changed(rules={"entry": "any", "max_trade_duration_candles": 5000})
    (run, _) = walk_peers(walk(recorded, windows, parts, settings)).values()
    (trade,) = run.trades
    assert trade.open_row == 1
    assert trade.close_row == len(run.equity) - 1


def test_too_few_held_back_candles_are_refused_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr("mtf_scalper.runs.evaluation.learn_orders", None)
    plan = plan_of(settings={"validation_share": 0.0})
    with pytest.raises(SettingsError, match=r"^--peers: planted-linear: .* 2024-01-27 has 0 of th"):
        run_evaluation(plan, tmp_path, Console(file=io.StringIO()))
    assert not (tmp_path / "user_data").exists()


@pytest.mark.parametrize("missing", ["sklearn", "lightgbm"])
def test_a_missing_library_is_refused_before_any_training(missing, tmp_path, monkeypatch, project):
    import importlib

    real = importlib.import_module

    def import_module(name, *more):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=missing)
        return real(name, *more)

    monkeypatch.setattr("mtf_scalper.optional.importlib.import_module", import_module)
    monkeypatch.setattr("mtf_scalper.runs.evaluation.learn_orders", None)
    monkeypatch.chdir(project)
    options = ("--planted", "linear", "--timerange", "20240201-20240217", "--peers")
    result = CliRunner().invoke(app, ["evaluate", *options])
    assert isinstance(result.exception, MtfScalperError)
    assert str(result.exception).startswith(f"{missing} is not installed; install it with: ")
    assert "\n" not in str(result.exception)


def test_the_words_follow_the_interval():
    def row(low, high):
        return {"value": 0.2, "low": low, "high": high}

    words = beside_peers({"excess_over_ridge": row(0.1, 0.3), "excess_over_lightgbm": row(-0.1, 1)})
    assert words == (
        "the policy is above ridge (+0.200, 95% from +0.100 to +0.300); neither above nor below "
        "LightGBM (+0.200, 95% from -0.100 to +1.000)"
    )
    assert "below ridge" in beside_peers({"excess_over_ridge": row(-0.3, -0.1)})
    assert "too few days to tell" in beside_peers({"excess_over_ridge": row(None, None)})
    assert beside_peers({}) == ""

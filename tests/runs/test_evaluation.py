"""Both directions, and what an evaluation leaves: small nets, few days."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.errors import SettingsError
from mtf_scalper.evaluation.recipe import Recipe
from mtf_scalper.records.reader import Status, runs_in
from mtf_scalper.runs.agreement import Agreement
from mtf_scalper.runs.evaluation import run_evaluation
from mtf_scalper.runs.evaluation_plan import EvaluationPlan, plan_evaluation
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.walk_forward.learned_window import learn_window, window_task
from mtf_scalper.walk_forward.sources import PlantedPairs, RecordedPairs, planted_recipe
from mtf_scalper.walk_forward.walk import evaluate_walks, walk
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

SMALL = {"net_arch": (32,), "train_cycles": 20, "cpu_count": 1, "device": "cpu"}
PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")


def planted_plan(kind, seed, *, timerange="20240201-20240222", **settings):
    recipe = planted_recipe(kind)
    recipe = replace(recipe, settings=recipe.settings.changed(**{**SMALL, **settings}))
    return EvaluationPlan(
        recipe=recipe,
        source=PlantedPairs(kind, seed),
        timerange=timerange,
        train_days=14,
        test_days=21,
        embargo_candles=50,
        n_draws=40,
    )


def edge_of(plan):
    """Evaluate a planted market without a record."""
    windows = plan.windows()
    (pair,) = plan.recipe.pairs
    recorded = plan.source.load(pair, windows)
    learned = [learn_window(window_task(recorded, each, plan.settings, seed=1)) for each in windows]
    found = walk(recorded, windows, learned, plan.settings)
    return evaluate_walks({pair: [found]}, n_draws=plan.n_draws).edge


@pytest.mark.parametrize("seed", [1, 2])
def test_a_planted_signal_is_found(seed):
    edge = edge_of(planted_plan("linear", seed))
    assert edge.found
    assert edge.sentence.startswith("evidence of an edge over flat, buy and hold and random exits")


@pytest.mark.parametrize("seed", range(3))
def test_without_a_signal_nothing_is_found_although_it_trades(seed):
    # Nothing is held back, so that a policy is kept that trades on noise.
    edge = edge_of(planted_plan("none", seed, validation_share=0.0, train_cycles=8))
    assert not edge.found
    assert edge.p_value > 0.05


def test_a_policy_that_learned_nothing_stands_aside():
    edge = edge_of(planted_plan("none", 1, train_cycles=8))
    assert not edge.found
    assert edge.stands_aside
    assert "standing aside is the finding, the agent entered at 0 of " in edge.sentence


@pytest.fixture(scope="module")
def datadir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    spec = SyntheticSpec(seed=3, pairs=tuple(map(pair_spec, PAIRS)))
    write_datadir(spec, folder, "2023-12-25", "2024-01-25")
    return folder


@pytest.fixture(scope="module")
def plan(datadir):
    rules = TradeRules(
        entry="always",  # what so small a network learns in two passes declines them all
        stoploss=-0.1,
        minimal_roi={0: 0.04, 60: 0.01},
        max_trade_duration_candles=24,
    )
    settings = Settings(**{**SMALL, "train_cycles": 2, "net_arch": (8,)}, rules=rules)
    recipe = Recipe(settings=settings, pairs=PAIRS)
    return EvaluationPlan(
        recipe=recipe,
        source=RecordedPairs(datadir, recipe),
        timerange="20240108-20240124",
        seeds=(1, 2),
        train_days=4,
        test_days=8,
        n_draws=20,
        datadir=datadir,
    )


def evaluated(plan, project):
    text = io.StringIO()
    code = run_evaluation(plan, project, Console(file=text, width=80))
    return code, text.getvalue(), runs_in(project / "user_data" / "runs")[0]


@pytest.fixture
def without_importance(monkeypatch):
    """Leave out of an evaluation how much its features matter, which takes longest."""
    monkeypatch.setattr(
        "mtf_scalper.walk_forward.learned_window.permutation_importance", lambda *_, **__: []
    )


@pytest.fixture
def judged_only(without_importance, monkeypatch):
    """Leave out of an evaluation what does not go into its verdict and takes long."""
    monkeypatch.setattr("mtf_scalper.runs.evaluation.page_or_reason", lambda *_: "none")


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory):
    return evaluated(plan, tmp_path_factory.mktemp("project"))


def test_the_verdict_is_the_first_line_and_all_fits_into_80_columns(done):
    code, text, run = done
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == run.verdict
    assert "variant tried)" in lines[0]
    tables = [line for line in lines if line.startswith(("┃", "│"))]
    assert max(map(len, tables)) <= 80
    assert "…" not in text
    assert str(run.folder.name) in lines[-1]


def test_every_part_of_the_record_is_filled(done):
    _, _, run = done
    assert run.status is Status.FINISHED
    assert run.manifest["pairs"] == list(PAIRS)
    assert run.manifest["seeds"] == [1, 2]
    assert len({*run.manifest["data_digest"].values()}) == 2
    trained = run.events("training_finished")
    assert {(e["pair"], e["window"], e["seed"]) for e in trained} == {
        (pair, window, seed)
        for pair in PAIRS
        for window in ("20240108", "20240116")
        for seed in (1, 2)
    }
    assert len(run.events("window")) == 4
    assert len(run.history())
    assert len(run.samples())
    assert set(run.candles()["pair"]) == set(PAIRS)
    assert set(run.predictions()["pair"]) == set(PAIRS)
    assert {"phase"} <= {event["event"] for event in run.events()}
    assert set(run.random_exits()) == {*PAIRS, "all"}
    assert len(run.random_exits()["all"]) == 20
    assert set(run.importance()) >= {"%-body", "%-adx_gen_1h"}
    assert run.statistics()["verdict"] == run.verdict
    assert (run.folder / "report.html").is_file()


def test_figures_agree_with_equity_and_trades(done):
    _, _, run = done
    equity, trades = run.equity(), run.trades()
    last = equity.sort_values("date").groupby(["pair", "series", "seed"], dropna=False).last()
    by_key = {(row["pair"], row["window"], row["seed"]): row for row in run.figures()}
    for pair in (*PAIRS, "all"):
        agent = last["log_return"].loc[pair, "agent"]
        pooled = by_key[pair, None, None]
        assert pooled["log_return"]["value"] == pytest.approx(agent.mean())
        assert pooled["buy_and_hold"] == pytest.approx(
            last["log_return"].loc[pair, "buy and hold"].iloc[0]
        )
        assert pooled["oracle"] == pytest.approx(last["log_return"].loc[pair, "oracle"].iloc[0])
    for pair in PAIRS:
        for seed in (1, 2):
            mine = trades[(trades["pair"] == pair) & (trades["seed"] == seed)]
            row = by_key[pair, None, seed]
            assert row["n_trades"] == len(mine)
            if len(mine):
                assert row["average_trade"]["value"] == pytest.approx(mine["profit_ratio"].mean())
            windows = [by_key[pair, window, seed] for window in ("20240108", "20240116")]
            total = sum(each["log_return"]["value"] for each in windows)
            assert row["log_return"]["value"] == pytest.approx(total)
            assert windows[0]["sharpe"]["low"] is None
    whole = by_key["all", None, None]
    assert whole["n_days"] == 16
    for name in ("log_return", "sharpe", "exposure", "turnover_per_day", "excess_over_flat"):
        assert whole[name]["low"] <= whole[name]["value"] <= whole[name]["high"]


@pytest.mark.usefixtures("judged_only")
def test_earlier_evaluations_with_other_settings_count_as_variants(plan, tmp_path):
    plan = replace(plan, recipe=replace(plan.recipe, pairs=PAIRS[:1]), seeds=(1,))
    first = evaluated(plan, tmp_path)[2]
    assert first.statistics()["n_variants"] == 1
    again = evaluated(plan, tmp_path)[2]
    assert again.statistics()["n_variants"] == 1  # the same days: nothing else was tried
    luck = evaluated(replace(plan, seeds=(3,)), tmp_path)[2]
    assert luck.statistics()["n_variants"] == 1  # another seed is luck, and no choice
    rules = plan.recipe.settings.rules.changed(max_trade_duration_candles=12)
    recipe = replace(plan.recipe, settings=plan.recipe.settings.changed(rules=rules))
    other = replace(plan, recipe=recipe, source=RecordedPairs(plan.datadir, recipe))
    _, text, third = evaluated(other, tmp_path)
    assert third.statistics()["n_variants"] == 2
    assert text.splitlines()[0].endswith("2 variants tried)")
    elsewhere = replace(plan, timerange="20240108-20240123")
    assert evaluated(elsewhere, tmp_path)[2].statistics()["n_variants"] == 1


@pytest.mark.usefixtures("without_importance")
def test_where_the_real_program_trades_otherwise_nothing_is_judged(plan, tmp_path, monkeypatch):
    """The first seed of the second pair has a trade that the Python API has not."""
    said = "only freqtrade has the trade of 2024-01-09 10:05"
    found = [
        Agreement(pair, seed, 8, 7, 7, said if (pair, seed) == (PAIRS[1], 1) else None)
        for pair in PAIRS
        for seed in (1, 2)
    ]
    monkeypatch.setattr("mtf_scalper.runs.evaluation._agreements", lambda *_: found)
    code, text, run = evaluated(plan, tmp_path)
    assert code == 1
    assert run.verdict == f"not judged: the replay differs at {PAIRS[1]}, seed 1: {said}"
    assert text.splitlines()[0] == run.verdict
    assert "agent above the baselines" not in text
    assert (run.figures(), run.statistics()) == ([], None)
    assert len(run.trades())
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Not judged: the replay differs at ETH/USDT:USDT, seed 1: only freqtrade has" in page


def test_the_command_refuses_an_option_that_is_not_followed(
    project, datadir, tmp_path, monkeypatch
):
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"position_adjustment_enable": true}', encoding="utf-8")
    monkeypatch.chdir(project)
    options = ("--timerange", "20240108-20240124", "--datadir", datadir, "--config", overlay)
    result = CliRunner().invoke(app, ["evaluate", *map(str, options)])
    assert isinstance(result.exception, SettingsError)
    said = str(result.exception)
    assert said.startswith("position_adjustment_enable adds to trades and takes from them: not ")
    assert "\n" not in said
    assert not list((project / "user_data").glob("runs/evaluate-*"))


def test_choices_become_a_plan(tmp_path, datadir, monkeypatch):
    asked = []

    def read_recipe(*arguments):
        asked.append(arguments)
        return Recipe(settings=Settings(random_state=7), pairs=PAIRS)

    monkeypatch.setattr("mtf_scalper.runs.recipe_reader.read_recipe", read_recipe)
    days = "20240108-20240124"
    plan = plan_evaluation(
        tmp_path, timerange=days, datadir=datadir, n_seeds=3, pairs=PAIRS[:1], test_days=2
    )
    assert plan.seeds == (7, 8, 9)
    assert plan.recipe.pairs == PAIRS[:1]
    assert plan.embargo == 288  # no rule ends a trade
    assert len(plan.windows()) == 8
    assert asked[0][2] == datadir
    rules = TradeRules(max_trade_duration_candles=48)
    recipe = replace(plan.recipe, settings=plan.recipe.settings.changed(rules=rules))
    assert replace(plan, recipe=recipe).embargo == 49
    assert replace(plan, recipe=recipe, with_program=True).embargo == 0


def test_a_synthetic_market_of_another_strength_is_written_where_it_is_missing(
    tmp_path, monkeypatch
):
    recipe = Recipe(settings=Settings(), pairs=PAIRS)
    monkeypatch.setattr("mtf_scalper.runs.recipe_reader.read_recipe", lambda *_: recipe)
    plan = plan_evaluation(
        tmp_path, timerange="20240108-20240110", signal=0.0, train_days=2, pairs=PAIRS[:1]
    )
    manifest = json.loads((plan.datadir / "synthetic_market.json").read_text())
    assert manifest["market"]["signal_strength"] == 0.0
    recorded = plan.source.load(PAIRS[0], plan.windows())
    assert recorded.candles["date"].iloc[0] == pd.Timestamp("2024-01-06", tz="UTC")
    assert np.isfinite(recorded.features).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"planted": "linear", "signal": 0.1}, "choose one of"),
        ({"planted": "linear", "with_program": True}, "--planted is a market of arrays"),
        ({"planted": "linaer"}, "'linaer' must be one of linear, nonlinear"),
        ({"with_program": True, "embargo_candles": 5}, "FreqAI knows no embargo"),
    ],
)
def test_what_does_not_go_together_is_named(values, words, tmp_path):
    with pytest.raises(SettingsError, match=words):
        plan_evaluation(tmp_path, timerange="20240108-20240110", **values)

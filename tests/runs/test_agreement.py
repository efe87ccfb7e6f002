"""The real program and the Python API, trained on the same windows of the synthetic market."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.checks.facts import read_used_settings
from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.columns import PREDICTIONS
from mtf_scalper.freqai.frozen import compared_facts
from mtf_scalper.kept_files import read_list
from mtf_scalper.market.stored import recorded_pair
from mtf_scalper.ppo.policy import Policy
from mtf_scalper.records.events import SETTINGS_FILE, WEIGHTS
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.agreement import compare_trades, program_request
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.runs.freezing import FreezeError, freeze_run
from mtf_scalper.runs.program import MODEL, STRATEGY, merged
from mtf_scalper.simulator.types import ExitReason
from mtf_scalper.walk_forward.kept_policies import KEPT, keep_compared, kept_policies
from mtf_scalper.walk_forward.learned_window import learn_window, window_task
from mtf_scalper.walk_forward.sources import RecordedPairs, planted_recipe
from mtf_scalper.walk_forward.walk import walk
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

PAIR = "BTC/USDT:USDT"
TIMERANGE = "20240114-20240118"
SEED = 7
# Small, quick, and content with little evidence, so that the agent leaves trades by itself.
CONFIG = """{"freqai": {"rl_config": {
 "train_cycles": 20, "net_arch": [32], "device": "cpu", "evidence": 0.0,
 "learning_rate": 1e-2, "weight_average": 0.9, "keep_bias": 0.0
}}}"""


def plan_of(recipe, datadir, config):
    return EvaluationPlan(
        recipe=recipe,
        source=RecordedPairs(datadir, recipe),
        timerange=TIMERANGE,
        train_days=8,
        test_days=3,
        datadir=datadir,
        configs=(config,),
        with_program=True,
    )


@pytest.fixture(scope="module")
def agreed(project, tmp_path_factory, run_ready_backtest):
    """Return walk and result of the program, windows, and the recorded pair."""
    pytest.importorskip("freqtrade")
    from mtf_scalper.runs.recipe_reader import read_recipe

    folder = tmp_path_factory.mktemp("agreement")
    datadir = folder / "data"
    spec = SyntheticSpec(seed=5, signal_strength=0.9, pairs=(pair_spec(PAIR),))
    write_datadir(spec, datadir, "2023-12-27", "2024-01-19")
    config = folder / "small.json"
    config.write_text(CONFIG)
    shipped = project / "configs" / "config_rl_hybrid.json"
    recipe = read_recipe((shipped, config), project / "user_data", datadir, STRATEGY, MODEL)
    plan = plan_of(recipe, datadir, config)
    backtest = folder / "backtest"
    request = program_request(plan, project, backtest, [PAIR], seed=SEED, identifier="agreement")
    outcome = run_ready_backtest(request)
    windows = plan.windows()
    recorded = recorded_pair(datadir, PAIR, since=windows[0].train_from, fee_rate=recipe.fee_rate)
    settings = recipe.settings.changed(cpu_count=1)
    tasks = [
        window_task(recorded, each, settings, seed=SEED, with_history=False) for each in windows
    ]
    # As in an evaluation, the last window's policy is kept.
    kept = folder / "record" / KEPT
    tasks[-1] = replace(tasks[-1], keep_in=kept, timeframes=recipe.timeframes)
    found = walk(recorded, windows, [learn_window(each) for each in tasks], settings)
    keep_compared(kept, compared_facts(settings, recipe.made_by))
    return found, outcome, request


@pytest.fixture
def kept(agreed):
    """Return what was kept of the last window, and what FreqAI has to have in common with it."""
    folder = agreed[2].folder.parent / "record"
    compared, (policy,) = kept_policies(folder)
    return compared, policy


def test_trades_agree_one_for_one(agreed):
    found, outcome, _ = agreed
    agreement = compare_trades(found, outcome.strategy["trades"])
    assert agreement.n_program == agreement.n_python == agreement.n_equal > 10
    assert agreement.difference is None
    # Otherwise the rules alone would have agreed.
    assert any(trade.exit_reason is ExitReason.AGENT for trade in found.run.trades)


def test_probabilities_are_the_same_to_the_last_bit(agreed):
    found, _, request = agreed
    columns = ["neutral", "long_enter", "long_exit", "short_enter", "short_exit"]
    for part in found.learned:
        stamp = int(part.window.test_from.timestamp())
        (path,) = request.models.glob(f"backtesting_predictions/*_{stamp}_prediction.feather")
        theirs = pd.read_feather(path)[[f"&-prob_{name}" for name in columns]].to_numpy()
        full = np.isfinite(part.probabilities).all(axis=1)
        assert full.sum() == len(full) - 9
        np.testing.assert_array_equal(theirs[full], part.probabilities[full])


def test_what_an_evaluation_keeps_is_what_freqai_has(agreed, kept):
    """Weights, scaling and names to the last bit: by either of them the same policy is frozen."""
    found, _, request = agreed
    compared, policy = kept
    assert policy.window == found.learned[-1].window.name
    (folder,) = request.models.glob(f"sub-train-*_{policy.trained}")
    assert read_list(folder)["weights"] == policy.weights
    assert Policy.load(policy.file, found.settings).digest == policy.weights
    (path,) = folder.glob("*_scaling.json")
    theirs = json.loads(path.read_text())["feature_pipeline"]
    assert {**policy.scaling, "labels": theirs["labels"]} == theirs
    (path,) = folder.glob("*_metadata.json")
    theirs = json.loads(path.read_text())
    assert policy.features == theirs["training_features_list"]
    assert list(PREDICTIONS) == theirs["label_list"]
    made_by = json.loads((request.models / SETTINGS_FILE).read_text())["made_by"]
    theirs = compared_facts(read_used_settings(request.models), made_by)
    assert compared == theirs


def test_what_an_evaluation_keeps_can_be_frozen_and_predicts_the_same_in_the_program(
    agreed, kept, project, run_ready_backtest
):
    found, _, request = agreed
    _, policy = kept
    user_data = project / "user_data"
    with RunRecord.begin(user_data / "runs", "evaluate", pairs=[PAIR]) as record:
        shutil.copytree(policy.file.parent, record.folder / KEPT)
        events = record.events(pair=PAIR, window=policy.window, seed=SEED)
        events.write(WEIGHTS, digest=policy.weights)
    run = Run.open(record.folder)
    with pytest.raises(FreezeError, match="keeps no such policy of BTC/USDT:USDT"):
        freeze_run(run, "kept", user_data, seed=SEED + 1)
    freeze_run(run, "kept", user_data)
    overrides = merged(request.overrides, {"freqai": {"rl_config": {"policy": "kept"}}})
    folder = request.folder.parent / "by-kept"
    by_kept = replace(request, folder=folder, name="by-kept", overrides=overrides)
    run_ready_backtest(by_kept)
    part = found.learned[-1]
    stamp = int(part.window.test_from.timestamp())
    (path,) = by_kept.models.glob(f"backtesting_predictions/*_{stamp}_prediction.feather")
    columns = ["neutral", "long_enter", "long_exit", "short_enter", "short_exit"]
    theirs = pd.read_feather(path)[[f"&-prob_{name}" for name in columns]].to_numpy()
    full = np.isfinite(part.probabilities).all(axis=1)
    np.testing.assert_array_equal(theirs[full], part.probabilities[full])


def test_the_first_difference_is_named(agreed):
    found, outcome, _ = agreed
    trades = sorted(outcome.strategy["trades"], key=lambda trade: trade["open_date"])
    other = [dict(each) for each in trades]
    other[3]["leverage"] += 1.0
    agreement = compare_trades(found, other)
    assert agreement.n_equal == len(trades) - 1
    opened = trades[3]["open_date"][:16].replace("T", " ")
    assert f"leverage of the trade of {opened} is" in agreement.line
    missing = compare_trades(found, trades[1:])
    assert missing.difference.startswith("only the Python API has the trade of")
    fewer = replace(found, run=replace(found.run, trades=found.run.trades[:-1]))
    assert compare_trades(fewer, trades).difference.startswith("only freqtrade has the trade of")


def test_a_configuration_that_is_no_json_is_named(project, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text("{")
    plan = plan_of(planted_recipe("linear"), tmp_path, path)
    with pytest.raises(SettingsError, match=r"bad\.json: is no JSON"):
        program_request(plan, project, tmp_path, [PAIR], seed=1)

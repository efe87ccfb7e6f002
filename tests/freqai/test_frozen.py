"""Frozen policies: what was judged is what trades, to the last bit, or the run is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqtrade.exceptions import OperationalException
from typer.testing import CliRunner, Result

from mtf_scalper.cli import app
from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.frozen import FACTS, FrozenPolicies
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.kept_files import LIST, check_files, read_list, write_list
from mtf_scalper.records.events import WEIGHTS
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.freezing import FreezeError, freeze_run

from .conftest import BACKTEST

PAIR = "BTC/USDT:USDT"


def invoke(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])


# Through the real program


@pytest.fixture(scope="module")
def trained(make_program: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A backtest of the user's own, of two pairs and two windows each."""
    program = make_program(tmp_path_factory.mktemp("frozen"))
    program.run(*BACKTEST, str(program.folder / "results"))
    return program


@pytest.fixture(scope="module")
def frozen(trained: Any) -> Result:
    (run,) = trained.runs
    return invoke("freeze", run.run_id, "--as", "mine", "--folder", run.folder.parent)


def by_policy(program: Any, name: str = "mine", **more: Any) -> list[str]:
    path = program.folder / f"by-{name}.json"
    content = {"freqai": {"identifier": f"by-{name}", "rl_config": {"policy": name}}, **more}
    path.write_text(json.dumps(content))
    return [*BACKTEST, str(program.folder / "results"), "--config", str(path)]


def test_freezing_says_what_it_took(trained: Any, frozen: Result) -> None:
    assert frozen.exit_code == 0, frozen.output
    (run,) = trained.runs
    folder = trained.folder / "user_data" / "policies" / "mine"
    assert frozen.stdout.startswith(f"policy 'mine' in {folder}, of {run.run_id}: no evidence")
    facts = json.loads((folder / FACTS).read_text())
    assert set(check_files(folder)["files"]) == {path.name for path in folder.iterdir()} - {LIST}
    judged = {(each["pair"], each["window"]): each["digest"] for each in run.events(WEIGHTS)}
    assert len(judged) == 4
    for pair, about in facts["pairs"].items():
        # The newest window.
        assert about["window"] == max(window for of, window in judged if of == pair)
        assert about["weights"] == judged[pair, about["window"]]
        assert f"{pair}: trained to 2024-01-31 00:00, weights {about['weights'][:16]}" in (
            frozen.stdout
        )
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    again = invoke("freeze", run.run_id, "--as", "mine", "--folder", run.folder.parent)
    assert isinstance(again.exception, FreezeError)
    assert "is there already; choose another name, or delete it" in str(again.exception)


def test_the_weights_that_trade_are_those_that_were_judged(trained: Any, frozen: Result) -> None:
    judged = trained.runs[-1]
    trained.run(*by_policy(trained))
    traded = trained.runs[0]
    assert traded.run_id != judged.run_id
    assert not traded.events("training_started")
    facts = json.loads((trained.folder / "user_data" / "policies" / "mine" / FACTS).read_text())
    said = traded.events(WEIGHTS)
    assert len(said) == 4
    for each in said:
        assert each["policy"] == "mine"
        assert each["digest"] == facts["pairs"][each["pair"]]["weights"]
    # Predictions of the window that was frozen have the same bits, and its trades are the same.
    for pair, about in facts["pairs"].items():
        tables = [run.predictions() for run in (judged, traded)]
        of_window = [
            table[(table["pair"] == pair) & (table["window"] == about["window"])]
            .drop(columns="window")
            .reset_index(drop=True)
            for table in tables
        ]
        assert len(of_window[0]) > 30
        pd.testing.assert_frame_equal(*of_window, check_exact=True)


def test_a_run_by_a_frozen_policy_is_not_frozen_again(trained: Any, frozen: Result) -> None:
    run = trained.runs[0]
    if not any(each["policy"] for each in run.events(WEIGHTS)):
        trained.run(*by_policy(trained, "mine"))
        run = trained.runs[0]
    done = invoke("freeze", run.run_id, "--as", "other", "--folder", run.folder.parent)
    assert "has traded by policy 'mine', which is frozen already" in str(done.exception)


def test_the_window_that_trades_a_day_can_be_taken(trained: Any) -> None:
    run = trained.runs[-1]
    words = ("freeze", run.run_id, "--folder", run.folder.parent)
    # What a killed one has left: no system gives a process such an id.
    killed = trained.folder / "user_data" / "policies" / f".first.{10**9}.part"
    killed.mkdir(parents=True)
    done = invoke(*words, "--as", "first", "--window", "20240130")
    assert done.exit_code == 0, done.exception
    assert f"{PAIR}: trained to 2024-01-30 00:00" in done.stdout
    for day, said in (("20240601", "no window of BTC/USDT:USDT, ETH"), ("x", "is no day like")):
        done = invoke(*words, "--as", "none", "--window", day)
        assert said in str(done.exception)
    done = invoke(*words, "--as", "../none")
    assert "is no name" in str(done.exception)
    assert {each.name for each in (trained.folder / "user_data" / "policies").iterdir()} <= {
        "mine",
        "first",
    }


def test_a_strategy_that_differs_is_refused_by_its_name(trained: Any, frozen: Result) -> None:
    folder = trained.folder / "strategies"
    folder.mkdir()
    shipped = Path(__file__).parents[2] / "user_data" / "strategies" / "MtfScalper_RL_Hybrid.py"
    (folder / shipped.name).write_text(f"{shipped.read_text()}\n# changed\n")
    trained.run(*by_policy(trained), "--strategy-path", str(folder), code=2)
    log = (trained.folder / "output.log").read_text()
    assert "freqai.rl_config.policy: 'mine' was frozen with another strategy (strategy was" in log


# In this process


@pytest.fixture
def setting(
    make_config: Any, make_strategy: Any, without_database: None, candles: pd.DataFrame
) -> Callable[..., Any]:
    """Return a function that backtests one pair: overrides in, predictions and the model out."""
    first = make_config({"exchange": {"pair_whitelist": [PAIR]}})

    def run(overrides: Any = None, **attributes: Any) -> Any:
        config = make_config({"exchange": {"pair_whitelist": [PAIR]}, **(overrides or {})})
        config["user_data_dir"] = first["user_data_dir"]
        model = MtfScalperRLModel(config=config)
        strategy = make_strategy(config, **attributes)
        frame = model.start(candles.copy(), {"pair": PAIR}, strategy)
        return frame[list(columns.PREDICTIONS)], model

    return run


def frozen_by_hand(model: MtfScalperRLModel, name: str = "mine", digest: str = "") -> Path:
    """Freeze what a model has trained, by a record that says it was judged."""
    user_data = Path(model.config["user_data_dir"])
    identifier = model.config["freqai"]["identifier"]
    with RunRecord.begin(user_data / "runs", "backtest", identifier=identifier) as record:
        for folder in Path(model.full_path).glob("sub-train-*"):
            listed = read_list(folder)
            facts = {"pair": listed["pair"], "window": folder.name}
            record.events().write(WEIGHTS, **facts, digest=digest or listed["weights"], policy=None)
    freeze_run(Run.open(record.folder), name, user_data)
    return user_data / "policies" / name


def policy(name: str = "mine", **freqai: Any) -> dict[str, Any]:
    return {"freqai": {"identifier": "other", "rl_config": {"policy": name}, **freqai}}


@pytest.mark.parametrize("state", [False, True])
def test_predictions_of_a_frozen_policy_have_the_same_bits(
    setting: Any, state: bool, rl_config: Any
) -> None:
    predicted, model = setting(rl_config(add_state_info=state))
    folder = frozen_by_hand(model)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    overrides = policy()
    overrides["freqai"]["rl_config"]["add_state_info"] = state
    again, by = setting(overrides)
    pd.testing.assert_frame_equal(again, predicted, check_exact=True)
    assert not list(Path(by.full_path).glob("sub-train-*/*.zip"))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("overrides", "attributes", "said"),
    [
        ({"stoploss": -0.2}, {}, r"another rules.stoploss \(rules.stoploss was -0.1, is -0.2\)"),
        ({}, {"emergency_loss": -0.05}, r"another rules.emergency_loss \(.* was -0.03, is -0.05\)"),
        ({}, {"exit_confidence": 0.6}, r"another rules.exit_confidence \(.* was 0.5, is 0.6\)"),
    ],
)
def test_rules_that_differ_are_refused_by_name(
    setting: Any, overrides: Any, attributes: Any, said: str
) -> None:
    _, model = setting()
    frozen_by_hand(model)
    with pytest.raises(OperationalException, match=rf"policy: 'mine' was frozen with {said}; res"):
        setting({**overrides, **policy()}, **attributes)


@pytest.mark.parametrize(
    ("freqai", "said"),
    [
        (
            {"feature_parameters": {"indicator_periods_candles": [10, 30]}},
            "another feature_parameters.indicator_periods_candles",
        ),
        ({"conv_width": 5}, r"another window_size \(window_size was 4, is 5\)"),
    ],
)
def test_features_that_differ_are_refused_by_name(setting: Any, freqai: Any, said: str) -> None:
    _, model = setting()
    frozen_by_hand(model)
    with pytest.raises(OperationalException, match=said):
        setting(policy(**freqai))


def test_features_of_a_strategy_that_differ_are_refused_by_name(setting: Any) -> None:
    """Where files say nothing of it: the names in the frame are compared as well."""
    _, model = setting()
    folder = frozen_by_hand(model)
    facts = json.loads((folder / FACTS).read_text())
    names = facts["pairs"][PAIR]["metadata"]["training_features_list"]
    names[3] = "%-renamed"
    (folder / FACTS).write_text(json.dumps(facts))
    write_list(folder, [path.name for path in folder.iterdir() if path.name != LIST])
    with pytest.raises(OperationalException, match=r"feature '%-renamed' of the model's training"):
        setting(policy())


def test_other_pairs_and_names_are_refused(setting: Any, make_config: Any) -> None:
    _, model = setting()
    frozen_by_hand(model)
    with pytest.raises(OperationalException, match=r"there is no policy 'your' in .*are mine\)"):
        setting(policy("your"))
    frozen = FrozenPolicies.open(Path(model.config["user_data_dir"]), "mine")
    with pytest.raises(SettingsError, match="holds no policy of ETH/USDT:USDT, but of BTC/USDT"):
        frozen.check_pairs([PAIR, "ETH/USDT:USDT"])
    config = make_config(policy("../x"))
    with pytest.raises(OperationalException, match=r"freqai.rl_config.policy"):
        MtfScalperRLModel(config=config)


def test_a_changed_file_of_a_frozen_policy_is_refused(setting: Any, tmp_path: Path) -> None:
    _, model = setting()
    folder = frozen_by_hand(model)
    for path in sorted(folder.iterdir()):
        kept = path.read_bytes()
        changed = bytearray(kept)
        changed[len(kept) // 2] ^= 1
        for content in (bytes(changed), kept[:-9], pickle.dumps(Path.touch)):
            path.write_bytes(content)
            with pytest.raises(OperationalException) as caught:
                setting(policy())
            assert str(caught.value).startswith("freqai.rl_config.policy: 'mine': ")
            assert "\n" not in str(caught.value)
        path.write_bytes(kept)
    setting(policy())


def test_weights_that_were_not_judged_are_not_frozen(setting: Any) -> None:
    _, model = setting()
    with pytest.raises(FreezeError, match=r"holds other weights than the run was judged by; run"):
        frozen_by_hand(model, digest="0" * 64)
    assert not (Path(model.config["user_data_dir"]) / "policies" / "mine").exists()


def test_an_identifier_is_not_shared_by_two_policies_of_one_name(
    setting: Any, rl_config: Any
) -> None:
    import shutil

    _, model = setting()
    folder = frozen_by_hand(model)
    setting(policy())
    shutil.rmtree(folder)
    other = rl_config(random_state=7)
    other["freqai"]["identifier"] = "third"
    _, model = setting(other)
    frozen_by_hand(model)
    with pytest.raises(OperationalException, match=r"made with other settings \(policy files; "):
        setting(policy())

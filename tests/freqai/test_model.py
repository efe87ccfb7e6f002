"""The FreqAI model: training, batched prediction, checkpoints, processes and the live path."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from freqtrade.data.dataprovider import DataProvider
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_drawer import FreqaiDataDrawer
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from freqtrade.strategy import IStrategy
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from mtf_scalper.errors import MarketError, WorkerDiedError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.records.events import EVENTS_FILE, Progress, read_events
from mtf_scalper.rollouts.environments import first_rows
from mtf_scalper.rollouts.fast_ppo import FastPPO
from mtf_scalper.rollouts.process_env import ProcessVecEnv
from mtf_scalper.rollouts.vec_env import BatchedVecEnv
from mtf_scalper.settings import Advantage
from mtf_scalper.simulator.types import Action

PAIR = "BTC/USDT:USDT"
WINDOW = 4
Config = dict[str, Any]
MakeConfig = Callable[..., Config]
MakeStrategy = Callable[..., IStrategy]
OpenWorkshop = Callable[..., Any]
RlConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def trained(open_workshop: OpenWorkshop) -> tuple[Any, PPO, pd.DataFrame, np.ndarray]:
    """A workshop, the policy trained in it, and its predictions of the day after."""
    workshop = open_workshop()
    ppo = workshop.train()
    workshop.model.model = ppo
    predictions, do_predict = workshop.model.predict(workshop.later, workshop.kitchen)
    return workshop, ppo, predictions, do_predict


# Prediction


def test_a_training_gives_a_model_that_loads_as_stock_ppo(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    workshop, ppo, _, _ = trained
    assert type(ppo) is PPO
    assert workshop.model.settings.advantage is Advantage.EXACT
    ppo.save(tmp_path / "model")
    assert type(PPO.load(tmp_path / "model", device="cpu")) is PPO
    kitchen = workshop.kitchen
    seen = kitchen.data_dictionary["train_features"]
    assert ppo.observation_space.shape == (WINDOW * seen.shape[1] + len(Action),)
    assert seen.shape[1] >= 40
    assert set(columns.RAW_PRICES).isdisjoint(seen.columns)
    assert set(columns.RAW_PRICES).isdisjoint(kitchen.training_features_list)


def test_a_training_from_rollouts_gives_a_model_that_loads_as_stock_ppo(
    open_workshop: OpenWorkshop, rl_config: RlConfig, tmp_path: Path
) -> None:
    ppo = open_workshop(rl_config(advantage="gae")).train()
    assert type(ppo) is FastPPO
    ppo.save(tmp_path / "model")
    assert type(PPO.load(tmp_path / "model", device="cpu")) is PPO


def test_the_log_says_what_a_training_is_worth_and_that_nothing_was_learned(
    open_workshop: OpenWorkshop, rl_config: RlConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """No pass can be a thousand standard errors better."""
    open_workshop(rl_config(evidence=1000.0)).train()
    (nothing,) = [line for line in caplog.messages if line.startswith(f"{PAIR}: nothing was")]
    assert "the policy before the training, which is kept" in nothing
    (report,) = [line for line in caplog.messages if "that chose the weights: " in line]
    start = f"on the candles that chose the weights: {PAIR}: DEGENERATE, "
    assert report.startswith(start)
    for word in ("log return", "share of the oracle", "random exits beaten", "classic exits"):
        assert word in report


def test_predictions_are_probabilities_of_every_row(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray],
) -> None:
    workshop, _, predictions, do_predict = trained
    assert list(predictions) == list(columns.PREDICTIONS)
    assert len(predictions) == len(do_predict) == len(workshop.later) == 288
    assert do_predict.all()
    probabilities = predictions[list(columns.PROBABILITIES)].to_numpy()
    assert not predictions.iloc[: WINDOW - 1].any(axis=None)
    probabilities = probabilities[WINDOW - 1 :]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)
    assert (probabilities > 0.0).all()
    action = predictions[columns.ACTION].to_numpy()[WINDOW - 1 :]
    long, short = (
        workshop.later[name].to_numpy(dtype=bool)[WINDOW - 1 :]
        for name in (columns.ENTRY_LONG, columns.ENTRY_SHORT)
    )
    # The classic rule's entries are taken; elsewhere an exit that is likelier than staying in.
    entries = np.select(
        [long & short, long, short],
        [np.where(probabilities[:, 3] > probabilities[:, 1], 3, 1), 1, 3],
    )
    np.testing.assert_array_equal(predictions["&-action_flat"][WINDOW - 1 :], entries)
    np.testing.assert_array_equal(action[entries > 0], entries[entries > 0])
    for name, leave in (("&-action_long", 2), ("&-action_short", 4)):
        wanted = np.where(probabilities[:, leave] > probabilities[:, 0], leave, 0)
        np.testing.assert_array_equal(predictions[name][WINDOW - 1 :], wanted)
        assert set(action[entries == 0]) <= {0, 2, 4}
    chosen = probabilities[np.arange(len(action)), action.astype(int)]
    np.testing.assert_array_equal(predictions[columns.CONFIDENCE][WINDOW - 1 :], chosen)
    # Trees say the same of many rows.
    assert len(np.unique(chosen)) > 150


def test_a_policy_of_features_says_something_else_of_nearly_every_row(
    open_workshop: OpenWorkshop,
) -> None:
    workshop = open_workshop({"freqai": {"rl_config": {"policy_inputs": "features"}}})
    workshop.model.model = workshop.train()
    predictions, _ = workshop.model.predict(workshop.later, workshop.kitchen)
    assert len(np.unique(predictions[columns.CONFIDENCE][WINDOW - 1 :])) > 250


def test_batches_give_the_actions_of_freqtrades_own_loop(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    workshop, ppo, _, _ = trained
    ppo.save(tmp_path / "model")
    decided = PPO.load(tmp_path / "model")
    torch.manual_seed(1)
    # So that several actions occur; what can be foretold of a window as short as this is nothing.
    torch.nn.init.normal_(decided.policy.action_net.weight)
    torch.nn.init.zeros_(decided.policy.action_net.bias)
    torch.nn.init.normal_(decided.policy.forecasts.coefficients)
    decided.policy.forecasts.units.fill_(1.0)
    features = workshop.kitchen.data_dictionary["prediction_features"]
    monkeypatch.setattr(workshop.kitchen, "label_list", [columns.ACTION])

    mask = np.zeros(len(Action), dtype=np.float32)

    def predict(window: pd.DataFrame, deterministic: bool) -> Any:
        """Take freqtrade's window where the model takes a vector and a mask."""
        observation = np.append(window.to_numpy(dtype=np.float32).ravel(), mask)
        return decided.predict(observation, deterministic=deterministic)

    rules = workshop.model.settings.rules.changed(entry="any")
    monkeypatch.setattr(workshop.model, "settings", workshop.model.settings.changed(rules=rules))
    batched = workshop.model.rl_model_predict(features, workshop.kitchen, decided)
    for valid, name in (
        ((0, 1, 3), "&-action_flat"),
        ((0, 2), "&-action_long"),
        ((0, 4), "&-action_short"),
    ):
        mask[:] = 0.0
        mask[list(valid)] = 1.0
        loop = BaseReinforcementLearningModel.rl_model_predict(
            workshop.model, features, workshop.kitchen, SimpleNamespace(predict=predict)
        )[columns.ACTION]
        assert loop.isna().sum() == WINDOW - 1
        assert loop.nunique() == len(valid)
        np.testing.assert_array_equal(loop.fillna(0.0), batched[name])


def test_predictions_go_through_the_network_256_rows_at_a_time(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray],
) -> None:
    workshop = trained[0]
    events = read_events(workshop.kitchen.data_path / EVENTS_FILE, "prediction")
    first = next(events)
    assert (first["rows"], first["batch_sizes"]) == (288, [256, 29])
    assert first["pair"] == PAIR


def test_features_of_another_model_are_refused(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray],
) -> None:
    workshop, ppo, _, _ = trained
    features = workshop.kitchen.data_dictionary["prediction_features"].iloc[:, 1:]
    with pytest.raises(OperationalException) as caught:
        workshop.model.rl_model_predict(features, workshop.kitchen, ppo)
    folder, name = workshop.kitchen.data_path.name, workshop.kitchen.model_filename
    message = str(caught.value)
    assert message.startswith(
        f"{PAIR}, checkpoint {folder}/{name}_model.zip: the policy was trained"
    )
    assert "\n" not in message


def test_a_checkpoint_of_another_window_is_refused_with_pair_and_file(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop, ppo, _, _ = trained
    features = workshop.kitchen.data_dictionary["prediction_features"]
    other = workshop.model.settings.changed(window_size=WINDOW + 3)
    monkeypatch.setattr(workshop.model, "settings", other)
    with pytest.raises(OperationalException) as caught:
        workshop.model.rl_model_predict(features, workshop.kitchen, ppo)
    message = str(caught.value)
    assert message.startswith(f"{PAIR}, checkpoint {workshop.kitchen.data_path.name}/")
    assert "_model.zip: the " in message
    assert "\n" not in message


def test_a_saved_checkpoint_is_stock_ppo_and_acts_the_same(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray],
) -> None:
    workshop, ppo, predictions, _ = trained
    workshop.save(ppo)
    drawer = FreqaiDataDrawer(Path(workshop.model.full_path), workshop.config)
    drawer.model_type = workshop.model.dd.model_type
    loaded = drawer.load_data(PAIR, workshop.kitchen)
    assert loaded is not ppo
    assert type(loaded) is PPO
    features = workshop.kitchen.data_dictionary["prediction_features"]
    again = workshop.model.rl_model_predict(features, workshop.kitchen, loaded)
    pd.testing.assert_frame_equal(again, predictions, check_exact=True)


def test_the_same_seed_gives_the_same_predictions(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray], open_workshop: OpenWorkshop
) -> None:
    predictions = trained[2]
    for seed, same in ((42, True), (43, False)):
        split = {"data_split_parameters": {"random_state": seed}}
        other = open_workshop({"freqai": split})
        other.model.model = other.train()
        result, _ = other.model.predict(other.later, other.kitchen)
        assert result.equals(predictions) is same


def test_the_unit_of_a_feature_changes_nothing_that_is_learned(
    open_workshop: OpenWorkshop, unselected: Callable[..., Any]
) -> None:
    """FreqAI scales what it hands over, and the policy standardises that by the training rows."""
    found = []
    for factor in (1.0, 1024.0, 1.0 / 1024.0):
        workshop = open_workshop(unselected(train_cycles=2))
        for frame in (workshop.window, workshop.later):
            features = [name for name in frame if "%-" in name and "raw_" not in name]
            frame[features] *= factor
        workshop.model.model = workshop.train()
        predictions, _ = workshop.model.predict(workshop.later, workshop.kitchen)
        found.append(predictions[list(columns.PROBABILITIES)].to_numpy())
    assert np.ptp(found[0], axis=0).max() > 1e-3
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)


@pytest.mark.parametrize("advantage", ["exact", "gae"])
def test_training_goes_on_from_the_last_weights(
    advantage: str, open_workshop: OpenWorkshop, unselected: RlConfig
) -> None:
    """Without a step of the optimiser (its rate is 1e-12) the weights stay those of before."""
    for continual in (True, False):
        overrides = unselected(advantage=advantage)["freqai"]
        workshop = open_workshop({"freqai": {**overrides, "continual_learning": continual}})
        model = workshop.model
        model.tb_logger = None
        first = workshop.train()
        assert first.num_timesteps > 0
        workshop.save(first)
        model.settings = model.settings.changed(learning_rate=1e-12, random_state=7)
        workshop.kitchen.find_features(workshop.window)
        second = workshop.train()
        assert second is not first
        pairs = zip(first.policy.parameters(), second.policy.parameters(), strict=True)
        differences = [float((old - new).detach().abs().max()) for old, new in pairs]
        assert (max(differences) < 1e-6) is continual


# Settings


def test_torch_gets_its_threads_after_freqai_has_set_them(
    make_config: MakeConfig, rl_config: RlConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    really = torch.set_num_threads

    def note(threads: int) -> None:
        calls.append(threads)
        really(threads)

    monkeypatch.setattr(torch, "set_num_threads", note)
    MtfScalperRLModel(config=make_config(rl_config(cpu_count=8)))
    assert len(calls) == 2  # FreqAI's own estimate first
    assert calls[1] == torch.get_num_threads() == min(8, available_cpus())
    MtfScalperRLModel(config=make_config(rl_config(cpu_count=1)))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vec_env": "threads"}, ("vec_env", "'subproc', 'dummy' or 'batched'", "'threads'")),
        ({"n_env": 4}, ("freqai.rl_config.n_env", "'n_envs'")),
        ({"entry": "sometimes"}, ("freqai.rl_config.entry", "always, classic, any")),
    ],
)
def test_a_wrong_setting_ends_in_freqtrades_own_error(
    settings: Config, words: tuple[str, ...], make_config: MakeConfig, rl_config: RlConfig
) -> None:
    with pytest.raises(OperationalException) as caught:
        MtfScalperRLModel(config=make_config(rl_config(**settings)))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_silent_config_keeps_raw_prices_from_the_network(make_config: MakeConfig) -> None:
    """freqtrade's own default would leave them among the features."""
    config = make_config()
    for written in (config["original_config"], config):
        for key in ("drop_ohlc_from_features", "model_reward_parameters"):
            written["freqai"]["rl_config"].pop(key, None)
    config["freqai"]["rl_config"]["drop_ohlc_from_features"] = False
    model = MtfScalperRLModel(config=config)
    frame = pd.DataFrame(1.0, index=range(3), columns=["%-a", *columns.RAW_PRICES])
    kitchen = FreqaiDataKitchen(config, False, PAIR)
    kitchen.find_features(frame)
    assert list(model.drop_ohlc_from_df(frame, kitchen)) == ["%-a"]
    assert kitchen.training_features_list == ["%-a"]


# Environments and their processes


def test_environments_are_eight_staggered_seeded_processes(
    open_workshop: OpenWorkshop,
    rl_config: RlConfig,
    monkeypatch: pytest.MonkeyPatch,
    no_child_left: None,
) -> None:
    workshop = open_workshop(rl_config(vec_env="subproc"))
    frame = workshop.window[[name for name in workshop.window if "%" in name]]
    monkeypatch.setattr(workshop.model, "_window", workshop.window)
    env = workshop.model._create_vec_env(frame, PAIR)
    try:
        assert type(env) is ProcessVecEnv
        assert env.num_envs == len({process.pid for process in env.processes}) == 8
        observations = env.reset()
        assert observations.shape == (8, WINDOW * frame.shape[1] + len(Action))
        assert env.get_attr("np_random_seed") == [42 + rank for rank in range(8)]
        rows = env.get_attr("row")
        assert rows == first_rows(288, WINDOW, 8)
        for row, observation in zip(rows, observations, strict=True):
            seen = frame.iloc[row - WINDOW + 1 : row + 1].to_numpy(np.float32)
            np.testing.assert_array_equal(observation[: -len(Action)], seen.ravel())
    finally:
        env.close()


def test_environments_for_evaluation_start_on_the_first_row(
    open_workshop: OpenWorkshop, rl_config: RlConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = open_workshop(rl_config(randomize_starting_position=True, advantage="gae"))
    frame = workshop.window[["%-body", "%-mfi"]]
    monkeypatch.setattr(workshop.model, "_window", workshop.window)
    env = workshop.model._create_vec_env(frame, PAIR, n_envs=3, is_train=False)
    assert type(env) is BatchedVecEnv
    for _ in range(3):
        env.reset()
        assert env.rows.tolist() == [WINDOW - 1] * 3
    env.close()


def test_a_training_in_processes_leaves_none(
    open_workshop: OpenWorkshop, rl_config: RlConfig, no_child_left: None
) -> None:
    workshop = open_workshop(rl_config(vec_env="subproc", advantage="gae"))
    assert type(workshop.train()) is PPO
    (started,) = read_events(workshop.kitchen.data_path / EVENTS_FILE, "training_started")
    assert (started["vec_env"], started["n_envs"]) == ("subproc", 2)


class Watched(MtfScalperRLModel):
    """Remembers the environments of its training."""

    env: VecEnv | None = None

    def _create_vec_env(
        self, df: pd.DataFrame, pair: str, n_envs: int = 8, is_train: bool = True
    ) -> VecEnv:
        self.env = super()._create_vec_env(df, pair, n_envs, is_train)
        return self.env


def test_a_killed_worker_ends_the_training_and_all_processes(
    open_workshop: OpenWorkshop, rl_config: RlConfig, no_child_left: None
) -> None:
    endless = rl_config(vec_env="subproc", train_cycles=100_000, advantage="gae")
    workshop = open_workshop(endless, Watched)
    killed: list[int] = []

    def kill_once_it_trains() -> None:
        events = workshop.kitchen.data_path / EVENTS_FILE
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            if any(event["steps"] > 0 for event in read_events(events, "progress")):
                worker = workshop.model.env.processes[1]
                killed.append(worker.pid)
                psutil.Process(worker.pid).kill()
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_once_it_trains)
    killer.start()
    with pytest.raises(WorkerDiedError) as caught:
        workshop.train()
    killer.join()
    (pid,) = killed
    expected = f"{PAIR}: environment process 1 (pid {pid}) ended during training"
    assert str(caught.value).startswith(expected)
    (failed,) = read_events(workshop.kitchen.data_path / EVENTS_FILE, "training_failed")
    assert f"(pid {pid})" in failed["error"]
    with pytest.raises(OperationalException, match=rf"environment process 1 \(pid {pid}\)"):
        workshop.model._append_null_backtesting_predictions(workshop.kitchen, workshop.later)


def test_a_failing_training_leaves_no_process(
    open_workshop: OpenWorkshop,
    rl_config: RlConfig,
    monkeypatch: pytest.MonkeyPatch,
    no_child_left: None,
) -> None:
    class FailingReport:
        def __init__(self, title: str) -> None:
            assert title == f"{PAIR} to 2024-01-29"

        def __call__(self, progress: Progress) -> None:
            if progress.steps:
                raise RuntimeError("the terminal is gone\nreally")

    monkeypatch.setattr("mtf_scalper.freqai.model.LoggedProgress", FailingReport)
    workshop = open_workshop(rl_config(vec_env="subproc", advantage="gae"))
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        workshop.train()
    with pytest.raises(OperationalException) as caught:
        workshop.model._append_null_backtesting_predictions(workshop.kitchen, workshop.later)
    assert str(caught.value).startswith(f"{PAIR}: RuntimeError('the terminal is gone")
    assert "\n" not in str(caught.value)


# FreqAI's own paths


@pytest.fixture
def strategy(make_config: MakeConfig, make_strategy: MakeStrategy) -> IStrategy:
    return make_strategy(make_config())


def test_a_backtest_predicts_its_window_and_reuses_what_it_saved(
    make_config: MakeConfig, make_strategy: MakeStrategy, candles: pd.DataFrame
) -> None:
    config = make_config(timerange="20240130-20240201")
    strategy = make_strategy(config)
    model = MtfScalperRLModel(config=config)
    frame = model.start(candles.copy(), {"pair": PAIR}, strategy)
    assert model.settings.rules.stoploss == -0.1
    assert len(frame) == len(candles)
    backtest = (frame["date"] >= "2024-01-30") & (frame["date"] < "2024-02-01")
    predicted = frame.loc[backtest, columns.CONFIDENCE] > 0.0
    assert len(predicted) == 2 * 288
    assert np.flatnonzero(~predicted).tolist() == [0, 1, 2, 288, 289, 290]
    assert not frame.loc[~backtest, list(columns.PREDICTIONS)].any(axis=None)

    again = MtfScalperRLModel(config=config)
    again.train = None  # type: ignore[assignment, method-assign]
    reused = again.start(candles.copy(), {"pair": PAIR}, strategy)
    names = ["date", "do_predict", *columns.PREDICTIONS]
    pd.testing.assert_frame_equal(reused[names], frame[names])

    shutil.rmtree(again.full_path / "backtesting_predictions")
    repeated = again.start(candles.copy(), {"pair": PAIR}, strategy)  # with the saved models
    pd.testing.assert_frame_equal(repeated[names], frame[names])

    other = candles.copy()
    other.loc[other["date"] == "2024-01-29 12:00", "volume"] *= 2.0
    with pytest.raises(OperationalException, match=f"model of {PAIR} .* from other candles"):
        again.start(other, {"pair": PAIR}, strategy)

    config["original_config"]["freqai"]["model_training_parameters"]["gamma"] = 0.5
    changed = MtfScalperRLModel(config=config)
    with pytest.raises(OperationalException, match=r"freqai.identifier: .*\(gamma; gamma was"):
        changed.start(candles.copy(), {"pair": PAIR}, strategy)


def test_a_failed_window_ends_the_backtest_with_its_reason(
    make_config: MakeConfig, strategy: IStrategy, candles: pd.DataFrame
) -> None:
    standard = strategy.feature_engineering_standard

    def with_a_hole(
        dataframe: pd.DataFrame, metadata: dict[str, Any], **kwargs: Any
    ) -> pd.DataFrame:
        frame = standard(dataframe, metadata, **kwargs)
        frame.loc[frame["date"] == "2024-01-29 12:00", "%-body"] = np.nan
        return frame

    strategy.feature_engineering_standard = with_a_hole  # type: ignore[method-assign]
    model = MtfScalperRLModel(config=make_config())
    with pytest.raises(OperationalException) as caught:
        model.start(candles.copy(), {"pair": PAIR}, strategy)
    assert str(caught.value) == (
        f"{PAIR}, window 2024-01-29 to 2024-01-29: column '%-body' is nan at 2024-01-29 12:00 "
        "(1 such row)"
    )


def test_a_bad_window_fails_before_any_environment_is_made(
    open_workshop: OpenWorkshop, rl_config: RlConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = open_workshop(rl_config(advantage="gae"))
    monkeypatch.setattr(workshop.model, "_create_vec_env", None)
    workshop.window[["open", "high", "low", "close"]] = 5.0
    with pytest.raises(MarketError, match="column 'close' is constant"):
        workshop.train()
    assert not (workshop.kitchen.data_path / EVENTS_FILE).exists()
    with pytest.raises(OperationalException, match="column 'close' is constant"):
        workshop.model._append_null_backtesting_predictions(workshop.kitchen, workshop.later)


def test_prices_that_cannot_be_fail_before_the_training(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop()
    workshop.window.loc[workshop.window.index[7], "low"] = 0.0
    message = "column 'low' is 0.0, not above zero, at 2024-01-29 00:35 (1 such row)"
    with pytest.raises(MarketError) as caught:
        workshop.train()
    assert str(caught.value) == f"{PAIR}: {message}"


def test_rows_that_the_strategy_dropped_are_logged_once(
    open_workshop: OpenWorkshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop = open_workshop()
    workshop.window = workshop.window.drop(index=workshop.window.index[100:103])
    workshop.train()
    (line,) = [line for line in caplog.messages if "missing in" in line]
    assert line.startswith(f"{PAIR}: 3 candles of 5m missing in 1 gap, at most 3 of them after")


# Features of another strategy


def renamed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns={"%-body": "%-torso"})


def without(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=["%-body", "%-mfi"])


def with_one_more(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**{"%-more": 0.5})


def moved(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[name for name in frame if name != "%-body"] + ["%-body"]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            renamed,
            "feature '%-body' of the model's training is missing, '%-torso' is not known to the "
            "model (1 missing, 1 unknown, {n} trained); ",
        ),
        (without, "(2 missing, 0 unknown, {n} trained); "),
        (with_one_more, "feature '%-more' is not known to the model (0 missing, 1 unknown, {n} t"),
        (moved, "is number {body}, in the model's training {after}; "),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_features_that_differ_from_the_trainings_are_named(
    live: bool,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    problem: str,
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray],
) -> None:
    workshop, ppo, predictions, _ = trained
    workshop.save(ppo)
    names = workshop.kitchen.data["training_features_list"]
    body = names.index("%-body") + 1
    expected = problem.format(n=len(names), body=body, after=body + 1)
    model = workshop.model
    kitchen = FreqaiDataKitchen(workshop.config, live, PAIR)
    kitchen.data_path = workshop.kitchen.data_path
    kitchen.model_filename = workshop.kitchen.model_filename
    model.model = model.dd.load_data(PAIR, kitchen)
    with pytest.raises(OperationalException) as caught:
        model.predict(change(workshop.later), kitchen)
    message = str(caught.value)
    assert message.startswith(f"{PAIR}: feature '%-")
    assert expected in message
    assert message.endswith("restore the strategy's features, or train under a new identifier")
    assert "\n" not in message
    same, _ = model.predict(workshop.later, kitchen)
    pd.testing.assert_frame_equal(same, predictions)


def test_features_of_a_training_that_are_not_known_are_refused(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray],
) -> None:
    workshop = trained[0]
    kitchen = FreqaiDataKitchen(workshop.config, False, PAIR)
    with pytest.raises(OperationalException, match=f"^{PAIR}: the features .* are not known; "):
        workshop.model.predict(workshop.later, kitchen)


def test_a_raw_price_missing_at_prediction_is_named(
    trained: tuple[Any, PPO, pd.DataFrame, np.ndarray],
) -> None:
    workshop = trained[0]
    with pytest.raises(OperationalException, match=f"^{PAIR}: column '%-raw_low' is missing"):
        workshop.model.predict(workshop.later.drop(columns="%-raw_low"), workshop.kitchen)


# Bad input loses nothing


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what models and predictions of an identifier hold."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_bad_input_leaves_models_and_predictions_as_they_were(
    make_config: MakeConfig, strategy: IStrategy, candles: pd.DataFrame
) -> None:
    config = make_config()
    model = MtfScalperRLModel(config=config)
    frame = model.start(candles.copy(), {"pair": PAIR}, strategy)
    before = files_of(model.full_path)
    assert any(name.endswith("_model.zip") for name in before)
    assert any("backtesting_predictions" in name for name in before)

    row = int(candles["date"].searchsorted(pd.Timestamp("2024-01-30 22:35", tz="UTC")))
    double = candles.loc[[*range(row + 1), *range(row, len(candles))]]
    crossed = candles.copy()
    crossed.loc[row + 1, "low"] = 2.0 * crossed.loc[row + 1, "high"]
    for bad, problem in (
        (double, "column 'date' has a duplicate candle at 2024-01-30 22:35 (1 such row)"),
        (crossed, "is above 'high'"),
    ):
        with pytest.raises(OperationalException) as caught:
            MtfScalperRLModel(config=config).start(bad.copy(), {"pair": PAIR}, strategy)
        assert str(caught.value).startswith(f"{PAIR}: column '")
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)

    standard = strategy.feature_engineering_standard
    strategy.feature_engineering_standard = (  # type: ignore[method-assign]
        lambda dataframe, metadata, **kwargs: renamed(standard(dataframe, metadata, **kwargs))
    )
    with pytest.raises(
        OperationalException, match=f"^{PAIR}: feature '%-body' .* '%-torso' is not"
    ):
        MtfScalperRLModel(config=config).start(candles.copy(), {"pair": PAIR}, strategy)
    strategy.feature_engineering_standard = standard  # type: ignore[method-assign]

    assert files_of(model.full_path) == before
    again = MtfScalperRLModel(config=config)
    again.train = None  # type: ignore[assignment, method-assign]
    reused = again.start(candles.copy(), {"pair": PAIR}, strategy)
    pd.testing.assert_frame_equal(
        reused[list(columns.PREDICTIONS)], frame[list(columns.PREDICTIONS)]
    )


def test_live_predicts_the_last_candle_from_its_window(
    open_workshop: OpenWorkshop, strategy: IStrategy
) -> None:
    """The second call has one candle more and sees ``conv_width`` candles only."""
    workshop = open_workshop()
    model, config = workshop.model, workshop.config
    workshop.save(workshop.train())
    trained_timestamp = int(time.time())
    frames = [workshop.later.iloc[:200], workshop.later.iloc[1:201]]
    returned = []
    model.live = True
    for frame in frames:
        frame = frame.reset_index(drop=True)
        kitchen = FreqaiDataKitchen(config, True, PAIR)
        kitchen.find_labels(frame)
        model.dk = kitchen
        model.model = model.dd.load_data(PAIR, kitchen)
        model.build_strategy_return_arrays(frame, kitchen, PAIR, trained_timestamp)
        returned.append(kitchen.return_dataframe)
    first, second = returned
    assert not first["do_predict"].any()  # FreqAI marks what it had to predict in hindsight
    assert len(second) == 200
    last = second.iloc[-1]
    assert last["do_predict"] == 1
    assert last[columns.CONFIDENCE] > 0.0
    assert sum(last[list(columns.PROBABILITIES)]) == pytest.approx(1.0, abs=1e-6)
    assert last["date"] == frames[1]["date"].iloc[-1]

    batch, _ = model.predict(frames[1].reset_index(drop=True), kitchen)
    expected = batch[list(columns.PREDICTIONS)].iloc[-1]
    np.testing.assert_allclose(last[list(columns.PREDICTIONS)].astype(float), expected, atol=1e-6)

    given = kitchen.remove_features_from_df(second)
    strategy.freqai = SimpleNamespace(start=lambda frame, metadata, strategy: given)
    frame = strategy.populate_indicators(frames[1], {"pair": PAIR})
    frame = strategy.populate_exit_trend(frame, {"pair": PAIR})
    for name in ("agent_exit_long", "agent_exit_short"):
        assert np.flatnonzero(frame[name]).tolist() == [199]


def test_shutting_down_keeps_the_predictions(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop()
    workshop.model.dd.historic_predictions[PAIR] = pd.DataFrame({columns.ACTION: [1.0]})
    workshop.model.shutdown()
    drawer = FreqaiDataDrawer(Path(workshop.model.full_path), workshop.config)
    assert drawer.historic_predictions[PAIR][columns.ACTION].tolist() == [1.0]
    with pytest.raises(OperationalException, match="shutting down"):
        workshop.train()


def test_tensorboard_gets_a_run_per_window(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop({"freqai": {"activate_tensorboard": True}})
    workshop.train()
    folder = Path(workshop.model.full_path) / "tensorboard" / "BTC"
    assert [path.name for path in folder.iterdir()] == ["PPO_1"]
    (file,) = (folder / "PPO_1").glob("events.out.tfevents.*")
    content = file.read_bytes()
    for name in (b"train/approx_kl", b"train/fee_share", b"validation/log_return"):
        assert name in content


def test_a_provider_without_exchange_needs_a_configured_fee(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop()
    workshop.model.data_provider = DataProvider(workshop.config, None)
    with pytest.raises(MarketError, match=f"{PAIR}: no exchange to ask for its fee"):
        workshop.train()
    workshop.config["fee"] = 0.0005
    workshop.kitchen.find_features(workshop.window)
    assert isinstance(workshop.train(), PPO)


# Progress


@pytest.mark.parametrize("wanted", [True, False])
def test_a_bar_shows_a_training_on_freqtrades_terminal(
    wanted: bool,
    open_workshop: OpenWorkshop,
    rl_config: RlConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr("mtf_scalper.freqai.model.error_console", console)
    open_workshop(rl_config(progress_bar=wanted)).train()
    assert ("steps/s" in screen.getvalue()) is wanted
    assert (PAIR in screen.getvalue()) is wanted

"""What is read from a run's files, and the speed of two small trainings."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mtf_scalper.checks.facts import (
    read_checkpoints,
    read_freqai_config,
    read_predictions,
    read_used_settings,
)
from mtf_scalper.checks.speed import BEFORE, compare_speed
from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.training import train


def test_a_checkpoint_tells_its_own_shapes(
    tmp_path: Path, make_market: Any, tiny_settings: Any
) -> None:
    settings = tiny_settings(net_arch=(24, 8), n_envs=3, n_steps=32, batch_size=48)
    folder = tmp_path / "sub-train-BTC_1"
    folder.mkdir()
    train(make_market(), settings).policy.save(folder / "cb_btc_1_model.zip")
    (checkpoint,) = read_checkpoints(tmp_path)
    assert checkpoint.name == "cb_btc_1_model.zip"
    assert (checkpoint.n_envs, checkpoint.n_steps, checkpoint.batch_size) == (3, 32, 48)
    assert checkpoint.policy_layers == checkpoint.value_layers == (24, 8)


def test_a_damaged_checkpoint_is_an_error_and_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert read_checkpoints(tmp_path) == ()
    folder = tmp_path / "sub-train-BTC_1"
    folder.mkdir()
    with zipfile.ZipFile(folder / "cb_btc_1_model.zip", "w") as archive:
        archive.writestr("data", "{")
    with pytest.raises(SettingsError, match=r"cb_btc_1_model.zip: it is damaged, or no model"):
        read_checkpoints(tmp_path)


def test_predictions_are_read_by_file_name(tmp_path: Path) -> None:
    assert read_predictions(tmp_path) == {}
    folder = tmp_path / "backtesting_predictions"
    folder.mkdir()
    saved = pd.DataFrame({"&-prob_neutral": [1.0], "&-prob_neutral_mean": [0.0], "&-action": [0.0]})
    saved.to_feather(folder / "cb_btc_1_prediction.feather")
    ((name, read),) = read_predictions(tmp_path).items()
    assert name == "cb_btc_1_prediction.feather"
    pd.testing.assert_frame_equal(read, saved)


def test_the_configuration_is_the_one_that_freqai_wrote_down(tmp_path: Path) -> None:
    assert read_freqai_config(tmp_path) == {}
    content = {"freqai": {"conv_width": 10}, "timeframe": "5m"}
    (tmp_path / "run_params.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_freqai_config(tmp_path) == {"conv_width": 10}


def test_used_settings_come_back_as_they_were(tmp_path: Path, tiny_settings: Any) -> None:
    with pytest.raises(MtfScalperError, match="first window"):
        read_used_settings(tmp_path)
    settings = tiny_settings(rules={"entry": "any", "stoploss": -0.1, "minimal_roi": {30: 0.02}})
    values = {"version": "1", **settings.model_dump(mode="json", exclude={"progress_bar"})}
    (tmp_path / "mtf_scalper_settings.json").write_text(json.dumps(values), encoding="utf-8")
    assert read_used_settings(tmp_path) == settings


def test_both_trainings_take_one_rollout_of_the_used_settings(
    make_market: Any, tiny_settings: Any
) -> None:
    settings = tiny_settings(n_envs=4, n_steps=64, batch_size=64, train_cycles=9)
    told: list[str] = []
    speed = compare_speed(
        make_market(n_candles=100),
        settings,
        lambda name, progress: told.append(name),
        before={"n_envs": 1, "n_steps": 128, "batch_size": 32, "net_arch": (8,)},
    )
    assert speed.steps_before == speed.steps_after == 256
    assert speed.before > 0.0
    assert speed.ratio == speed.after / speed.before
    assert told == sorted(told, reverse=True)
    assert set(told) == {"before", "after"}


def test_the_settings_before_are_those_that_the_readme_names(tiny_settings: Any) -> None:
    before = tiny_settings(**BEFORE)
    assert (before.n_envs, before.batch_size, before.n_steps) == (1, 64, 2048)
    assert before.net_arch == (256, 256, 128)
    assert before.vec_env == "dummy"

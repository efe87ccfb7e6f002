"""Every section and value of the shipped configuration, replaced by what cannot be meant."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from stable_baselines3 import PPO

from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai.config import read_settings
from mtf_scalper.freqai.loading import load_configuration
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.runs.recipe_reader import read_recipe
from mtf_scalper.training import train

Path_ = tuple[str, ...]
WRONG: tuple[Any, ...] = (None, [], {}, "", "x", True, False, -1, 0, 10**12, 1e39, [None], [1e9])
GONE = "gone"


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    path = Path(__file__).resolve().parents[2] / "configs" / "config_rl_hybrid.json"
    return json.loads(path.read_text(encoding="utf-8"))


def places(section: dict[str, Any], above: Path_ = ()) -> Iterator[Path_]:
    for key, value in section.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def changed(config: dict[str, Any], place: Path_, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    inside = config
    for key in place[:-1]:
        inside = inside[key]
    if isinstance(value, str) and value == GONE:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return config


def error_of(config: dict[str, Any], folder: Path) -> str | None:
    """Load a configuration as the program does: freqtrade's validation, then ours."""
    file = folder / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    (folder / "user_data").mkdir(exist_ok=True)
    arguments = {"config": [str(file)], "user_data_dir": str(folder / "user_data")}
    try:
        read_settings(load_configuration(arguments, RunMode.UTIL_NO_EXCHANGE))
    except SettingsError as error:
        return str(error)
    return None


def test_no_change_of_a_section_ends_in_a_traceback(
    shipped: dict[str, Any], tmp_path: Path
) -> None:
    """Any other exception than ``SettingsError`` fails the test."""
    logging.disable(logging.CRITICAL)
    refused = 0
    try:
        for place in places(shipped):
            for value in (*WRONG, GONE):
                if place[0] not in ("freqai", "exchange", "timeframe", "pairlists"):
                    continue
                message = error_of(changed(shipped, place, value), tmp_path)
                if message is not None:
                    refused += 1
                    assert "\n" not in message
                    assert len(message) < 1500
    finally:
        logging.disable(logging.NOTSET)
    assert refused > 300


@pytest.mark.parametrize("value", [GONE, None])
def test_an_evaluation_of_a_configuration_with_holes_ends_in_one_line(
    shipped: dict[str, Any], tmp_path: Path, project: Path, value: Any
) -> None:
    """With the strategy, and all that is read of both: any other exception fails the test."""
    names = ("MtfScalper_RL_Hybrid", "MtfScalperRLModel")
    file = tmp_path / "config.json"
    for place in places(shipped["freqai"], ("freqai",)):
        file.write_text(json.dumps(changed(shipped, place, value)), encoding="utf-8")
        with contextlib.suppress(SettingsError):
            read_recipe([file], project / "user_data", tmp_path, *names)


def test_an_evaluation_has_the_slippage_of_the_configuration(
    shipped: dict[str, Any], project: Path, tmp_path: Path
) -> None:
    file, names = tmp_path / "config.json", ("MtfScalper_RL_Hybrid", "MtfScalperRLModel")
    for bps in (None, 2.5):
        if bps is not None:
            shipped = changed(shipped, ("freqai", "rl_config", "slippage_bps"), bps)
        file.write_text(json.dumps(shipped), encoding="utf-8")
        recipe = read_recipe([file], project / "user_data", tmp_path, *names)
        assert recipe.settings.rules.slippage_bps == (bps or 0.0)


def test_a_program_without_a_part_of_freqai_ends_in_one_line(make_config) -> None:
    config = make_config()
    del config["original_config"]["freqai"]["feature_parameters"]["indicator_periods_candles"]
    with pytest.raises(OperationalException) as caught:
        MtfScalperRLModel(config=config)
    assert str(caught.value) == (
        "freqai.feature_parameters.indicator_periods_candles: is missing; "
        "see configs/config_rl_hybrid.json"
    )


def test_a_configuration_without_rl_config_has_the_defaults(make_config) -> None:
    config = make_config()
    for written in (config, config["original_config"]):
        written["freqai"].pop("rl_config")
        written["freqai"]["model_training_parameters"] = {}
    model = MtfScalperRLModel(config=config)
    assert model.settings == read_settings(config)
    assert model.settings.net_arch == (512, 512, 256)


def test_maskable_ppo_is_ppo_here(make_config, rl_config) -> None:
    config = make_config(rl_config(model_type="MaskablePPO"))
    model = MtfScalperRLModel(config=config)
    assert model.MODELCLASS is PPO
    assert model.dd.model_type == "stable_baselines3"  # what saved models are loaded with


MEANT_BY_NOBODY = [
    ("freqai.rl_config.train_cycles", 10**9),
    ("freqai.rl_config.train_cycles", True),
    ("freqai.rl_config.train_cycles", "30"),
    ("freqai.rl_config.net_arch", [1_000_000]),
    ("freqai.rl_config.net_arch", [True]),
    ("freqai.rl_config.net_arch", "512"),
    ("freqai.rl_config.n_envs", 10**6),
    ("freqai.rl_config.learning_rate", 1e9),
    ("freqai.rl_config.keep_bias", 1e39),
    ("freqai.rl_config.add_state_info", 1),
    ("freqai.rl_config.add_state_info", "yes"),
    ("freqai.rl_config.cpu_count", 1e9),
    ("freqai.rl_config.model_reward_parameters", None),
    ("freqai.rl_config.model_reward_parameters.rr", True),
    ("freqai.rl_config.max_trade_duration_candles", 0),
    ("freqai.rl_config.entry", None),
    ("freqai.model_training_parameters.gamma", True),
    ("freqai.model_training_parameters.learning_rate", "fast"),
    ("freqai.model_training_parameters.n_steps", 10**9),
    ("freqai.model_training_parameters", None),
    ("freqai.model_training_parameters", [1]),
    ("freqai.feature_parameters", None),
    ("freqai.data_split_parameters", "half"),
    ("freqai.data_split_parameters.test_size", 1.5),
    ("freqai.rl_config", None),
    ("freqai.conv_width", 9000),
    ("freqai.conv_width", True),
    ("freqai", None),
    ("exchange", None),
    ("exchange.pair_whitelist", "BTC/USDT:USDT"),
    ("exchange.pair_whitelist", [None]),
    ("timeframe", "5x"),
]


@pytest.mark.parametrize(("place", "value"), MEANT_BY_NOBODY)
def test_what_cannot_be_meant_is_refused_under_the_key_as_written(
    shipped: dict[str, Any], place: str, value: Any
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(changed(shipped, tuple(place.split(".")), value))
    message = str(caught.value)
    assert message.startswith((f"{place}:", f"{place}."))
    assert "\n" not in message


def test_messages_say_the_alias_and_section_that_the_user_wrote(shipped: dict[str, Any]) -> None:
    config = changed(shipped, ("freqai", "rl_config", "seed"), -3)
    with pytest.raises(SettingsError, match=r"^freqai\.rl_config\.seed: "):
        read_settings(config)
    config = changed(shipped, ("freqai", "rl_config", "max_training_drawdown_pct"), 0.1)
    with pytest.raises(SettingsError) as caught:
        read_settings(config)
    assert str(caught.value) == (
        "freqai.rl_config.advantage: advantage 'exact' does not go with "
        "max_training_drawdown_pct; use 'gae'"
    )


def test_unused_rollouts_take_no_memory(make_market, tiny_settings) -> None:
    """A rollout of these settings would hold half a billion observations."""
    settings = tiny_settings(advantage="exact", train_cycles=1, n_envs=1024, n_steps=500_000)
    model = train(make_market(), settings).policy.model
    assert (model.n_envs, model.n_steps) == (1024, 500_000)

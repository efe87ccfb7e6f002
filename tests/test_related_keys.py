"""Keys of related programs: told by name, all at once; guesses only where near."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest
import sb3_contrib
import stable_baselines3

from mtf_scalper.errors import SettingsError
from mtf_scalper.related_keys import explained, harmless
from mtf_scalper.settings import Settings, TradeRules

TRAINING = "model_training_parameters"


def read(rl: dict[str, Any], training: dict[str, Any] | None = None) -> Settings:
    return Settings.from_freqai(rl, training or {}, window_size=10, rules=TradeRules())


def refusal(training: dict[str, Any]) -> str:
    try:
        read({}, training)
    except SettingsError as error:
        return str(error)
    return ""


def test_all_unknown_keys_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        read({"frame_stacking": 3, "n_env": 4, "qwertz": 1}, {"buffer_size": 1000})
    message = str(caught.value)
    assert message.startswith("4 keys are not settings here | ")
    assert "freqai.model_training_parameters.buffer_size: DQN's; no counterpart" in message
    assert "freqai.rl_config.frame_stacking: ReforceXY's; here: freqai.conv_width" in message
    assert "freqai.rl_config.n_env: unknown key; did you mean 'n_envs'?" in message
    assert "freqai.rl_config.qwertz: unknown key | " in message
    assert message.count("did you mean") == 1
    assert "\n" not in message


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "MaskablePPO", "TRPO", "QRDQN"])
def test_every_argument_of_an_algorithm_is_a_setting_or_known_by_name(name: str) -> None:
    """As the installed classes have them."""
    package = stable_baselines3 if hasattr(stable_baselines3, name) else sb3_contrib
    arguments = list(inspect.signature(getattr(package, name)).parameters)
    assert len(arguments) > 10
    told = {key: refusal({key: "x"}) for key in arguments}
    assert [key for key, words in told.items() if "unknown key" in words] == []


def test_what_changes_nothing_is_left_unread_with_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        read(
            {"multiprocessing": True, "lr_schedule": False, "rl_config_optuna": {"enabled": False}}
        )
    (line,) = caplog.messages
    assert line.startswith("not read: freqai.rl_config.multiprocessing (ReforceXY's; here: ")
    assert "freqai.rl_config.lr_schedule (ReforceXY's; switched off, as here)" in line


@pytest.mark.parametrize(
    ("key", "off", "on"),
    [
        ("frame_stacking", 1, 2),
        ("lr_schedule", False, True),
        ("rl_config_optuna", {"enabled": False}, {"enabled": True}),
        ("use_sde", False, True),
        ("sde_sample_freq", -1, 4),
        ("policy_kwargs", None, {"net_arch": [8]}),
    ],
)
def test_a_feature_that_is_off_is_no_hindrance(key: str, off: Any, on: Any) -> None:
    assert harmless(key, off) is not None
    assert harmless(key, on) is None
    assert explained(key, "rl_config") is not None


def test_reward_parameters_of_a_relative_are_told_as_such() -> None:
    with pytest.raises(SettingsError) as caught:
        read({"model_reward_parameters": {"exit_plateau": True, "rr": 1}})
    assert str(caught.value).startswith(
        "freqai.rl_config.model_reward_parameters.exit_plateau: ReforceXY's; no counterpart"
    )

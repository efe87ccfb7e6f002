from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.ppo.checkpoints import new_model
from mtf_scalper.ppo.compute import ComputeSetup
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.rollouts.environments import open_vec_env
from mtf_scalper.settings import (
    Algorithm,
    Device,
    EntryMode,
    RewardName,
    RewardParameters,
    Settings,
    TradeRules,
    VecEnvKind,
)
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.training import train

NO_RULES = TradeRules()


def from_freqai(rl: dict[str, Any], training: dict[str, Any] | None = None) -> Settings:
    return Settings.from_freqai(rl, training or {}, window_size=10, rules=NO_RULES)


def error_of(build: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_the_reference_recipe() -> None:
    settings = Settings()
    assert settings.train_cycles == 30
    assert settings.n_envs == 8
    assert settings.cpu_count == 8
    assert settings.interop_threads == 2
    assert settings.vec_env is VecEnvKind.BATCHED
    assert settings.n_steps == 4096
    assert settings.batch_size == 256
    assert settings.net_arch == (512, 512, 256)
    assert settings.device is Device.AUTO
    assert settings.window_size == 10
    assert settings.inference_batch_size == 256
    assert settings.reward is RewardName.LOG_RETURN
    assert settings.rollout_steps == 8 * 4096


def test_defaults_hold_where_the_configuration_is_silent() -> None:
    assert from_freqai({}) == Settings(window_size=10)


def test_ppo_defaults_are_those_of_stable_baselines3(make_market, tiny_settings) -> None:
    settings = Settings(advantage="gae")
    stock = PPO(MaskedPolicy, ReferenceEnv(make_market(), tiny_settings()), device="cpu")
    assert settings.used_n_epochs == stock.n_epochs
    names = ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm")
    for name in names:
        assert getattr(settings, name) == getattr(stock, name), name
    assert settings.used_learning_rate == stock.learning_rate
    assert settings.clip_range == stock.clip_range(1.0)


def test_rl_config_wins_over_model_training_parameters_and_both_over_defaults() -> None:
    settings = from_freqai(
        {"batch_size": 128, "n_steps": 2048},
        {"batch_size": 64, "learning_rate": 1e-3, "n_steps": 512},
    )
    assert settings.batch_size == 128
    assert settings.n_steps == 2048
    assert settings.learning_rate == 1e-3
    assert settings.n_epochs is None


def test_a_key_wins_under_its_freqtrade_name_too() -> None:
    settings = from_freqai({"seed": 7}, {"random_state": 5})
    assert settings.random_state == 7


def test_the_configuration_of_the_project_is_accepted() -> None:
    settings = from_freqai(
        {
            "train_cycles": 30,
            "cpu_count": 8,
            "n_envs": 8,
            "n_steps": 4096,
            "batch_size": 256,
            "net_arch": [512, 512, 256],
            "device": "auto",
            "model_type": "PPO",
            "policy_type": "MlpPolicy",
            "add_state_info": False,
            "drop_ohlc_from_features": True,
            "max_training_drawdown_pct": 0.5,
            "max_trade_duration_candles": 48,
            "model_reward_parameters": {"rr": 2, "profit_aim": 0.01},
        },
        {"verbose": 1, "gamma": 0.9},
    )
    assert settings.net_arch == (512, 512, 256)
    assert settings.rules.max_training_drawdown == 0.5
    assert settings.reward_parameters == RewardParameters(rr=2.0, profit_aim=0.01)
    assert settings.gamma == 0.9


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("rl_config", "net_arc", "net_arch"),
        ("rl_config", "n_env", "n_envs"),
        ("rl_config", "train_cycle", "train_cycles"),
        ("rl_config", "model_reward_parameter", "model_reward_parameters"),
        ("rl_config", "max_training_drawdown_pc", "max_training_drawdown_pct"),
        ("model_training_parameters", "learning_rat", "learning_rate"),
        ("model_training_parameters", "batchsize", "batch_size"),
    ],
)
def test_an_unknown_key_is_named_with_section_and_nearest_key(section, key, nearest) -> None:
    rl, training = ({key: 1}, {}) if section == "rl_config" else ({}, {key: 1})
    assert (
        error_of(lambda: from_freqai(rl, training))
        == f"freqai.{section}.{key}: unknown key; did you mean {nearest!r}?"
    )


def test_an_unknown_key_like_no_other_lists_the_known_ones() -> None:
    message = error_of(lambda: from_freqai({"zzzzzz": 1}))
    assert message.startswith("freqai.rl_config.zzzzzz: unknown key; known keys: ")
    assert "n_envs" in message


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Settings(n_envz=4), "n_envz: unknown key; did you mean 'n_envs'?"),
        (lambda: TradeRules(stop_loss=-0.1), "stop_loss: unknown key; did you mean 'stoploss'?"),
        (
            lambda: RewardParameters(profit_ami=0.1),
            "profit_ami: unknown key; did you mean 'profit_aim'?",
        ),
    ],
)
def test_the_objects_refuse_unknown_keys_too(build, message) -> None:
    assert error_of(build) == message


def test_an_unknown_reward_parameter_in_the_configuration_is_named() -> None:
    message = error_of(lambda: from_freqai({"model_reward_parameters": {"profit_am": 0.1}}))
    assert "profit_am: unknown key; did you mean 'profit_aim'?" in message


def test_a_batch_size_that_does_not_divide_the_rollout_names_the_nearest_that_does() -> None:
    message = error_of(lambda: Settings(n_envs=6, n_steps=100, batch_size=256))
    assert message == (
        "n_envs * n_steps = 600 is not a multiple of batch_size 256; "
        "the nearest batch_size that divides it is 300"
    )
    assert Settings(n_envs=6, n_steps=100, batch_size=300).batch_size == 300


def test_a_batch_size_larger_than_the_rollout_is_refused() -> None:
    message = error_of(lambda: Settings(n_envs=1, n_steps=64, batch_size=256))
    assert message == "batch_size 256 is larger than a rollout of 64"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"n_envs": 0}, "n_envs: "),
        ({"n_steps": 1}, "n_steps: "),
        ({"learning_rate": 0.0}, "learning_rate: "),
        ({"learning_rate": float("nan")}, "learning_rate: "),
        ({"gamma": 1.5}, "gamma: "),
        ({"net_arch": ()}, "net_arch: "),
        ({"net_arch": (16, 0)}, "net_arch.1: "),
        ({"random_state": -1}, "random_state: "),
        ({"train_cycles": "many"}, "train_cycles: "),
        ({"start_method": "forked"}, "start_method: "),
        ({"device": "tpu"}, "device: "),
    ],
)
def test_a_bad_value_is_named_in_one_line(values, named) -> None:
    message = error_of(lambda: Settings(**values))
    assert message.startswith(named)
    assert "got" in message


@pytest.mark.parametrize("name", ["my_rewards.py:mine", "C:\\rewards.py:mine", "my.rewards:mine"])
def test_a_reward_of_the_users_own_is_named_by_file_or_module(name) -> None:
    settings = from_freqai({"reward": name})
    assert settings.reward == name
    assert Settings(**json.loads(settings.model_dump_json())) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings


OWN = "A function of yours is named 'file.py:function' or 'package.module:function'"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("log_retrun", f"reward: 'log_retrun' is not known; did you mean 'log_return'? {OWN}"),
        (
            "sharpe",
            "reward: 'sharpe' is not known; known are log_return, exit_quality, "
            f"freqtrade_example. {OWN}",
        ),
        ("rewards.txt:mine:", f"freqtrade_example. {OWN}"),
        ("rewards.py:my reward", OWN),
        (7, "reward: 7 is not known; "),
        ("rewards.py", "reward: 'rewards.py' names no function; write 'rewards.py:function'"),
        (abs, "reward: 'abs' is not decorated; write @reward (from mtf_scalper import reward)"),
    ],
)
def test_a_reward_that_is_none_is_refused_with_what_is(name, message) -> None:
    refused = error_of(lambda: Settings(reward=name))
    assert refused.startswith("reward: ")
    assert message in refused


def test_freqtrades_environment_has_no_reward_of_the_users_own() -> None:
    message = error_of(lambda: Settings(fills="freqtrade_env", reward="my_rewards.py:mine"))
    assert message == "fills 'freqtrade_env' needs reward 'freqtrade_example', its own"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"stoploss": 0.1}, "stoploss: "),
        ({"emergency_loss": 0.0}, "emergency_loss: "),
        ({"minimal_roi": {-5: 0.1}}, "minimal_roi.-5"),
        ({"max_trade_duration_candles": 0}, "max_trade_duration_candles: "),
        ({"entry": "sometimes"}, "entry: "),
        ({"max_training_drawdown": 1.5}, "max_training_drawdown: "),
    ],
)
def test_a_bad_trade_rule_is_named_in_one_line(values, named) -> None:
    assert error_of(lambda: TradeRules(**values)).startswith(named)


def test_an_unknown_vec_env_is_refused_with_the_valid_ones() -> None:
    message = error_of(lambda: from_freqai({"vec_env": "threads"}))
    assert message.startswith("freqai.rl_config.vec_env: ")
    assert "threads" in message
    for kind in VecEnvKind:
        assert f"'{kind}'" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "A2C"),
        ("policy_type", "MlpLstmPolicy"),
        ("drop_ohlc_from_features", False),
    ],
)
def test_what_is_not_supported_is_refused(key, value) -> None:
    message = error_of(lambda: from_freqai({key: value}))
    assert message.startswith(f"freqai.rl_config.{key}: {value!r} is not supported; set it to ")


def test_settings_errors_are_errors_of_the_package() -> None:
    assert issubclass(SettingsError, MtfScalperError)


@pytest.mark.parametrize("frozen", [Settings(), TradeRules(), RewardParameters()])
def test_settings_are_frozen(frozen) -> None:
    name = next(iter(type(frozen).model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(frozen, name, 1)


def test_changed_returns_a_validated_copy() -> None:
    settings = Settings()
    assert settings.changed(n_envs=4).n_envs == 4
    assert settings.n_envs == 8
    assert error_of(lambda: settings.changed(batch_size=257)).startswith("n_envs * n_steps")
    assert error_of(lambda: settings.changed(n_envz=4)).startswith("n_envz: unknown key")


def model_of(settings: Settings, make_market: Any) -> PPO:
    with open_vec_env(make_market(), settings) as env:
        compute = ComputeSetup("cpu", 1, 1)
        return new_model(PPO, MaskedPolicy, VecMonitor(env), settings, compute, None, None)


PPO_EFFECTS = {
    "n_steps": (128, lambda ppo: ppo.n_steps),
    "batch_size": (64, lambda ppo: ppo.batch_size),
    "n_epochs": (3, lambda ppo: ppo.n_epochs),
    "learning_rate": (0.01, lambda ppo: ppo.policy.optimizer.param_groups[0]["lr"]),
    "gamma": (0.5, lambda ppo: ppo.rollout_buffer.gamma),
    "gae_lambda": (0.5, lambda ppo: ppo.rollout_buffer.gae_lambda),
    "clip_range": (0.3, lambda ppo: ppo.clip_range(1.0)),
    "clip_range_vf": (0.3, lambda ppo: ppo.clip_range_vf(1.0)),
    "normalize_advantage": (False, lambda ppo: ppo.normalize_advantage),
    "ent_coef": (0.01, lambda ppo: ppo.ent_coef),
    "vf_coef": (0.7, lambda ppo: ppo.vf_coef),
    "max_grad_norm": (0.9, lambda ppo: ppo.max_grad_norm),
    "target_kl": (0.03, lambda ppo: ppo.target_kl),
    "random_state": (7, lambda ppo: ppo.seed),
    "n_envs": (4, lambda ppo: ppo.n_envs),
    "window_size": (6, lambda ppo: (ppo.observation_space.shape[0] - 5) // 3),
    "add_state_info": (True, lambda ppo: ppo.observation_space.shape[0] == 4 * 3 + 5 + 5),
    "algorithm": (Algorithm.PPO, lambda ppo: Algorithm.PPO if type(ppo) is PPO else None),
}


@pytest.mark.parametrize("name", PPO_EFFECTS)
def test_a_ppo_setting_reaches_the_model(name, make_market, tiny_settings) -> None:
    value, observe = PPO_EFFECTS[name]
    assert getattr(tiny_settings(), name) != value
    assert observe(model_of(tiny_settings(**{name: value}), make_market)) == value


def test_net_arch_is_the_size_of_both_networks(make_market, tiny_settings) -> None:
    ppo = model_of(tiny_settings(net_arch=(24, 8)), make_market)
    for network in (ppo.policy.mlp_extractor.policy_net, ppo.policy.mlp_extractor.value_net):
        sizes = [layer.out_features for layer in network if isinstance(layer, torch.nn.Linear)]
        assert sizes == [24, 8]


def test_train_cycles_are_passes_over_the_data(make_market, tiny_settings) -> None:
    market = make_market(n_candles=128)
    for cycles in (1, 3):
        result = train(market, tiny_settings(train_cycles=cycles))
        assert result.steps == cycles * 128


def rollout(env: ReferenceEnv) -> tuple[int, float]:
    """Enter, hold to the end: the first row and the sum of the rewards."""
    env.reset(seed=3)
    first, total, ended = env.row, 0.0, False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(1)
        total += reward
        ended = terminated or truncated
    return first, total


ENV_EFFECTS = {
    "reward": "freqtrade_example",
    "randomize_starting_position": True,
    "max_episode_steps": 20,
    "rules": {"entry": "any", "max_trade_duration_candles": 2},
}


@pytest.mark.parametrize("name", ENV_EFFECTS)
def test_an_environment_setting_changes_the_episode(name, make_market, tiny_settings) -> None:
    market = make_market(n_candles=120)
    base, changed = tiny_settings(), tiny_settings(**{name: ENV_EFFECTS[name]})
    assert rollout(ReferenceEnv(market, base)) != rollout(ReferenceEnv(market, changed))


@pytest.mark.parametrize(
    ("name", "value", "reward"),
    [
        ("rr", 3.0, "exit_quality"),
        ("profit_aim", 0.1, "exit_quality"),
        ("win_reward_factor", 9.0, "freqtrade_example"),
    ],
)
def test_a_reward_parameter_changes_the_reward(
    name, value, reward, make_market, tiny_settings
) -> None:
    market = make_market([[100, 100, 100, 100], [100, 103, 80, 102], [110, 112, 109, 111]] * 2)

    def total(parameters: dict[str, float]) -> float:
        settings = tiny_settings(reward=reward, reward_parameters=parameters, window_size=1)
        env = ReferenceEnv(market, settings)
        env.reset()
        return sum(float(env.step(action)[1]) for action in (1, 2))

    assert total({}) != total({name: value})


RULE_EFFECTS = {
    "entry": EntryMode.ALWAYS,
    "can_short": False,
    "stoploss": -0.02,
    "minimal_roi": {0: 0.01},
    "max_trade_duration_candles": 2,
    "emergency_loss": -0.01,
    "break_even_trigger": 0.001,
    "break_even_floor": 0.01,
    "maintenance_margin_rate": 0.3,
    "liquidation_buffer": 0.5,
    "max_training_drawdown": 0.02,
    "trailing_stop": True,
    "trailing_stop_positive": 0.01,
    "trailing_stop_positive_offset": 0.3,
    "trailing_only_offset_is_reached": True,
    "is_liquidated": False,
    "exit_timeout_minutes": 5.0,
}
_TRAILING = {"stoploss": -0.3, "trailing_stop": True}
_NEARER = {**_TRAILING, "trailing_stop_positive": 0.02, "trailing_stop_positive_offset": 0.05}
RULES_BESIDE = {
    "trailing_stop": {"stoploss": -0.3},
    "trailing_stop_positive": _TRAILING,
    "trailing_stop_positive_offset": _NEARER,
    "trailing_only_offset_is_reached": _NEARER,
    "is_liquidated": {"maintenance_margin_rate": 0.09},
    # Orders wait after a trailing stop in the candle of the entry.
    "exit_timeout_minutes": {
        **_NEARER,
        "trailing_only_offset_is_reached": True,
        "trailing_stop_positive": 0.3,
        "trailing_stop_positive_offset": 0.06,
        "break_even_trigger": None,
    },
}
"""Rules without which another has no effect."""


@pytest.mark.parametrize("name", RULE_EFFECTS)
def test_a_trade_rule_changes_the_episode(name, make_market, tiny_settings) -> None:
    """Random actions at leverage 10 on a wild market end otherwise once any rule differs."""
    market = make_market(n_candles=300, volatility=0.02, leverage=10.0, seed=5)
    base = {"entry": "any", "break_even_trigger": 0.05, **RULES_BESIDE.get(name, {})}

    def outcome(rules: dict[str, Any]) -> list[tuple[Any, ...]]:
        env = ReferenceEnv(market, tiny_settings(rules=rules))
        env.reset()
        rng = np.random.default_rng(1)
        terminated = False
        while not terminated:
            action = int(rng.choice([0, 0, 0, 0, 1, 2, 3, 4]))
            _, _, terminated, _, _ = env.step(action)
        return [(trade.open_row, trade.close_row, trade.exit_reason) for trade in env.trades]

    assert outcome(base) != outcome({**base, name: RULE_EFFECTS[name]})


_EXACT_ONLY = (
    "advantage",
    "policy_inputs",
    "weight_decay",
    "dropout",
    "weight_average",
    "keep_bias",
    "fee_warmup",
    "validation_share",
    "evidence",
    "patience",
    "float32_matmul_precision",
)


def test_every_setting_has_its_effect_tested() -> None:
    """Names the tests of those settings whose effect is tested elsewhere."""
    elsewhere = {
        "net_arch": "above",
        "train_cycles": "above",
        "reward_parameters": "above",
        "allow_uncompiled_reward": "simulator/test_user_rewards.py",
        "vec_env": "rollouts/test_process_env.py",
        "fills": "rollouts/test_freqtrade_env.py",
        "n_actions": "rollouts/test_freqtrade_env.py",
        "start_method": "rollouts/test_process_env.py",
        "cpu_count": "ppo/test_compute.py",
        "interop_threads": "ppo/test_compute.py",
        "device": "ppo/test_compute.py",
        "inference_batch_size": "ppo/test_policy.py",
        "progress_bar": "freqai/test_model.py",
        **dict.fromkeys(
            _EXACT_ONLY,
            "ppo/test_exact_training.py",
        ),
        "n_seeds": "ppo/test_ensemble.py",
        "untrainable_pairs": "runs/test_left_out.py",
        "policy": "freqai/test_frozen.py",
    }
    assert set(Settings.model_fields) == {*PPO_EFFECTS, *ENV_EFFECTS, *elsewhere}
    # A policy and not the environment goes by the one: ppo/test_exact_training.py; no trade goes by
    # the other, but its profit does: simulator/test_slippage.py.
    assert set(TradeRules.model_fields) == {*RULE_EFFECTS, "exit_confidence", "slippage_bps"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"trailing_stop": True}, "trailing_stop: true needs a stoploss"),
        ({"trailing_stop_positive": 0.01}, "trailing_stop_positive has no effect without"),
        (
            {"trailing_only_offset_is_reached": True},
            "trailing_only_offset_is_reached has no",
        ),
    ],
)
def test_a_trailing_stop_that_cannot_be_meant_is_refused(
    rules: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        TradeRules(**rules)

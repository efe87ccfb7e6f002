"""The shipped configurations, and what a configuration and a strategy become."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from freqtrade.configuration.config_validation import validate_config_schema
from freqtrade.enums import RunMode

from mtf_scalper.errors import SettingsError
from mtf_scalper.exchange import offline_exchange_config
from mtf_scalper.freqai.config import check_identifier, read_settings, rl_section, trade_rules
from mtf_scalper.settings import EntryMode, Settings, TradeRules

Config = dict[str, Any]
MakeConfig = Callable[..., Config]

REFERENCE = {
    "advantage": "exact",
    "train_cycles": 30,
    "cpu_count": 8,
    "n_envs": 8,
    "n_steps": 4096,
    "batch_size": 256,
    "net_arch": [512, 512, 256],
    "device": "auto",
}
FROM_STRATEGY = {"stoploss": -0.1, "minimal_roi": {"0": 0.04}}
SILENT = {
    "freqai": {
        "identifier": "silent",
        "conv_width": 10,
        "rl_config": {"model_type": "PPO", "policy_type": "MlpPolicy"},
    }
}


@pytest.fixture(scope="module")
def shipped(project: Path) -> Config:
    path = project / "configs" / "config_rl_hybrid.json"
    return json.loads(path.read_text(encoding="utf-8"))


def strategy_of(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "can_short": True,
            "stoploss": -0.1,
            "minimal_roi": {"0": 0.04, "30": 0.02},
            **attributes,
        }
    )


@pytest.mark.parametrize("runmode", [RunMode.BACKTEST, RunMode.DRY_RUN, RunMode.HYPEROPT])
def test_the_shipped_config_is_valid_for_freqtrade(shipped: Config, runmode: RunMode) -> None:
    config = {**copy.deepcopy(shipped), **FROM_STRATEGY, "runmode": runmode}
    assert validate_config_schema(config) is config


def test_the_shipped_config_holds_the_reference_recipe(shipped: Config) -> None:
    rl_config = shipped["freqai"]["rl_config"]
    assert {key: rl_config[key] for key in REFERENCE} == REFERENCE
    settings = read_settings(shipped)
    assert settings.net_arch == (512, 512, 256)
    assert settings.vec_env == "batched"
    # What goes by the advantage is left to the settings' defaults.
    assert (settings.n_epochs, settings.learning_rate) == (None, None)
    assert settings.window_size == 10
    assert settings.random_state == 42
    assert settings.rules.entry is EntryMode.CLASSIC


def test_the_shipped_config_trades_futures_dry_in_30_and_7_days(shipped: Config) -> None:
    exchange, freqai = shipped["exchange"], shipped["freqai"]
    assert exchange["name"] == "binance"
    assert exchange["pair_whitelist"] == ["BTC/USDT:USDT", "ETH/USDT:USDT"]
    assert (shipped["trading_mode"], shipped["margin_mode"]) == ("futures", "isolated")
    assert shipped["timeframe"] == "5m"
    assert shipped["dry_run"] is True
    assert shipped["entry_pricing"]["use_order_book"] is True
    assert shipped["exit_pricing"]["use_order_book"] is True
    assert (freqai["train_period_days"], freqai["backtest_period_days"]) == (30, 7)
    assert freqai["feature_parameters"]["include_timeframes"] == ["5m", "15m", "1h"]
    assert freqai["conv_width"] == 10
    assert freqai["data_split_parameters"]["test_size"] == 0.15
    assert freqai["data_split_parameters"]["shuffle"] is False


def test_the_offline_config_only_points_at_the_replay_exchange(project: Path) -> None:
    path = project / "configs" / "offline.json"
    assert json.loads(path.read_text(encoding="utf-8")) == offline_exchange_config()
    assert set(offline_exchange_config()) == {"exchange"}


def test_a_silent_config_gets_the_reference_defaults(make_config: MakeConfig) -> None:
    """freqtrade writes net_arch [128, 128] and cpu_count 1 where the user wrote nothing."""
    config = make_config(small=False)
    for key in (*REFERENCE, "max_training_drawdown_pct"):
        for written in (config["original_config"], config):
            written["freqai"]["rl_config"].pop(key, None)
    validate_config_schema({**config, **FROM_STRATEGY})
    assert config["freqai"]["rl_config"]["net_arch"] == [128, 128]
    assert config["freqai"]["rl_config"]["cpu_count"] == 1

    assert REFERENCE.keys().isdisjoint(rl_section(config))
    settings = read_settings(config)
    assert settings.model_dump(include=set(REFERENCE)) == {**REFERENCE, "net_arch": (512, 512, 256)}
    assert settings.rules.max_training_drawdown is None  # freqtrade's own default is 0.02


def test_rl_config_wins_over_model_training_parameters() -> None:
    config = copy.deepcopy(SILENT)
    config["freqai"]["model_training_parameters"] = {"n_steps": 128, "gamma": 0.5}
    config["freqai"]["rl_config"] |= {"n_steps": 512}
    settings = read_settings(config)
    assert (settings.n_steps, settings.gamma) == (512, 0.5)


def test_the_seed_of_the_data_split_seeds_the_training() -> None:
    config = copy.deepcopy(SILENT)
    config["freqai"]["data_split_parameters"] = {"random_state": 7}
    assert read_settings(config).random_state == 7
    config["freqai"]["model_training_parameters"] = {"random_state": 8}
    assert read_settings(config).random_state == 8


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("rl_config", "n_env", 8, ("freqai.rl_config.n_env", "'n_envs'")),
        (
            "model_training_parameters",
            "learning_rat",
            1e-3,
            ("freqai.model_training_parameters.learning_rat", "'learning_rate'"),
        ),
        ("rl_config", "vec_env", "threads", ("vec_env", "'subproc'", "'dummy'", "'threads'")),
        ("rl_config", "entry", "sometimes", ("freqai.rl_config.entry", "always, classic, any")),
        ("rl_config", "batch_size", 300, ("32768", "batch_size 300", "256")),
        ("rl_config", "model_type", "A2C", ("freqai.rl_config.model_type", "PPO")),
        ("rl_config", "drop_ohlc_from_features", False, ("drop_ohlc_from_features", "true")),
        ("feature_parameters", "shuffle_after_split", True, ("shuffle_after_split", "false")),
        ("data_split_parameters", "test_size", 0, ("test_size", "above 0")),
    ],
)
def test_a_wrong_setting_is_named(
    section: str, key: str, value: object, words: tuple[str, ...]
) -> None:
    config = copy.deepcopy(SILENT)
    config["freqai"].setdefault(section, {})[key] = value
    with pytest.raises(SettingsError) as caught:
        read_settings(config)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_trade_rules_are_the_strategys() -> None:
    strategy = strategy_of(
        max_trade_duration_candles=48,
        emergency_loss=-0.03,
        break_even_trigger=0.015,
        break_even_floor=0.001,
        can_short=False,
    )
    assert trade_rules({**SILENT, "liquidation_buffer": 0.1}, strategy) == TradeRules(
        entry=EntryMode.CLASSIC,
        can_short=False,
        stoploss=-0.1,
        minimal_roi={0: 0.04, 30: 0.02},
        max_trade_duration_candles=48,
        emergency_loss=-0.03,
        break_even_trigger=0.015,
        break_even_floor=0.001,
        liquidation_buffer=0.1,
    )


def test_a_strategy_without_safety_exits_has_none() -> None:
    rules = trade_rules(SILENT, strategy_of())
    assert rules.emergency_loss is None
    assert rules.break_even_trigger is None
    assert rules.max_trade_duration_candles is None
    assert rules.liquidation_buffer == 0.05


def test_rl_config_overrides_duration_and_entry() -> None:
    config = copy.deepcopy(SILENT)
    config["freqai"]["rl_config"] |= {"max_trade_duration_candles": 12, "entry": "classic"}
    rules = trade_rules(config, strategy_of(max_trade_duration_candles=48))
    assert rules.max_trade_duration_candles == 12
    assert rules.entry is EntryMode.CLASSIC


def test_slippage_is_read_and_models_of_another_are_refused(tmp_path: Path) -> None:
    config = copy.deepcopy(SILENT)
    assert trade_rules(config, strategy_of()).slippage_bps == 0.0
    config["freqai"]["rl_config"]["slippage_bps"] = 2.5
    rules = trade_rules(config, strategy_of())
    assert rules.slippage_bps == read_settings(config).rules.slippage_bps == 2.5
    check_identifier(tmp_path, Settings(rules=rules))
    with pytest.raises(SettingsError, match="holds models made with other settings"):
        check_identifier(tmp_path, Settings(rules=rules.changed(slippage_bps=0.0)))


@pytest.mark.parametrize("given", [0.62, SimpleNamespace(value=0.62)], ids=["number", "parameter"])
def test_the_confidence_of_exits_is_the_strategys(given: Any, tmp_path: Path) -> None:
    """A model is traded at another one under its identifier: hyperopt looks for the best."""
    assert trade_rules(SILENT, strategy_of()).exit_confidence == 0.5
    rules = trade_rules(SILENT, strategy_of(exit_confidence=given))
    assert rules.exit_confidence == 0.62
    check_identifier(tmp_path, Settings(rules=rules))
    check_identifier(tmp_path, Settings(rules=rules.changed(exit_confidence=0.7)))


@pytest.mark.parametrize(
    ("rl_config", "attributes", "word"),
    [
        ({"entry": "never"}, {}, "freqai.rl_config.entry"),
        ({"max_trade_duration_candles": 0}, {}, "max_trade_duration_candles"),
        ({}, {"stoploss": 0.1}, "stoploss"),
        ({}, {"minimal_roi": {"-5": 0.1}}, "minimal_roi"),
        ({}, {"emergency_loss": 0.03}, "emergency_loss"),
        ({"slippage_bps": -1}, {}, "slippage_bps"),
        ({"slippage_bps": "5 bps"}, {}, "slippage_bps"),
        ({}, {"use_exit_signal": False}, "use_exit_signal"),
    ],
)
def test_wrong_trade_rules_are_named(rl_config: Config, attributes: Config, word: str) -> None:
    config = copy.deepcopy(SILENT)
    config["freqai"]["rl_config"] |= rl_config
    with pytest.raises(SettingsError, match=word):
        trade_rules(config, strategy_of(**attributes))


def test_what_training_does_not_simulate_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trade_rules(SILENT, strategy_of(use_custom_roi=True, position_adjustment_enable=True))
    assert [record.message.split()[0] for record in caplog.records] == [
        "use_custom_roi",
        "position_adjustment_enable",
    ]


def test_an_identifier_serves_the_same_settings_again(tmp_path: Path) -> None:
    settings = Settings(rules=TradeRules(minimal_roi={0: 0.04, 30: 0.02}, stoploss=-0.1))
    check_identifier(tmp_path / "id", settings)
    (tmp_path / "id" / "sub-train-BTC_1").mkdir()
    check_identifier(tmp_path / "id", settings)
    check_identifier(tmp_path / "id", settings.changed(progress_bar=True))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"gamma": 0.5}, "gamma"),
        ({"net_arch": (8,)}, "net_arch"),
        ({"rules": TradeRules(minimal_roi={0: 0.05})}, "rules"),
    ],
)
def test_an_identifier_refuses_other_settings(tmp_path: Path, changes: Config, key: str) -> None:
    settings = Settings(rules=TradeRules(minimal_roi={0: 0.04}))
    check_identifier(tmp_path / "mine", settings)
    with pytest.raises(SettingsError, match=rf"'mine' holds models .*\({key}; {key} was .*, is "):
        check_identifier(tmp_path / "mine", settings.changed(**changes))


def test_an_identifier_refuses_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_identifier(tmp_path / "mine", Settings())
    monkeypatch.setattr("mtf_scalper.freqai.config.__version__", "999")
    with pytest.raises(SettingsError, match="version was"):
        check_identifier(tmp_path / "mine", Settings())


def test_an_identifier_refuses_models_of_unknown_settings(tmp_path: Path) -> None:
    folder = tmp_path / "old" / "sub-train-BTC_1"
    folder.mkdir(parents=True)
    (folder / "cb_btc_1_model.zip").touch()
    with pytest.raises(SettingsError, match="'old' holds models of unknown settings"):
        check_identifier(tmp_path / "old", Settings())


def test_an_edited_reward_of_the_users_own_is_another_setting(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    text = (
        "from mtf_scalper import reward\n\n@reward\ndef mine(state, parameters):\n    return {}\n"
    )
    source.write_text(text.format("state.profit"), encoding="utf-8")
    settings = Settings(reward=f"{source}:mine")
    check_identifier(tmp_path / "models", settings)
    check_identifier(tmp_path / "models", settings)
    source.write_text(text.format("-state.profit"), encoding="utf-8")
    with pytest.raises(SettingsError, match="made with other settings \\(reward_digest; "):
        check_identifier(tmp_path / "models", settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_in_keys_of_freqai_as_well(value: float) -> None:
    config = {"freqai": {"feature_parameters": {"weight_factor": [0.9, value]}}}
    with pytest.raises(SettingsError, match=r"^freqai.feature_parameters.weight_factor: "):
        read_settings(config)

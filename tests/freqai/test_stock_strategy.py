"""freqtrade's own example of a reinforcement-learning strategy and configuration, run here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ready_python import ReadyPython

from mtf_scalper.exchange import offline_exchange_config

Run = Callable[..., tuple[int, str]]

# What the documentation of freqtrade 2026.9 has a reinforcement-learning strategy do with
# ``&-action``, over two features of its example strategy.
STRATEGY = """
import talib.abstract as ta
from freqtrade.strategy import IStrategy


class StockLearner(IStrategy):
    minimal_roi = {"0": 0.1, "240": -1}
    stoploss = -0.05
    process_only_new_candles = True
    use_exit_signal = True
    startup_candle_count = 40
    can_short = True

    def feature_engineering_expand_all(self, dataframe, period, metadata, **kwargs):
        dataframe["%-rsi-period"] = ta.RSI(dataframe, timeperiod=period)
        return dataframe

    def feature_engineering_expand_basic(self, dataframe, metadata, **kwargs):
        dataframe["%-pct-change"] = dataframe["close"].pct_change()
        return dataframe

    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        dataframe["%-day_of_week"] = (dataframe["date"].dt.dayofweek + 1) / 7
        dataframe["%-hour_of_day"] = (dataframe["date"].dt.hour + 1) / 25
        for name in ("close", "open", "high", "low"):
            dataframe[f"%-raw_{name}"] = dataframe[name]
        return dataframe

    def set_freqai_targets(self, dataframe, metadata, **kwargs):
        dataframe["&-action"] = 0
        return dataframe

    def populate_indicators(self, dataframe, metadata):
        return self.freqai.start(dataframe, metadata, self)

    def populate_entry_trend(self, df, metadata):
        is_sure = df["do_predict"] == 1
        df.loc[is_sure & (df["&-action"] == 1), ["enter_long", "enter_tag"]] = (1, "long")
        df.loc[is_sure & (df["&-action"] == 3), ["enter_short", "enter_tag"]] = (1, "short")
        return df

    def populate_exit_trend(self, df, metadata):
        is_sure = df["do_predict"] == 1
        df.loc[is_sure & (df["&-action"] == 2), "exit_long"] = 1
        df.loc[is_sure & (df["&-action"] == 4), "exit_short"] = 1
        df.to_feather(RECEIVED)
        return df
"""

# The example configuration's sections, with the section that the documentation adds for learners.
STOCK: dict[str, Any] = {
    "trading_mode": "futures",
    "margin_mode": "isolated",
    "max_open_trades": 3,
    "stake_currency": "USDT",
    "stake_amount": 200,
    "tradable_balance_ratio": 1,
    "fiat_display_currency": "USD",
    "dry_run": True,
    "timeframe": "5m",
    "dry_run_wallet": 1000,
    "cancel_open_orders_on_exit": True,
    "unfilledtimeout": {"entry": 10, "exit": 30},
    "exchange": {"name": "binance", "pair_whitelist": ["BTC/USDT:USDT"], "pair_blacklist": []},
    "entry_pricing": {"price_side": "same", "use_order_book": True, "order_book_top": 1},
    "exit_pricing": {"price_side": "other", "use_order_book": True, "order_book_top": 1},
    "pairlists": [{"method": "StaticPairList"}],
    "freqai": {
        "enabled": True,
        "purge_old_models": 2,
        "train_period_days": 1,
        "backtest_period_days": 1,
        "live_retrain_hours": 0,
        "identifier": "unique-id",
        "feature_parameters": {
            "include_timeframes": ["5m", "15m"],
            "include_corr_pairlist": [],
            "label_period_candles": 20,
            "include_shifted_candles": 2,
            "DI_threshold": 0.9,
            "weight_factor": 0.9,
            "principal_component_analysis": False,
            "use_SVM_to_remove_outliers": True,
            "indicator_periods_candles": [10, 20],
            "plot_feature_importances": 0,
        },
        "data_split_parameters": {"test_size": 0.33, "random_state": 1},
        "model_training_parameters": {"learning_rate": 0.00025, "gamma": 0.9, "verbose": 1},
        "rl_config": {
            "train_cycles": 2,
            "add_state_info": False,
            "max_trade_duration_candles": 300,
            "max_training_drawdown_pct": 0.5,
            "cpu_count": 1,
            "model_type": "PPO",
            "policy_type": "MlpPolicy",
            "net_arch": [16],
            "model_reward_parameters": {"rr": 1, "profit_aim": 0.025},
        },
    },
}


@pytest.fixture
def stock(
    exchange_url: str,
    datadir: Path,
    project: Path,
    tmp_path: Path,
    ready_python: ReadyPython,
) -> Callable[..., tuple[int, str]]:
    """Run ``freqtrade backtesting`` with the stock files and changes of ``rl_config``."""

    def run(training: dict[str, Any] | None = None, **rl_config: Any) -> tuple[int, str]:
        config = json.loads(json.dumps(STOCK))
        config["freqai"]["rl_config"].update(rl_config)
        config["freqai"]["model_training_parameters"].update(training or {})
        files = {"stock.json": config, "offline.json": offline_exchange_config(exchange_url)}
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        source = f"RECEIVED = {str(tmp_path / 'received.feather')!r}\n{STRATEGY}"
        (tmp_path / "StockLearner.py").write_text(source, encoding="utf-8")
        (tmp_path / "user_data").mkdir(exist_ok=True)
        done = subprocess.run(
            ready_python(
                [
                    *(sys.executable, "-m", "freqtrade", "backtesting"),
                    *("--config", "stock.json", "--config", "offline.json"),
                    *("--strategy", "StockLearner", "--strategy-path", str(tmp_path)),
                    *("--freqaimodel", "MtfScalperRLModel"),
                    *("--freqaimodel-path", str(project / "user_data" / "freqaimodels")),
                    *("--datadir", str(datadir), "--userdir", str(tmp_path / "user_data")),
                    *("--timerange", "20240130-20240131", "--cache", "none"),
                ]
            ),
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "4000"},
            capture_output=True,
            encoding="utf-8",
            timeout=600,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def results(folder: Path) -> dict[str, Any]:
    (archive,) = (folder / "user_data" / "backtest_results").glob("*.zip")
    with zipfile.ZipFile(archive) as opened:
        found = json.loads(opened.read(f"{archive.stem}.json"))
    result: dict[str, Any] = found["strategy"]["StockLearner"]
    return result


def received(folder: Path) -> pd.DataFrame:
    frame = pd.read_feather(folder / "received.feather")
    return frame[frame["do_predict"] == 1].reset_index(drop=True)


def test_the_stock_example_trades_long_and_short_without_an_edit(
    stock: Run, tmp_path: Path
) -> None:
    """Its drawdown limit asks for rollouts. What the runs change is for speed."""
    # As at the start of a training: the actions vary, and none is learned away.
    slow = {"learning_rate": 1e-9}
    code, output = stock(slow, n_steps=64, n_envs=2, batch_size=32)
    assert code == 0, output[-3000:]
    frame = received(tmp_path)
    flat = frame["&-action_flat"]
    entered = frame["&-action"].isin([1, 3])
    np.testing.assert_array_equal(frame["&-action"][entered], flat[entered])
    assert not flat[~entered].any()
    assert set(flat) >= {1.0, 3.0}, flat.value_counts()
    trades = results(tmp_path)["trades"]
    assert {trade["is_short"] for trade in trades} == {True, False}
    assert "StockLearner takes exits from '&-action'" in output
    assert "Traceback" not in output


def test_the_codes_are_those_of_freqtrades_environment(stock: Run, tmp_path: Path) -> None:
    """freqtrade's learner writes the most probable of the environment's own actions."""
    code, output = stock(
        fills="freqtrade_env",
        reward="freqtrade_example",
        n_actions=3,
        n_steps=64,
        n_envs=2,
        batch_size=32,
    )
    assert code == 0, output[-3000:]
    frame = received(tmp_path)
    assert set(frame["&-action"].astype(int)) <= {0, 1, 2}
    shares = frame[["&-prob_neutral", "&-prob_long_enter", "&-prob_short_enter"]].to_numpy()
    np.testing.assert_array_equal(frame["&-action"], shares.argmax(axis=1))
    assert "compares '&-action' with 3, 4, which an environment of 3 actions does not" in output


def test_all_keys_of_a_reforcexy_configuration_are_told_at_once(stock: Run) -> None:
    code, output = stock(
        training={"n_epochs": 5, "use_sde": False, "policy_kwargs": {"net_arch": [8]}},
        model_type="MaskablePPO",
        n_envs=2,
        n_eval_envs=1,
        multiprocessing=True,
        eval_multiprocessing=True,
        frame_stacking=4,
        lr_schedule=True,
        cr_schedule=False,
        max_no_improvement_evals=5,
        min_evals=8,
        check_envs=True,
        plot_new_best=False,
        rl_config_optuna={"enabled": True, "n_trials": 100},
        qwertz=1,
    )
    assert code == 2
    (error,) = [line for line in output.splitlines() if " - freqtrade - ERROR - " in line]
    for words in (
        "5 keys are not settings here",
        "freqai.rl_config.frame_stacking: ReforceXY's; here: freqai.conv_width",
        "freqai.rl_config.lr_schedule: ReforceXY's; no counterpart",
        "freqai.rl_config.rl_config_optuna: ReforceXY's; here: `mtf-scalper tune`",
        "freqai.model_training_parameters.policy_kwargs: stable-baselines3's; here: net_arch",
        "freqai.rl_config.qwertz: unknown key",
    ):
        assert words in error
    for harmless in ("multiprocessing", "cr_schedule", "check_envs", "use_sde", "min_evals"):
        assert f".{harmless}:" not in error
    assert "did you mean" not in error
    assert "Traceback" not in output

"""Models and predictions of other candles, settings or code are never used silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqtrade.data.dataprovider import DataProvider

from mtf_scalper.errors import SettingsError
from mtf_scalper.freqai import config as config_module
from mtf_scalper.freqai.config import check_identifier, made_by
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.freqai.reuse import (
    check_same_candles,
    note_candles,
    note_predicted,
    source_frames,
)
from mtf_scalper.records.events import EVENTS_FILE, EventLog
from mtf_scalper.settings import Settings

PAIR = "BTC/USDT:USDT"
DATES = pd.date_range("2024-01-01", periods=60, freq="5min", tz="UTC")


def frame(dates: pd.DatetimeIndex = DATES) -> pd.DataFrame:
    prices = pd.Series(range(len(dates)), dtype=float) + 100.0
    values = dict.fromkeys(("open", "high", "low", "close"), prices)
    return pd.DataFrame({"date": dates, **values, "volume": 1.0})


def frames() -> dict[str, pd.DataFrame]:
    return {"5m": frame(), "1h": frame(DATES[::12]), "1h mark": frame(DATES[::12])}


def windows(whole: dict[str, pd.DataFrame], rows: slice) -> dict[str, pd.DataFrame]:
    """Return the frames as a window has them: its own candles, and all of the others."""
    return {**whole, "5m": whole["5m"].iloc[rows]}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return an identifier's folder: trained on rows 12 to 35, predicted are rows 36 to 47."""
    events = EventLog(tmp_path / "id" / "sub-train-BTC_1" / EVENTS_FILE, pair=PAIR)
    note_candles(events, windows(frames(), slice(12, 36)))
    note_predicted(events, windows(frames(), slice(36, 48)))
    return tmp_path / "id"


def test_the_same_candles_and_more_of_them_pass(models: Path) -> None:
    check_same_candles(models, PAIR, frames())
    longer = pd.date_range(DATES[0], periods=90, freq="5min")
    check_same_candles(models, PAIR, {**frames(), "5m": frame(longer)})
    shorter = {**frames(), "5m": frame().iloc[20:].reset_index(drop=True)}
    check_same_candles(models, PAIR, shorter)
    other = frame()
    other["close"] += 1.0
    check_same_candles(models, "BTC/USDC:USDC", {"5m": other})


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("5m", 12, r"a model of BTC/USDT:USDT to 2024-01-01 made from other candles \(5m\)"),
        ("5m", 40, r"predictions of BTC/USDT:USDT to .* made from other candles \(5m\)"),
        ("1h", 1, r"a model of .* \(1h\)"),
        ("1h mark", 3, r"predictions of .* \(1h mark\)"),
    ],
)
def test_changed_candles_of_any_kind_are_named(
    models: Path, name: str, row: int, said: str
) -> None:
    changed = frames()
    changed[name].loc[changed[name].index[row], "close"] += 0.01
    with pytest.raises(SettingsError, match=rf"^freqai.identifier: 'id' holds {said}; choose"):
        check_same_candles(models, PAIR, changed)


@pytest.mark.parametrize(("name", "row"), [("5m", 0), ("5m", 50), ("1h mark", 0), ("1h", 4)])
def test_candles_outside_the_windows_may_change(models: Path, name: str, row: int) -> None:
    changed = frames()
    changed[name].loc[changed[name].index[row], "close"] += 0.01
    check_same_candles(models, PAIR, changed)


@pytest.mark.parametrize(
    "damage",
    [
        {"pair": None},
        {"pair": 7},
        {"first": None},
        {"last": "yesterday"},
        {"last": "2024-01-01"},
        {"digests": ["5m"]},
    ],
)
def test_a_damaged_note_counts_as_none(models: Path, damage: dict[str, Any]) -> None:
    file = models / "sub-train-BTC_1" / EVENTS_FILE
    note = json.loads(file.read_text().splitlines()[0])
    damaged = [{**note, **damage}]
    if "digests" not in damage:  # notes of earlier versions have none
        damaged.append({name: value for name, value in note.items() if name not in damage})
    with file.open("a") as events:
        events.writelines(json.dumps(each) + "\n" for each in damaged)
    check_same_candles(models, PAIR, frames())
    changed = frames()
    changed["5m"].loc[20, "close"] += 0.01
    with pytest.raises(SettingsError, match="a model of BTC/USDT:USDT"):
        check_same_candles(models, PAIR, changed)


def test_all_that_features_and_environments_are_made_from_counts(
    make_config: Callable[..., Any], exchange: Any, candles: pd.DataFrame
) -> None:
    corr = {"freqai": {"feature_parameters": {"include_corr_pairlist": ["ETH/USDT:USDT"]}}}
    config = make_config(corr)
    found = source_frames(config, DataProvider(config, exchange), PAIR, candles)
    others = [f"ETH/USDT:USDT {timeframe}" for timeframe in ("5m", "15m", "1h")]
    assert list(found) == ["5m", "15m", "1h", *others, "1h mark", "1h funding_rate"]
    assert found["5m"] is candles
    assert all(len(each) for each in found.values())


def test_what_made_the_models_is_compared_as_settings_are(
    make_config: Callable[..., Any],
    make_strategy: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config()
    strategy = make_strategy(config)
    strategy.ft_load_hyper_params(False)

    def made() -> dict[str, Any]:
        return made_by(config, strategy, MtfScalperRLModel)

    check_identifier(tmp_path, Settings(), made())
    check_identifier(tmp_path, Settings(), made())

    freqai = config["original_config"]["freqai"]
    freqai["train_period_days"] = 2
    with pytest.raises(SettingsError, match=r"\(train_period_days; train_period_days was 1, is 2"):
        check_identifier(tmp_path, Settings(), made())
    freqai["train_period_days"] = 1
    freqai["feature_parameters"]["include_timeframes"] = ["5m"]
    with pytest.raises(SettingsError, match=r"\(feature_parameters.include_timeframes; "):
        check_identifier(tmp_path, Settings(), made())
    freqai["feature_parameters"]["include_timeframes"] = ["5m", "15m", "1h"]
    freqai["feature_parameters"]["plot_feature_importances"] = 3
    check_identifier(tmp_path, Settings(), made())

    monkeypatch.setattr(strategy.adx_min, "value", 30.0)
    with pytest.raises(SettingsError, match=r"\(strategy.adx_min; .* was 25.0, is 30.0\)"):
        check_identifier(tmp_path, Settings(), made())
    monkeypatch.undo()
    other = tmp_path / "other.py"
    other.write_text("# another strategy\n")
    monkeypatch.setattr(type(strategy), "__file__", str(other))
    with pytest.raises(SettingsError, match=r"\(strategy; strategy was 'MtfScalper_RL_Hybrid "):
        check_identifier(tmp_path, Settings(), made())
    monkeypatch.undo()
    monkeypatch.setattr(config_module, "engine_digest", lambda: "of other code")
    with pytest.raises(SettingsError, match=r"\(engine; engine was .* is 'of other code'\)"):
        check_identifier(tmp_path, Settings(), made())


def test_a_folder_of_models_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("in the way", encoding="utf-8")
    folder = tmp_path / "models" / "mine"
    with pytest.raises(SettingsError) as caught:
        check_identifier(folder, Settings(), makers={})
    assert str(caught.value).startswith(f"{folder}")
    assert "cannot be written: " in str(caught.value)
    assert "\n" not in str(caught.value)

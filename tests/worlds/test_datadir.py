from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.market.candles import resample_candles
from mtf_scalper.worlds import datadir as datadir_module
from mtf_scalper.worlds.datadir import (
    MANIFEST_NAME,
    ensure_datadir,
    funding_rates,
    mark_candles,
    write_datadir,
)
from mtf_scalper.worlds.synthetic import generate_candles
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

BTC, ETH, SOL = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"
SPEC = SyntheticSpec(seed=3)
START, END = "2024-09-01", "2024-09-04"
KINDS = ("5m-futures", "15m-futures", "1h-futures", "1h-mark", "1h-funding_rate")


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_writes_five_files_per_pair_and_a_manifest(tmp_path):
    written = write_datadir(SPEC, tmp_path, START, END)
    names = {f"{base}_USDT_USDT-{kind}.feather" for base in ("BTC", "ETH") for kind in KINDS}
    assert {path.name for path in written} == names
    assert set(contents(tmp_path)) == {f"futures/{name}" for name in names} | {MANIFEST_NAME}


def test_files_have_the_schema_that_freqtrade_writes(tmp_path):
    for path in write_datadir(SPEC, tmp_path, START, END):
        frame = pd.read_feather(path)
        assert list(frame.columns) == ["date", "open", "high", "low", "close", "volume"]
        assert str(frame["date"].dtype) == "datetime64[ms, UTC]"
        assert (frame.dtypes.iloc[1:] == np.float64).all()
        assert np.isfinite(frame.iloc[:, 1:].to_numpy()).all()


# freqtrade itself still uses what pandas 3.1 deprecates.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_freqtrade_reads_every_value_back(tmp_path):
    history = pytest.importorskip("freqtrade.data.history", reason="freqtrade is not installed")
    enums = pytest.importorskip("freqtrade.enums")
    write_datadir(SPEC, tmp_path, START, END)
    for pair in (BTC, ETH):
        candles = generate_candles(SPEC, pair, START, END)
        expected = {
            ("5m", "futures"): candles,
            ("15m", "futures"): resample_candles(candles, "15m"),
            ("1h", "futures"): resample_candles(candles, "1h"),
            ("1h", "mark"): mark_candles(SPEC, pair, candles),
        }
        for (timeframe, kind), frame in expected.items():
            candle_type = enums.CandleType.from_string(kind)
            loaded = history.load_data(tmp_path, timeframe, [pair], candle_type=candle_type)[pair]
            pd.testing.assert_frame_equal(loaded, frame, check_exact=True)
        rates = funding_rates(SPEC, pair, candles)
        loaded = history.load_pair_history(
            pair, "1h", tmp_path, candle_type=enums.CandleType.FUNDING_RATE
        )
        assert loaded["date"].tolist() == rates["date"].tolist()
        assert loaded["open"].tolist() == rates["open"].tolist()


def test_mark_candles_follow_the_futures_price():
    candles = generate_candles(SPEC, BTC, START, "2025-03-01")
    hourly, mark = resample_candles(candles, "1h"), mark_candles(SPEC, BTC, candles)
    assert mark["date"].tolist() == hourly["date"].tolist()
    for column in ("open", "high", "low", "close"):
        basis = (mark[column] / hourly[column] - 1).abs()
        assert 1e-5 < basis.median() < 5e-4
        assert basis.max() < 0.0045
    assert (mark["low"] <= mark[["open", "close"]].min(axis=1)).all()
    assert (mark["high"] >= mark[["open", "close"]].max(axis=1)).all()
    assert (mark["volume"] == 0).all()


def test_funding_is_due_every_eight_hours_and_leans_with_the_trend():
    candles = generate_candles(SPEC, BTC, START, "2025-09-01")
    rates = funding_rates(SPEC, BTC, candles)
    assert len(rates) == 365 * 3
    assert set(rates["date"].dt.hour) == {0, 8, 16}
    assert (rates[["high", "low", "close", "volume"]] == 0).all(axis=None)
    assert rates["open"].mean() == pytest.approx(1e-4, abs=2e-5)
    assert rates["open"].abs().max() <= 0.0015
    assert rates["open"].nunique() > 20
    hourly = resample_candles(candles, "1h").set_index("date")
    past = np.log(hourly["open"]).diff(8).reindex(rates["date"]).to_numpy()
    assert np.corrcoef(past[3:], rates["open"][3:])[0, 1] > 0.1


def test_a_funding_rate_knows_only_the_hours_before_it():
    candles = generate_candles(SPEC, BTC, START, "2024-10-01")
    full = funding_rates(SPEC, BTC, candles)
    cut = candles[candles["date"] < pd.Timestamp("2024-09-20 09:00", tz="UTC")].copy()
    after = cut["date"] >= pd.Timestamp("2024-09-20 08:00", tz="UTC")
    cut.loc[after, ["open", "high", "low", "close"]] *= 2.0
    part = funding_rates(SPEC, BTC, cut)
    pd.testing.assert_frame_equal(part, full.iloc[: len(part)], check_exact=True)


def test_a_market_that_is_there_is_not_written_again(tmp_path):
    assert ensure_datadir(SPEC, tmp_path, START, END) is True
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert ensure_datadir(SPEC, tmp_path, START, END) is False
    assert ensure_datadir(SPEC, tmp_path, "2024-09-02", "2024-09-03 12:00") is False
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("change", ["spec", "start", "end", "missing file", "older generator"])
def test_whatever_is_out_of_date_is_written_again(tmp_path, monkeypatch, change):
    ensure_datadir(SPEC, tmp_path, START, END)
    spec, start, end = SPEC, START, END
    if change == "spec":
        spec = replace(SPEC, signal_strength=0.1)
    elif change == "start":
        start = "2024-08-31"
    elif change == "end":
        end = "2024-09-05"
    elif change == "missing file":
        (tmp_path / "futures" / "ETH_USDT_USDT-1h-mark.feather").unlink()
    else:
        monkeypatch.setattr(datadir_module, "GENERATOR_VERSION", 10**6)
    assert ensure_datadir(spec, tmp_path, start, end) is True
    assert ensure_datadir(spec, tmp_path, start, end) is False
    stored = pd.read_feather(tmp_path / "futures" / "BTC_USDT_USDT-5m-futures.feather")
    expected = generate_candles(spec, BTC, start, end)
    pd.testing.assert_frame_equal(stored, expected, check_exact=True)


def test_pairs_that_are_no_longer_wanted_are_removed(tmp_path):
    ensure_datadir(SPEC, tmp_path, START, END)
    write_datadir(replace(SPEC, pairs=(pair_spec(SOL),)), tmp_path, START, END)
    assert {path.name for path in (tmp_path / "futures").iterdir()} == {
        f"SOL_USDT_USDT-{kind}.feather" for kind in KINDS
    }


@pytest.mark.parametrize(
    "name",
    [
        "futures/SOL_USDT_USDT-5m-futures.feather",
        "futures/BTC_USDT_USDT-1h-funding_rate.json.gz",
        "BTC_USDT-1d.parquet",
        "BTC_USDT-trades.feather",
    ],
)
def test_candles_of_the_user_are_never_mixed_or_overwritten(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"real")
    for call in (write_datadir, ensure_datadir):
        with pytest.raises(MarketError, match=path.name):
            call(SPEC, tmp_path, START, END)
    assert contents(tmp_path) == {name: b"real"}


def test_a_users_pair_beside_synthetic_ones_is_not_overwritten(tmp_path):
    ensure_datadir(SPEC, tmp_path, START, END)
    mine = tmp_path / "futures" / "SOL_USDT_USDT-5m-futures.feather"
    mine.write_bytes(b"real")
    ensure_datadir(replace(SPEC, seed=4), tmp_path, START, END)
    with pytest.raises(MarketError, match=mine.name):
        ensure_datadir(replace(SPEC, pairs=(pair_spec(SOL),)), tmp_path, START, END)
    assert mine.read_bytes() == b"real"


def test_other_files_do_not_hinder(tmp_path):
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    assert ensure_datadir(SPEC, tmp_path, START, END) is True


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', "not json"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / MANIFEST_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(MarketError, match=MANIFEST_NAME):
        ensure_datadir(SPEC, tmp_path, START, END)


def test_an_interrupted_run_leaves_whole_files_and_is_finished_by_the_next(tmp_path, monkeypatch):
    replace_file, moved = os.replace, []

    def interrupt(source, target):
        if len(moved) == 4:
            raise KeyboardInterrupt
        moved.append(target)
        replace_file(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_datadir(SPEC, tmp_path, START, END)
    manifest = json.loads((tmp_path / MANIFEST_NAME).read_text(encoding="utf-8"))
    assert manifest["complete"] is False
    left = sorted((tmp_path / "futures").iterdir())
    assert len(left) == 3
    assert all(len(pd.read_feather(path)) > 0 for path in left)
    assert ensure_datadir(SPEC, tmp_path, START, END) is True
    assert ensure_datadir(SPEC, tmp_path, START, END) is False


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [("2024-09-04", "2024-09-01", "end"), ("2024-09-01 00:30", "2024-09-02", "whole hours")],
)
def test_bad_dates_are_refused_before_anything_is_written(tmp_path, start, end, message):
    with pytest.raises(SettingsError, match=message):
        write_datadir(SPEC, tmp_path / "data", start, end)
    assert not (tmp_path / "data").exists()

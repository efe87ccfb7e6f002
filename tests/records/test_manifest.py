from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import psutil
import pytest

from mtf_scalper.lifetimes import is_alive
from mtf_scalper.records import manifest
from mtf_scalper.records.manifest import (
    candle_digest,
    commit_facts,
    datadir_digests,
    engine_digest,
)

DATES = pd.date_range("2024-01-01", periods=4, freq="5min", tz="UTC")


def candles(**changes: object) -> pd.DataFrame:
    values = {"date": DATES, "open": [1.0, 2, 3, 4], "close": [2.0, 3, 4, 5], "volume": 1.0}
    return pd.DataFrame({**values, **changes})


def test_the_digest_of_candles_tells_any_difference_and_no_form() -> None:
    digest = candle_digest(candles())
    assert candle_digest(candles(close=[2.0, 3, 4, 5.001])) != digest
    assert candle_digest(candles(date=DATES + pd.Timedelta("5min"))) != digest
    assert candle_digest(candles().iloc[:3]) != digest
    assert candle_digest(candles(other="x").astype({"open": "float32"})) == digest
    assert candle_digest(candles(date=DATES.as_unit("ms").tz_localize(None))) == digest
    assert candle_digest(candles().set_index(pd.Index([9, 8, 7, 6]))) == digest


def test_the_digest_of_a_data_directory_is_by_pair(tmp_path: Path) -> None:
    (tmp_path / "futures").mkdir()
    candles().to_feather(tmp_path / "futures" / "BTC_USDT_USDT-5m-futures.feather")
    candles().to_feather(tmp_path / "ETH_USDT-5m.feather")
    found = datadir_digests(tmp_path, ["BTC/USDT:USDT", "ETH/USDT", "SOL/USDT"])
    assert found == {
        "BTC/USDT:USDT": candle_digest(candles()),
        "ETH/USDT": candle_digest(candles()),
        "SOL/USDT": None,
    }
    until = datadir_digests(tmp_path, ["ETH/USDT"], until=DATES[3])
    assert until == {"ETH/USDT": candle_digest(candles().iloc[:3])}


def test_the_digest_of_the_engine_changes_with_code_that_learns_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("market", "simulator", "ppo", "rollouts", "freqai", "records"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("x = 1\n")
    for name in manifest._ENGINE:
        if name.endswith(".py"):
            (tmp_path / name).write_text("y = 1\n")
    assert len(engine_digest()) == 16
    monkeypatch.setattr(manifest, "PACKAGE", tmp_path)
    digest = engine_digest()
    (tmp_path / "records" / "code.py").write_text("x = 2\n")
    assert engine_digest() == digest
    (tmp_path / "ppo" / "code.py").write_bytes(b"x = 1\r\n")
    assert engine_digest() == digest
    (tmp_path / "ppo" / "code.py").write_text("x = 2\n")
    assert engine_digest() != digest


def test_the_commit_is_that_of_the_package_and_of_no_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "PACKAGE", tmp_path)
    assert commit_facts() == {"commit": None, "is_clean": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_facts() == {"commit": None, "is_clean": None}


def test_a_process_is_alive_only_with_its_own_start_time() -> None:
    started = psutil.Process().create_time()
    assert is_alive(os.getpid(), started)
    assert not is_alive(os.getpid(), started - 60.0)
    assert not is_alive(2**22 + 7, started)

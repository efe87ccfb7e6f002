"""Files of candles that are damaged in any way: read, or refused in one line with their name."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.market.datafiles import FORMATS
from mtf_scalper.market.stored import read_candles

PAIR = "BTC/USDT:USDT"
N = 300
MUTATIONS = 150
"""By format, beside the cuts."""
LONGEST_SECONDS = 10.0


def candles() -> pd.DataFrame:
    close = 100.0 + np.sin(np.arange(N) / 9.0)
    dates = pd.date_range("2024-01-01", periods=N, freq="5min", tz="UTC")
    prices = {"open": close, "high": close + 1.0, "low": close - 1.0, "close": close}
    return pd.DataFrame({"date": dates, **prices, "volume": 1.0})


def write(table: pd.DataFrame, path: Path, kind: str) -> None:
    """Write a table as freqtrade does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "feather":
        table.to_feather(path, compression="lz4", compression_level=9)
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        rows = table.assign(date=table["date"].astype("int64") // 10**6).to_numpy().tolist()
        content = json.dumps(rows).encode()
        path.write_bytes(gzip.compress(content) if kind == "jsongz" else content)


def place_of(folder: Path, kind: str) -> Path:
    return folder / "futures" / f"BTC_USDT_USDT-5m-futures.{FORMATS[kind]}"


def read(folder: Path, kind: str) -> str | None:
    """Read as everything here does; return what was wrong, and let anything else be raised."""
    began = time.monotonic()
    try:
        found = read_candles(folder, PAIR, "5m", data_format=kind)
    except MtfScalperError as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) < 600, said
        assert "BTC_USDT_USDT-5m-futures" in said
        return said
    finally:
        assert time.monotonic() - began < LONGEST_SECONDS
    # What was read can be traded on.
    assert len(found) < 50 * N
    assert np.isfinite(found[["open", "high", "low", "close", "volume"]].to_numpy()).all()
    assert found["date"].is_monotonic_increasing
    return None


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_files_are_read(kind: str, tmp_path: Path) -> None:
    write(candles(), place_of(tmp_path, kind), kind)
    assert read(tmp_path, kind) is None


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_and_garbled_files(kind: str, tmp_path: Path) -> None:
    path = place_of(tmp_path, kind)
    write(candles(), path, kind)
    content = path.read_bytes()
    for cut in sorted({int(each) for each in np.linspace(0, len(content) - 1, 60)}):
        path.write_bytes(content[:cut])
        assert read(tmp_path, kind) is not None, cut

    @settings(
        max_examples=MUTATIONS,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(
            st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4
        )
    )
    def garbled(flips: list[tuple[int, int]]) -> None:
        found = bytearray(content)
        for place, value in flips:
            found[place] = value
        path.write_bytes(bytes(found))
        read(tmp_path, kind)

    garbled()


ODD = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"[[]]",
    b"[" * 100_000,
    b"[[1e999, 1, 1, 1, 1, 1]]",
    b'[["x", 1, 1, 1, 1, 1]]',
    b"[[1, 1, 1, 1, 1]]",
    b"[[1704067200000, null, 1, 1, 1, 1]]",
    b"\x00" * 4096,
    b"\xff\xfe" * 100,
    b"ARROW1\x00\x00" + b"\xff" * 64 + b"ARROW1",
    b"PAR1" + b"\xff" * 64 + b"PAR1",
    gzip.compress(b"[" * 1_000_000),
    b"\x80\x04cposix\nsystem\n.",
)


@pytest.mark.parametrize("kind", FORMATS)
def test_odd_files(kind: str, tmp_path: Path) -> None:
    path = place_of(tmp_path, kind)
    path.parent.mkdir()
    for content in ODD:
        path.write_bytes(content)
        read(tmp_path, kind)
        path.write_bytes(gzip.compress(content))
        read(tmp_path, kind)


COLUMNS: tuple[Callable[[int], Any], ...] = (
    lambda n: [None] * n,
    lambda n: [True] * n,
    lambda n: ["x\x1b[2J"] * n,
    lambda n: [1e300] * n,
    lambda n: [-1.0] * n,
    lambda n: [float("inf")] * n,
    lambda n: [[1.0]] * n,
    lambda n: [{"a": 1}] * n,
    lambda n: [b"x"] * n,
    lambda n: np.array(["0001-01-01"] * n, dtype="datetime64[s]"),
    lambda n: np.array(["30000-01-01"] * n, dtype="datetime64[s]"),
    lambda n: pd.to_datetime(["2024-01-01", "2190-01-01"] * (n // 2), utc=True),
    lambda n: pd.date_range("2024-01-01", periods=n, freq="1s", tz="UTC"),
)


@pytest.mark.parametrize("kind", ["feather", "parquet"])
def test_columns_of_another_type(kind: str, tmp_path: Path) -> None:
    path, table = place_of(tmp_path, kind), candles()
    changes = [table.drop(columns=name) for name in table.columns]
    changes += [table.assign(**{name: make(N)}) for name in table.columns for make in COLUMNS]
    changes += [table.iloc[:0], table.iloc[:1], table.iloc[::-1], pd.concat([table, table])]
    for changed in changes:
        write(changed.reset_index(drop=True), path, kind)
        read(tmp_path, kind)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = place_of(tmp_path, kind)
    path.parent.mkdir()
    os.mkfifo(path)
    assert read(tmp_path, kind) is not None
    path.unlink()
    path.mkdir()
    assert read(tmp_path, kind) is not None

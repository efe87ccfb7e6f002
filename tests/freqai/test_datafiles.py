"""Files are read as freqtrade reads them; what it would skip with a log line is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from freqtrade.data.history import load_pair_history
from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import CandleType
from freqtrade.misc import pair_to_filename
from pandas.testing import assert_frame_equal

from mtf_scalper.errors import MarketError
from mtf_scalper.market.datafiles import FORMATS, FUNDING_RATE, FUTURES, MARK, SPOT, DataFile
from mtf_scalper.market.stored import read_candles, recorded_pair

PAIR = "BTC/USDT:USDT"
SPOILED = {"truncated": 0.6, "nearly gone": 0.002, "emptied": 0.0}


def candles(count: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return candles out of order, some of them missing, doubled or late by milliseconds."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.003, count)))
    opened = np.r_[100.0, close[:-1]]
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-30", periods=count, freq="5min", tz="UTC").as_unit("ms"),
            "open": opened,
            "high": np.maximum(opened, close) * 1.001,
            "low": np.minimum(opened, close) * 0.999,
            "close": close,
            "volume": rng.integers(1, 100, count).astype(float),
        }
    )
    frame = frame.drop(index=[5, 6, *range(100, 130)])
    frame = pd.concat([frame, frame.iloc[[9, 9, 50]].assign(close=frame["low"].min())])
    late = pd.to_timedelta(np.where(rng.random(len(frame)) < 0.1, 40, 0), unit="ms")
    return frame.assign(date=frame["date"] + late).sample(frac=1.0, random_state=1)


def rates(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2024-01-30", periods=40, freq="4h", tz="UTC").as_unit("ms")
    dates = dates + pd.to_timedelta(rng.integers(0, 900, 40), unit="ms")
    frame = pd.DataFrame({"date": dates, "funding_rate": rng.normal(0.0, 1e-4, 40)})
    return pd.concat([frame, frame.iloc[[3, 4]]]).sample(frac=1.0, random_state=1)


def stored(
    folder: Path, frame: pd.DataFrame, timeframe: str, kind: str, data_format: str, pair: str = PAIR
) -> Path:
    """Let freqtrade write a file."""
    (folder / "futures").mkdir(exist_ok=True)
    handler = get_datahandler(folder, data_format)
    handler.ohlcv_store(pair, timeframe, frame, CandleType.from_string(kind))
    return DataFile(folder, pair, timeframe, kind, data_format).path


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(
    ("kind", "timeframe", "pair"),
    [
        (FUTURES, "5m", PAIR),
        (SPOT, "5m", "BTC/USDT"),
        (MARK, "1h", PAIR),
        (FUNDING_RATE, "1h", "XYZ-KMNO/USDC:USDC"),
    ],
)
def test_rows_are_those_of_freqtrades_loader(
    kind: str, timeframe: str, pair: str, data_format: str, tmp_path: Path
) -> None:
    frame = rates() if kind == FUNDING_RATE else candles()
    path = stored(tmp_path, frame, timeframe, kind, data_format, pair)
    assert path.is_file()
    theirs = load_pair_history(
        pair,
        timeframe,
        tmp_path,
        data_format=data_format,
        fill_up_missing=kind != FUNDING_RATE,
        candle_type=CandleType.from_string(kind),
    )
    ours = DataFile(tmp_path, pair, timeframe, kind).load()
    assert_frame_equal(ours, theirs[list(ours.columns)], check_exact=True)
    assert len(ours) > 30


@pytest.mark.parametrize("data_format", FORMATS)
def test_funding_of_an_older_layout(data_format: str, tmp_path: Path) -> None:
    """Rates in ``open`` of a candle, as freqtrade wrote them before 2026."""
    old = rates().rename(columns={"funding_rate": "open"})
    old = old.assign(high=0.0, low=0.0, close=0.0, volume=0.0)
    # As mark candles freqtrade still writes all six columns.
    written = stored(tmp_path, old, "1h", MARK, data_format)
    path = DataFile(tmp_path, PAIR, "1h", FUNDING_RATE, data_format).path
    written.rename(path)
    theirs = load_pair_history(
        PAIR, "1h", tmp_path, data_format=data_format, candle_type=CandleType.FUNDING_RATE
    )
    ours = DataFile(tmp_path, PAIR, "1h", FUNDING_RATE).load()
    assert_frame_equal(ours, theirs[["date", "funding_rate"]], check_exact=True)
    assert len(ours) == 40


@pytest.mark.parametrize("pair", [PAIR, "BTC/USDT", "1000PEPE/USDT:USDT", "A.B C/USDC:USDC"])
def test_names_are_freqtrades(pair: str, tmp_path: Path) -> None:
    kind = FUTURES if ":" in pair else SPOT
    name = DataFile(tmp_path, pair, "5m", kind).path.name
    assert name.startswith(f"{pair_to_filename(pair)}-5m")


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("share", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("kind", [FUTURES, MARK, FUNDING_RATE])
def test_a_file_that_was_cut_is_named(
    kind: str, share: float, data_format: str, tmp_path: Path
) -> None:
    frame = rates() if kind == FUNDING_RATE else candles()
    path = stored(tmp_path, frame, "1h", kind, data_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(MarketError) as caught:
        DataFile(tmp_path, PAIR, "1h", kind).read()
    message = str(caught.value)
    assert message.startswith(f"{PAIR}: {path.name} in {path.parent} ")
    assert "\n" not in message


@pytest.mark.parametrize("column", ["date", "open", "volume"])
def test_a_missing_column_is_named(column: str, tmp_path: Path) -> None:
    path = stored(tmp_path, candles(), "5m", FUTURES, "feather")
    pd.read_feather(path).drop(columns=column).to_feather(path)
    with pytest.raises(MarketError, match=f"{path.name} in .* has no column '{column}'"):
        DataFile(tmp_path, PAIR, "5m").read()


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_dates_that_are_not_in_utc_are_named(zone: str | None, tmp_path: Path) -> None:
    path = stored(tmp_path, candles(), "5m", FUTURES, "feather")
    frame = pd.read_feather(path)
    frame.assign(date=frame["date"].dt.tz_convert(zone)).to_feather(path)
    with pytest.raises(MarketError, match=f"{path.name} in .*'date' is datetime64.*not a time"):
        DataFile(tmp_path, PAIR, "5m").read()


def test_a_file_without_rows_holds_no_candles(tmp_path: Path) -> None:
    path = stored(tmp_path, candles(), "5m", FUTURES, "feather")
    pd.read_feather(path).iloc[:0].to_feather(path)
    with pytest.raises(MarketError, match=f"{path.name} in .* has no rows"):
        read_candles(tmp_path, PAIR)


def test_other_files_of_a_missing_pair_are_named(tmp_path: Path) -> None:
    stored(tmp_path, candles(), "15m", FUTURES, "parquet")
    with pytest.raises(MarketError, match=r"BTC_USDT_USDT-5m-futures.feather is missing; there is"):
        read_candles(tmp_path, PAIR)
    with pytest.raises(MarketError, match=r"dataformat_ohlcv: 'hdf5' is not one of feather"):
        read_candles(tmp_path, PAIR, data_format="hdf5")


@pytest.mark.parametrize("data_format", ["parquet", "json", "jsongz"])
def test_a_market_is_the_same_from_every_format(
    data_format: str, datadir: Path, tmp_path: Path
) -> None:
    """But for JSON's decimals: freqtrade writes ten of them (``DataFrame.to_json``)."""
    for timeframe, kind in (("5m", FUTURES), ("1h", MARK), ("1h", FUNDING_RATE)):
        frame = load_pair_history(
            PAIR, timeframe, datadir, candle_type=CandleType.from_string(kind)
        )
        stored(tmp_path, frame, timeframe, kind, data_format)
    ours, theirs = (recorded_pair(each, PAIR).market for each in (tmp_path, datadir))
    assert len(ours) == len(theirs)
    for name in ("ohlc", "funding", "leverage", "tick_size", "entry_long"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0.0, atol=1e-5)
    assert ours.funding.any()

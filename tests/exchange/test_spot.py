"""Spot candles, and data directories in every format of freqtrade's own handlers."""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest
from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import CandleType

from mtf_scalper.exchange import create_app, running_exchange
from mtf_scalper.exchange.store import CandleStore, stores_in
from mtf_scalper.exchange.symbols import Venue

Recorded = Callable[[str], pd.DataFrame]
Freqtrade = Callable[..., object]

STRATEGY = """
from freqtrade.strategy import IStrategy


class EveryThirdHour(IStrategy):
    timeframe = "5m"
    minimal_roi = {"0": 10.0}
    stoploss = -0.5

    def populate_indicators(self, frame, metadata):
        return frame

    def populate_entry_trend(self, frame, metadata):
        dates = frame["date"].dt
        frame.loc[(dates.hour % 3 == 0) & (dates.minute == 0), "enter_long"] = 1
        return frame

    def populate_exit_trend(self, frame, metadata):
        frame.loc[frame["date"].dt.minute == 30, "exit_long"] = 1
        return frame
"""


@pytest.fixture(scope="module", params=["feather", "parquet", "json", "jsongz"])
def converted(
    request: pytest.FixtureRequest,
    datadir: Path,
    recorded: Recorded,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """BTC's futures and its spot candles as freqtrade's handler of a format writes them."""
    folder = tmp_path_factory.mktemp(request.param)
    handler = get_datahandler(folder, request.param)
    for name in ("5m", "1h"):
        candles = recorded(f"BTC-{name}-futures").drop(columns="ms")
        handler.ohlcv_store("BTC/USDT:USDT", name, candles, CandleType.FUTURES)
        handler.ohlcv_store("BTC/USDT", name, candles, CandleType.SPOT)
    return folder


@pytest.mark.parametrize("path", ["/fapi/v1/klines", "/api/v3/klines"])
def test_every_format_and_market_gives_the_same_candles(
    converted: Path, recorded: Recorded, path: str
) -> None:
    source = recorded("BTC-5m-futures")
    with running_exchange(converted) as url:
        asked = {"symbol": "BTCUSDT", "interval": "5m", "limit": "100"}
        rows = httpx.get(url + path, params=asked, trust_env=False).json()
    assert [row[0] for row in rows[:-1]] == source["ms"].tolist()[-99:]
    assert [float(row[4]) for row in rows[:-1]] == source["close"].tolist()[-99:]


@pytest.fixture(scope="module")
def spot_url(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An exchange that has spot candles alone."""
    folder = tmp_path_factory.mktemp("spot")
    for base in ("BTC", "ETH"):
        for name in ("5m", "1h"):
            candles = recorded(f"{base}-{name}-futures").drop(columns="ms")
            candles.to_feather(folder / f"{base}_USDT-{name}.feather")
    with running_exchange(folder) as url:
        yield url


def test_a_market_that_is_not_there_is_empty(spot_url: str, exchange_url: str) -> None:
    for url, spot, futures in ((spot_url, 2, 0), (exchange_url, 0, 2)):
        for path, count in (("/api/v3", spot), ("/fapi/v1", futures), ("/dapi/v1", 0)):
            info = httpx.get(f"{url}{path}/exchangeInfo", trust_env=False).json()
            assert len(info["symbols"]) == count
    refused = httpx.get(f"{spot_url}/fapi/v1/ticker/price?symbol=BTCUSDT", trust_env=False)
    assert refused.json() == {"code": -1121, "msg": "Invalid symbol."}


def test_spot_tells_bid_and_ask_and_futures_do_not(spot_url: str, exchange_url: str) -> None:
    spot = httpx.get(f"{spot_url}/api/v3/ticker/24hr?symbol=BTCUSDT", trust_env=False).json()
    futures = httpx.get(f"{exchange_url}/fapi/v1/ticker/24hr?symbol=BTCUSDT", trust_env=False)
    assert float(spot["bidPrice"]) < float(spot["askPrice"])
    assert set(spot) - set(futures.json()) == {"bidPrice", "bidQty", "askPrice", "askQty"}


def test_pairs_are_called_as_freqtrade_calls_them(tmp_path: Path, recorded: Recorded) -> None:
    recorded("BTC-5m-futures").drop(columns="ms").to_feather(tmp_path / "BTC_USDC-5m.feather")
    (store,) = stores_in(tmp_path).values()
    assert store.venue is Venue.SPOT
    assert [each.pair for each in store.symbols] == ["BTC/USDC"]
    assert store.symbols[0].file_name("5m", "futures") == "BTC_USDC-5m.feather"
    assert create_app(CandleStore(tmp_path, Venue.SPOT)) is not None


@pytest.fixture
def spot_config(tmp_path: Path, freqtrade: Freqtrade, spot_url: str, exchange_url: str) -> None:
    """Point the program's files at the spot exchange."""
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config |= {"trading_mode": "spot", "margin_mode": ""}
    config["exchange"]["pair_whitelist"] = ["BTC/USDT", "ETH/USDT"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    offline = tmp_path / "offline.json"
    text = offline.read_text(encoding="utf-8").replace(exchange_url, spot_url)
    offline.write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("spot_config")
def test_freqtrade_downloads_and_backtests_spot(
    freqtrade: Freqtrade, recorded: Recorded, tmp_path: Path
) -> None:
    copy, results = tmp_path / "copy", tmp_path / "results"
    results.mkdir()
    timerange = ["--timerange", "20240101-20240111"]
    freqtrade("download-data", "--timeframes", "5m", *timerange, "--datadir", str(copy))
    got = pd.read_feather(copy / "BTC_USDT-5m.feather")
    assert got["close"].tolist() == recorded("BTC-5m-futures")["close"].tolist()

    (tmp_path / "every_third_hour.py").write_text(STRATEGY, encoding="utf-8")
    strategy = ["--strategy", "EveryThirdHour", "--strategy-path", ".", "--datadir", str(copy)]
    output = ["--export", "trades", "--backtest-directory", str(results), "--cache", "none"]
    freqtrade("backtesting", *strategy, *output)
    (archive,) = results.glob("*.zip")
    with zipfile.ZipFile(archive) as files:
        report = json.loads(files.read(f"{archive.stem}.json"))
    trades = report["strategy"]["EveryThirdHour"]["trades"]
    assert {trade["pair"] for trade in trades} == {"BTC/USDT", "ETH/USDT"}

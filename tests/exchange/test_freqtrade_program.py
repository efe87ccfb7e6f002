"""The unmodified freqtrade program against the replay exchange."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import ccxt
import numpy as np
import pandas as pd
import pytest

from mtf_scalper.exchange import DEFAULT_PORT, offline_exchange_config

Freqtrade = Callable[..., object]

STRATEGY = """
from freqtrade.strategy import IStrategy


class EveryThirdHour(IStrategy):
    timeframe = "5m"
    can_short = True
    minimal_roi = {"0": 10.0}
    stoploss = -0.5

    def populate_indicators(self, frame, metadata):
        return frame

    def populate_entry_trend(self, frame, metadata):
        third_hour = frame["date"].dt.hour % 3 == 0
        on_the_hour = frame["date"].dt.minute == 0
        frame.loc[third_hour & on_the_hour & (frame["date"].dt.day % 2 == 0), "enter_long"] = 1
        frame.loc[third_hour & on_the_hour & (frame["date"].dt.day % 2 == 1), "enter_short"] = 1
        return frame

    def populate_exit_trend(self, frame, metadata):
        frame.loc[frame["date"].dt.minute == 30, ["exit_long", "exit_short"]] = 1
        return frame

    def leverage(self, pair, current_time, current_rate, proposed_leverage, **kwargs):
        return 3.0
"""


def test_list_pairs_shows_every_recorded_pair(freqtrade: Freqtrade) -> None:
    listed = freqtrade("list-pairs", "--print-json").stdout
    assert json.loads(listed.strip().splitlines()[-1]) == ["BTC/USDT:USDT", "ETH/USDT:USDT"]


def test_download_data_gives_back_its_source_value_for_value(
    freqtrade: Freqtrade, datadir: Path, tmp_path: Path
) -> None:
    frames = ["--timeframes", "5m", "15m", "1h"]
    whole = ["--timerange", "20240101-20240111"]
    copy = tmp_path / "copy"
    freqtrade("download-data", "--trading-mode", "futures", *frames, *whole, "--datadir", str(copy))

    sources = sorted((datadir / "futures").iterdir())
    assert [path.name for path in sorted((copy / "futures").iterdir())] == [
        path.name for path in sources
    ]
    for source in sources:
        expected, got = pd.read_feather(source), pd.read_feather(copy / "futures" / source.name)
        if "funding_rate" in source.name:
            expected = expected[["date", "open"]].rename(columns={"open": "funding_rate"})
        pd.testing.assert_frame_equal(
            got.assign(date=got["date"].dt.as_unit("ms")),
            expected.assign(date=expected["date"].dt.as_unit("ms")),
            check_exact=True,
            obj=source.name,
        )


def test_backtesting_trades_on_the_recorded_candles(
    freqtrade: Freqtrade, datadir: Path, recorded: Callable[[str], pd.DataFrame], tmp_path: Path
) -> None:
    (tmp_path / "every_third_hour.py").write_text(STRATEGY, encoding="utf-8")
    strategy = ["--strategy", "EveryThirdHour", "--strategy-path", "."]
    results = tmp_path / "results"
    results.mkdir()
    output = ["--export", "trades", "--backtest-directory", str(results), "--cache", "none"]
    freqtrade("backtesting", *strategy, "--datadir", str(datadir), *output)

    (archive,) = results.glob("*.zip")
    with zipfile.ZipFile(archive) as files:
        report = json.loads(files.read(f"{archive.stem}.json"))
    trades = report["strategy"]["EveryThirdHour"]["trades"]
    assert {(t["pair"], t["is_short"]) for t in trades} == {
        (pair, short) for pair in ("BTC/USDT:USDT", "ETH/USDT:USDT") for short in (False, True)
    }
    opens = {
        base: recorded(f"{base}-5m-futures").set_index("ms")["open"] for base in ("BTC", "ETH")
    }
    for trade in trades:
        recorded_open = opens[trade["pair"][:3]][trade["open_timestamp"]]
        assert trade["open_rate"] == recorded_open
        assert trade["leverage"] == 3.0
        lots = trade["amount"] / 0.001
        assert lots == pytest.approx(np.rint(lots), abs=1e-6)


def test_offline_config_redirects_every_api_that_ccxt_knows() -> None:
    apis = offline_exchange_config("http://127.0.0.1:1/")["exchange"]["ccxt_config"]["urls"]["api"]
    original = ccxt.binance().urls["api"]
    assert set(apis) == set(original)
    for api, url in apis.items():
        assert url == "http://127.0.0.1:1" + original[api].partition(".com")[2]


def test_offline_json_is_the_offline_config_of_the_default_port() -> None:
    path = Path(__file__).parents[2] / "configs" / "offline.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config == offline_exchange_config(f"http://127.0.0.1:{DEFAULT_PORT}")
    assert list(config) == ["exchange"]

"""What a data directory may hold, and how a bad file is refused."""

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtf_scalper.exchange import CandleStore, DataDirectoryError, create_app, running_exchange
from mtf_scalper.exchange.rules import decimal_text, grid_of
from mtf_scalper.exchange.store import Candles
from mtf_scalper.exchange.symbols import CandleKind

FILE = "futures/BTC_USDT_USDT-5m-futures.feather"


def candle_frame(n: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=n, freq="5min", tz="UTC"),
            "open": 100.0,
            "high": 101.0,
            "low": 99.0,
            "close": 100.5,
            "volume": 1.25,
        }
    )


def store_with(frame: pd.DataFrame, root: Path) -> CandleStore:
    (root / "futures").mkdir()
    frame.to_feather(root / FILE)
    return CandleStore(root)


def test_only_linear_contracts_with_trade_candles_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "futures"
    folder.mkdir()
    for name in (
        "ETH_USDC_USDC-15m-futures",
        "1000PEPE_USDT_USDT-1h-futures",
        "1000PEPE_USDT_USDT-5m-futures",
        "1000PEPE_USDT_USDT-1h-mark",
        "SOL_USDT_USDT-1h-mark",
        "BTC_USD_BTC-5m-futures",
        "BTC_USDT_USDT-5m-open_interest",
    ):
        candle_frame().to_feather(folder / f"{name}.feather")
    store = CandleStore(tmp_path)
    assert [(s.name, s.pair) for s in store.symbols] == [
        ("1000PEPEUSDT", "1000PEPE/USDT:USDT"),
        ("ETHUSDC", "ETH/USDC:USDC"),
    ]
    assert store.intervals(store.symbols[0], CandleKind.TRADES) == ("5m", "1h")
    assert store.intervals(store.symbols[0], CandleKind.MARK) == ("1h",)
    assert len(store.funding(store.symbols[0])) == 0


@pytest.mark.parametrize("folder", ["", "futures"])
def test_a_directory_without_candles_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    with pytest.raises(DataDirectoryError, match=r"no file like BTC_USDT_USDT-5m-futures"):
        CandleStore(tmp_path)


Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns=["low", "date"]), "no column date, low"),
        (lambda f: f.head(0), "no rows"),
        (lambda f: f.assign(date=f["date"].dt.tz_localize(None)), "not a time with time zone"),
        (lambda f: f.assign(date=f["date"].where(f.index != 1)), "date is missing in row 1"),
        (lambda f: f.iloc[[0, 2, 1]].reset_index(drop=True), "date in row 2 is not one step"),
        (lambda f: f.assign(close=[100.5, np.nan, 100.5]), "close is not finite in row 1"),
        (lambda f: f.assign(low=[99.0, 99.0, 0.0]), "low is not positive in row 2"),
        (lambda f: f.assign(high=[101.0, 100.4, 101.0]), "outside low..high in row 1"),
        (lambda f: f.assign(volume=[1.0, -1.0, 1.0]), "volume is negative in row 1"),
        (lambda f: f.assign(open=["a", "b", "c"]), "open is not a number"),
    ],
)
def test_a_bad_candle_file_is_named_in_one_line(
    tmp_path: Path, change: Change, message: str
) -> None:
    store = store_with(change(candle_frame()), tmp_path)
    with pytest.raises(DataDirectoryError) as refused:
        create_app(store)
    assert str(tmp_path / FILE) in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_feather_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "futures").mkdir()
    (tmp_path / FILE).write_bytes(b"no feather")
    with pytest.raises(DataDirectoryError, match="not a readable feather file"):
        CandleStore(tmp_path).end_ms()


def test_a_bad_file_that_is_read_late_is_told_to_the_client(tmp_path: Path) -> None:
    store_with(candle_frame(), tmp_path)
    late = tmp_path / "futures" / "BTC_USDT_USDT-15m-futures.feather"
    candle_frame().drop(columns="volume").to_feather(late)
    with running_exchange(tmp_path) as url:
        answer = httpx.get(f"{url}/fapi/v1/klines?symbol=BTCUSDT&interval=15m", trust_env=False)
    assert answer.status_code == 500
    assert answer.json()["code"] == -1000
    assert f"{late}: no column volume" in answer.json()["msg"]


@pytest.mark.parametrize("column", ["funding_rate", "open"])
def test_funding_is_read_in_both_of_freqtrades_layouts(tmp_path: Path, column: str) -> None:
    store = store_with(candle_frame(), tmp_path)
    dates = pd.date_range("2024-01-01", periods=3, freq="8h", tz="UTC")
    rates = [1e-4, -2.5e-7, 0.0]
    path = tmp_path / "futures" / "BTC_USDT_USDT-1h-funding_rate.feather"
    pd.DataFrame({"date": dates, column: rates}).to_feather(path)
    funding = CandleStore(tmp_path).funding(store.symbols[0])
    assert funding.rate.tolist() == rates
    assert np.diff(funding.time_ms).tolist() == [28_800_000] * 2


def test_no_file_stays_open(datadir: Path) -> None:
    store = CandleStore(datadir)
    for symbol in store.symbols:
        store.funding(symbol)
        store.finest(symbol)
        store.finest(symbol, CandleKind.MARK)
    held = [Path(file.path) for file in psutil.Process().open_files()]
    assert [path for path in held if datadir in path.parents] == []


def test_a_gap_leaves_no_forming_candle(tmp_path: Path) -> None:
    root = tmp_path / "binance"
    root.mkdir()
    store_with(candle_frame(4), root)
    candle_frame(2).to_feather(root / "futures" / "ETH_USDT_USDT-5m-futures.feather")
    with running_exchange(root) as url, httpx.Client(base_url=url, trust_env=False) as client:
        counts = [
            len(client.get(f"/fapi/v1/klines?symbol={name}&interval=5m").json())
            for name in ("BTCUSDT", "ETHUSDT")
        ]
    assert counts == [5, 2]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimal_text_reads_back_exactly_and_has_no_exponent(value: float) -> None:
    text = decimal_text(value)
    assert float(text) == value
    assert "e" not in text


@pytest.mark.parametrize(
    ("prices", "volume", "decimals"),
    [
        ([100.0, 205.0], [3.0, 7.0], (0, 0)),
        ([42_000.1, 42_000.0], [0.001, 880.89], (1, 3)),
        ([0.00001234, 0.00001], [5.5, 1.0], (8, 1)),
        ([1 / 3, 2 / 3], [1 / 3, 1.0], (8, 3)),
    ],
)
def test_grid_is_the_coarsest_that_holds_all_values(
    prices: list[float], volume: list[float], decimals: tuple[int, int]
) -> None:
    column = np.array(prices)
    times = np.array([0, 300_000])
    grid = grid_of(Candles(300_000, times, column, column, column, column, np.array(volume)))
    assert (grid.price_decimals, grid.quantity_decimals) == decimals

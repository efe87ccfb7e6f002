"""A small data directory, an exchange that serves it, and the real freqtrade program."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from ready_python import ReadyPython

from mtf_scalper.exchange import offline_exchange_config, running_exchange

DAYS = 10
START = pd.Timestamp("2024-01-01", tz="UTC")

Freqtrade = Callable[..., subprocess.CompletedProcess[str]]


def _aggregate(candles: pd.DataFrame, rule: str) -> pd.DataFrame:
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    bars = candles.set_index("date").resample(rule).agg(how).reset_index()
    bars["volume"] = bars["volume"].round(3)
    return bars


def _five_minutes(rng: np.random.Generator, price: float) -> pd.DataFrame:
    n = DAYS * 288
    close = np.round(price * np.exp(np.cumsum(rng.normal(0.0, 0.001, n))), 1)
    opens = np.concatenate([[price], close[:-1]])
    spread = np.round(np.abs(rng.normal(0.0, price * 5e-4, (2, n))), 1)
    return pd.DataFrame(
        {
            "date": pd.date_range(START, periods=n, freq="5min"),
            "open": opens,
            "high": np.round(np.maximum(opens, close) + spread[0], 1),
            "low": np.round(np.minimum(opens, close) - spread[1], 1),
            "close": close,
            "volume": np.round(rng.gamma(2.0, 50.0, n), 3),
        }
    )


def _mark(trades: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    # Unrounded prices: their shortest text has up to 17 digits.
    mark = trades.copy()
    prices = ["open", "high", "low", "close"]
    mark[prices] *= 1.0 + rng.normal(0.0, 1e-5, (len(mark), 1))
    mark["volume"] = 0.0
    return mark


def _funding(rng: np.random.Generator) -> pd.DataFrame:
    n = DAYS * 3
    frame = pd.DataFrame({"date": pd.date_range(START, periods=n, freq="8h")})
    frame["open"] = np.round(rng.normal(0.0, 5e-5, n), 8)
    frame[["high", "low", "close", "volume"]] = 0.0
    return frame


@pytest.fixture(scope="session")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days of BTC and ETH candles; funding in freqtrade's older layout."""
    root = tmp_path_factory.mktemp("recorded") / "binance"
    (root / "futures").mkdir(parents=True)
    rng = np.random.default_rng(7)
    for base, price in (("BTC", 42_000.0), ("ETH", 2_300.0)):
        stem = root / "futures" / f"{base}_USDT_USDT"
        candles = _five_minutes(rng, price)
        hours = _aggregate(candles, "1h")
        candles.to_feather(f"{stem}-5m-futures.feather")
        _aggregate(candles, "15min").to_feather(f"{stem}-15m-futures.feather")
        hours.to_feather(f"{stem}-1h-futures.feather")
        _mark(hours, rng).to_feather(f"{stem}-1h-mark.feather")
        _funding(rng).to_feather(f"{stem}-1h-funding_rate.feather")
    return root


@pytest.fixture(scope="session")
def recorded(datadir: Path) -> Callable[[str], pd.DataFrame]:
    """Read one recorded file by what follows the pair's quote, as in ``BTC-5m-futures``."""

    def read(name: str) -> pd.DataFrame:
        base, _, rest = name.partition("-")
        frame = pd.read_feather(datadir / "futures" / f"{base}_USDT_USDT-{rest}.feather")
        frame["ms"] = frame["date"].dt.as_unit("ms").astype("int64")
        return frame

    return read


@pytest.fixture(scope="module")
def exchange_url(datadir: Path) -> Iterator[str]:
    with running_exchange(datadir) as url:
        yield url


@pytest.fixture(scope="module")
def client(exchange_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=exchange_url, trust_env=False) as session:
        yield session


@pytest.fixture
def freqtrade(exchange_url: str, tmp_path: Path, ready_python: ReadyPython) -> Freqtrade:
    """Run the unmodified program against the exchange in an empty user directory."""
    config: dict[str, Any] = {
        "stake_currency": "USDT",
        "stake_amount": 1000,
        "max_open_trades": 2,
        "dry_run": True,
        "dry_run_wallet": 10_000,
        "trading_mode": "futures",
        "margin_mode": "isolated",
        "timeframe": "5m",
        "exchange": {
            "name": "binance",
            "pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"],
            "pair_blacklist": [],
        },
        "pairlists": [{"method": "StaticPairList"}],
        "entry_pricing": {"use_order_book": True},
        "exit_pricing": {"use_order_book": True},
        "user_data_dir": str(tmp_path / "user_data"),
    }
    (tmp_path / "user_data").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    offline = json.dumps(offline_exchange_config(exchange_url))
    (tmp_path / "offline.json").write_text(offline, encoding="utf-8")

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        configs = ["--config", "config.json", "--config", "offline.json"]
        done = subprocess.run(
            ready_python([sys.executable, "-m", "freqtrade", command, *configs, *arguments]),
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run

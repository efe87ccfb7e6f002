"""Trades are freqtrade's whatever the files are like: funding, ends, steps, formats, prices."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqtrade.configuration import setup_utils_configuration
from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import CandleType, RunMode
from freqtrade.exchange import Exchange

from mtf_scalper.exchange import offline_exchange_config, running_exchange
from mtf_scalper.runs.given_predictions import random_policy
from mtf_scalper.runs.parity import Backtested, backtest, compare

Change = Callable[[Path, np.random.Generator], None]

DAYS = "20240130-20240203"
PAIRS = ("BTC", "ETH")
PRICES = ["open", "high", "low", "close"]


def edit(folder: Path, kind: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Rewrite one kind of file of both pairs."""
    for coin in PAIRS:
        path = folder / "futures" / f"{coin}_USDT_USDT-{kind}.feather"
        change(pd.read_feather(path)).reset_index(drop=True).to_feather(path)


def settle(folder: Path, rng: np.random.Generator, hours: int, jitter_ms: int = 0) -> None:
    """Write rates of every few hours in freqtrade 2026.9's layout, large enough to be seen."""

    def rates(_: pd.DataFrame) -> pd.DataFrame:
        dates = pd.date_range("2024-01-24", "2024-02-03", freq=f"{hours}h", tz="UTC")
        late = pd.to_timedelta(rng.integers(0, jitter_ms + 1, len(dates)), unit="ms")
        values = rng.normal(0.0, 2e-3, len(dates))
        return pd.DataFrame({"date": (dates + late).as_unit("ms"), "funding_rate": values})

    edit(folder, "1h-funding_rate", rates)


def hourly(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 1)


def four_hourly(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 4)


def jittered(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 1, jitter_ms=900)


def without_some_marks(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 1)
    edit(folder, "1h-mark", lambda marks: marks.drop(index=range(10, len(marks), 3)))


def doubled_rates(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 1, jitter_ms=900)

    def twice(rates: pd.DataFrame) -> pd.DataFrame:
        again = rates.assign(funding_rate=0.5, date=rates["date"].dt.floor("s"))
        return pd.concat([rates.assign(date=rates["date"].dt.floor("s")), again.iloc[::7]])

    edit(folder, "1h-funding_rate", twice)


def never_at_one_time(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 1)
    shift = pd.Timedelta(minutes=7)
    edit(folder, "1h-funding_rate", lambda rates: rates.assign(date=rates["date"] + shift))


def under_old_names(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 8)
    for path in (folder / "futures").glob("*-1h-funding_rate.feather"):
        path.rename(path.with_name(path.name.replace("-1h-", "-8h-")))


def without_marks(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 1)
    for path in (folder / "futures").glob("*-1h-mark.feather"):
        path.unlink()


def first_known_late(folder: Path, rng: np.random.Generator) -> None:
    settle(folder, rng, 4)
    late = pd.Timestamp("2024-01-31 09:00", tz="UTC")
    edit(folder, "1h-funding_rate", lambda rates: rates[rates["date"] >= late])


FUNDING: dict[str, tuple[Change, dict[str, Any], bool]] = {
    "hourly": (hourly, {}, True),
    "4-hourly": (four_hourly, {}, True),
    "late by milliseconds": (jittered, {}, True),
    "marks missing": (without_some_marks, {}, True),
    "rates doubled": (doubled_rates, {}, True),
    "never at one time": (never_at_one_time, {}, False),
    "old 8h names": (under_old_names, {}, False),
    "no marks": (without_marks, {}, False),
    "a rate for hours before": (first_known_late, {"futures_funding_rate": 0.001}, True),
    "a rate for all hours": (under_old_names, {"futures_funding_rate": 0.001}, True),
}


@pytest.fixture
def copied(datadir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "binance"
    shutil.copytree(datadir, folder)
    return folder


@pytest.fixture
def run_on(
    make_config: Callable[..., dict[str, Any]],
    rl_config: Callable[..., dict[str, Any]],
    exchange: Exchange,
) -> Callable[..., Backtested]:
    """Return a function that backtests random predictions on a data directory."""

    def backtested(folder: Path, **overrides: Any) -> Backtested:
        sections = {**rl_config(entry="any"), **overrides}
        config = make_config(sections, timerange=DAYS, datadir=str(folder))
        return backtest(config, random_policy, exchange=exchange)

    return backtested


def check_equal(backtested: Backtested, least: int = 30) -> None:
    for each in compare(backtested).values():
        assert each.unequal == []
        assert len(each.trades) >= least
        assert each.largest_profit_difference <= 1e-8


@pytest.mark.parametrize(("change", "options", "charged"), FUNDING.values(), ids=FUNDING)
def test_funding_is_what_the_backtester_charges(
    change: Change,
    options: dict[str, Any],
    charged: bool,
    copied: Path,
    run_on: Callable[..., Backtested],
) -> None:
    change(copied, np.random.default_rng(3))
    backtested = run_on(copied, **options)
    check_equal(backtested)
    for each in backtested.pairs.values():
        assert each.market.funding.any() == charged


def test_a_pair_may_end_before_the_others(copied: Path, run_on: Callable[..., Backtested]) -> None:
    path = copied / "futures" / "ETH_USDT_USDT-5m-futures.feather"
    candles = pd.read_feather(path)
    early = candles[candles["date"] <= pd.Timestamp("2024-02-01 13:35", tz="UTC")]
    early.reset_index(drop=True).to_feather(path)
    backtested = run_on(copied)
    lengths = [len(each.market) for each in backtested.pairs.values()]
    assert lengths == [4 * 288 + 1, 2 * 288 + 13 * 12 + 8]
    check_equal(backtested)


@pytest.mark.parametrize("data_format", ["parquet", "json", "jsongz"])
def test_files_of_every_format(
    data_format: str, datadir: Path, tmp_path: Path, run_on: Callable[..., Backtested]
) -> None:
    folder = converted(datadir, tmp_path, data_format)
    backtested = run_on(folder, dataformat_ohlcv=data_format)
    check_equal(backtested)
    for each in backtested.pairs.values():
        assert each.market.funding.any()


def converted(datadir: Path, tmp_path: Path, data_format: str) -> Path:
    """Let freqtrade write all files in another format."""
    folder = tmp_path / "binance"
    (folder / "futures").mkdir(parents=True)
    reader, writer = get_datahandler(datadir, "feather"), get_datahandler(folder, data_format)
    for path in (datadir / "futures").glob("*.feather"):
        coin, timeframe, kind = path.stem.replace("_USDT_USDT", "").split("-")
        pair, candle_type = f"{coin}/USDT:USDT", CandleType.from_string(kind)
        frame = reader.ohlcv_load(pair, timeframe, candle_type, fill_missing=False)
        writer.ohlcv_store(pair, timeframe, frame, candle_type)
    return folder


@pytest.fixture
def connected(
    arguments_for: Callable[..., dict[str, Any]], rl_config: Callable[..., dict[str, Any]]
) -> Iterator[Callable[..., Backtested]]:
    """Return a function that backtests on an exchange which has seen the same candles."""

    def backtested(folder: Path, **overrides: Any) -> Backtested:
        with running_exchange(folder) as url:
            sections = {**rl_config(entry="any"), **overrides, **offline_exchange_config(url)}
            given = {**arguments_for(sections), "timerange": DAYS, "datadir": str(folder)}
            return backtest(setup_utils_configuration(given, RunMode.BACKTEST), random_policy)

    return backtested


@pytest.mark.parametrize("decimals", [14, 15])
def test_prices_of_1e_10_are_traded(
    decimals: int, copied: Path, connected: Callable[..., Backtested]
) -> None:
    """BTC at 4e-10 and ETH at 2e-11, in steps of 1e-14 or 1e-15."""
    for kind in ("5m-futures", "15m-futures", "1h-futures", "1h-mark"):
        edit(
            copied,
            kind,
            lambda frame: frame.assign(
                **{name: (frame[name] * 1e-14).round(decimals) for name in PRICES}
            ),
        )
    backtested = connected(copied)
    check_equal(backtested)
    for each in backtested.pairs.values():
        assert set(each.market.tick_size) == {1 / 10.0**decimals}
        assert each.market.ohlc.max() < 1e-9


def test_whole_prices_take_the_exchanges_step(
    copied: Path, connected: Callable[..., Backtested]
) -> None:
    """Whole in January, with a decimal in February: what the exchange tells then holds before."""
    for kind in ("5m-futures", "15m-futures", "1h-futures"):
        edit(copied, kind, whole_in_january)
    backtested = connected(copied)
    check_equal(backtested)
    steps = {float(each) for run in backtested.pairs.values() for each in run.market.tick_size}
    assert steps == {0.1}


def whole_in_january(frame: pd.DataFrame) -> pd.DataFrame:
    january = frame["date"] < pd.Timestamp("2024-02-01", tz="UTC")
    return frame.assign(
        **{name: frame[name].round(1).where(~january, frame[name].round(0)) for name in PRICES}
    )

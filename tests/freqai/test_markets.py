"""From FreqAI's frames to markets: errors that name the place, and freqtrade's own figures."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqtrade.data.btanalysis import get_tick_size_over_time
from freqtrade.data.history import load_pair_history
from freqtrade.enums import CandleType
from freqtrade.exchange import Exchange

from mtf_scalper.errors import MarketError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.markets import (
    build_market,
    check_window,
    fee_rate,
    funding_due,
    log_gaps,
)
from mtf_scalper.market.candles import check_candles
from mtf_scalper.settings import EntryMode, Settings, TradeRules

PAIR = "BTC/USDT:USDT"
SETTINGS = Settings(window_size=4)
FEATURES = ["%-a", "%-b", *columns.RAW_PRICES]
CONFIG = {"timeframe": "5m", "fee": 0.0004}
WINDOW = "BTC/USDT:USDT, window 2024-01-31 to 2024-02-01: "


def funding_per_unit(dates: pd.Series, pair: str, provider: Any) -> np.ndarray:
    opens = dates.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
    return funding_due(opens, pair, provider).at_open


@pytest.fixture
def window() -> pd.DataFrame:
    """200 candles across the end of January, with the strategy's columns; index from 1,000 on."""
    rng = np.random.default_rng(5)
    n = 200
    close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.002, n))), 2)
    opened = np.concatenate([[100.0], close[:-1]])
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-31 12:00", periods=n, freq="5min", tz="UTC"),
            "open": opened,
            "high": np.round(np.maximum(opened, close) + 0.05, 2),
            "low": np.round(np.minimum(opened, close) - 0.05, 2),
            "close": close,
            "volume": rng.lognormal(5.0, 0.6, n),
            "%-a": rng.standard_normal(n),
            "%-b": rng.standard_normal(n),
            columns.ENTRY_LONG: rng.random(n) < 0.2,
            columns.ENTRY_SHORT: rng.random(n) < 0.2,
            columns.LEVERAGE: rng.integers(10, 31, n) / 10.0,
        },
        index=range(1000, 1000 + n),
    )
    for name in columns.RAW_PRICES:
        frame[name] = frame[name.removeprefix("%-raw_")]
    return frame


def provider_of(
    rates: pd.DataFrame | None = None, marks: pd.DataFrame | None = None, **config: Any
) -> SimpleNamespace:
    """Return what the functions ask of a data provider, with known fees and funding."""
    fees = {"taker": 0.0005, "maker": 0.0002}
    options = {"funding_fee_timeframe": "1h", "mark_ohlcv_timeframe": "1h"}
    frames = {CandleType.FUNDING_RATE: rates, CandleType.MARK: marks}

    def pair_frame(pair: str, timeframe: str, kind: CandleType) -> pd.DataFrame:
        assert (pair, timeframe) == (PAIR, "1h")
        return frames[kind] if frames[kind] is not None else pd.DataFrame()

    exchange = SimpleNamespace(
        trading_mode="futures",
        get_option=options.__getitem__,
        get_fee=lambda symbol, taker_or_maker: fees[taker_or_maker],
    )
    return SimpleNamespace(_exchange=exchange, _config=config, get_pair_dataframe=pair_frame)


def funding_frames(start: str, hours: int, seed: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return 8-hourly rates of both signs and hourly mark prices."""
    rng = np.random.default_rng(seed)
    dates = pd.date_range(start, periods=hours, freq="h", tz="UTC")
    marks = pd.DataFrame({"date": dates, "open": rng.uniform(90.0, 110.0, hours)})
    due = dates[dates.hour % 8 == 0]
    rates = pd.DataFrame({"date": due, "funding_rate": rng.normal(0.0, 1e-3, len(due))})
    return rates, marks


def error_of(frame: pd.DataFrame, features: list[str] = FEATURES) -> str:
    with pytest.raises(MarketError) as caught:
        check_window(frame, features, PAIR, SETTINGS)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_window_passes(window: pd.DataFrame) -> None:
    check_window(window, FEATURES, PAIR, SETTINGS)


def test_missing_values_while_indicators_warm_up_are_accepted(window: pd.DataFrame) -> None:
    window.loc[:1019, "%-a"] = np.nan
    window.loc[:1049, "%-b"] = np.nan
    check_window(window, FEATURES, PAIR, SETTINGS)


@pytest.mark.parametrize("column", ["%-b", "%-raw_close"])
def test_a_missing_value_later_on_is_named(window: pd.DataFrame, column: str) -> None:
    window.loc[1100:1102, column] = np.nan
    expected = f"{WINDOW}column {column!r} is nan at 2024-01-31 20:20 (3 such rows)"
    assert error_of(window) == expected


@pytest.mark.parametrize("row", [1000, 1100])
def test_an_infinite_value_is_named_anywhere(window: pd.DataFrame, row: int) -> None:
    window.loc[:1010, "%-a"] = np.nan
    window.loc[row, "%-b"] = -np.inf
    assert error_of(window).startswith(f"{WINDOW}column '%-b' is -inf at ")


def test_a_column_without_values_is_named(window: pd.DataFrame) -> None:
    window["%-b"] = np.nan
    message = f"{WINDOW}column '%-b' is nan at 2024-01-31 12:00 (200 such rows)"
    assert error_of(window) == message


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("open", 0.0, "column 'open' is 0.0, not above zero, at 2024-01-31 20:20 (3 such rows)"),
        ("high", np.nan, "column 'high' is nan at 2024-01-31 20:20 (3 such rows)"),
        ("high", 1.0, "column 'low' ("),
        ("volume", np.inf, "column 'volume' is inf at 2024-01-31 20:20 (3 such rows)"),
    ],
)
def test_a_candle_that_cannot_be_is_named(
    window: pd.DataFrame, column: str, value: float, problem: str
) -> None:
    window.loc[1100:1102, column] = value
    message = error_of(window)
    assert message.startswith(f"{PAIR}: {problem}")
    assert message.endswith("at 2024-01-31 20:20 (3 such rows)")


def test_dates_that_do_not_rise_are_named(window: pd.DataFrame) -> None:
    double = window.loc[[*range(1000, 1101), *range(1100, 1200)]]
    message = "column 'date' has a duplicate candle at 2024-01-31 20:20 (1 such row)"
    assert error_of(double) == f"{PAIR}: {message}; drop duplicates"
    swapped = window.loc[[*range(1000, 1100), 1101, 1100, *range(1102, 1200)]]
    message = "column 'date' is out of order after 2024-01-31 20:25 at 2024-01-31 20:20"
    assert error_of(swapped) == f"{PAIR}: {message} (1 such row); sort the candles"
    window.loc[1199, "date"] = pd.NaT
    assert error_of(window) == f"{PAIR}: column 'date' is missing at row 199 (1 such row)"


def test_freqtrade_sorts_merges_and_fills_what_it_loads(datadir: Path, tmp_path: Path) -> None:
    """So that duplicates and gaps on disk reach neither training nor backtest."""
    source = datadir / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    whole = pd.read_feather(source)
    damaged = whole.drop(index=range(500, 520)).sample(frac=1.0, random_state=3)
    (tmp_path / "futures").mkdir()
    again = pd.concat([damaged, whole.iloc[[7, 8]]], ignore_index=True)
    again.to_feather(tmp_path / "futures" / source.name)
    loaded = load_pair_history(PAIR, "5m", tmp_path, candle_type=CandleType.FUTURES)
    check_candles(loaded, PAIR)
    assert loaded["date"].tolist() == whole["date"].tolist()
    filled = loaded.loc[500:519]
    assert (filled[["open", "high", "low", "close"]] == whole["close"][499]).all(axis=None)
    assert not filled["volume"].any()


def test_gaps_are_accepted_and_logged_once_for_a_window(
    window: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that the strategy dropped; what freqtrade loads has no gaps."""
    holes = window.drop(index=[1010, *range(1100, 1110)])
    with caplog.at_level(logging.INFO):
        check_window(holes, FEATURES, PAIR, SETTINGS)
        log_gaps(holes, PAIR, "5m")
        market = build_market(
            holes[["%-a"]], holes, PAIR, SETTINGS, config=CONFIG, provider=provider_of()
        )
        log_gaps(window, PAIR, "5m")
    assert len(market) == 189
    assert [line for line in caplog.messages if "missing" in line] == [
        f"{PAIR}: 11 candles of 5m missing in 2 gaps, at most 10 of them after 2024-01-31 20:15; "
        "the rows around a gap count as neighbours"
    ]


def test_prices_that_jump_are_logged_once_for_a_window(
    window: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    row = window.index[70]
    window.loc[row, ["high", "close"]] = window.loc[row, "low"] * 1e9
    with caplog.at_level(logging.INFO):
        check_window(window, FEATURES, PAIR, SETTINGS)
        log_gaps(window, PAIR, "5m")
        build_market(window[["%-a"]], window, PAIR, SETTINGS, config=CONFIG, provider=provider_of())
    (line,) = [line for line in caplog.messages if "moves by a factor" in line]
    date = f"{window.loc[row, 'date']:%Y-%m-%d %H:%M}"
    # The next candle falls back by as much.
    assert line.startswith(
        f"{PAIR}: column 'close' moves by a factor of 1e+09 at {date} (2 such rows)"
    )


def test_flat_candles_without_volume_are_accepted(window: pd.DataFrame) -> None:
    """An exchange's halt, or what freqtrade puts in the place of missing candles."""
    prices = ["open", "high", "low", "close"]
    window.loc[1100:1150, prices] = window.loc[1099, "close"]
    window.loc[1100:1150, "volume"] = 0.0
    check_window(window, FEATURES, PAIR, SETTINGS)
    market = build_market(
        window[["%-a"]], window, PAIR, SETTINGS, config=CONFIG, provider=provider_of()
    )
    assert set(market.ohlc[100:151].ravel()) == {window.loc[1099, "close"]}


def test_a_constant_price_is_named(window: pd.DataFrame) -> None:
    window[["open", "high", "low", "close"]] = 100.0
    assert error_of(window) == f"{WINDOW}column 'close' is constant (100.0)"


@pytest.mark.parametrize("column", columns.RAW_PRICES)
def test_a_missing_raw_price_is_named(window: pd.DataFrame, column: str) -> None:
    message = error_of(window.drop(columns=column))
    assert message.startswith(f"{WINDOW}column {column!r} is missing")
    assert "feature_engineering_standard()" in message


def test_an_empty_window_names_the_pair(window: pd.DataFrame) -> None:
    assert error_of(window.iloc[:0]).startswith(f"{PAIR}: the training window has no candles")


def test_a_short_window_says_how_many_candles_it_needs(window: pd.DataFrame) -> None:
    window.loc[:1188, "%-a"] = np.nan  # 11 candles are left, two markets of window + 2 need 12
    message = error_of(window)
    assert message.startswith(f"{WINDOW}11 usable candles are too few, at least 12")
    window.loc[1188, "%-a"] = 0.0
    check_window(window, FEATURES, PAIR, SETTINGS)


def test_a_market_holds_the_rows_of_its_features(window: pd.DataFrame) -> None:
    rows = slice(1050, 1149)
    features = window.loc[rows, ["%-a", "%-b"]]
    rates, marks = funding_frames("2024-01-31", 48)
    provider = provider_of(rates, marks)
    market = build_market(features, window, PAIR, SETTINGS, config=CONFIG, provider=provider)
    part = window.loc[rows]
    assert (len(market), market.pair, market.timeframe_minutes) == (100, PAIR, 5)
    assert market.feature_names == ("%-a", "%-b")
    np.testing.assert_array_equal(market.features, features.to_numpy(np.float32))
    prices = part[["open", "high", "low", "close"]].to_numpy()
    np.testing.assert_array_equal(market.ohlc, prices)
    np.testing.assert_array_equal(market.entry_long, part[columns.ENTRY_LONG])
    np.testing.assert_array_equal(market.entry_short, part[columns.ENTRY_SHORT])
    np.testing.assert_array_equal(market.leverage, part[columns.LEVERAGE])
    np.testing.assert_array_equal(market.dates, part["date"].dt.tz_localize(None))
    assert market.fee_rate == 0.0004
    assert np.flatnonzero(market.funding).tolist() == [94]  # midnight


def test_a_market_follows_the_features_index_and_not_their_position(window: pd.DataFrame) -> None:
    both = [window.loc[1000:1099, ["%-a"]], window.loc[1100:1199, ["%-a"]]]
    first, second = (
        build_market(part, window, PAIR, SETTINGS, config=CONFIG, provider=provider_of())
        for part in both
    )
    assert second.dates[0] - first.dates[-1] == np.timedelta64(5, "m")
    np.testing.assert_array_equal(second.ohlc[0, 0], window.loc[1100, "open"])


def test_leverage_is_one_where_the_strategy_gives_none(window: pd.DataFrame) -> None:
    bare = window.drop(columns=columns.LEVERAGE)
    market = build_market(
        window[["%-a"]], bare, PAIR, SETTINGS, config=CONFIG, provider=provider_of()
    )
    np.testing.assert_array_equal(market.leverage, np.ones(200))


@pytest.mark.parametrize("column", [columns.ENTRY_LONG, columns.ENTRY_SHORT])
@pytest.mark.parametrize("entry", list(EntryMode))
def test_entry_signals_are_needed_unless_any_entry_will_do(
    window: pd.DataFrame, column: str, entry: EntryMode
) -> None:
    settings = SETTINGS.changed(rules=TradeRules(entry=entry))
    bare = window.drop(columns=column)

    def build() -> Any:
        provider = provider_of()
        return build_market(window[["%-a"]], bare, PAIR, settings, config=CONFIG, provider=provider)

    if entry is EntryMode.ANY:
        name = "entry_long" if column == columns.ENTRY_LONG else "entry_short"
        assert not getattr(build(), name).any()
        return
    with pytest.raises(MarketError, match=rf"{PAIR}: column '{column}'.*entry={entry}.*\"any\""):
        build()


def test_the_fee_is_the_configured_one_or_the_exchanges_worst() -> None:
    assert fee_rate({"fee": 0.0}, provider_of(), PAIR) == 0.0
    assert fee_rate({"fee": 0.001}, provider_of(), PAIR) == 0.001
    assert fee_rate({}, provider_of(), PAIR) == 0.0005
    assert fee_rate({"fee": None}, provider_of(), PAIR) == 0.0005


def test_the_fee_of_no_exchange_has_to_be_configured() -> None:
    with pytest.raises(MarketError, match=f"{PAIR}: no exchange.*set 'fee'"):
        fee_rate({}, SimpleNamespace(_exchange=None), PAIR)


def test_funding_is_what_freqtrade_charges_for_any_trade() -> None:
    rates, marks = funding_frames("2024-01-30", 120)
    dates = pd.Series(pd.date_range("2024-01-30 08:00", periods=1200, freq="5min", tz="UTC"))
    due = funding_per_unit(dates, PAIR, provider_of(rates, marks))
    assert np.count_nonzero(due) == 13
    combined = Exchange.combine_funding_and_mark(rates.copy(), marks.copy())
    rng = np.random.default_rng(11)
    for _ in range(300):
        opened, closed = np.sort(rng.integers(0, 1200, 2))
        is_short, amount = bool(rng.random() < 0.5), float(rng.uniform(0.01, 5.0))
        charged = Exchange.calculate_funding_fees(
            None,  # type: ignore[arg-type]
            combined,
            amount=amount,
            is_short=is_short,
            open_date=dates[opened],
            close_date=dates[closed],
        )
        side = -1.0 if is_short else 1.0
        paid = side * due[opened : closed + 1].sum() * amount
        assert -paid == pytest.approx(charged, rel=1e-12, abs=1e-12)


def test_funding_of_a_fallback_rate_is_what_freqtrade_charges() -> None:
    rates, marks = funding_frames("2024-01-30", 48)
    late = rates.iloc[2:]
    dates = marks["date"]
    due = funding_per_unit(dates, PAIR, provider_of(late, marks, futures_funding_rate=1e-4))
    combined = Exchange.combine_funding_and_mark(late.copy(), marks.copy(), 1e-4)
    charged = Exchange.calculate_funding_fees(
        None,  # type: ignore[arg-type]
        combined,
        amount=1.0,
        is_short=False,
        open_date=dates.iloc[0],
        close_date=dates.iloc[-1],
    )
    assert np.count_nonzero(due) == 16 + 4
    assert -due.sum() == pytest.approx(charged, rel=1e-12)


def test_unknown_funding_counts_as_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dates = pd.Series(pd.date_range("2024-01-30", periods=600, freq="5min", tz="UTC"))
    with caplog.at_level(logging.WARNING):
        assert not funding_per_unit(dates, PAIR, provider_of()).any()
    assert "BTC/USDT:USDT: no funding rates or mark prices" in caplog.text
    rates, marks = funding_frames("2024-01-31", 48)
    with caplog.at_level(logging.WARNING):
        due = funding_per_unit(dates, PAIR, provider_of(rates, marks))
    assert "funding is known from 2024-01-31 00:00:00+00:00 on" in caplog.text
    assert np.flatnonzero(due)[0] == 288


def test_there_is_no_funding_without_futures() -> None:
    dates = pd.Series(pd.date_range("2024-01-30", periods=300, freq="5min", tz="UTC"))
    spot = SimpleNamespace(_exchange=SimpleNamespace(trading_mode="spot"))
    assert not funding_per_unit(dates, PAIR, spot).any()
    assert not funding_per_unit(dates, PAIR, SimpleNamespace(_exchange=None)).any()


@pytest.mark.parametrize(("january", "february"), [(2, 2), (1, 2), (2, 1), (2, 0)])
def test_price_steps_are_the_backtesters(window: pd.DataFrame, january: int, february: int) -> None:
    prices = ["open", "high", "low", "close"]
    is_january = window["date"].dt.month == 1
    for rows, digits in ((is_january, january), (~is_january, february)):
        window.loc[rows, prices] = window.loc[rows, prices].round(digits)
    market = build_market(
        window[["%-a"]], window, PAIR, SETTINGS, config=CONFIG, provider=provider_of()
    )
    monthly = get_tick_size_over_time(window[["date", *prices]].copy())
    expected = [monthly.asof(date) for date in window["date"]]
    np.testing.assert_array_equal(market.tick_size, expected)
    assert set(market.tick_size) == {10.0**-january, 10.0 ** -(february or january)}


def test_whole_prices_have_no_known_step(window: pd.DataFrame) -> None:
    prices = ["open", "high", "low", "close"]
    window[prices] = window[prices].round(0)
    market = build_market(
        window[["%-a"]], window, PAIR, SETTINGS, config=CONFIG, provider=provider_of()
    )
    assert not market.tick_size.any()

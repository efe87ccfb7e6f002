from __future__ import annotations

import logging
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market

N = 6
PAIR = "BTC/USDT:USDT"


def arrays() -> dict[str, Any]:
    """Return fields of a valid market of six candles and two features."""
    rng = np.random.default_rng(0)
    open_ = np.array([100.0, 101.0, 102.0, 101.0, 100.0, 99.0])
    close = np.array([101.0, 102.0, 101.0, 100.0, 99.0, 98.0])
    ohlc = np.stack([open_, np.maximum(open_, close) + 1, np.minimum(open_, close) - 1, close], 1)
    return {
        "features": rng.standard_normal((N, 2)).astype(np.float32),
        "ohlc": ohlc,
        "feature_names": ("rsi", "adx"),
        "dates": np.datetime64("2024-03-01T00:00", "ns") + np.arange(N) * np.timedelta64(5, "m"),
        "pair": PAIR,
    }


def replaced(name: str, row: Any, value: Any) -> dict[str, Any]:
    fields = arrays()
    fields[name] = np.array(fields[name])
    fields[name][row] = value
    return fields


def refusal(fields: dict[str, Any]) -> str:
    with pytest.raises(MarketError) as caught:
        Market(**fields)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{PAIR}: ")
    return message.removeprefix(f"{PAIR}: ")


def test_a_valid_market_keeps_its_values() -> None:
    fields = arrays()
    market = Market(**fields, entry_long=[1, 0, 0, 1, 0, 0])
    assert len(market) == N
    assert market.n_features == 2
    np.testing.assert_array_equal(market.features, fields["features"])
    np.testing.assert_array_equal(market.ohlc, fields["ohlc"])
    np.testing.assert_array_equal(market.entry_long, [True, False, False, True, False, False])
    assert not market.entry_short.any()


def test_types_are_those_promised() -> None:
    market = Market(**arrays())
    assert market.features.dtype == np.float32
    assert market.ohlc.dtype == np.float64
    assert market.entry_long.dtype == market.entry_short.dtype == np.bool_
    assert market.leverage.dtype == market.funding.dtype == market.tick_size.dtype == np.float64
    assert market.dates.dtype == np.dtype("datetime64[ns]")


def test_pandas_columns_are_taken_as_they_are() -> None:
    fields = arrays()
    dates = pd.Series(pd.date_range("2024-03-01", periods=N, freq="5min", tz="UTC"))
    market = Market(
        **{
            **fields,
            "features": pd.DataFrame(fields["features"]),
            "ohlc": pd.DataFrame(fields["ohlc"]),
            "dates": dates,
            "entry_long": pd.Series([1, 0, 0, 0, 0, 1]),
        }
    )
    assert market.dates[1] == np.datetime64("2024-03-01T00:05")
    assert market.entry_long.sum() == 2


def test_names_are_made_up_where_there_are_none() -> None:
    market = Market(**{**arrays(), "feature_names": ()})
    assert market.feature_names == ("feature_0", "feature_1")


CONDITIONS = ("leverage", "funding", "tick_size", "liquidation_long", "liquidation_short")


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_scalar_is_spread_over_all_rows(name) -> None:
    market = Market(**arrays(), **{name: 2})
    np.testing.assert_array_equal(getattr(market, name), np.full(N, 2.0))
    by_row = Market(**arrays(), **{name: np.arange(1, N + 1)})
    np.testing.assert_array_equal(getattr(by_row, name), np.arange(1.0, N + 1.0))


def test_defaults_of_the_trading_conditions() -> None:
    market = Market(**arrays())
    assert market.fee_rate == 0.0005
    assert set(market.leverage) == {1.0}
    assert set(market.funding) == set(market.tick_size) == {0.0}
    assert np.isnan([market.liquidation_long, market.liquidation_short]).all()
    assert market.timeframe_minutes == 5


ARRAY_FIELDS = (
    "features",
    "ohlc",
    "entry_long",
    "entry_short",
    "leverage",
    "funding",
    "tick_size",
    "liquidation_long",
    "liquidation_short",
    "dates",
)


@pytest.mark.parametrize("name", ARRAY_FIELDS)
def test_arrays_are_read_only(name) -> None:
    array = getattr(Market(**arrays()), name)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = array[1]


@pytest.mark.parametrize("name", ARRAY_FIELDS)
def test_the_callers_arrays_stay_writable_and_apart(name) -> None:
    fields = arrays()
    fields |= {key: np.zeros(N, dtype=bool) for key in ("entry_long", "entry_short")}
    fields |= {key: np.full(N, 1.0) for key in CONDITIONS}
    market = Market(**fields)
    before = getattr(market, name).copy()
    fields[name][0] = fields[name][-1] + 1 if name == "dates" else 7
    np.testing.assert_array_equal(getattr(market, name), before)


def test_a_field_cannot_be_replaced() -> None:
    market = Market(**arrays())
    with pytest.raises(AttributeError):
        market.fee_rate = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros(N)}, "features must have shape (T, F) with F >= 1, got (6,)"),
        ({"features": np.zeros((N, 0))}, "features must have shape (T, F) with F >= 1, got (6, 0)"),
        (
            {"ohlc": np.ones((N - 1, 4))},
            "ohlc must have shape (6, 4) as features has, got (5, 4)",
        ),
        ({"ohlc": np.ones((N, 5))}, "ohlc must have shape (6, 4) as features has, got (6, 5)"),
        ({"feature_names": ("rsi",)}, "1 feature_names for 2 features"),
        ({"entry_long": [True] * 5}, "entry_long must have shape (6,), got (5,)"),
        ({"entry_short": [True] * 7}, "entry_short must have shape (6,), got (7,)"),
        ({"leverage": [1.0] * 5}, "leverage must have shape (6,), got (5,)"),
        ({"funding": [[0.0]] * 6}, "funding must have shape (6,), got (6, 1)"),
        ({"tick_size": [0.0] * 5}, "tick_size must have shape (6,), got (5,)"),
        ({"dates": arrays()["dates"][:-1]}, "dates must have shape (6,), got (5,)"),
    ],
)
def test_a_wrong_shape_is_named(change, message) -> None:
    assert refusal({**arrays(), **change}) == message


@pytest.mark.parametrize("n_candles", [0, 1, 2])
def test_too_few_candles_are_refused(n_candles) -> None:
    fields = arrays()
    for name in ("features", "ohlc", "dates"):
        fields[name] = fields[name][:n_candles]
    assert refusal(fields) == f"needs at least 3 candles, got {n_candles}"


@pytest.mark.parametrize(
    ("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e300, "inf")]
)
def test_a_feature_that_is_not_finite_is_named_with_its_date(value, shown) -> None:
    fields = arrays()
    fields["features"] = fields["features"].astype(np.float64)
    fields["features"][4, 1] = fields["features"][5, 1] = value
    assert refusal(fields) == f"column 'adx' is {shown} at 2024-03-01 00:20 (2 such rows)"


@pytest.mark.parametrize(("column", "name"), list(enumerate(("open", "high", "low", "close"))))
def test_a_missing_price_is_named_with_its_date(column, name) -> None:
    fields = replaced("ohlc", (2, column), np.nan)
    assert refusal(fields) == f"column {name!r} is nan at 2024-03-01 00:10 (1 such row)"


@pytest.mark.parametrize("name", ["leverage", "funding", "tick_size"])
def test_a_trading_condition_that_is_not_finite_is_named(name) -> None:
    values = np.ones(N)
    values[3] = np.nan
    message = refusal({**arrays(), name: values})
    assert message == f"column {name!r} is nan at 2024-03-01 00:15 (1 such row)"


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_price_that_is_not_positive_is_refused(value) -> None:
    fields = replaced("ohlc", ([1, 4], 2), value)
    message = f"column 'low' is {value}, not above zero, at 2024-03-01 00:05 (2 such rows)"
    assert refusal(fields) == message


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (1, 101.5, "column 'high' is below open or close at 2024-03-01 00:05 (1 such row)"),
        (2, 101.5, "column 'low' is above open or close at 2024-03-01 00:05 (1 such row)"),
        (1, 99.5, "column 'low' (100.0) is above 'high' (99.5) at 2024-03-01 00:05 (1 such row)"),
        (2, 104.0, "column 'low' (104.0) is above 'high' (103.0) at 2024-03-01 00:05 (1 such row)"),
    ],
)
def test_a_candle_that_contradicts_itself_is_refused(column, value, message) -> None:
    assert refusal(replaced("ohlc", (1, column), value)) == message


def test_a_constant_price_is_refused() -> None:
    fields = {**arrays(), "ohlc": np.full((N, 4), 5.0)}
    assert refusal(fields) == "the price is constant (5.0) over all 6 candles"


def test_flat_candles_at_changing_prices_are_fine() -> None:
    ohlc = np.repeat(np.arange(1.0, N + 1.0)[:, None], 4, axis=1)
    assert len(Market(**{**arrays(), "ohlc": ohlc})) == N


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leverage": 0.5}, "column 'leverage' is below 1 at 2024-03-01 00:00 (6 such rows)"),
        ({"tick_size": -0.1}, "column 'tick_size' is negative at 2024-03-01 00:00 (6 such rows)"),
        (
            {"liquidation_long": [0.9, 0.0, np.nan, -0.1, 0.9, 0.9]},
            "column 'liquidation_long' is negative at 2024-03-01 00:15 (1 such row)",
        ),
        # A price where a multiple of the open rate belongs.
        (
            {"liquidation_short": [1.1, 1.1, 1.1, 1.1, 109.0, np.inf]},
            "column 'liquidation_short' is no multiple of the open rate at 2024-03-01 00:20 "
            "(2 such rows)",
        ),
        ({"liquidation_long": [0.9] * 5}, "liquidation_long must have shape (6,), got (5,)"),
        ({"fee_rate": -0.001}, "fee_rate must lie in [0, 0.1), got -0.001"),
        ({"fee_rate": 0.1}, "fee_rate must lie in [0, 0.1), got 0.1"),
        ({"fee_rate": float("nan")}, "fee_rate must lie in [0, 0.1), got nan"),
        ({"timeframe_minutes": 0}, "timeframe_minutes must be at least 1, got 0"),
    ],
)
def test_a_bad_trading_condition_is_named(change, message) -> None:
    assert refusal({**arrays(), **change}) == message


def test_a_duplicate_candle_is_refused() -> None:
    fields = arrays()
    fields["dates"][[2, 3]] = fields["dates"][1]
    message = "column 'dates' has a duplicate candle at 2024-03-01 00:05 (2 such rows)"
    assert refusal(fields) == f"{message}; drop duplicates"


def test_candles_out_of_order_are_refused_with_both_dates() -> None:
    fields = arrays()
    fields["dates"][[2, 3]] = fields["dates"][[3, 2]]
    message = "column 'dates' is out of order after 2024-03-01 00:15 at 2024-03-01 00:10"
    assert refusal(fields) == f"{message} (1 such row); sort the candles"


def test_the_first_of_two_mistakes_in_the_dates_is_told() -> None:
    fields = arrays()
    fields["dates"][2] = fields["dates"][1]
    fields["dates"][5] -= np.timedelta64(1, "h")
    assert refusal(fields).startswith("column 'dates' has a duplicate candle at 2024-03-01 00:05")
    fields["dates"][1] -= np.timedelta64(1, "h")
    assert refusal(fields).startswith("column 'dates' is out of order after 2024-03-01 00:00 at")


def test_a_missing_date_is_refused() -> None:
    fields = replaced("dates", 3, np.datetime64("NaT"))
    assert refusal(fields) == "column 'dates' is missing at row 3 (1 such row)"


def test_dates_between_minutes_are_told_apart() -> None:
    fields = arrays()
    fields["dates"] = fields["dates"][0] + np.arange(N) * np.timedelta64(1, "s")
    fields["dates"][3] = fields["dates"][2]
    assert "has a duplicate candle at 2024-03-01 00:00:02.000 (1 such row)" in refusal(fields)


def dates_without(*rows: int) -> np.ndarray:
    """Return the dates of N candles with those of the given rows left out before the last."""
    dates = arrays()["dates"][0] + np.arange(N + len(rows)) * np.timedelta64(5, "m")
    return np.delete(dates, rows)


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ((2,), "1 candle of 5m missing in 1 gap, at most 1 of them after 2024-03-01 00:05"),
        (
            (1, 3, 4, 5),
            "4 candles of 5m missing in 2 gaps, at most 3 of them after 2024-03-01 00:10",
        ),
    ],
)
def test_gaps_are_accepted_and_logged_once_per_market(
    rows: tuple[int, ...], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        market = Market(**{**arrays(), "dates": dates_without(*rows)})
        market.slice(0, 5).slice(0, 4)
        pickle.loads(pickle.dumps(market))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{PAIR}: {missing}; the rows around a gap count as neighbours"


@pytest.mark.parametrize("change", [{}, {"dates": None}])
def test_without_a_gap_there_is_nothing_to_log(
    change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        Market(**{**arrays(), **change})
    assert not caplog.records


@pytest.mark.parametrize("value", [np.nan, 2.0, -1.0])
def test_an_entry_that_is_neither_true_nor_false_is_refused(value) -> None:
    """A missing value is true as a bool: it would be an entry."""
    mask = [0.0, 1.0, value, 0.0, 0.0, 0.0]
    message = refusal({**arrays(), "entry_short": mask})
    assert message == f"entry_short is {value} at row 2; use True and False"


def test_without_dates_the_row_alone_is_named() -> None:
    fields = {**replaced("ohlc", (1, 2), -1.0), "dates": None}
    assert refusal(fields) == "column 'low' is -1.0, not above zero, at row 1 (1 such row)"


def test_a_slice_is_a_market_of_those_rows() -> None:
    fields = arrays()
    fields["dates"] = fields["dates"][0] + np.arange(N) * np.timedelta64(15, "m")
    market = Market(
        **fields,
        timeframe_minutes=15,
        entry_long=[1, 0, 1, 0, 1, 0],
        entry_short=[0, 1, 0, 1, 0, 1],
        fee_rate=0.001,
        leverage=[1, 2, 3, 4, 5, 6],
        funding=[0, 1, 2, 3, 4, 5],
        tick_size=[0.1] * 6,
        liquidation_long=[0.9, 0.8, np.nan, 0.7, 0.6, 0.5],
        liquidation_short=[1.1, 1.2, 1.3, 1.4, 0.0, 1.5],
    )
    part = market.slice(2, 5)
    assert len(part) == 3
    for name in ARRAY_FIELDS:
        np.testing.assert_array_equal(getattr(part, name), getattr(market, name)[2:5])
    for name in ("fee_rate", "timeframe_minutes", "pair", "feature_names"):
        assert getattr(part, name) == getattr(market, name)


def test_a_slice_too_short_to_trade_is_refused() -> None:
    with pytest.raises(MarketError, match="needs at least 3 candles, got 2"):
        Market(**arrays()).slice(0, 2)


def test_a_slice_without_dates_has_none() -> None:
    assert Market(**{**arrays(), "dates": None}).slice(0, 4).dates is None


def test_a_market_survives_the_way_to_another_process() -> None:
    market = Market(**arrays(), entry_long=[1, 0, 1, 0, 1, 0], leverage=3.0)
    copied = pickle.loads(pickle.dumps(market))
    for name in ARRAY_FIELDS:
        np.testing.assert_array_equal(getattr(copied, name), getattr(market, name))

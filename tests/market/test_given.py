"""What users hand to ``Market``: dates and arrays of every kind, read right or refused."""

from __future__ import annotations

import datetime as dt
import decimal
import logging
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market

N = 6
PAIR = "BTC/USDT:USDT"
INDEX = pd.date_range("2024-03-01", periods=N, freq="5min", tz="UTC")
# 2024-03-01 is day 19,783 since 1970: 54 * 365 days, 13 leap days of 1972 to 2020, 31 + 29.
SECONDS = 86_400 * (54 * 365 + 13 + 31 + 29) + 300 * np.arange(N)
EXPECTED = np.datetime64("2024-03-01T00:00", "ns") + np.arange(N) * np.timedelta64(5, "m")


def fields(**changes: Any) -> dict[str, Any]:
    price = np.array([100.0, 101.0, 102.0, 101.0, 100.0, 99.0])
    ohlc = np.stack([price, price + 2, price - 2, price + 1], 1)
    features = np.random.default_rng(0).standard_normal((N, 2))
    return {"features": features, "ohlc": ohlc, "pair": PAIR, **changes}


def refusal(**changes: Any) -> str:
    with pytest.raises(MarketError) as caught:
        Market(**fields(**changes))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{PAIR}: ")
    return message.removeprefix(f"{PAIR}: ")


def pythons() -> list[dt.datetime]:
    return [dt.datetime(2024, 3, 1) + dt.timedelta(minutes=5 * i) for i in range(N)]


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")

DATES: dict[str, Callable[[], Any]] = {
    "integers of s": lambda: SECONDS,
    "integers of ms": lambda: SECONDS * 10**3,
    "integers of us": lambda: SECONDS * 10**6,
    "integers of ns": lambda: SECONDS * 10**9,
    "unsigned of ns": lambda: (SECONDS * 10**9).astype(np.uint64),
    "small integers of s": lambda: SECONDS.astype(np.int32),
    "list of ms": lambda: (SECONDS * 1000).tolist(),
    "Series of ms": lambda: pd.Series(SECONDS * 1000),
    "nullable Series of ms": lambda: pd.Series(SECONDS * 1000, dtype="Int64"),
    "objects of ms": lambda: (SECONDS * 1000).astype(object),
    "texts of ms": lambda: [str(each) for each in SECONDS * 1000],
    "tensor of ms": lambda: torch.from_numpy(SECONDS * 1000),
    "floats of s": lambda: SECONDS.astype(np.float64),
    "floats of ms": lambda: SECONDS * 1e3,
    "floats of ns": lambda: SECONDS * 1e9,
    **{
        f"datetime64[{unit}]": lambda unit=unit: EXPECTED.astype(f"datetime64[{unit}]")
        for unit in ("m", "s", "ms", "us", "ns")
    },
    **{
        f"index of {unit}": lambda unit=unit: INDEX.as_unit(unit)
        for unit in ("s", "ms", "us", "ns")
    },
    "index without a zone": lambda: INDEX.tz_localize(None),
    "index of another zone": lambda: INDEX.tz_convert("America/New_York"),
    "Series of another zone": lambda: pd.Series(INDEX.tz_convert("Asia/Tokyo").as_unit("ms")),
    "Series of arrow": lambda: pd.Series(INDEX).astype("timestamp[ms, tz=Europe/Berlin][pyarrow]"),
    "list of Timestamps": lambda: list(INDEX.tz_convert("Europe/Berlin")),
    "datetimes": pythons,
    "datetimes with a zone": lambda: [
        each.replace(tzinfo=dt.UTC).astimezone(BERLIN) for each in pythons()
    ],
    "list of datetime64": lambda: list(EXPECTED),
    "texts": lambda: [each.isoformat() for each in pythons()],
    "texts with Z": lambda: np.array([f"{each.isoformat()}Z" for each in pythons()]),
    "texts with a zone": lambda: pd.Series(
        [each.replace(tzinfo=dt.UTC).astimezone(BERLIN).isoformat(" ") for each in pythons()]
    ),
}


@pytest.mark.parametrize("kind", DATES)
def test_dates_of_every_kind_are_the_same_dates(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    market = Market(**fields(dates=DATES[kind]()))
    assert market.dates is not None
    assert market.dates.dtype == np.dtype("datetime64[ns]")
    np.testing.assert_array_equal(market.dates, EXPECTED)
    assert not caplog.records


def with_one(value: Any, kind: Any = object) -> Any:
    dates = (SECONDS * 1000).astype(kind)
    dates[3] = value
    return dates


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (np.arange(N), "dates are numbers like 0, which are no s, ms, us or ns since 1970-01-01"),
        ([20240301 + i for i in range(N)], "dates are numbers like 20240301, which are no"),
        ([202403010000 + 5 * i for i in range(N)], "dates are numbers like 202403010000, which"),
        (with_one(SECONDS[3], np.int64), f"column 'dates' is {SECONDS[3]}, which is no ms as"),
        (SECONDS.astype(np.float32), "dates are float32, which is too coarse for dates"),
        (with_one(np.nan, np.float64), "column 'dates' is missing at row 3 (1 such row)"),
        (with_one(None), "column 'dates' is missing at row 3 (1 such row)"),
        (pd.Series(with_one(pd.NA), dtype="Int64"), "column 'dates' is missing at row 3"),
        ([*pythons()[:3], None, *pythons()[4:]], "column 'dates' is missing at row 3"),
        ([*pythons()[:3], "2024-03-01 00:15", *pythons()[4:]], "dates hold dates and texts;"),
        (["01/03/2024"] * N, "dates: Time data 01/03/2024 is not ISO8601 format."),
        (["yesterday"] * N, "dates: Time data yesterday is not ISO8601 format."),
        ([True, False] * 3, "dates are booleans; give the candles' open times"),
        (np.ones(N) * 1j, "dates are complex numbers; give the candles' open times"),
        (np.arange(N).astype("timedelta64[m]"), "dates are durations; give the candles'"),
        ([{}] * N, "dates hold dict; give the candles' open times"),
        (pd.period_range("2024", periods=N, freq="D"), "dates hold Period; give the candles'"),
        (
            np.datetime64("3000-01-01", "s") + np.arange(N) * np.timedelta64(300, "s"),
            "column 'dates' is 3000-01-01T00:00:00, not within 1678 to 2261, at row 0 (6 such",
        ),
        (np.ma.masked_equal(SECONDS, SECONDS[3]), "dates is a masked array; leave these"),
        (SECONDS[:, None], "dates must have shape (6,), got (6, 1)"),
        (SECONDS[0], "dates must have shape (6,), got ()"),
        ([], "dates must have shape (6,), got (0,)"),
        (2**80, "dates must have shape (6,), got ()"),
        ([2**80] * N, "dates are numbers too large for dates"),
    ],
)
def test_what_is_no_date_is_refused(dates: Any, message: str) -> None:
    assert refusal(dates=dates).startswith(message)


def every(minutes: float) -> np.ndarray:
    step = np.timedelta64(round(minutes * 60_000), "ms")
    return EXPECTED[0] + np.arange(N) * step


@pytest.mark.parametrize(
    ("dates", "timeframe_minutes", "message"),
    [
        (
            every(15),
            5,
            "dates lie 15 minutes apart, and timeframe_minutes is 5; set timeframe_minutes to 15, "
            "or correct the dates",
        ),
        (every(5), 15, "dates lie 5 minutes apart, and timeframe_minutes is 15; set timeframe_"),
        (every(1), 5, "dates lie 1 minutes apart, and timeframe_minutes is 5; set timeframe_"),
        (every(0.5), 1, "dates lie 30 seconds apart, and timeframe_minutes is 1; correct the"),
        (every(1440), 60, "dates lie 1440 minutes apart, and timeframe_minutes is 60; set"),
        (
            np.array(["2024-03-01T00:00", "2024-03-01T00:05", "2024-03-01T00:07",
                      "2024-03-01T00:12", "2024-03-01T00:17", "2024-03-01T00:22"], "M8[ns]"),
            5,
            "column 'dates' is only 2 minutes after the candle before at 2024-03-01 00:07 (1 such",
        ),
    ],
)  # fmt: skip
def test_steps_that_contradict_the_timeframe(
    dates: np.ndarray, timeframe_minutes: int, message: str
) -> None:
    assert refusal(dates=dates, timeframe_minutes=timeframe_minutes).startswith(message)


@pytest.mark.parametrize("minutes", [1, 3, 15, 60, 240, 1440, 10080])
def test_steps_of_the_timeframe(minutes: int, caplog: pytest.LogCaptureFixture) -> None:
    Market(**fields(dates=every(minutes), timeframe_minutes=minutes))
    assert not caplog.records


def test_months_are_of_different_lengths() -> None:
    months = np.arange("2024-01", "2024-07", dtype="datetime64[M]")
    assert len(Market(**fields(dates=months, timeframe_minutes=43_200))) == N


def test_dates_that_are_off_by_milliseconds_are_no_gaps(caplog: pytest.LogCaptureFixture) -> None:
    dates = EXPECTED + np.array([0, 3, -2, 4, 0, 7]) * np.timedelta64(1, "ms")
    Market(**fields(dates=dates))
    assert not caplog.records


@pytest.mark.parametrize("gaps", [(1,), (1, 2, 4)])
def test_gaps_are_no_other_timeframe(gaps: tuple[int, ...]) -> None:
    dates = np.delete(EXPECTED[0] + np.arange(N + len(gaps)) * np.timedelta64(5, "m"), gaps)
    assert len(Market(**fields(dates=dates))) == N


@pytest.mark.parametrize(
    ("minutes", "message"),
    [
        ("5m", "timeframe_minutes must be a number, got '5m'"),
        (None, "timeframe_minutes must be a number, got None"),
        (True, "timeframe_minutes must be a number, got True"),
        (2.5, "timeframe_minutes must be a whole number, got 2.5"),
        (float("nan"), "timeframe_minutes must be a whole number, got nan"),
        ([5], "timeframe_minutes must be one number for all rows, got an array of shape (1,)"),
    ],
)
def test_a_timeframe_that_is_no_number_of_minutes(minutes: Any, message: str) -> None:
    assert refusal(timeframe_minutes=minutes) == message


@pytest.mark.parametrize(
    ("fee", "message"),
    [
        (np.full(N, 0.001), "fee_rate must be one number for all rows, got an array of shape (6,)"),
        ([0.001] * N, "fee_rate must be one number for all rows, got an array of shape (6,)"),
        (pd.Series([0.1]), "fee_rate must be one number for all rows, got an array of shape (1,)"),
        (torch.zeros(2), "fee_rate must be one number for all rows, got an array of shape (2,)"),
        ("0.1%", "fee_rate must be a number, got '0.1%'"),
        (None, "fee_rate must be a number, got None"),
        (False, "fee_rate must be a number, got False"),
        (1j, "fee_rate must be a number, got 1j"),
    ],
)
def test_a_fee_that_is_not_one_number(fee: Any, message: str) -> None:
    assert refusal(fee_rate=fee) == message


@pytest.mark.parametrize(
    "fee",
    [np.float32(1 / 64), np.array(1 / 64), decimal.Decimal("0.015625"), torch.tensor(1 / 64)],
)
def test_a_fee_is_any_number(fee: Any) -> None:
    market = Market(**fields(fee_rate=fee))
    assert type(market.fee_rate) is float
    assert market.fee_rate == 0.015625


FLOATS = np.arange(2.0, 2.0 + N)

BAD_ARRAYS: list[tuple[Any, str]] = [
    (np.ma.masked_greater(FLOATS, 6.5), "is a masked array with 1 masked values; fill them"),
    (FLOATS.astype(str), "holds text; give numbers"),
    (FLOATS.astype("S"), "holds bytes; give numbers"),
    (FLOATS * 1j, "holds complex numbers; give numbers"),
    (EXPECTED, "holds dates; give numbers"),
    (np.diff(EXPECTED, prepend=EXPECTED[:1]), "holds durations; give numbers"),
    (np.zeros(N, dtype=[("a", float)]), "holds records; give numbers"),
    ([1.0, "2", 3.0, 4.0, 5.0, 6.0], "holds text; give numbers"),
    (np.array([1.0, 2.0, "x", 4.0, 5.0, 6.0], object), "holds str 'x' at row 2; give numbers"),
    (np.array([1.0, True, 2.0, 2.0, 2.0, 2.0], object), "holds bool True at row 1; give numbers"),
    ([[1.0], [1.0, 2.0], 1, 1, 1, 1], "is no array of numbers: setting an array element with"),
    ({"a": 1}, "holds dict {'a': 1} at row 0; give numbers"),
    (pd.Series(["1"] * N, dtype="category"), "holds str '1' at row 0; give numbers"),
    (pd.Series(INDEX), "holds "),
]


@pytest.mark.parametrize("name", ["leverage", "funding", "tick_size"])
@pytest.mark.parametrize(("values", "problem"), BAD_ARRAYS)
def test_a_condition_that_is_no_array_of_numbers(name: str, values: Any, problem: str) -> None:
    assert refusal(**{name: values}).startswith(f"{name} {problem}")


@pytest.mark.parametrize("name", ["leverage", "funding", "tick_size"])
def test_booleans_are_no_conditions(name: str) -> None:
    assert refusal(**{name: True}) == f"{name} holds booleans; give numbers"


@pytest.mark.parametrize("name", ["features", "ohlc"])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a: a.astype(str), "holds text; give numbers"),
        (lambda a: a + 0j, "holds complex numbers; give numbers"),
        (lambda a: np.ma.masked_equal(a, a[0, 0]), "is a masked array with "),
        (lambda a: [list(map(str, row)) for row in a], "holds text; give numbers"),
        (lambda a: pd.DataFrame(a.astype(str)).iloc[:, 0], "holds str "),
    ],
)
def test_features_and_prices_that_are_no_numbers(
    name: str, change: Callable[[np.ndarray], Any], problem: str
) -> None:
    assert refusal(**{name: change(fields()[name])}).startswith(f"{name} {problem}")


def test_prices_are_no_booleans() -> None:
    assert refusal(ohlc=np.ones((N, 4), dtype=bool)) == "ohlc holds booleans; give numbers"


def test_features_may_be_booleans() -> None:
    market = Market(**fields(features=[[True, False]] * N))
    np.testing.assert_array_equal(market.features, [[1.0, 0.0]] * N)


def test_a_column_of_a_frame_is_named() -> None:
    frame = pd.DataFrame({"rsi": FLOATS, "date": INDEX})
    assert refusal(features=frame).startswith("column 'date' of features holds ")
    frame = pd.DataFrame({"rsi": FLOATS, "trend": ["up"] * N})
    assert refusal(features=frame) == (
        "column 'trend' of features holds str 'up' at row 0; give numbers"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a).requires_grad_(),
        lambda a: a.tolist(),
        lambda a: a.astype(object),
        lambda a: np.vectorize(decimal.Decimal, otypes=[object])(a),
        lambda a: np.asfortranarray(a),
        lambda a: pd.DataFrame(a).astype("Float64"),
        lambda a: np.ma.array(a),
        lambda a: np.broadcast_to(a, a.shape),  # read-only
    ],
)
@pytest.mark.parametrize("name", ["features", "ohlc"])
def test_numbers_of_other_kinds_are_taken(name: str, change: Callable[[Any], Any]) -> None:
    expected = getattr(Market(**fields()), name)
    given = getattr(Market(**fields(**{name: change(fields()[name])})), name)
    np.testing.assert_array_equal(given, expected)


def test_a_missing_value_of_pandas_is_missing() -> None:
    frame = pd.DataFrame({"rsi": pd.array([1, 2, None, 4, 5, 6], "Int64")})
    assert refusal(features=frame) == "column 'rsi' is nan at row 2 (1 such row)"
    mask = pd.array([True, None, False, False, False, False], "boolean")
    assert refusal(entry_long=pd.Series(mask)) == ("entry_long is nan at row 1; use True and False")


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"rsi": FLOATS, "adx": -FLOATS, **columns})


def test_columns_become_names() -> None:
    assert Market(**fields(features=frame())).feature_names == ("rsi", "adx")
    numbered = pd.DataFrame(frame().to_numpy())
    assert Market(**fields(features=numbered)).feature_names == ("feature_0", "feature_1")
    renamed = Market(**fields(features=frame(), feature_names=("a", "b")))
    assert renamed.feature_names == ("a", "b")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("adx", "rsi"), "feature_names has 'adx' at place 1, features has it at 2; leave"),
        (("a", "rsi"), "feature_names has 'rsi' at place 2, features has it at 1; leave"),
        (("a", "a"), "feature 'a' is there 2 times; names must differ"),
        ("ab", "feature_names is the text 'ab'; give a sequence of names"),
    ],
)
def test_names_that_contradict_the_columns(names: Any, message: str) -> None:
    assert refusal(features=frame(), feature_names=names).startswith(message)


def test_prices_are_found_by_name() -> None:
    expected = fields()["ohlc"]
    prices = pd.DataFrame(expected, columns=["open", "high", "low", "close"])
    shuffled = prices.assign(volume=1.0)[["volume", "low", "close", "high", "open"]]
    for given in (prices, shuffled, shuffled.rename(columns=str.capitalize)):
        np.testing.assert_array_equal(Market(**fields(ohlc=given)).ohlc, expected)
    assert refusal(ohlc=prices.drop(columns="low")) == "ohlc has 0 columns 'low', not one"
    twice = pd.concat([prices, prices[["close"]]], axis=1)
    assert refusal(ohlc=twice) == "ohlc has 2 columns 'close', not one"


def test_an_index_of_dates_is_the_dates() -> None:
    market = Market(**fields(features=frame().set_axis(INDEX.tz_convert("Asia/Tokyo"))))
    np.testing.assert_array_equal(market.dates, EXPECTED)
    both = Market(**fields(features=frame().set_axis(INDEX), dates=SECONDS * 1000))
    np.testing.assert_array_equal(both.dates, EXPECTED)


def test_rows_of_other_dates_are_refused() -> None:
    features = frame().set_axis(INDEX)
    later = pd.Series(FLOATS, index=INDEX + pd.Timedelta("5min"))
    assert refusal(features=features, leverage=later) == (
        "the index of leverage has other dates than that of features at row 0"
    )
    assert refusal(features=features, dates=EXPECTED + np.timedelta64(5, "m")) == (
        "dates differ from the index at row 0"
    )
    backwards = pd.Series([0, 0, 0, 0, 0, 1]).iloc[::-1]
    assert refusal(features=frame(), entry_long=backwards) == (
        "the index of entry_long has the rows of features in another order from row 0"
    )
    # Another count of rows says nothing of their order.
    kept = frame().set_axis(range(30, 30 + N))
    assert len(Market(**fields(features=kept, entry_long=pd.Series([0] * N)))) == N


def notices(caplog: pytest.LogCaptureFixture, ohlc: np.ndarray, **changes: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Market(**fields(ohlc=ohlc, **changes)).slice(0, 5)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("row", "factor", "shown"),
    # A close of 103 times 1e9 over a low of 100; 103 * 10 / 100; a high of 103 over 10.2; ...
    [(2, 1e9, "1.03e+09"), (2, 10.0, "10.3"), (3, 0.1, "10.1"), (0, 1e3, "1.03e+03")],
)
def test_prices_that_jump_are_told_once(
    caplog: pytest.LogCaptureFixture, row: int, factor: float, shown: str
) -> None:
    """A close that lost its decimal point, the wick with it."""
    ohlc = fields()["ohlc"]
    ohlc[row, 3] *= factor
    ohlc[row, 1], ohlc[row, 2] = max(ohlc[row, 1:4]), min(ohlc[row, 1:4])
    (line,) = notices(caplog, ohlc, dates=EXPECTED)
    moved = f"column 'close' moves by a factor of {shown} at 2024-03-01 00:{5 * row:02}"
    assert line.startswith(f"{PAIR}: {moved}")
    assert line.endswith("; no market does, look at the candles")


def test_a_market_that_crashes_is_no_jump(caplog: pytest.LogCaptureFixture) -> None:
    price = 100.0 * 0.5 ** np.arange(N)
    assert notices(caplog, np.stack([price, price, price / 2, price / 2], 1)) == []


def test_a_price_between_two_candles_jumps_too(caplog: pytest.LogCaptureFixture) -> None:
    """Another coin, another unit: from a close of 102 to candles a thousand times as high."""
    ohlc = fields()["ohlc"]
    ohlc[3:] *= 1000.0
    (line,) = notices(caplog, ohlc)
    # The high of 103,000 over the close before, 103.
    assert line.startswith(
        f"{PAIR}: column 'close' moves by a factor of 1e+03 at row 3 (1 such row)"
    )

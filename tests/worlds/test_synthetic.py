from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.candles import resample_candles
from mtf_scalper.market.signals import EntryThresholds, classic_entries, entry_indicators
from mtf_scalper.worlds.synthetic import (
    generate_candles,
    simulate_path,
    stationary_ar1,
    utc_timestamp,
)
from mtf_scalper.worlds.synthetic_spec import PairSpec, SyntheticSpec, pair_spec

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
START, END = "2024-01-01", "2024-12-13"
ROUND_TRIP_FEE = 0.001


@pytest.fixture(scope="module")
def path():
    return simulate_path(SyntheticSpec(), BTC, START, END)


@pytest.fixture(scope="module")
def flat_path():
    return simulate_path(SyntheticSpec(signal_strength=0.0), BTC, START, END)


def log_returns(candles: pd.DataFrame) -> np.ndarray:
    return np.diff(np.log(candles["close"].to_numpy()))


def lagged_correlation(values: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(values[:-lag], values[lag:])[0, 1])


def hidden_correlation(path) -> float:
    returns = np.log(path.candles["close"] / path.candles["open"])
    forecast = path.expected_return / path.volatility
    return float(np.corrcoef(forecast, returns / path.volatility)[0, 1])


def hourly_log_returns(candles: pd.DataFrame) -> np.ndarray:
    return np.diff(np.log(candles["close"].to_numpy())[::12])


def test_same_spec_pair_and_start_give_the_same_candles():
    first = generate_candles(SyntheticSpec(), BTC, START, "2024-01-20")
    again = generate_candles(SyntheticSpec(), BTC, START, "2024-01-20")
    pd.testing.assert_frame_equal(first, again, check_exact=True)


def test_another_process_gives_the_same_candles():
    code = (
        "from mtf_scalper.worlds.synthetic import SyntheticSpec, generate_candles;"
        f"frame = generate_candles(SyntheticSpec(), {BTC!r}, '2024-01-01', '2024-01-02');"
        "print(frame['close'].tolist() + frame['volume'].tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    ).stdout
    here = generate_candles(SyntheticSpec(), BTC, "2024-01-01", "2024-01-02")
    assert printed.strip() == str(here["close"].tolist() + here["volume"].tolist())


def test_a_later_end_only_appends():
    short = generate_candles(SyntheticSpec(), BTC, START, "2024-01-20")
    long = generate_candles(SyntheticSpec(), BTC, START, "2024-03-01")
    pd.testing.assert_frame_equal(short, long.iloc[: len(short)], check_exact=True)


@pytest.mark.parametrize("change", ["seed", "pair", "start"])
def test_seed_pair_and_start_each_change_every_draw(change):
    spec, pair, start = SyntheticSpec(market_correlation=0.0), BTC, "2024-01-01"
    base = log_returns(generate_candles(spec, pair, start, "2024-03-01"))
    if change == "seed":
        spec = replace(spec, seed=43)
    elif change == "pair":
        pair = ETH
    else:
        start = "2024-01-02"
    other = log_returns(generate_candles(spec, pair, start, "2024-03-02"))[: len(base)]
    assert abs(np.corrcoef(base, other)[0, 1]) < 0.05


def test_pairs_move_together_as_the_spec_says():
    spec = SyntheticSpec(signal_strength=0.0, jump_probability=0.0)
    for correlation, low, high in ((0.0, -0.03, 0.03), (0.6, 0.5, 0.65), (0.9, 0.8, 0.95)):
        each = replace(spec, market_correlation=correlation)
        frames = [generate_candles(each, pair, START, "2024-05-01") for pair in (BTC, ETH)]
        measured = np.corrcoef(*(log_returns(frame) for frame in frames))[0, 1]
        assert low < measured < high


def test_schema_and_price_consistency(path):
    frame = path.candles
    assert list(frame.columns) == ["date", "open", "high", "low", "close", "volume"]
    assert str(frame["date"].dtype) == "datetime64[ms, UTC]"
    assert (frame.dtypes.iloc[1:] == np.float64).all()
    assert frame["date"].iloc[0] == pd.Timestamp(START, tz="UTC")
    assert frame["date"].iloc[-1] == pd.Timestamp(END, tz="UTC") - pd.Timedelta(minutes=5)
    assert (frame["date"].diff().dropna() == pd.Timedelta(minutes=5)).all()
    assert np.isfinite(frame.iloc[:, 1:].to_numpy()).all()
    body_low = frame[["open", "close"]].min(axis=1)
    body_high = frame[["open", "close"]].max(axis=1)
    assert (frame["low"] > 0).all()
    assert (frame["low"] <= body_low).all()
    assert (frame["high"] >= body_high).all()
    # Candles must have wicks, or a stoploss inside the candle could never differ from its close.
    assert ((frame["low"] < body_low) & (frame["high"] > body_high)).mean() > 0.5
    assert (frame["volume"] > 0).all()
    assert frame["open"].iloc[0] == 60_000.0
    np.testing.assert_array_equal(frame["open"].iloc[1:], frame["close"].iloc[:-1])


@pytest.mark.parametrize("pair", [BTC, ETH, "SOL/USDT:USDT", "DOGE/USDT:USDT"])
def test_prices_lie_on_the_pairs_grid(pair):
    frame = generate_candles(SyntheticSpec(), pair, START, "2024-01-08")
    for column in ("open", "high", "low", "close"):
        ticks = frame[column].to_numpy() / pair_spec(pair).tick_size
        np.testing.assert_allclose(ticks, np.round(ticks), atol=1e-6)
        assert max(len(str(price)) for price in frame[column].tolist()) <= 8


def test_pairs_without_an_entry_get_sensible_defaults_from_their_name():
    specs = [pair_spec(f"{base}/USDT:USDT") for base in ("SOL", "XRP", "DOGE", "ADA", "LINK")]
    assert len({each.start_price for each in specs}) == len(specs)
    for each in specs:
        assert 0.1 <= each.start_price <= 500
        assert 1e-6 < each.tick_size / each.start_price <= 1e-4
        assert each == pair_spec(each.pair)
    mine = PairSpec(pair="SOL/USDT:USDT", start_price=150.0, tick_size=0.001, candle_volume=5e4)
    frame = generate_candles(SyntheticSpec(pairs=(mine,)), mine.pair, START, "2024-01-02")
    assert frame["open"].iloc[0] == 150.0


@pytest.mark.parametrize(("timeframe", "ratio"), [("15m", 3), ("1h", 12)])
def test_higher_timeframes_are_exact_aggregates_of_whole_bins(path, timeframe, ratio):
    frame = path.candles.iloc[1:3000]
    higher = resample_candles(frame, timeframe)
    first = ratio - 1
    assert len(higher) == (len(frame) - first) // ratio
    for row in range(len(higher)):
        part = frame.iloc[first + row * ratio : first + (row + 1) * ratio]
        candle = higher.iloc[row]
        assert candle["date"] == part["date"].iloc[0]
        assert candle["open"] == part["open"].iloc[0]
        assert candle["high"] == part["high"].max()
        assert candle["low"] == part["low"].min()
        assert candle["close"] == part["close"].iloc[-1]
        assert candle["volume"] == pytest.approx(part["volume"].sum(), rel=1e-12)


def test_stylised_facts_of_returns(path):
    returns = log_returns(path.candles)
    standard = (returns - returns.mean()) / returns.std()
    assert 0.0012 < returns.std() < 0.0020
    assert (standard**4).mean() - 3 > 1
    assert lagged_correlation(np.abs(returns), 1) > 0.2
    assert lagged_correlation(np.abs(returns), 12) > 0.1
    assert lagged_correlation(np.abs(returns), 288) > 0.05
    assert np.abs(standard).max() > 8


def test_volatility_and_volume_follow_the_hour_and_each_other(path):
    frame, returns = path.candles.iloc[1:], log_returns(path.candles)
    hours = frame["date"].dt.hour.to_numpy()
    by_hour = pd.Series(returns**2).groupby(hours).mean() ** 0.5
    volume_by_hour = frame["volume"].groupby(hours).mean()
    assert 1.4 < by_hour.max() / by_hour.min() < 2.5
    assert by_hour.idxmax() in (13, 14, 15, 16)
    assert volume_by_hour.idxmax() in (13, 14, 15, 16)
    volume = frame["volume"].to_numpy()
    assert np.corrcoef(volume, np.abs(returns))[0, 1] > 0.4
    assert lagged_correlation(volume, 1) > 0.4
    assert 0.5 < volume.mean() / pair_spec(BTC).candle_volume < 1.5


def test_switched_off_parts_leave_gaussian_noise_without_memory():
    spec = SyntheticSpec(
        signal_strength=0.0,
        trend_share=0.0,
        volatility_clustering=0.0,
        daily_seasonality=0.0,
        jump_probability=0.0,
        volatility=0.002,
    )
    returns = log_returns(generate_candles(spec, BTC, START, END))
    standard = (returns - returns.mean()) / returns.std()
    assert returns.std() == pytest.approx(0.002, rel=0.01)
    assert abs((standard**4).mean() - 3) < 0.1
    assert abs(lagged_correlation(np.abs(returns), 1)) < 0.015


def test_without_signal_nothing_predicts_and_fees_are_lost(flat_path):
    """Standard errors: 0.0032 for a correlation of candles, 0.011 for one of hours."""
    assert (flat_path.expected_return == 0).all()
    returns = log_returns(flat_path.candles)
    scaled = returns / flat_path.volatility[1:]
    for lag in (1, 2, 12):
        assert abs(lagged_correlation(scaled, lag)) < 0.0128
    assert abs(np.corrcoef(flat_path.direction[1:], scaled)[0, 1]) < 0.0128
    hourly = hourly_log_returns(flat_path.candles)
    gross = np.sign(hourly[:-1]) * hourly[1:]
    error = gross.std() / np.sqrt(len(gross))
    assert abs(gross.mean()) < 4 * error
    assert gross.mean() - ROUND_TRIP_FEE < -4 * error


def test_without_signal_the_price_is_a_martingale():
    """The mean of the end price over many seeds is the start price, within 4 standard errors."""
    spec = SyntheticSpec(signal_strength=0.0, volatility=0.004, market_correlation=0.0)
    ends = np.array(
        [
            generate_candles(replace(spec, seed=seed), BTC, START, "2024-01-03")["close"].iloc[-1]
            for seed in range(200)
        ]
    )
    relative = ends / 60_000.0
    assert relative.std() > 0.05
    assert abs(relative.mean() - 1) < 4 * relative.std() / np.sqrt(len(relative))


def test_hidden_state_predicts_better_the_stronger_the_signal():
    """The variance of a scaled return is its drift's, 1 for the noise and 0.002 * 4^2 for jumps."""
    measured = []
    for strength in (0.1, 0.25, 0.4):
        path = simulate_path(SyntheticSpec(signal_strength=strength), BTC, START, "2024-07-01")
        drift = strength * np.std(path.direction)
        measured.append(hidden_correlation(path))
        assert measured[-1] == pytest.approx(drift / np.sqrt(drift**2 + 1.032), abs=0.02)
    assert measured == sorted(measured)
    assert measured[1] > 0.15


def test_the_hidden_state_earns_its_drift_after_fees(path):
    """Always in the market on the side of the present leg, 0.05% a side, filled at the open."""
    side = np.sign(path.direction)
    price = np.log(path.candles["open"].to_numpy())
    gain = (side[:-1] * np.diff(price)).sum()
    fees = ROUND_TRIP_FEE / 2 * np.abs(np.diff(side)).sum()
    assert fees > 0
    assert gain - fees > 5.0


def test_past_returns_predict_the_next_hour_with_the_default_signal(path, flat_path):
    with_signal = lagged_correlation(hourly_log_returns(path.candles), 1)
    without = lagged_correlation(hourly_log_returns(flat_path.candles), 1)
    assert with_signal > 0.15
    assert abs(without) < 0.06


def test_legs_alternate_last_hours_and_take_their_share_of_time(path):
    direction = path.direction
    legs = direction[np.abs(direction) > 0.9]
    turns = np.count_nonzero(np.diff(np.sign(legs)))
    assert np.abs(direction).max() <= 1
    assert abs(direction.mean()) < 0.1
    # A year has about 8,328 h / 6 h stretches of which 75% are legs, each of the other sign than
    # the one before; some are too short to reach full strength.
    assert 0.75 * 1388 * 0.85 < turns < 0.75 * 1388 * 1.1
    assert (np.abs(direction) > 0.5).mean() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("pair", [BTC, ETH])
def test_the_classic_rule_fires_often_enough(pair):
    frame = generate_candles(SyntheticSpec(), pair, START, "2024-07-01")
    for side in classic_entries(entry_indicators(frame), EntryThresholds()):
        assert 0.02 < side.mean() < 0.08


def test_exits_timed_by_a_linear_predictor_beat_a_fixed_holding_time():
    """Classic entries, one trade at a time, on the second half after fitting on the first.

    Log return after fees, two markets of two pairs for 174 days each: -0.2 in all when every trade
    is held 48 candles, +1.1 when it is left as soon as a linear function of the distances to
    moving averages expects to lose more than the fees.
    """
    held, timed = 0.0, 0.0
    for seed, pair in itertools.product((42, 1), (BTC, ETH)):
        frame = generate_candles(SyntheticSpec(seed=seed), pair, START, END)
        half = len(frame) // 2
        expected = linear_forecast(frame, half)
        sides = classic_entries(entry_indicators(frame), EntryThresholds())
        entries = sides[0].astype(np.int64) - sides[1]
        price = np.log(frame["open"].to_numpy())
        held += traded_return(price, entries, np.full(len(frame), np.inf), half)
        timed += traded_return(price, entries, expected, half)
    assert timed > 0.7
    assert timed > held + 0.7


def linear_forecast(frame: pd.DataFrame, half: int, ahead: int = 24) -> np.ndarray:
    """Forecast of the log return of the next ``ahead`` candles, fitted on the first half."""
    price = np.log(frame["close"])
    columns = [price - price.ewm(span=span, adjust=False).mean() for span in (3, 9, 21, 63, 252)]
    features = np.stack(columns, axis=1)
    target = price.shift(-ahead).to_numpy() - price.to_numpy()
    fit = slice(300, half - ahead)
    weights = np.linalg.lstsq(features[fit], target[fit], rcond=None)[0]
    return features @ weights


def traded_return(
    price: np.ndarray, entries: np.ndarray, expected: np.ndarray, first: int, longest: int = 48
) -> float:
    """Sum of log returns after fees; ``expected`` infinite never leaves before ``longest``."""
    total, row = 0.0, first
    while row < len(price) - longest - 2:
        side = entries[row]
        if side == 0:
            row += 1
            continue
        ahead = expected[row + 1 : row + longest]
        against = np.isfinite(ahead) & (side * ahead < -ROUND_TRIP_FEE)
        leave = row + 1 + (int(np.argmax(against)) if against.any() else longest - 1)
        total += side * (price[leave + 1] - price[row + 1]) - ROUND_TRIP_FEE
        row = leave + 1
    return total


def test_a_hundred_thousand_candles_take_less_than_two_seconds():
    begin = time.process_time()
    frame = generate_candles(SyntheticSpec(), BTC, START, END)
    assert len(frame) > 99_000
    assert time.process_time() - begin < 2.0


def test_autoregression_is_stationary_from_its_first_value():
    shocks = np.random.default_rng(5).standard_normal((4000, 40))
    paths = np.array([stationary_ar1(row, half_life=10.0) for row in shocks])
    np.testing.assert_array_equal(paths[:, 0], shocks[:, 0])
    np.testing.assert_allclose(paths.std(axis=0), 1.0, atol=0.06)
    by_ten = np.mean(paths[:, :-10] * paths[:, 10:])
    assert by_ten == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"signal_strength": 1.5}, "signal_strength"),
        ({"signal_strength": float("nan")}, "signal_strength"),
        ({"trend_share": -0.1}, "trend_share"),
        ({"leg_hours": 0.0}, "leg_hours"),
        ({"volatility": 0.0}, "volatility"),
        ({"volatility_clustering": 2.0}, "volatility_clustering"),
        ({"daily_seasonality": -1.0}, "daily_seasonality"),
        ({"jump_probability": 2.0}, "jump_probability"),
        ({"jump_scale": 50.0}, "jump_scale"),
        ({"market_correlation": 1.1}, "market_correlation"),
        ({"pairs": ()}, "pairs"),
        ({"pairs": (pair_spec(BTC), pair_spec(BTC))}, "pairs"),
    ],
)
def test_a_bad_spec_is_refused_by_name(values, message):
    with pytest.raises(SettingsError, match=f"^{message}: "):
        SyntheticSpec(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pair": "BTC/USDT"}, "BTC/USDT"),
        ({"start_price": 0.0}, "start_price"),
        ({"tick_size": -1.0}, "tick_size"),
        ({"tick_size": 100.0}, "tick_size"),
        ({"candle_volume": 0.0}, "candle_volume"),
        ({"relative_volatility": 0.0}, "relative_volatility"),
    ],
)
def test_a_bad_pair_is_refused_by_name(values, message):
    with pytest.raises(SettingsError, match=message):
        replace(pair_spec(BTC), **values)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2024-01-02", "2024-01-01", "end"),
        ("2024-01-01", "2024-01-01", "end"),
        ("2024-01-01 00:01", "2024-01-02", "multiples of 5 minutes"),
        ("2024-01-01", "soon", "'soon'"),
        ("", "2024-01-01", "''"),
    ],
)
def test_bad_dates_are_refused(start, end, message):
    with pytest.raises(SettingsError, match=message):
        generate_candles(SyntheticSpec(), BTC, start, end)


def test_moments_are_read_as_utc():
    assert utc_timestamp("2024-01-01") == pd.Timestamp("2024-01-01", tz="UTC")
    assert utc_timestamp("2024-01-01T02:00+02:00") == pd.Timestamp("2024-01-01", tz="UTC")
    east = pd.Timestamp("2024-01-01 02:00", tz="Europe/Helsinki").to_pydatetime()
    one = generate_candles(SyntheticSpec(), BTC, east, "2024-01-02")
    two = generate_candles(SyntheticSpec(), BTC, "2024-01-01", "2024-01-02")
    pd.testing.assert_frame_equal(one, two, check_exact=True)

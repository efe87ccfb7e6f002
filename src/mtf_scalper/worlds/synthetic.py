"""A seeded market that looks like 5m USDT futures and hides a signal of known strength.

The price is a martingale (clustered volatility, rare jumps, daily seasonality, a factor shared by
all pairs) plus a drift. The drift is the planted signal: the market moves in *legs*, up and down
in turn with sideways stretches between them, and while a leg lasts the expected return of
each candle is ``signal_strength`` times that candle's volatility, in the leg's direction. A leg
takes about half an hour to build up and to fade, lasts ``leg_hours`` on average and is the more
likely to end the older it is (Erlang-distributed life). Returns over 5m to 1h therefore point to
the present direction (momentum, moving averages, RSI), while an old or far extended leg points
to its end; a fixed holding time gives back to the next leg what it earned on this one.

The best predictor that knows the hidden state is `SyntheticPath.expected_return`: it is long
while the present direction is positive and short while it is negative, changes only when the
drift left in the leg exceeds the fees, and its correlation with the return of the next candle is
a little below ``signal_strength * sqrt(trend_share)``. With the defaults a leg of mean life drifts
by about 0.25 * 0.12% * 72 candles = 2%, against fees of 0.1% for the round trip. With
``signal_strength=0`` legs still move volatility and volume, but no return can be predicted.

Candles are the same in every process and on every system for one release of NumPy, whose random
streams may change with a new one.

The volatility is the exponential of a sum of two autoregressions, one fast and one slow (Taylor's
log-normal stochastic volatility with two factors; Taylor 1986, *Modelling Financial Time Series*).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.candles import CANDLE_COLUMNS
from mtf_scalper.worlds.synthetic_spec import PairSpec, SyntheticSpec

Float64 = NDArray[np.float64]

GENERATOR_VERSION: Final = 1
"""Raised whenever the same spec would give other candles."""

CANDLE_MINUTES: Final = 5
CANDLES_PER_HOUR: Final = 60 // CANDLE_MINUTES
STEPS_PER_CANDLE: Final = 20
LEG_SHAPE: Final = 4.0
LEG_RAMP_CANDLES: Final = 6
FAST_VOLATILITY_HOURS: Final = 1.5
SLOW_VOLATILITY_HOURS: Final = 36.0
LEG_VOLATILITY: Final = 0.3
BUSIEST_HOUR_UTC: Final = 14.5
VOLUME_NOISE: Final = 0.5
VOLUME_NOISE_HOURS: Final = 0.5
TYPICAL_RANGE: Final = 1.6


@dataclass(frozen=True, eq=False)
class SyntheticPath:
    """Candles and the hidden state that made them.

    Attributes
    ----------
    candles : DataFrame, T rows
        As `generate_candles` returns them.
    direction : ndarray of float64, shape (T,)
        Leg of the candle, from -1 (down) to 1 (up).
    volatility : ndarray of float64, shape (T,)
        Standard deviation of the candle's log return without jumps.
    expected_return : ndarray of float64, shape (T,)
        Expected open-to-close return of the candle given this state. A predictor that may see the
        hidden state reads row ``t + 1`` at the close of row ``t``.
    """

    candles: pd.DataFrame
    direction: Float64
    volatility: Float64
    expected_return: Float64


def generate_candles(
    spec: SyntheticSpec, pair: str, start: datetime | str, end: datetime | str
) -> pd.DataFrame:
    """Return the 5m candles of ``pair`` that open in ``start <= date < end``.

    Parameters
    ----------
    spec : SyntheticSpec
        The market.
    pair : str
        Any future, listed in ``spec.pairs`` or not.
    start, end : datetime or str
        Whole multiples of 5 minutes; UTC where no time zone is given.

    Returns
    -------
    DataFrame
        ``date`` (datetime64[ms, UTC], candle open), ``open high low close`` in quote currency, on
        the pair's price grid, and ``volume`` in base currency, all float64. The same spec, pair
        and start give the same candles, and a later ``end`` only appends to them.

    Raises
    ------
    SettingsError
        The dates are empty, reversed or off the 5-minute grid, or ``pair`` is not a future.
    """
    return simulate_path(spec, pair, start, end).candles


def simulate_path(
    spec: SyntheticSpec, pair: str, start: datetime | str, end: datetime | str
) -> SyntheticPath:
    """Return the candles of `generate_candles` with their hidden state; same arguments."""
    first, n_candles = _candle_grid(start, end)
    entry = spec.for_pair(pair)
    own = _Draws(f"{spec.seed}|{first.isoformat()}|{pair}")
    shared = _Draws(f"{spec.seed}|{first.isoformat()}|")
    dates = pd.date_range(first, periods=n_candles, freq=f"{CANDLE_MINUTES}min", unit="ms")
    hours = (dates.hour + dates.minute / 60).to_numpy(dtype=np.float64)
    season = np.cos(2 * np.pi * (hours - BUSIEST_HOUR_UTC) / 24)

    direction = _leg_direction(spec, own, n_candles)
    volatility = entry.relative_volatility * _volatility(spec, own, shared, direction, season)
    drift = spec.signal_strength * volatility * direction
    steps = _log_steps(spec, own, shared, volatility, drift)
    ohlc = _build_ohlc(entry, steps)
    volume = _volume(spec, entry, own, ohlc, season)
    candles = pd.DataFrame(dict(zip(CANDLE_COLUMNS, (dates, *ohlc, volume), strict=True)))
    return SyntheticPath(candles, direction, volatility, np.expm1(drift))


def utc_timestamp(moment: datetime | str) -> pd.Timestamp:
    """Return ``moment`` in UTC; a moment without time zone is taken as UTC.

    Raises
    ------
    SettingsError
        The text is not a date.
    """
    try:
        stamp = pd.Timestamp(moment)
        if pd.isna(stamp):
            raise ValueError
    except ValueError:
        raise SettingsError(f"date: {moment!r} is not a date like '2024-10-01'") from None
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def random_generator(text: str) -> np.random.Generator:
    """Return a generator seeded by ``text`` alone, the same in every process and on every OS."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))


def stationary_ar1(shocks: Float64, half_life: float) -> Float64:
    """Return the first-order autoregression driven by ``shocks``, with their variance throughout.

    ``y[t] = phi * y[t-1] + sqrt(1 - phi^2) * shocks[t]`` with ``phi = 0.5 ** (1 / half_life)`` and
    ``y[0] = shocks[0]``, so that standard normal shocks give a standard normal, stationary ``y``.
    """
    phi = 0.5 ** (1.0 / half_life)
    scale = math.sqrt((1.0 + phi) / (1.0 - phi))
    scaled = shocks * scale
    scaled[:1] = shocks[:1]
    return pd.Series(scaled).ewm(alpha=1.0 - phi, adjust=False).mean().to_numpy(dtype=np.float64)


class _Draws:
    """Independent random streams by name, so that more candles never shift another stream."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __getitem__(self, name: str) -> np.random.Generator:
        return random_generator(f"{self._key}|{name}")


def _candle_grid(start: datetime | str, end: datetime | str) -> tuple[pd.Timestamp, int]:
    first, stop = utc_timestamp(start), utc_timestamp(end)
    step = pd.Timedelta(minutes=CANDLE_MINUTES)
    if first.floor(step) != first or stop.floor(step) != stop:
        raise SettingsError(f"start, end: {first} and {stop} must be multiples of 5 minutes")
    if stop <= first:
        raise SettingsError(f"end: {stop} must be after start {first}")
    return first, int((stop - first) / step)


def _leg_direction(spec: SyntheticSpec, own: _Draws, n_candles: int) -> Float64:
    """Return the present direction: legs of alternating sign, faded in and out."""
    leg_candles = spec.leg_hours * CANDLES_PER_HOUR
    # Three times the expected number: that all together fall short of the candles is impossible
    # in practice, and streams drawn leg by leg keep the beginning of a longer market the same.
    n_legs = int(3 * n_candles / leg_candles) + 50
    lives = own["leg life"].gamma(LEG_SHAPE, leg_candles / LEG_SHAPE, n_legs)
    first_sign, first_age = own["first leg"].random(2)
    lives[0] *= first_age
    trending = own["leg kind"].random(n_legs) < spec.trend_share
    signs = np.where((np.cumsum(trending) + (first_sign < 0.5)) % 2 == 0, 1.0, -1.0)
    index = np.searchsorted(np.cumsum(lives), np.arange(n_candles), side="right")
    state = pd.Series(np.where(trending, signs, 0.0)[index])
    return state.ewm(alpha=1 / LEG_RAMP_CANDLES, adjust=False).mean().to_numpy(dtype=np.float64)


def _volatility(
    spec: SyntheticSpec, own: _Draws, shared: _Draws, direction: Float64, season: Float64
) -> Float64:
    """Return the volatility of each candle; its mean square is about ``spec.volatility ** 2``."""
    n_candles = len(direction)
    deviation = spec.volatility_clustering / math.sqrt(2.0)
    log_volatility = spec.daily_seasonality * (season - spec.daily_seasonality / 2)
    log_volatility += LEG_VOLATILITY * (np.abs(direction) - spec.trend_share)
    for name, hours in (("fast", FAST_VOLATILITY_HOURS), ("slow", SLOW_VOLATILITY_HOURS)):
        shocks = _blend(spec, own, shared, f"{name} volatility", (n_candles,))
        cluster = stationary_ar1(shocks, hours * CANDLES_PER_HOUR)
        # E[exp(2 x)] = 1 for x normal with mean -variance
        log_volatility += deviation * cluster - deviation**2
    return spec.volatility * np.exp(log_volatility)


def _log_steps(
    spec: SyntheticSpec, own: _Draws, shared: _Draws, volatility: Float64, drift: Float64
) -> Float64:
    """Return the log price changes inside each candle, shape (T, STEPS_PER_CANDLE).

    Given the volatility, the price without drift is an exact martingale: the means of the
    log-normal noise and of the jumps are taken out.
    """
    n_candles = len(volatility)
    steps = _blend(spec, own, shared, "noise", (n_candles, STEPS_PER_CANDLE))
    steps *= (volatility / math.sqrt(STEPS_PER_CANDLE))[:, None]
    jump_deviation = spec.jump_scale * volatility
    growth = volatility**2 / 2
    growth += np.log1p(spec.jump_probability * np.expm1(jump_deviation**2 / 2))
    steps += ((drift - growth) / STEPS_PER_CANDLE)[:, None]
    jumps = own["jump size"].standard_normal(n_candles) * jump_deviation
    jumps *= own["jump time"].random(n_candles) < spec.jump_probability
    place = (own["jump step"].random(n_candles) * STEPS_PER_CANDLE).astype(np.int64)
    steps[np.arange(n_candles), place] += jumps
    return steps


def _blend(
    spec: SyntheticSpec, own: _Draws, shared: _Draws, name: str, shape: tuple[int, ...]
) -> Float64:
    """Return standard normals, the square root of the correlation of them shared by all pairs."""
    blend = own[name].standard_normal(shape)
    if spec.market_correlation > 0:
        blend *= math.sqrt(1.0 - spec.market_correlation)
        blend += math.sqrt(spec.market_correlation) * shared[name].standard_normal(shape)
    return blend


def _build_ohlc(entry: PairSpec, steps: Float64) -> tuple[Float64, Float64, Float64, Float64]:
    """Return open, high, low and close on the price grid; a candle opens where the last closed."""
    path = np.cumsum(steps.ravel()).reshape(steps.shape)
    last, high, low = (np.exp(each) for each in (path[:, -1], path.max(axis=1), path.min(axis=1)))
    close = _to_grid(entry, last)
    open_ = np.concatenate((_to_grid(entry, np.ones(1)), close[:-1]))
    return (
        open_,
        np.maximum(_to_grid(entry, high), open_),
        np.minimum(_to_grid(entry, low), open_),
        close,
    )


def _to_grid(entry: PairSpec, relative_price: Float64) -> Float64:
    ticks = np.maximum(np.round(relative_price * (entry.start_price / entry.tick_size)), 1.0)
    exponent = Decimal(str(entry.tick_size)).as_tuple().exponent
    # A multiple of 0.1 is not exact in binary: round to what the exchange would print.
    return np.round(ticks * entry.tick_size, max(0, -int(exponent)))


def _volume(
    spec: SyntheticSpec,
    entry: PairSpec,
    own: _Draws,
    ohlc: tuple[Float64, Float64, Float64, Float64],
    season: Float64,
) -> Float64:
    """Return volumes that grow with the candle's range, with the hour and in clusters."""
    _, high, low, _ = ohlc
    typical = TYPICAL_RANGE * spec.volatility * entry.relative_volatility
    activity = np.log(np.log(high / low) / typical + 0.1)
    noise = stationary_ar1(
        own["volume"].standard_normal(len(high)), VOLUME_NOISE_HOURS * CANDLES_PER_HOUR
    )
    exponent = activity + 0.5 * spec.daily_seasonality * season
    exponent += VOLUME_NOISE * noise - VOLUME_NOISE**2 / 2
    return np.maximum(np.round(entry.candle_volume * np.exp(exponent), 3), 0.001)

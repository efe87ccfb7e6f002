"""Planted markets drawn from ranges, so that nothing can be fitted to six points.

A *draw* has its own number of candles and features, its own share of informative ones, half-life,
signal and noise, and a *form*: how the features show the signal. The hidden signal is that of
`mtf_scalper.worlds.planted`, so the reference policy that knows it is the same.

Every informative feature is the signal or a nuisance seen through a *sign* ``b`` of -1 or 1::

    feature_i = w_i (share_i b + 1 - share_i) s + sqrt(1 - w_i^2) n_i + noise,

with ``n_i`` an autoregression of the signal's half-life. What the form decides is ``b``:

- ``linear``: always 1, and the shares are 0;
- ``product``: turns every hundred candles or so, and two features show it;
- ``threshold``: the sign of another feature less a constant, shown without noise;
- ``regime``: turns a few times in the market, and two features show it noisily;
- ``hours``: by the hour of the day, which two features tell as sine and cosine;
- ``drift``: none, but the weights ``w`` turn slowly into others from the first candle to the last.

``share_i`` is one number of the draw: at 1 no linear function of the features knows anything.
Draws come in two halves: defaults are chosen on ``choosing`` and reported on ``reporting``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.worlds.planted import (
    CandleNoise,
    PlantedMarket,
    Streams,
    autoregressions,
    classic_entries,
    planted_candles,
    signs_in_turn,
)
from mtf_scalper.worlds.planted_spec import PlantedSpec
from mtf_scalper.worlds.synthetic import random_generator, stationary_ar1

Float64 = NDArray[np.float64]

HELD_OUT_CANDLES: Final = 7344
CANDLES_PER_DAY: Final = 288
TREND_HALF_LIFE: Final = 2000.0


class Half(StrEnum):
    """Which draws: those that defaults are chosen on, or those that are reported."""

    CHOOSING = "choosing"
    REPORTING = "reporting"


class Form(StrEnum):
    """How the features show the signal; see the module."""

    LINEAR = "linear"
    PRODUCT = "product"
    THRESHOLD = "threshold"
    REGIME = "regime"
    HOURS = "hours"
    DRIFT = "drift"


SIGN_FEATURES: Final = {
    Form.LINEAR: 0,
    Form.PRODUCT: 2,
    Form.THRESHOLD: 1,
    Form.REGIME: 2,
    Form.HOURS: 2,
    Form.DRIFT: 0,
}
"""Features that tell the sign."""


@dataclass(frozen=True, kw_only=True)
class FamilyDraw:
    """One point of the ranges.

    Attributes
    ----------
    half : Half
    index : int
        The draw's number within its half.
    form : Form
    n_candles, n_features : int
        2,000 to 30,000 and 5 to 200, log-uniform.
    n_informative : int
        Features that show the signal, 1 to all, log-uniform.
    sign_share : float
        How much of the signal is seen through the sign, in [0.3, 1]; 0 without one.
    tail : float
        Degrees of freedom of Student's t from which the unpredictable returns are drawn; infinite
        for half of the draws.
    clustering : float
        Deviation of the log volatility, 0 to 0.8.
    trend : float
        Deviation of a drift of weeks that nothing foretells, as a share of the volatility.
    entry_share : float or None
        Share of candles with a classic entry; None for half of the draws.
    has_rules : bool
        Whether trades have a stop and a target.
    spec : PlantedSpec
        Half-life 1 to 100 candles; strength such that the drift left at a signal of one deviation
        is 1 to 8 round trips of fees; volatility such that a signal that stays as it is would
        explain 10% to 80% of the variance of as many candles as its half-life.
    """

    half: Half
    index: int
    form: Form
    n_candles: int
    n_features: int
    n_informative: int
    sign_share: float
    tail: float
    clustering: float
    trend: float
    entry_share: float | None
    has_rules: bool
    spec: PlantedSpec

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.half}-{self.index}"


def family_draw(half: Half | str, index: int, *, fee_rate: float = 0.0005) -> FamilyDraw:
    """Return a draw; the same arguments give the same one.

    Parameters
    ----------
    half : Half or str
    index : int
        Not negative.
    fee_rate : float
        Fee per side that the strength goes by, in (0, 0.1).

    Raises
    ------
    SettingsError
        An argument is out of range; the message names it.
    """
    if half not in set(Half):
        raise SettingsError(f"half: {half!r} must be one of {', '.join(Half)}")
    if index < 0:
        raise SettingsError(f"index: {index} must be 0 or more")
    if not 0.0 < fee_rate < 0.1:
        raise SettingsError(f"fee_rate: {fee_rate} must be in (0, 0.1)")
    draw = random_generator(f"family|{Half(half)}|{index}")
    form = list(Form)[index % len(Form)]
    n_candles = round(_log_uniform(draw, 2_000, 30_000))
    n_features = round(_log_uniform(draw, 5, 200))
    n_free = n_features - SIGN_FEATURES[form]
    half_life = _log_uniform(draw, 1.0, 100.0)
    left = _log_uniform(draw, 1.0, 8.0) * 2.0 * fee_rate
    strength = left * (1.0 - 0.5 ** (1.0 / half_life))
    explained = _log_uniform(draw, 0.1, 0.8)
    return FamilyDraw(
        half=Half(half),
        index=index,
        form=form,
        n_candles=n_candles,
        n_features=n_features,
        n_informative=max(1, round(_log_uniform(draw, 1.0, n_free))),
        sign_share=draw.uniform(0.3, 1.0) if SIGN_FEATURES[form] else 0.0,
        tail=draw.uniform(3.0, 8.0) if draw.random() < 0.5 else math.inf,
        clustering=draw.uniform(0.0, 0.8),
        trend=draw.uniform(0.0, 0.03) if draw.random() < 0.5 else 0.0,
        entry_share=draw.uniform(0.02, 0.3) if draw.random() < 0.5 else None,
        has_rules=bool(draw.random() < 0.3),
        spec=PlantedSpec(
            half_life=half_life,
            strength=strength,
            volatility=strength * math.sqrt(half_life * (1.0 - explained) / explained),
            factor_noise=draw.uniform(0.1, 1.0),
            context_life={Form.PRODUCT: 100.0, Form.REGIME: n_candles / 8}.get(form, math.inf),
            context_noise={Form.PRODUCT: 0.3}.get(form, 0.5),
        ),
    )


def family_market(
    draw: FamilyDraw, seed: int, n_candles: int | None = None, *, fee_rate: float = 0.0005
) -> PlantedMarket:
    """Return a market of a draw; markets that differ in ``seed`` alone are of one world.

    Parameters
    ----------
    draw : FamilyDraw
    seed : int
        Of the noise, not negative.
    n_candles : int, optional
        Instead of the draw's own, at least 3. With ``drift`` the weights go on from where the
        draw's own candles end, so that a held-out market comes later.
    fee_rate : float
        Fee per side, in [0, 0.1).

    Returns
    -------
    PlantedMarket
        ``kind`` is the draw's name; features are float32.
    """
    length = draw.n_candles if n_candles is None else n_candles
    if seed < 0 or length < 3:
        raise SettingsError(f"seed {seed} must be 0 or more, n_candles {length} 3 or more")
    world = random_generator(f"family|{draw.half}|{draw.index}|world")
    streams = Streams(f"family|{draw.half}|{draw.index}|{seed}")
    signal = autoregressions(streams, "latent", np.full(1, draw.spec.half_life), length)[:, 0]
    features = _features(draw, world, streams, signal, is_later=n_candles is not None)
    expected_return = draw.spec.strength * signal
    trend = stationary_ar1(streams["trend"].standard_normal(length), TREND_HALF_LIFE)
    noise = CandleNoise(draw.spec.volatility, draw.clustering, draw.tail)
    drift = expected_return + draw.trend * draw.spec.volatility * trend
    entry_long, entry_short = classic_entries(streams, signal, draw.entry_share)
    market = Market(
        features=features.astype(np.float32),
        ohlc=planted_candles(noise, streams, drift),
        entry_long=entry_long,
        entry_short=entry_short,
        fee_rate=fee_rate,
        pair=draw.name,
    )
    return PlantedMarket(
        kind=draw.name,
        spec=draw.spec,
        market=market,
        expected_return=expected_return,
        entry_share=draw.entry_share,
    )


def _features(
    draw: FamilyDraw,
    world: np.random.Generator,
    streams: Streams,
    signal: Float64,
    *,
    is_later: bool,
) -> Float64:
    """Return noise features with informative ones and those of the sign among them, (T, F)."""
    n_candles, n_signs = len(signal), SIGN_FEATURES[draw.form]
    columns = world.permutation(draw.n_features)
    half_lives = 100.0 ** world.random(draw.n_features)
    gate_life, gate_level = 5.0 * 10.0 ** world.random(), world.uniform(-0.7, 0.7)
    weights = _weights(world, draw.n_informative)
    later_weights = _weights(world, draw.n_informative)

    sign, shown_signs = _sign(draw, streams, n_candles, float(gate_life), float(gate_level))
    turned = np.zeros((n_candles, 1))
    if draw.form is Form.DRIFT:
        turned = (np.arange(n_candles) / n_candles)[:, None]
        turned = np.minimum(1.0 + 0.1 * turned, 1.1) if is_later else turned
    loading = (1.0 - turned) * weights + turned * later_weights
    loading = np.clip(loading, -0.95, 0.95)
    seen = (draw.sign_share * sign + 1.0 - draw.sign_share) * signal
    lives = np.full(draw.n_informative, draw.spec.half_life)
    nuisance = autoregressions(streams, "nuisance", lives, n_candles)
    shown = loading * seen[:, None] + np.sqrt(1.0 - loading**2) * nuisance
    noise = streams["observation"].standard_normal(shown.shape)
    shown = (shown + draw.spec.factor_noise * noise) / math.sqrt(1.0 + draw.spec.factor_noise**2)

    features = autoregressions(streams, "noise features", half_lives, n_candles)
    features[:, columns[: draw.n_informative]] = shown
    if n_signs:
        features[:, columns[-n_signs:]] = shown_signs
    return features


def _weights(world: np.random.Generator, count: int) -> Float64:
    """Return how strongly each informative feature shows the signal: a few do, most hardly."""
    sizes = 0.9 * world.random(count) ** 2
    sizes[0] = 0.9 if count < 4 else max(sizes[0], 0.5)
    return np.asarray(sizes * world.choice([-1.0, 1.0], count), dtype=np.float64)


def _sign(
    draw: FamilyDraw, streams: Streams, n_candles: int, gate_life: float, gate_level: float
) -> tuple[Float64, Float64]:
    """Return the sign, shape (T,), and the features that tell it, shape (T, n_signs)."""
    if draw.form in (Form.PRODUCT, Form.REGIME):
        sign = signs_in_turn(draw.spec, streams, n_candles)
        noise = streams["sign"].standard_normal((n_candles, 2))
        shown = sign[:, None] + draw.spec.context_noise * noise
        return sign, shown / math.sqrt(1.0 + draw.spec.context_noise**2)
    if draw.form is Form.THRESHOLD:
        gate = autoregressions(streams, "gate", np.full(1, gate_life), n_candles)
        return np.where(gate[:, 0] > gate_level, 1.0, -1.0), gate
    if draw.form is Form.HOURS:
        angle = 2.0 * math.pi * np.arange(n_candles) / CANDLES_PER_DAY
        shown = math.sqrt(2.0) * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        return np.where(np.sin(angle + gate_level) > gate_level, 1.0, -1.0), shown
    return np.ones(n_candles), np.zeros((n_candles, 0))


def _log_uniform(draw: np.random.Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** draw.random())

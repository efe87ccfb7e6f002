"""Seeded markets of arrays only, with a hidden signal of known strength among noise features.

They measure learning: how much of what can be known about the next candle has a policy found? No
indicators and no dates are involved, and 10,000 candles take a few hundredths of a second.

All kinds have the same hidden signal, a standard normal first-order autoregression::

    s[t] = phi s[t-1] + sqrt(1 - phi^2) e[t],    phi = 0.5 ** (1 / half_life)
    log(open[t+2] / open[t+1]) = strength * s[t] + volatility[t+1] * noise[t+1]

``expected_return[t] = strength * s[t]`` is what a predictor that knows the hidden state can say at
the close of row ``t``. It decays as ``E[expected_return[t+k]] = phi^k expected_return[t]``, so that
a position taken now has ``expected_return[t] / (1 - phi)`` of drift left.

The features show ``s`` through three *factors* ``z`` of the same half-life, each seen by two
features with white noise on top: the mean over a window knows more than its last row. With ``u``
two autoregressions like ``s`` that no return depends on, and ``R`` a rotation,

- ``linear``, ``slow``, ``fast``, ``none``: ``z = R (s, u)``, so ``s`` is a weighted sum of factors;
- ``nonlinear``: ``z = b R (s, u)`` with a context ``b`` of -1 or 1 that two more features show
  noisily; each feature alone, and every linear function of them, knows nothing about ``s``;
- ``regime``: ``z = R (s, u)`` while ``b = 1`` and ``z = R G (s, u)`` while ``b = -1``, where ``G``
  turns the weights by `REGIME_ANGLE`. The context changes several times in a training window.

All other features are autoregressions of many half-lives (1 to 100 candles) that nothing depends
on. Which columns show what, ``R`` and the half-lives depend on the kind and ``mapping_seed`` alone:
markets of one kind are draws of one world, and what is learned on one holds on another.

Everything at row ``t`` is made of random draws up to ``t``, each kind from a stream of its own, so
that a longer market begins with the rows of a shorter one.

The signal as a factor seen in noise, and trading on its decay against costs, is the setting of
Garleanu and Pedersen (2013), *Dynamic trading with predictable returns and transaction costs*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.worlds.planted_spec import PLANTED_SPECS, PlantedKind, PlantedSpec
from mtf_scalper.worlds.synthetic import random_generator, stationary_ar1

Float64 = NDArray[np.float64]

N_FACTORS: Final = 3
FEATURES_PER_FACTOR: Final = 2
CONTEXT_FEATURES: Final = 2
MIN_FEATURES: Final = N_FACTORS * FEATURES_PER_FACTOR + CONTEXT_FEATURES
"""Fewest features a market can have: those that show factors and context."""

REGIME_ANGLE: Final = 2 * math.pi / 3
"""Angle between the weights of the two regimes; fixed weights know at best half of the signal."""

ENTRY_SIGNAL: Final = 0.3
"""Correlation between what the classic entries go by and the hidden signal."""

VOLATILITY_CLUSTERING: Final = 0.25
VOLATILITY_HALF_LIFE: Final = 60.0
START_PRICE: Final = 100.0


@dataclass(frozen=True, eq=False, kw_only=True)
class PlantedMarket:
    """A market and what is hidden in it.

    Attributes
    ----------
    kind : str
        A ``PlantedKind``, or the name of a draw of a family.
    spec : PlantedSpec
        Half-life, strength and noise.
    market : Market
    expected_return : ndarray of float64, shape (T,)
        ``E[log(open[t+2] / open[t+1])]`` given the hidden state at the close of row ``t``: what
        holding a long position over the step decided at ``t`` is worth before fees. Of the future
        ``E[expected_return[t+k] | row t] = spec.persistence ** k * expected_return[t]`` is known.
    entry_share : float or None
        Share of candles with a classic entry; None without entries.
    """

    kind: str
    spec: PlantedSpec
    market: Market
    expected_return: Float64
    entry_share: float | None


def planted_market(
    kind: PlantedKind | str,
    seed: int,
    n_candles: int = 7344,
    *,
    n_features: int = 40,
    fee_rate: float = 0.0005,
    entry_share: float | None = None,
    mapping_seed: int = 0,
) -> PlantedMarket:
    """Return a market of ``kind``; the same arguments give the same arrays.

    Parameters
    ----------
    kind : PlantedKind or str
    seed : int
        Of the noise, not negative. Markets that differ in it alone are training and held-out data
        of one world.
    n_candles : int
        Length T, at least 3.
    n_features : int
        Number F of features, at least `MIN_FEATURES`; the rest of them is noise.
    fee_rate : float
        Fee per side as a share of the traded value, in [0, 0.1).
    entry_share : float, optional
        Share of candles on which the classic rule fires, half of it long and half short, in
        (0, 1): where the signal, seen with correlation `ENTRY_SIGNAL`, is far from zero. Without
        it the entry masks are empty.
    mapping_seed : int
        Of the columns, weights and noise half-lives, not negative.

    Returns
    -------
    PlantedMarket
        Features are float32 of mean 0 and variance 1, candles open where the last one closed.

    Raises
    ------
    SettingsError
        An argument is out of range; the message names it.
    """
    kind = _known_kind(kind)
    _check(seed, n_candles, n_features, fee_rate, entry_share, mapping_seed)
    spec = PLANTED_SPECS[kind]
    # A kind's number of features and its mapping decide the world, the seed what happens in it.
    world = random_generator(f"planted|{kind}|{mapping_seed}|{n_features}")
    draws = Streams(f"planted|{kind}|{mapping_seed}|{seed}")
    latent = autoregressions(draws, "latent", np.full(N_FACTORS, spec.half_life), n_candles)
    signal = latent[:, 0]
    context = signs_in_turn(spec, draws, n_candles)
    features = _features(kind, spec, world, draws, latent, context, n_features)
    expected_return = spec.strength * signal
    entry_long, entry_short = classic_entries(draws, signal, entry_share)
    market = Market(
        features=features.astype(np.float32),
        ohlc=planted_candles(CandleNoise(spec.volatility), draws, expected_return),
        entry_long=entry_long,
        entry_short=entry_short,
        fee_rate=fee_rate,
        pair=f"planted-{kind}",
    )
    return PlantedMarket(
        kind=kind,
        spec=spec,
        market=market,
        expected_return=expected_return,
        entry_share=entry_share,
    )


@dataclass(frozen=True)
class CandleNoise:
    """What cannot be foretold of a candle.

    Attributes
    ----------
    volatility : float
        Root mean square of the unpredictable part of a candle's log return.
    clustering : float
        Deviation of the logarithm of the volatility.
    tail : float
        Degrees of freedom of Student's t, above 2; infinite for normal returns.
    """

    volatility: float
    clustering: float = VOLATILITY_CLUSTERING
    tail: float = math.inf

    def shocks(self, draw: np.random.Generator, n_candles: int) -> Float64:
        """Return shocks of variance 1, shape (T,)."""
        if math.isinf(self.tail):
            return draw.standard_normal(n_candles)
        shocks = draw.standard_t(self.tail, n_candles) / math.sqrt(self.tail / (self.tail - 2.0))
        return np.asarray(shocks, dtype=np.float64)


class Streams:
    """Independent random streams by name, so that more candles never shift another stream."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __getitem__(self, name: str) -> np.random.Generator:
        return random_generator(f"{self._key}|{name}")


def _known_kind(kind: PlantedKind | str) -> PlantedKind:
    try:
        return PlantedKind(kind)
    except ValueError:
        raise SettingsError(f"kind: {kind!r} must be one of {', '.join(PlantedKind)}") from None


def _check(
    seed: int,
    n_candles: int,
    n_features: int,
    fee_rate: float,
    entry_share: float | None,
    mapping_seed: int,
) -> None:
    share = 0.5 if entry_share is None else entry_share
    rules = (
        ("seed", seed, seed >= 0, "0 or more"),
        ("n_candles", n_candles, n_candles >= 3, "3 or more"),
        ("n_features", n_features, n_features >= MIN_FEATURES, f"{MIN_FEATURES} or more"),
        ("fee_rate", fee_rate, 0.0 <= fee_rate < 0.1, "in [0, 0.1)"),
        ("entry_share", entry_share, 0.0 < share < 1.0, "in (0, 1)"),
        ("mapping_seed", mapping_seed, mapping_seed >= 0, "0 or more"),
    )
    for name, value, valid, rule in rules:
        if not valid:
            raise SettingsError(f"{name}: {value} must be {rule}")


def autoregressions(draws: Streams, name: str, half_lives: Float64, n_candles: int) -> Float64:
    """Return standard normal autoregressions, shape (T, len(half_lives))."""
    shocks = draws[name].standard_normal((n_candles, len(half_lives)))
    columns = zip(shocks.T, half_lives, strict=True)
    return np.stack([stationary_ar1(each, float(life)) for each, life in columns], axis=1)


def signs_in_turn(spec: PlantedSpec, draws: Streams, n_candles: int) -> Float64:
    """Return a context of -1 and 1 in turn, shape (T,); it starts at either, in mid-life."""
    if math.isinf(spec.context_life):
        return np.ones(n_candles)
    stream = draws["context"]
    first, age = stream.random(2)
    n_lives = int(2 * n_candles / spec.context_life) + 2
    lives = spec.context_life * (0.5 + stream.random(n_lives))
    lives[0] *= age
    index = np.searchsorted(np.cumsum(lives), np.arange(n_candles), side="right")
    return np.where((index % 2 == 0) == (first < 0.5), 1.0, -1.0)


def _features(
    kind: PlantedKind,
    spec: PlantedSpec,
    world: np.random.Generator,
    draws: Streams,
    latent: Float64,
    context: Float64,
    n_features: int,
) -> Float64:
    """Return noise features with those that show factors and context among them, shape (T, F)."""
    n_candles = len(latent)
    rotation = _rotation(world)
    columns = world.permutation(n_features)[:MIN_FEATURES]
    half_lives = 100.0 ** world.random(n_features)
    signs = world.choice([-1.0, 1.0], MIN_FEATURES)

    shown = np.repeat(_factors(kind, rotation, latent, context), FEATURES_PER_FACTOR, axis=1)
    noise = np.full(shown.shape[1], spec.factor_noise)
    if not math.isinf(spec.context_life):
        shown = np.column_stack([shown, *[context] * CONTEXT_FEATURES])
        noise = np.concatenate([noise, np.full(CONTEXT_FEATURES, spec.context_noise)])
    n_shown = len(noise)
    shown = shown + noise * draws["observation"].standard_normal((n_candles, n_shown))
    features = autoregressions(draws, "noise features", half_lives, n_candles)
    features[:, columns[:n_shown]] = signs[:n_shown] * shown / np.sqrt(1.0 + noise**2)
    return features


def _rotation(world: np.random.Generator) -> Float64:
    """Return an orthogonal matrix, shape (N_FACTORS, N_FACTORS), uniform over all of them."""
    q, r = np.linalg.qr(world.standard_normal((N_FACTORS, N_FACTORS)))
    return np.asarray(q * np.sign(np.diag(r)), dtype=np.float64)


def _factors(kind: PlantedKind, rotation: Float64, latent: Float64, context: Float64) -> Float64:
    """Return what the features show of the latent (s, u), shape (T, N_FACTORS)."""
    if kind is PlantedKind.NONLINEAR:
        return np.asarray(context[:, None] * (latent @ rotation.T), dtype=np.float64)
    if kind is PlantedKind.REGIME:
        turn = np.eye(N_FACTORS)
        cosine, sine = math.cos(REGIME_ANGLE), math.sin(REGIME_ANGLE)
        turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
        turned = latent @ (rotation @ turn).T
        return np.where(context[:, None] > 0, latent @ rotation.T, turned)
    return np.asarray(latent @ rotation.T, dtype=np.float64)


def planted_candles(noise: CandleNoise, draws: Streams, expected_return: Float64) -> Float64:
    """Return open, high, low and close, shape (T, 4).

    The extremes are those of a Brownian bridge from open to close, drawn from their distribution:
    ``max = (x + sqrt(x^2 - 2 v^2 log U)) / 2`` above the open for a bridge that ends at ``x`` with
    variance ``v^2`` (Karatzas and Shreve 1991, *Brownian Motion and Stochastic Calculus*, 4.3.40).
    """
    n_candles = len(expected_return)
    clusters = stationary_ar1(draws["volatility"].standard_normal(n_candles), VOLATILITY_HALF_LIFE)
    # E[exp(2 x)] = 1 for x normal with mean -variance.
    log_volatility = noise.clustering * clusters - noise.clustering**2
    volatility = noise.volatility * np.exp(log_volatility)
    move = volatility * noise.shocks(draws["returns"], n_candles)
    move[1:] += expected_return[:-1]
    close = np.cumsum(move)
    opened = np.concatenate([[0.0], close[:-1]])
    reach = -2.0 * volatility[:, None] ** 2 * np.log1p(-draws["wicks"].random((n_candles, 2)))
    bridge = np.sqrt((close - opened)[:, None] ** 2 + reach)
    middle = (opened + close) / 2.0
    high, low = middle + bridge[:, 0] / 2.0, middle - bridge[:, 1] / 2.0
    prices: Float64 = START_PRICE * np.exp(np.stack([opened, high, low, close], axis=1))
    # Rounding of the exponential must not put a body outside its candle.
    prices[:, 1] = prices.max(axis=1)
    prices[:, 2] = prices.min(axis=1)
    return prices


def classic_entries(
    draws: Streams, signal: Float64, entry_share: float | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where the classic rule fires long and short, each of shape (T,)."""
    if entry_share is None:
        nowhere = np.zeros(len(signal), dtype=np.bool_)
        return nowhere, nowhere.copy()
    noise = draws["entries"].standard_normal(len(signal))
    seen = ENTRY_SIGNAL * signal + math.sqrt(1.0 - ENTRY_SIGNAL**2) * noise
    threshold = NormalDist().inv_cdf(1.0 - entry_share / 2.0)
    return seen > threshold, seen < -threshold


def entry_probability(signal: Float64, entry_share: float) -> Float64:
    """Return the probability of a long entry where the hidden signal is ``signal``.

    ``P(rho s + sqrt(1 - rho^2) e > q)`` with ``rho`` = `ENTRY_SIGNAL`, ``e`` standard normal and
    ``q`` the quantile that half of ``entry_share`` exceeds; that of a short is ``P(-s)``.

    Parameters
    ----------
    signal : ndarray of float64, shape (N,)
        In standard deviations.
    entry_share : float
        In (0, 1).

    Returns
    -------
    ndarray of float64, shape (N,)
    """
    normal = NormalDist()
    threshold = normal.inv_cdf(1.0 - entry_share / 2.0)
    scale = math.sqrt(1.0 - ENTRY_SIGNAL**2)
    shares = [normal.cdf((ENTRY_SIGNAL * each - threshold) / scale) for each in signal.tolist()]
    return np.array(shares)

"""Markets that tests of several packages play on; each is the same for the same arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtf_scalper.market.market import Market

__all__ = [
    "classic_market",
    "extreme_market",
    "gapped_market",
    "hinting_market",
    "lively_market",
    "random_walk",
    "trending_market",
    "walking_market",
    "wild_market",
]


def random_walk(rng: np.random.Generator, n_candles: int, volatility: float) -> np.ndarray:
    """Return candles whose opens are the closes before them, shape (n_candles, 4)."""
    log_close = np.cumsum(volatility * rng.standard_normal(n_candles))
    close = 100.0 * np.exp(log_close)
    open_ = np.concatenate([[100.0], close[:-1]])
    wick = np.exp(0.5 * volatility * np.abs(rng.standard_normal((2, n_candles))))
    return np.stack(
        [open_, np.maximum(open_, close) * wick[0], np.minimum(open_, close) / wick[1], close], 1
    )


def walking_market(
    ohlc: Sequence[Sequence[float]] | None = None,
    *,
    n_candles: int = 120,
    n_features: int = 3,
    seed: int = 0,
    volatility: float = 0.002,
    **fields: Any,
) -> Market:
    """Return the given candles, or a random walk, with features of noise."""
    rng = np.random.default_rng(seed)
    candles = np.array(ohlc, float) if ohlc else random_walk(rng, n_candles, volatility)
    features = rng.standard_normal((len(candles), n_features))
    return Market(**{"features": features, "ohlc": candles, **fields})


def classic_market(seed: int, n_candles: int, share: float = 0.15, **fields: Any) -> Market:
    """Return a random walk on which the classic rule fires now and then, long and short."""
    fired = np.random.default_rng(seed).random((2, n_candles)) < share
    given = {"volatility": 0.004, "entry_long": fired[0], "entry_short": fired[1], **fields}
    return walking_market(n_candles=n_candles, seed=seed, **given)


def lively_market(seed: int, n_candles: int = 60, **fields: Any) -> Market:
    """Return a walk with fees, funding, price steps, leverage by row, and many entries."""
    rng = np.random.default_rng(seed)
    signals = rng.random((2, n_candles)) < 0.4
    given = {
        "leverage": rng.uniform(1.0, 3.0, n_candles),
        "funding": rng.normal(0.0, 0.05, n_candles),
        "tick_size": 0.01,
        "fee_rate": 0.001,
        "entry_long": signals[0],
        "entry_short": signals[1],
        **fields,
    }
    return walking_market(n_candles=n_candles, seed=seed, volatility=0.01, **given)


def wild_market(rng: np.random.Generator, n_candles: int = 300) -> Market:
    """Return candles with gaps and spikes, so that every exit of a trade happens."""
    volatility = rng.choice([0.001, 0.01, 0.03])
    close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0, volatility, n_candles))), 2) + 0.01
    opened = np.concatenate([close[:1], close[:-1]])
    gaps = rng.random(n_candles) < 0.1
    jumped = np.round(opened * np.exp(rng.normal(0.0, 0.02, n_candles)), 2) + 0.01
    opened = np.where(gaps, jumped, opened)
    reach = 1.0 + rng.exponential(0.005, (2, n_candles))
    high = np.maximum(opened, close)
    low = np.minimum(opened, close)
    return Market(
        features=rng.normal(size=(n_candles, 3)),
        ohlc=np.column_stack(
            [
                opened,
                np.maximum(np.round(high * reach[0], 2), high),
                np.minimum(np.maximum(np.round(low / reach[1], 2), 0.01), low),
                close,
            ]
        ),
        entry_long=rng.random(n_candles) < 0.2,
        entry_short=rng.random(n_candles) < 0.2,
        leverage=rng.choice([1.0, 2.5, 3.0, 20.0], n_candles),
        funding=np.where(rng.random(n_candles) < 0.1, rng.normal(0, 0.05, n_candles), 0.0),
        tick_size=_tick_sizes(rng, n_candles),
        liquidation_long=_liquidations(rng, n_candles, -1),
        liquidation_short=_liquidations(rng, n_candles, 1),
        ends_early=bool(rng.random() < 0.5),
    )


def _tick_sizes(rng: np.random.Generator, n_candles: int) -> np.ndarray:
    """Return one price step for all rows, or one that changes: a trade keeps its entry's."""
    months = rng.choice([0.0, 0.01, 0.1], 6 if rng.random() < 0.5 else 1)
    return np.repeat(months, -(-n_candles // len(months)))[:n_candles]


def _liquidations(rng: np.random.Generator, n_candles: int, direction: int) -> np.ndarray:
    """Return liquidation prices as multiples, near and far, with rows of never and of the rules."""
    given = 1.0 + direction * rng.choice([0.005, 0.04, 0.3], n_candles)
    kind = rng.random(n_candles)
    return np.where(kind < 0.2, 0.0, np.where(kind < 0.5, np.nan, given))


def extreme_market(draw: dict[str, Any]) -> Market:
    """Return candles that jump by up to many times their price, of any price, leverage and fee."""
    rng = np.random.default_rng(draw["seed"])
    size = draw["n_candles"]
    steps = draw["volatility"] * rng.standard_normal((2, size))
    open_ = draw["scale"] * np.exp(np.clip(np.cumsum(steps[0]), -30.0, 30.0))
    close = open_ * np.exp(steps[1])
    wick = np.exp(draw["volatility"] * rng.random((2, size)))
    ohlc = [open_, np.maximum(open_, close) * wick[0], np.minimum(open_, close) / wick[1], close]
    return Market(
        features=rng.standard_normal((size, 2)),
        ohlc=np.stack(ohlc, 1),
        entry_long=rng.random(size) < 0.5,
        entry_short=rng.random(size) < 0.5,
        fee_rate=draw["fee_rate"],
        leverage=draw["leverage"],
        funding=draw["funding"] * open_ * rng.standard_normal(size),
        tick_size=draw["tick"] * draw["scale"],
    )


def gapped_market(
    seed: int, n_candles: int = 400, volatility: float = 0.01, fee_rate: float = 0.0005
) -> Market:
    """Return candles with gaps, so that no open is the close before it."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, volatility, n_candles)))
    opened = close * np.exp(rng.normal(0.0, volatility, n_candles))
    high, low = 1.01 * np.maximum(opened, close), np.minimum(opened, close) / 1.01
    return Market(
        features=rng.normal(size=(n_candles, 2)),
        ohlc=np.column_stack([opened, high, low, close]),
        fee_rate=fee_rate,
    )


def hinting_market(seed: int, n_candles: int = 1500) -> Market:
    """Return a walk whose first feature tells, in noise, where the next open-to-open move goes."""
    plain = walking_market(n_candles=n_candles, seed=seed, volatility=0.004)
    opens = np.log(plain.ohlc[:, 0])
    ahead = np.concatenate([opens[2:] - opens[1:-1], [0.0, 0.0]])
    rng = np.random.default_rng(seed)
    hint = ahead / 0.004 + 0.5 * rng.standard_normal(n_candles)
    noise = rng.standard_normal((n_candles, 2))
    return Market(features=np.column_stack([hint, noise]), ohlc=plain.ohlc, fee_rate=0.0005)


def trending_market(n_candles: int, seed: int) -> Market:
    """Return a market whose first feature tells, with noise, where it goes after the next open.

    The price drifts by 0.4% per candle, up or down for 10 candles at a time, under noise of 0.2%.
    The second feature is noise.
    """
    rng = np.random.default_rng(seed)
    trend = np.repeat(rng.choice([-1.0, 1.0], n_candles // 10 + 1), 10)[:n_candles]
    steps = 0.004 * trend + 0.002 * rng.standard_normal(n_candles)
    open_ = 100.0 * np.exp(np.cumsum(steps))
    close = np.append(open_[1:], open_[-1])
    hint = np.append(trend[2:], [0.0, 0.0]) + 0.5 * rng.standard_normal(n_candles)
    return Market(
        features=np.stack([hint, rng.standard_normal(n_candles)], 1),
        ohlc=np.stack([open_, np.maximum(open_, close), np.minimum(open_, close), close], 1),
        fee_rate=0.0005,
    )

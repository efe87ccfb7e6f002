from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.market.candles import timeframe_delta


@pytest.fixture
def random_candles():
    """Return a maker of seeded candles, 5m by default: a random walk of clustered volatility."""

    def make(
        count: int,
        seed: int = 0,
        price: float = 100.0,
        start: str = "2024-03-01",
        timeframe: str = "5m",
    ) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        volatility = 0.002 * np.exp(0.5 * np.sin(np.arange(count) / 150.0))
        close = price * np.exp(np.cumsum(volatility * rng.standard_normal(count)))
        open_ = np.concatenate([[price], close])[:count]
        spread = volatility * rng.random((2, count))
        step = timeframe_delta(timeframe)
        return pd.DataFrame(
            {
                "date": pd.date_range(start, periods=count, freq=step, tz="UTC").as_unit("ms"),
                "open": open_,
                "high": np.maximum(open_, close) * (1.0 + spread[0]),
                "low": np.minimum(open_, close) * (1.0 - spread[1]),
                "close": close,
                "volume": rng.lognormal(5.0, 0.6, count),
            }
        )

    return make


@pytest.fixture(scope="session")
def real_candles(real_candles_folder: Path):
    """Return a reader of the 5m candles of a coin; skips where there are none."""

    def read(coin: str, timeframe: str = "5m") -> pd.DataFrame:
        name = f"{coin}_USDT_USDT-{timeframe}-futures.feather"
        return pd.read_feather(real_candles_folder / "futures" / name)

    return read

"""Several environments over one market, of the kind that the settings name.

Each environment is seeded with ``random_state + rank`` and starts its first episode on its own
stretch of the data, so that eight environments never see one and the same candle eight times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings, VecEnvKind
from mtf_scalper.simulator.process_env import EnvFactory, ProcessVecEnv
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.vec_env import BatchedVecEnv

__all__ = ["first_rows", "make_vec_env", "open_vec_env"]


def first_rows(n_candles: int, window_size: int, n_envs: int) -> list[int]:
    """Return the first decision row of each environment, spread evenly over the data."""
    lowest = window_size - 1
    stretch = n_candles - 1 - lowest
    return [lowest + rank * stretch // n_envs for rank in range(n_envs)]


def make_vec_env(
    market: Market, settings: Settings, *, n_envs: int | None = None, staggered: bool = True
) -> VecEnv:
    """Return environments over ``market``; the caller closes them.

    Parameters
    ----------
    market : Market
    settings : Settings
    n_envs : int, optional
        ``settings.n_envs`` by default.
    staggered : bool
        Start each environment's first episode on its own stretch of the data, as training wants
        it; otherwise all start on the first row.

    Raises
    ------
    MarketError
        If the market has too few candles.
    SettingsError
        If the start method does not exist on this platform.
    WorkerDiedError
        If an environment process cannot be started.
    """
    n_envs = n_envs or settings.n_envs
    rows = first_rows(len(market), settings.window_size, n_envs if staggered else 1)
    rows = rows if staggered else rows * n_envs
    # Built once here first, so that a market that cannot be traded fails with its own message.
    ReferenceEnv(market, settings)
    factories = [EnvFactory(market, settings, row) for row in rows]
    env: VecEnv
    if settings.vec_env is VecEnvKind.SUBPROC:
        env = ProcessVecEnv(factories, settings.start_method, label=market.pair)
    elif settings.vec_env is VecEnvKind.BATCHED:
        env = BatchedVecEnv(market, settings, rows)
    else:
        env = DummyVecEnv(list(factories))
    env.seed(settings.random_state)
    return env


@contextlib.contextmanager
def open_vec_env(market: Market, settings: Settings) -> Iterator[VecEnv]:
    """Yield ``make_vec_env(...)`` and close it, whatever happens."""
    env = make_vec_env(market, settings)
    try:
        yield env
    finally:
        env.close()

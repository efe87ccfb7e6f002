"""Several environments over one market, of the kind that the settings name.

Each environment is seeded with ``random_state + rank`` and starts its first episode on its own
stretch of the data, so that eight environments never see one and the same candle eight times.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from mtf_scalper.market.market import Market
from mtf_scalper.rollouts.freqtrade_env import FreqtradeVecEnv
from mtf_scalper.rollouts.process_env import EnvFactory, ProcessVecEnv
from mtf_scalper.rollouts.vec_env import BatchedVecEnv
from mtf_scalper.settings import Fills, RewardName, Settings, VecEnvKind
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.reward_kernels import RewardNotCompiledError
from mtf_scalper.simulator.user_rewards import check_loads_in_a_process, with_absolute_path

logger = logging.getLogger(__name__)


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
        If the start method does not exist on this platform; if a reward of the user's own cannot
        be found, or cannot be compiled for batched environments and
        ``settings.allow_uncompiled_reward`` is not set.
    WorkerDiedError
        If an environment process cannot be started.
    """
    n_envs = n_envs or settings.n_envs
    rows = first_rows(len(market), settings.window_size, n_envs if staggered else 1)
    rows = rows if staggered else rows * n_envs
    env: VecEnv
    if settings.fills is Fills.FREQTRADE_ENV:
        env = FreqtradeVecEnv(market, settings, rows)
        env.seed(settings.random_state)
        return env
    # Built once here first, so that a market that cannot be traded fails with its own message.
    ReferenceEnv(market, settings)
    if settings.vec_env is VecEnvKind.SUBPROC:
        env = _in_processes(market, settings, rows)
    elif settings.vec_env is VecEnvKind.BATCHED:
        env = _batched_if_compiled(market, settings, rows)
    else:
        env = _one_by_one(market, settings, rows)
    env.seed(settings.random_state)
    return env


def _one_by_one(market: Market, settings: Settings, rows: list[int]) -> VecEnv:
    return DummyVecEnv([EnvFactory(market, settings, row) for row in rows])


def _in_processes(market: Market, settings: Settings, rows: list[int]) -> VecEnv:
    if not isinstance(settings.reward, RewardName):
        check_loads_in_a_process(settings.reward)
    there = settings.changed(reward=with_absolute_path(settings.reward))
    factories = [EnvFactory(market, there, row) for row in rows]
    return ProcessVecEnv(factories, settings.start_method, label=market.pair)


def _batched_if_compiled(market: Market, settings: Settings, rows: list[int]) -> VecEnv:
    try:
        return BatchedVecEnv(market, settings, rows)
    except RewardNotCompiledError as error:
        if not settings.allow_uncompiled_reward:
            raise
        logger.warning(
            "%s. As that is set, they run: ten times slower than batched ones, or more", error
        )
        return _one_by_one(market, settings, rows)


@contextlib.contextmanager
def open_vec_env(market: Market, settings: Settings) -> Iterator[VecEnv]:
    """Yield ``make_vec_env(...)`` and close it, whatever happens."""
    env = make_vec_env(market, settings)
    try:
        yield env
    finally:
        env.close()

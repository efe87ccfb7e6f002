"""The batched environments behind gymnasium's own interface for many environments."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mtf_scalper.errors import SettingsError
from mtf_scalper.market.market import Market
from mtf_scalper.rollouts.candle_vec_env import CandleVecEnv
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.settings import Settings, VecEnvKind

_Observations = NDArray[np.float32]


class BatchedVectorEnv(VectorEnv[_Observations, NDArray[np.int64], NDArray[Any]]):
    """``make_vec_env`` for batched environments, as a gymnasium ``VectorEnv``.

    Parameters
    ----------
    market : Market
    settings : Settings
        With ``vec_env`` "batched".
    num_envs : int, optional
        ``settings.n_envs`` by default.

    Raises
    ------
    SettingsError
        If the settings ask for other environments.

    Notes
    -----
    An environment whose episode ended starts the next one within the same step
    (``AutoresetMode.SAME_STEP``); its last observation is ``infos["final_obs"]``, where
    ``infos["_final_obs"]`` is true. ``infos["action_mask"]`` is bool of shape (N, n_actions), and
    ``infos["trade"]`` holds the trade that closed where ``infos["_trade"]`` is true.
    """

    def __init__(self, market: Market, settings: Settings, num_envs: int | None = None) -> None:
        env = None
        if settings.vec_env is VecEnvKind.BATCHED:
            env = make_vec_env(market, settings, n_envs=num_envs)
        if not isinstance(env, CandleVecEnv):
            raise SettingsError(
                f"vec_env: a BatchedVectorEnv needs 'batched', not {settings.vec_env}"
            )
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = env.num_envs
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, env.num_envs)
        self.action_space = batch_space(env.action_space, env.num_envs)
        self._env = env

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[_Observations, dict[str, Any]]:
        """Start every environment's first episode; environment ``i`` is seeded with ``seed + i``.

        There are no options.
        """
        if options:
            raise SettingsError(f"options: {sorted(options)[0]!r} is unknown; there are none")
        super().reset(seed=seed)
        if seed is not None:
            self._env.seed(seed)
        return np.array(self._env.reset()), {"action_mask": self._env.action_masks()}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        _Observations, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Advance every environment by one candle; see gymnasium's ``VectorEnv.step``."""
        observations, _, _, each = self._env.step(actions)
        outcome = self._env.outcome
        infos: dict[str, Any] = {"action_mask": self._env.action_masks()}
        for theirs, ours in (("terminal_observation", "final_obs"), ("trade", "trade")):
            is_there = np.array([theirs in info for info in each])
            if is_there.any():
                infos[ours] = np.array([None] * self.num_envs, dtype=object)
                for env in np.flatnonzero(is_there):
                    infos[ours][env] = each[env][theirs]
                infos[f"_{ours}"] = is_there
        return (
            np.array(observations),
            outcome["reward"].copy(),
            outcome["terminated"].copy(),
            outcome["truncated"].copy(),
            infos,
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Do nothing: there is nothing to end."""

"""All environments in this process, advanced by one compiled call per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator import kernels
from mtf_scalper.simulator.types import N_ACTIONS, ExitReason, Side, Trade

__all__ = ["BatchedVecEnv"]


class BatchedVecEnv(VecEnv):
    """``ReferenceEnv`` for N environments at once, behind stable-baselines3's interface.

    Parameters
    ----------
    market : Market
        The candles that all environments trade.
    settings : Settings
        Rules, reward and window.
    first_rows : sequence of int
        Decision row of each environment's first episode; its length is N.

    Notes
    -----
    Observations are float32 of shape (N, window, F) in two buffers that take turns: what ``step``
    returned stays valid until the step after the next one. ``outcome`` holds all that the last
    step did, as arrays. The info of an environment is empty but for ``trade`` where a trade
    closed, and ``terminal_observation`` and ``TimeLimit.truncated`` where an episode ended.
    """

    render_mode = None

    def __init__(self, market: Market, settings: Settings, first_rows: Sequence[int]) -> None:
        shape = (settings.window_size, market.n_features)
        super().__init__(
            len(first_rows), spaces.Box(-np.inf, np.inf, shape), spaces.Discrete(N_ACTIONS)
        )
        self.market = market
        self.settings = settings
        self.outcome = np.zeros(self.num_envs, kernels.OUTCOME)
        self.state = np.zeros(self.num_envs, kernels.STATE)
        self._candles = kernels.candles_of(market)
        self._roi = kernels.roi_ladder_of(settings)
        self._rules = kernels.rules_of(market, settings)
        self._lowest_row = settings.window_size - 1
        self._first_rows = np.asarray(first_rows, dtype=np.int64)
        self._restart_rows = np.full(self.num_envs, self._lowest_row, dtype=np.int64)
        self._actions = np.zeros(self.num_envs, dtype=np.int64)
        self._buffers = [np.zeros((self.num_envs, *shape), dtype=np.float32) for _ in range(2)]
        self._generators = [np.random.default_rng() for _ in range(self.num_envs)]

    def reset(self) -> VecEnvObs:
        """Start every environment's first episode."""
        for env, seed in enumerate(self._seeds):
            if seed is not None:
                self._generators[env] = np.random.default_rng(seed)
            self._draw_restart(env)
        self._reset_seeds()
        self._reset_options()
        kernels.start_episodes(self.state, self._first_rows)
        return self._observe()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Note the actions."""
        self._actions[:] = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Advance every environment by one candle; ended episodes start again at once."""
        outcome = self.outcome
        kernels.step(
            self._candles,
            self._roi,
            self._rules,
            self.state,
            self._actions,
            self._restart_rows,
            outcome,
        )
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for env in np.flatnonzero(outcome["exit_code"]):
            infos[env]["trade"] = self._trade(int(env))
        for env in np.flatnonzero(outcome["terminated"]):
            row = int(outcome["row"][env])
            window = self.market.features[row - self.settings.window_size + 1 : row + 1]
            infos[env]["terminal_observation"] = window
            infos[env]["TimeLimit.truncated"] = False
            self._draw_restart(int(env))
        dones = outcome["terminated"].copy()
        return self._observe(), outcome["reward"].astype(np.float32), dones, infos

    def close(self) -> None:
        """Do nothing: there is nothing to end."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of this object, once per environment."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        """Tell whether this object has an attribute."""
        return hasattr(self, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: the environments share one object."""
        raise AttributeError(f"{attr_name}: batched environments have no attributes of their own")

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Refuse: the environments share one object."""
        raise AttributeError(f"{method_name}: batched environments have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return False for every environment."""
        return [False for _ in self._get_indices(indices)]

    def _observe(self) -> NDArray[np.float32]:
        self._buffers.reverse()
        kernels.gather_windows(self.market.features, self.state["row"], self._buffers[0])
        return self._buffers[0]

    def _draw_restart(self, env: int) -> None:
        """Choose where the environment starts again, just as ``ReferenceEnv.reset`` does."""
        if self.settings.randomize_starting_position:
            highest = max(self._lowest_row + 1, len(self.market) // 4)
            row = self._generators[env].integers(self._lowest_row, highest)
            self._restart_rows[env] = row

    def _trade(self, env: int) -> Trade:
        outcome = self.outcome
        return Trade(
            pair=self.market.pair,
            side=Side(int(outcome["trade_side"][env])),
            open_row=int(outcome["open_row"][env]),
            close_row=int(outcome["row"][env]),
            open_rate=float(outcome["open_rate"][env]),
            close_rate=float(outcome["close_rate"][env]),
            leverage=float(outcome["leverage"][env]),
            profit_ratio=float(outcome["profit_ratio"][env]),
            exit_reason=ExitReason(kernels.EXIT_CODES[int(outcome["exit_code"][env])]),
        )

"""What stable-baselines3 environments over compiled kernels have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator import kernels


class CandleVecEnv(VecEnv):
    """N environments over one market whose observations are a window of features and extras.

    Parameters
    ----------
    market : Market
    settings : Settings
    n_envs : int
    n_extras : int
        E, the numbers of an observation beyond its window.
    n_actions : int
    outcome : ndarray, shape (N,)
        Structured array in which a kernel leaves what a step did; with ``reward``,
        ``terminated``, ``truncated`` and ``executed``.

    Attributes
    ----------
    features : ndarray of float32, shape (T, F)
        Of the market.
    rows : ndarray of int64, shape (N,)
        Last row of the window that each environment sees.
    extras : ndarray of float32, shape (N, E)
        What each environment sees besides; ends with the action mask.

    Notes
    -----
    Observations are float32 of shape (N, window * F + E), in two buffers that take turns: what
    ``step`` returned stays valid until the step after the next one. An episode that ended starts
    again within the same step; its last observation is in the info, as stable-baselines3 has it.
    """

    render_mode = None

    def __init__(
        self,
        market: Market,
        settings: Settings,
        n_envs: int,
        *,
        n_extras: int,
        n_actions: int,
        outcome: NDArray[np.void],
    ) -> None:
        self.window_length = settings.window_size * market.n_features
        length = self.window_length + n_extras
        super().__init__(n_envs, spaces.Box(-np.inf, np.inf, (length,)), spaces.Discrete(n_actions))
        self.market = market
        self.settings = settings
        self.features = market.features
        self.outcome = outcome
        self.extras = np.zeros((n_envs, n_extras), dtype=np.float32)
        self._last_extras = np.zeros_like(self.extras)
        self._actions = np.zeros(n_envs, dtype=np.int64)
        self._buffers = [np.zeros((n_envs, length), dtype=np.float32) for _ in range(2)]
        self._generators = [np.random.default_rng() for _ in range(n_envs)]

    @property
    @abstractmethod
    def rows(self) -> NDArray[np.int64]:
        """Last row of the window that each environment sees, shape (N,)."""

    @abstractmethod
    def _start(self) -> None:
        """Start every environment's first episode and write ``extras``."""

    @abstractmethod
    def _advance(self) -> bool:
        """Execute ``_actions``; return whether any info has something to say."""

    @abstractmethod
    def _note_events(self, infos: list[dict[str, Any]]) -> None:
        """Write to ``infos`` what the step did besides its rewards."""

    @abstractmethod
    def _draw_restart(self, env: int) -> None:
        """Choose where an environment starts its next episode."""

    def reset(self) -> VecEnvObs:
        """Start every environment's first episode."""
        for env, seed in enumerate(self._seeds):
            if seed is not None:
                self._generators[env] = np.random.default_rng(seed)
            self._draw_restart(env)
        self._reset_seeds()
        self._reset_options()
        self._start()
        return self.observe()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Note the actions."""
        self._actions[:] = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Advance every environment by one candle; ended episodes start again at once."""
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if self._advance():
            self._note_events(infos)
        outcome = self.outcome
        dones = outcome["terminated"] | outcome["truncated"]
        return self.observe(), outcome["reward"].astype(np.float32), dones, infos

    def observe(self) -> NDArray[np.float32]:
        """Return what every environment sees now, shape (N, window * F + E)."""
        self._buffers.reverse()
        kernels.gather_windows(self.features, self.rows, self.extras, self._buffers[0])
        return self._buffers[0]

    def note_end(self, env: int, last_row: int, info: dict[str, Any]) -> None:
        """Write what stable-baselines3 wants to know of an ended episode, and draw the next."""
        observation = np.zeros((1, self._buffers[0].shape[1]), dtype=np.float32)
        rows = np.array([last_row], dtype=np.int64)
        extras = self._last_extras[env : env + 1]
        kernels.gather_windows(self.features, rows, extras, observation)
        info["terminal_observation"] = observation[0]
        info["TimeLimit.truncated"] = bool(self.outcome["truncated"][env])
        self._draw_restart(env)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are valid now: bool, shape (N, n_actions)."""
        n_actions = int(self.action_space.n)  # type: ignore[attr-defined]
        return self.extras[:, -n_actions:] > 0.5

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
        """Return ``action_masks``, one row per environment, as sb3-contrib asks for them.

        Other methods are refused: the environments share one object.
        """
        if method_name == "action_masks":
            masks = self.action_masks()
            return [masks[index].copy() for index in self._get_indices(indices)]
        raise AttributeError(f"{method_name}: batched environments have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return False for every environment."""
        return [False for _ in self._get_indices(indices)]

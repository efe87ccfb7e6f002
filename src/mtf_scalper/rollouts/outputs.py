"""Logits and values of what the environments see, each candle through the network only once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.ppo.towers import Towers
from mtf_scalper.rollouts.candle_vec_env import CandleVecEnv
from mtf_scalper.simulator.kernels import gather_windows

_ROWS_AHEAD = 256
"""Candles per environment that are computed at once: what comes next is known."""


class NetworkOutputs:
    """The network's outputs during one rollout, in which its weights do not change.

    Where the network sees the window alone, its outputs at a candle are the same for every
    environment and visit, and are computed for many candles ahead in one pass. Where it sees the
    position too, every step is a pass of its own.

    Parameters
    ----------
    towers : Towers
    env : CandleVecEnv
    features : ndarray of float32, shape (T, F)
        Those of ``env`` in the network's units.
    n_masked : int
        Columns at the end of ``env.extras`` that the network does not see.
    """

    def __init__(
        self, towers: Towers, env: CandleVecEnv, features: NDArray[np.float32], n_masked: int
    ) -> None:
        self._towers = towers
        self._env = env
        self._features = features
        self._n_masked = n_masked
        self._n_inputs = env.extras.shape[1] - n_masked
        self._n_actions = towers.policy_tower.layers[-1].weight.shape[0]
        n_rows = len(env.features)
        self._known = np.zeros(0 if self._n_inputs else n_rows, dtype=np.bool_)
        self._logits = np.zeros((len(self._known), self._n_actions), dtype=np.float32)
        self._values = np.zeros(len(self._known), dtype=np.float32)
        self._all_valid = np.ones((env.num_envs, self._n_actions), dtype=np.float32)

    def now(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of what the environments see now, and write its values to ``values``.

        Parameters
        ----------
        values : ndarray of float32, shape (N,)

        Returns
        -------
        ndarray of float32, shape (N, A)
        """
        rows = self._env.rows
        if self._n_inputs:
            logits, seen = self._through(rows, self._env.extras[:, : self._n_inputs])
            values[:] = seen
            return logits
        if not self._known[rows].all():
            self._look_ahead(rows)
        values[:] = self._values[rows]
        return self._logits[rows]

    def masks(self) -> NDArray[np.float32]:
        """Return 1 where an action is valid now, else 0: shape (N, A)."""
        if not self._n_masked:
            return self._all_valid
        return self._env.extras[:, -self._n_masked :]

    def _look_ahead(self, rows: NDArray[np.int64]) -> None:
        wanted = np.zeros(len(self._known), dtype=np.bool_)
        for row in rows:
            wanted[row : row + _ROWS_AHEAD] = True
        missing = np.flatnonzero(wanted & ~self._known)
        nothing = np.zeros((len(missing), 0), dtype=np.float32)
        self._logits[missing], self._values[missing] = self._through(missing, nothing)
        self._known[missing] = True

    def _through(
        self, rows: NDArray[np.int64], extras: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        towers = self._towers
        logits = np.empty((len(rows), self._n_actions), dtype=np.float32)
        values = np.empty(len(rows), dtype=np.float32)
        size = len(towers.value_tower.output)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            inputs = towers.new_inputs(len(rows[part]))
            gather_windows(self._features, rows[part], extras[part], inputs.numpy())
            logits[part] = towers.policy_tower.forward(inputs).numpy()
            values[part] = towers.value_tower.forward(inputs)[:, 0].numpy()
        return logits, values

"""All environments in this process, advanced by one compiled call per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.market.market import Market
from mtf_scalper.rollouts.candle_vec_env import CandleVecEnv
from mtf_scalper.settings import Settings
from mtf_scalper.simulator import kernels
from mtf_scalper.simulator.exits import EXIT_CODES
from mtf_scalper.simulator.observation import n_extras
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.reward_kernels import compiled_reward
from mtf_scalper.simulator.types import N_ACTIONS, ExitReason, Side, Trade


class BatchedVecEnv(CandleVecEnv):
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
    ``outcome`` holds all that the last step did, as arrays. The info of an environment is empty
    but for ``trade`` where a trade closed, and for the end of an episode.
    """

    def __init__(self, market: Market, settings: Settings, first_rows: Sequence[int]) -> None:
        n_envs = len(first_rows)
        super().__init__(
            market,
            settings,
            n_envs,
            n_extras=n_extras(settings),
            n_actions=N_ACTIONS,
            outcome=np.zeros(n_envs, kernels.OUTCOME),
        )
        self.state = np.zeros(n_envs, kernels.STATE)
        self._terms = prepare(market, settings).terms
        drawdown, steps = settings.rules.max_training_drawdown, settings.max_episode_steps
        if drawdown is not None:
            self._terms = kernels.terms_with(self._terms, min_equity=1.0 - drawdown)
        if steps is not None:
            self._terms = kernels.terms_with(self._terms, max_episode_steps=steps)
        self._reward = compiled_reward(settings)
        self._lowest_row = settings.window_size - 1
        self._first_rows = np.asarray(first_rows, dtype=np.int64)
        self._restart_rows = np.full(n_envs, self._lowest_row, dtype=np.int64)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of each environment's next decision, shape (N,)."""
        rows: NDArray[np.int64] = self.state["row"]
        return rows

    def _start(self) -> None:
        kernels.start_episodes(self.state, self._first_rows)
        kernels.observe(self._terms, self.state, self.extras)

    def _advance(self) -> bool:
        events = kernels.step(
            self._terms,
            self.state,
            self._actions,
            self._restart_rows,
            self.outcome,
            self.extras,
            self._last_extras,
        )
        if self._reward is not None:
            self._reward.write(self.outcome, self._actions)
        return bool(events)

    def _note_events(self, infos: list[dict[str, Any]]) -> None:
        outcome = self.outcome
        for env in np.flatnonzero(outcome["exit_code"]):
            infos[env]["trade"] = self._trade(int(env))
        for env in np.flatnonzero(outcome["terminated"] | outcome["truncated"]):
            self.note_end(int(env), int(outcome["row"][env]), infos[env])

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
            exit_reason=ExitReason(EXIT_CODES[int(outcome["exit_code"][env])]),
        )

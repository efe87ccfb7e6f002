"""freqtrade's own training environments, N at once, advanced by one compiled call per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.rollouts import freqtrade_kernels as kernels
from mtf_scalper.rollouts.candle_vec_env import CandleVecEnv
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.prepared import check_length


class FreqtradeVecEnv(CandleVecEnv):
    """freqtrade's training environment N times, behind stable-baselines3's interface.

    Parameters
    ----------
    market : Market
        Trades at its opens; needs at least ``window_size + 2`` candles. Signals, leverage, funding
        and tick sizes have no effect.
    settings : Settings
        Uses ``n_actions``, ``window_size``, ``max_episode_steps``, ``randomize_starting_position``
        and ``reward_parameters``; of ``rules`` only ``can_short`` (3 actions),
        ``max_training_drawdown`` (0.8 by default) and ``max_trade_duration_candles`` (300 by
        default), which shapes the reward and ends no trade.
    first_rows : sequence of int
        Last row of the window with which each environment's first episode starts, from
        ``window_size - 1`` to ``len(market) - 2``; its length is N. freqtrade's start tick is one
        more, and freqtrade itself starts at tick ``window_size``. No episode of one step or more
        starts on the last of these rows; it starts on the row before.
    compound_trades : bool
        Whether profits multiply, as with freqtrade's ``stake_amount`` "unlimited", or add up.
        ``max_training_drawdown`` looks at their total; rewards do not.

    Attributes
    ----------
    outcome : ndarray of OUTCOME, shape (N,)
        All that the last step did, freqtrade's info among it.
    state : ndarray of STATE, shape (N,)

    Raises
    ------
    MarketError
        If the market is too short, or a first row lies outside of it.

    Notes
    -----
    Later episodes start at tick ``window_size``, or with ``randomize_starting_position`` at a tick
    drawn evenly from ``window_size + 1`` to a quarter of the last tick. freqtrade draws it from
    one generator for all; here each environment has its own, seeded by ``seed``.

    freqtrade punishes invalid actions and forbids none, so the masks in ``extras`` are all ones.
    What freqtrade calls valid is told by ``action_masks``.
    """

    def __init__(
        self,
        market: Market,
        settings: Settings,
        first_rows: Sequence[int],
        *,
        compound_trades: bool = True,
    ) -> None:
        self._lowest_row = settings.window_size - 1
        self._check(market, settings, first_rows)
        n_envs = len(first_rows)
        super().__init__(
            market,
            settings,
            n_envs,
            n_extras=settings.n_actions,
            n_actions=settings.n_actions,
            outcome=np.zeros(n_envs, kernels.OUTCOME),
        )
        self.extras[:] = 1.0
        self._last_extras[:] = 1.0
        self.state = np.zeros(n_envs, kernels.STATE)
        self._opens = np.ascontiguousarray(market.ohlc[:, 0])
        self._moves = kernels.moves_of(settings.n_actions, settings.rules.can_short)
        self._valid_moves = kernels.valid_moves(self._moves)
        self._rules = kernels.rules_of(market, settings, compound_trades)
        # freqtrade ends an episode when it arrives at the last tick, so none may start there.
        self._first_rows = np.minimum(np.asarray(first_rows, dtype=np.int64), len(market) - 3)
        self._restart_rows = np.full(n_envs, self._lowest_row, dtype=np.int64)
        self._start()

    @property
    def rows(self) -> NDArray[np.int64]:
        """Last row of the window that each environment sees, shape (N,)."""
        rows: NDArray[np.int64] = self.state["row"]
        return rows

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions freqtrade would not punish now: bool, shape (N, n_actions)."""
        valid: NDArray[np.bool_] = self._valid_moves[self.state["side"] + 1]
        return valid

    def _check(self, market: Market, settings: Settings, first_rows: Sequence[int]) -> None:
        window, n_candles = settings.window_size, len(market)
        check_length(market, window)
        least = 4 * (window + 1) + 1
        if settings.randomize_starting_position and n_candles < least:
            raise MarketError(
                f"{market.pair}: {n_candles} candles are too few to start a window of {window} in "
                f"their first quarter; at least {least} are needed, or "
                f"randomize_starting_position false"
            )
        for row in first_rows:
            if not self._lowest_row <= row <= n_candles - 2:
                raise MarketError(
                    f"{market.pair}: an episode cannot start at row {row}; "
                    f"rows {self._lowest_row} to {n_candles - 2} are possible"
                )

    def _start(self) -> None:
        kernels.start_episodes(self.state, self._first_rows)

    def _advance(self) -> bool:
        ended = kernels.step(
            self._opens,
            self._moves,
            self._rules,
            self.state,
            self._actions,
            self._restart_rows,
            self.outcome,
        )
        return bool(ended)

    def _note_events(self, infos: list[dict[str, Any]]) -> None:
        outcome = self.outcome
        for env in np.flatnonzero(outcome["terminated"] | outcome["truncated"]):
            self.note_end(int(env), int(outcome["row"][env]), infos[env])

    def _draw_restart(self, env: int) -> None:
        """Choose where the environment starts again, as ``BaseEnvironment.reset`` does."""
        if self.settings.randomize_starting_position:
            lowest, highest = self.settings.window_size + 1, (len(self.market) - 1) // 4
            tick = self._generators[env].integers(lowest, highest, endpoint=True)
            self._restart_rows[env] = tick - 1

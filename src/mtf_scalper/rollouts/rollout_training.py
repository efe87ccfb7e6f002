"""Learning from rollouts in environments: stable-baselines3's PPO, or ``FastPPO`` in its place."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from mtf_scalper.errors import WeightsError
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.checkpoints import give_up, new_model, training_facts
from mtf_scalper.ppo.compute import ComputeSetup
from mtf_scalper.ppo.finite import check_learned
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.ppo.team import team
from mtf_scalper.records.events import EventLog, HistoryRow, Progress, ProgressCallback
from mtf_scalper.rollouts.candle_vec_env import CandleVecEnv
from mtf_scalper.rollouts.fast_ppo import FastPPO
from mtf_scalper.settings import Algorithm, Settings
from mtf_scalper.simulator.types import Action

logger = logging.getLogger(__name__)


def learn_from_rollouts(
    env: VecEnv,
    settings: Settings,
    validation: Market | None,
    compute: ComputeSetup,
    *,
    market: Market,
    initial: PPO | None,
    on_progress: ProgressCallback | None,
    events: EventLog,
    tensorboard_log: str | None,
) -> tuple[PPO, list[HistoryRow]]:
    """Train on environments over ``market``, as many steps as its candles times the cycles.

    See ``train`` for the other arguments.

    Returns
    -------
    model : PPO
        With the weights of the best validation return, or the last ones without validation.
    history : list of HistoryRow
        One row per update.
    """
    vec_env = VecMonitor(env)
    model = new_model(
        _algorithm(vec_env, settings, compute),
        MaskedPolicy,
        vec_env,
        settings,
        compute,
        initial,
        tensorboard_log,
    )
    if initial is None:
        assert isinstance(model.policy, MaskedPolicy)
        model.policy.standard.fit(market.features, settings.window_size)
    total_steps = settings.train_cycles * len(market)
    events.write("training_started", **training_facts(model, settings, compute, total_steps))
    callback = _TrainingCallback(
        model, settings, validation, total_steps, on_progress, events, pair=market.pair
    )
    try:
        with team():
            _learn(model, total_steps, callback, market.pair, settings)
    except WeightsError as error:
        give_up(model, error)
    callback.load_best()
    return model, callback.history


def _algorithm(env: VecMonitor, settings: Settings, compute: ComputeSetup) -> type[PPO]:
    """Return the class that learns: ``FastPPO`` where it is wanted and can run."""
    if settings.algorithm is Algorithm.PPO:
        return PPO
    if isinstance(env.venv, CandleVecEnv) and compute.device == "cpu":
        return FastPPO
    logger.info(
        "stable-baselines3's PPO learns: fast_ppo needs vec_env 'batched' on the CPU, not %s on %s",
        settings.vec_env,
        compute.device,
    )
    return PPO


def _learn(
    model: PPO, total_steps: int, callback: BaseCallback, pair: str, settings: Settings
) -> None:
    try:
        model.learn(total_steps, callback=callback, reset_num_timesteps=True)
    except ValueError:
        # stable-baselines3's own PPO stops at the first probability that is no number.
        check_learned(pair, model.policy.state_dict(), settings)
        raise
    finally:
        # stable-baselines3 leaves the TensorBoard file open.
        if hasattr(model, "_logger"):
            model.logger.close()


class _TrainingCallback(BaseCallback):
    """Reports progress, validates after every update and logs what the environments traded."""

    _REPORT_SECONDS = 0.5

    def __init__(
        self,
        model: PPO,
        settings: Settings,
        validation: Market | None,
        total_steps: int,
        on_progress: ProgressCallback | None,
        events: EventLog,
        *,
        pair: str,
    ) -> None:
        super().__init__()
        self._pair = pair
        self.history: list[HistoryRow] = []
        self._policy = Policy(model, settings)
        self._validation = validation
        self._total_steps = total_steps
        self._on_progress = on_progress
        self._events = events
        self._started = self._reported = time.monotonic()
        self._best: tuple[float, bytes] | None = None
        self._last = _packed(model)
        self._updates = 0
        self._tally = _Tally()

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        # Batched environments tell what they executed in one array instead of N dictionaries.
        outcome = getattr(self.training_env, "outcome", None)
        executed = [i["executed"] for i in infos] if outcome is None else outcome["executed"]
        self._tally.add(executed, infos)
        if time.monotonic() - self._reported >= self._REPORT_SECONDS:
            self._report("rollout")
        return True

    def _on_rollout_start(self) -> None:
        # Called before the first rollout too, when nothing has been learned yet.
        if self._updates:
            self._after_update()
        self._report("rollout")

    def _on_rollout_end(self) -> None:
        self._updates += 1
        for name, value in self._tally.shares().items():
            self.logger.record(name, value)
        self._tally = _Tally()
        self._report("update")

    def _on_training_end(self) -> None:
        self._after_update()
        self._report("update")

    def load_best(self) -> None:
        """Put the weights with the best validation return back, the last finite ones without it."""
        packed = self._last if self._best is None else self._best[1]
        weights = torch.load(io.BytesIO(packed), weights_only=True)
        self.model.policy.load_state_dict(weights)

    def _after_update(self) -> None:
        check_learned(self._pair, self.model.policy.state_dict(), self._policy.settings)
        log_return = trades = None
        if self._validation is not None:
            run = simulate(self._policy, self._validation)
            log_return, trades = run.log_return, len(run.trades)
            self.logger.record("validation/log_return", log_return)
            self.logger.record("validation/trades", trades)
            if self._best is None or log_return > self._best[0]:
                self._best = (log_return, _packed(self.model))
        else:
            self._last = _packed(self.model)
        episodes = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        row = HistoryRow(
            steps=self.model.num_timesteps,
            seconds=time.monotonic() - self._started,
            mean_episode_return=float(sum(episodes) / len(episodes)) if episodes else None,
            validation_log_return=log_return,
            validation_trades=trades,
        )
        self.history.append(row)
        # Here, and not with the next rollout, the update's losses stand at the steps that made
        # them, and those of the last update are not lost.
        self.logger.dump(self.model.num_timesteps)
        self._events.write("update", **{**asdict(row), "seed": self.model.seed})

    def _report(self, phase: str) -> None:
        self._reported = time.monotonic()
        progress = Progress(
            steps=self.model.num_timesteps,
            total_steps=max(self._total_steps, self.model.num_timesteps),
            seconds=self._reported - self._started,
            phase=phase,
        )
        self._events.write("progress", **asdict(progress))
        if self._on_progress is not None:
            self._on_progress(progress)


def _packed(model: BaseAlgorithm) -> bytes:
    buffer = io.BytesIO()
    torch.save(model.policy.state_dict(), buffer)
    return buffer.getvalue()


class _Tally:
    """Counts over all environments of one rollout, for TensorBoard."""

    def __init__(self) -> None:
        self._steps = 0
        self._actions = np.zeros(len(Action), dtype=np.int64)
        self._profits: list[float] = []
        self._exits: dict[str, int] = {}

    def add(self, executed: Sequence[int], infos: list[dict[str, Any]]) -> None:
        self._steps += len(infos)
        self._actions += np.bincount(executed, minlength=len(Action))
        for info in infos:
            trade = info.get("trade")
            if trade is not None:
                self._profits.append(trade.profit_ratio)
                self._exits[trade.exit_reason] = self._exits.get(trade.exit_reason, 0) + 1

    def shares(self) -> dict[str, float]:
        """Return scalars by TensorBoard name."""
        scalars = {
            f"actions/{action.name.lower()}": float(self._actions[action]) / self._steps
            for action in Action
        }
        scalars["trades/per_1000_steps"] = 1000.0 * len(self._profits) / self._steps
        if self._profits:
            n_trades = len(self._profits)
            scalars["trades/win_rate"] = sum(p > 0.0 for p in self._profits) / n_trades
            scalars["trades/mean_profit_ratio"] = sum(self._profits) / n_trades
        for reason, count in self._exits.items():
            scalars[f"exits/{reason}"] = count / len(self._profits)
        return scalars

"""``train``: one market and one settings object in, one policy out."""

from __future__ import annotations

import copy
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from mtf_scalper.compute import ComputeSetup, configure_torch
from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.inference import Policy, simulate
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.fast_ppo import FastPPO
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.settings import Algorithm, Settings
from mtf_scalper.simulator.candle_vec_env import CandleVecEnv
from mtf_scalper.simulator.environments import make_vec_env
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Action
from mtf_scalper.telemetry import EventLog, Progress

__all__ = ["HistoryRow", "ProgressCallback", "TrainResult", "train"]

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class HistoryRow:
    """State of a training after one update.

    Attributes
    ----------
    steps : int
        Environment steps so far.
    seconds : float
        Since the training began.
    mean_episode_return : float or None
        Mean reward of the last 100 episodes.
    validation_log_return : float or None
        Log of the final equity on the validation market.
    validation_trades : int or None
        Trades on the validation market.
    """

    steps: int
    seconds: float
    mean_episode_return: float | None
    validation_log_return: float | None
    validation_trades: int | None


@dataclass(frozen=True)
class TrainResult:
    """A trained policy and how it came about.

    Attributes
    ----------
    policy : Policy
        The weights with the best validation return, or the last ones without validation.
    history : tuple of HistoryRow
        One row per update.
    compute : ComputeSetup
    steps : int
        Environment steps trained.
    seconds : float
        Wall time of the training, environments' start and end included.
    """

    policy: Policy
    history: tuple[HistoryRow, ...]
    compute: ComputeSetup
    steps: int
    seconds: float

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of the whole training."""
        return self.steps / self.seconds


def train(
    market: Market,
    settings: Settings,
    validation: Market | None = None,
    *,
    initial: PPO | None = None,
    env: VecEnv | None = None,
    on_progress: ProgressCallback | None = None,
    events: EventLog | None = None,
    tensorboard_log: Path | None = None,
) -> TrainResult:
    """Train a PPO policy on ``market``.

    Parameters
    ----------
    market : Market
        What it learns on.
    settings : Settings
        Every setting of the run.
    validation : Market, optional
        Later candles of the same features; after every update the policy trades them, and the
        weights with the best log return there are kept.
    initial : PPO, optional
        A model whose weights and optimiser state to go on from (continual learning); it stays as
        it is, and everything else comes from ``settings``.
    env : VecEnv, optional
        Environments over ``market`` to use instead of ``make_vec_env(market, settings)``. They
        are closed at the end of the training, as those would be.
    on_progress : callable, optional
        Called with a ``Progress`` about twice a second.
    events : EventLog, optional
        Told what was in force and how the training went.
    tensorboard_log : Path, optional
        Folder of the TensorBoard run.

    Raises
    ------
    MarketError, SettingsError
        Before the first step.
    WorkerDiedError
        If an environment process ends; all others are ended too.
    """
    started = time.monotonic()
    events = events or EventLog(None)
    compute = configure_torch(settings)
    vec_env = VecMonitor(env if env is not None else make_vec_env(market, settings))
    try:
        if validation is not None:
            _check_validation(market, validation, settings)
        model = _make_model(vec_env, settings, compute, initial, tensorboard_log)
        total_steps = settings.train_cycles * len(market)
        events.write("training_started", **_facts_in_force(model, settings, compute, total_steps))
        callback = _TrainingCallback(model, settings, validation, total_steps, on_progress, events)
        _learn(model, total_steps, callback)
    except BaseException as error:
        events.write("training_failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        vec_env.close()
    callback.load_best()
    _release(model)
    result = TrainResult(
        policy=Policy(model, settings),
        history=tuple(callback.history),
        compute=compute,
        steps=model.num_timesteps,
        seconds=time.monotonic() - started,
    )
    events.write(
        "training_finished",
        steps=result.steps,
        seconds=result.seconds,
        steps_per_second=result.steps_per_second,
        history=[asdict(row) for row in result.history],
    )
    return result


def _make_model(
    env: VecMonitor,
    settings: Settings,
    compute: ComputeSetup,
    initial: PPO | None,
    tensorboard_log: Path | None,
) -> PPO:
    algorithm = _algorithm(env, settings, compute)
    model = algorithm(
        MaskedPolicy,
        env,
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.n_epochs,
        learning_rate=settings.learning_rate,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        clip_range_vf=settings.clip_range_vf,
        normalize_advantage=settings.normalize_advantage,
        ent_coef=settings.ent_coef,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.max_grad_norm,
        target_kl=settings.target_kl,
        policy_kwargs={"activation_fn": torch.nn.ReLU, "net_arch": list(settings.net_arch)},
        tensorboard_log=None if tensorboard_log is None else str(tensorboard_log),
        device=compute.device,
        seed=settings.random_state,
    )
    if initial is not None:
        _take_over(model, initial)
    return model


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


def _take_over(model: PPO, initial: PPO) -> None:
    """Copy weights and optimiser state from ``initial``."""
    theirs, ours = (
        {name: tuple(weights.shape) for name, weights in ppo.policy.state_dict().items()}
        for ppo in (initial, model)
    )
    if theirs != ours:
        raise SettingsError(
            "net_arch, the window or the features differ from those of the model to go on from; "
            "switch continual learning off or start under another identifier"
        )
    model.policy.load_state_dict(initial.policy.state_dict())
    # The optimiser would go on to share its running averages with the model that they came from.
    model.policy.optimizer.load_state_dict(copy.deepcopy(initial.policy.optimizer.state_dict()))


def _check_validation(market: Market, validation: Market, settings: Settings) -> None:
    """Find what would fail only after the first update."""
    ReferenceEnv(validation, settings)
    if validation.feature_names != market.feature_names:
        raise MarketError(
            f"{validation.pair}: the validation market has other features "
            f"({validation.n_features}) than the training market ({market.n_features})"
        )


def _learn(model: PPO, total_steps: int, callback: BaseCallback) -> None:
    try:
        model.learn(total_steps, callback=callback, reset_num_timesteps=True)
    finally:
        # stable-baselines3 leaves the TensorBoard file open.
        if hasattr(model, "_logger"):
            model.logger.close()


def _release(model: PPO) -> None:
    """Drop what only training needed: closed environments and the rollout's memory."""
    model.env = None
    del model.rollout_buffer


def _facts_in_force(
    model: PPO, settings: Settings, compute: ComputeSetup, total_steps: int
) -> dict[str, Any]:
    """Return what the training really uses, read from the objects that do the work."""
    return {
        "total_steps": total_steps,
        "algorithm": type(model).__name__,
        "n_envs": model.n_envs,
        "vec_env": str(settings.vec_env),
        "torch_threads": compute.threads,
        "torch_interop_threads": compute.interop_threads,
        "device": str(model.device),
        "batch_size": model.batch_size,
        "n_steps": model.n_steps,
        "n_epochs": model.n_epochs,
        "layer_sizes": [
            layer.out_features
            for layer in model.policy.mlp_extractor.policy_net
            if isinstance(layer, torch.nn.Linear)
        ],
        "random_state": settings.random_state,
    }


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
    ) -> None:
        super().__init__()
        self.history: list[HistoryRow] = []
        self._policy = Policy(model, settings)
        self._validation = validation
        self._total_steps = total_steps
        self._on_progress = on_progress
        self._events = events
        self._started = self._reported = time.monotonic()
        self._best: tuple[float, bytes] | None = None
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
        """Put the weights with the best validation return back into the model."""
        if self._best is not None:
            weights = torch.load(io.BytesIO(self._best[1]), weights_only=True)
            self.model.policy.load_state_dict(weights)

    def _after_update(self) -> None:
        log_return = trades = None
        if self._validation is not None:
            run = simulate(self._policy, self._validation)
            log_return, trades = run.log_return, len(run.trades)
            self.logger.record("validation/log_return", log_return)
            self.logger.record("validation/trades", trades)
            if self._best is None or log_return > self._best[0]:
                buffer = io.BytesIO()
                torch.save(self.model.policy.state_dict(), buffer)
                self._best = (log_return, buffer.getvalue())
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
        self._events.write("update", **asdict(row))

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

"""Learning from exact advantages: every pass evaluates the policy exactly and then improves it.

Three failures are common in this field, and each has its answer here. *Never trades*: at the start
a policy that acts at random pays fees all the time, and the nearest cure is to do nothing; so fees
rise from zero to what they are over the first part of the training, and the policy begins with a
bias to keep its position, which makes its first trades long ones. *Trades all the time*: fees are
exact from then on, to the last candle. *Over-fits*: a large network knows a month of candles by
heart within seconds; so the weights that earn most on held-back candles are kept, decayed weights
slow the learning by heart, and the training ends when nothing better comes.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import configure_logger

from mtf_scalper.compute import ComputeSetup
from mtf_scalper.market.market import Market
from mtf_scalper.models import facts_in_force, new_model
from mtf_scalper.ppo.contexts import Book
from mtf_scalper.ppo.exact_learner import ExactLearner
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.position_policy import PositionPolicy
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.oracle import best_actions
from mtf_scalper.simulator.types import Action
from mtf_scalper.simulator.vec_env import BatchedVecEnv
from mtf_scalper.telemetry import EventLog, HistoryRow, Progress, ProgressCallback

__all__ = ["held_back", "learn_exactly"]

logger = logging.getLogger(__name__)

_SMOOTHED_PASSES = 5
"""Validation returns whose mean decides which weights are kept."""


def learn_exactly(
    markets: Sequence[Market],
    settings: Settings,
    validation: Sequence[Market],
    compute: ComputeSetup,
    *,
    initial: PPO | None,
    on_progress: ProgressCallback | None,
    events: EventLog,
    tensorboard_log: str | None,
) -> tuple[PPO, list[HistoryRow]]:
    """Train one policy on all markets together; see ``train`` for the arguments.

    Returns
    -------
    model : PPO
        With the weights of the best validation return, or the last ones without validation.
    history : list of HistoryRow
        One row per pass.
    """
    model = _new_model(markets[0], settings, compute, initial, tensorboard_log)
    steps_per_cycle = sum(len(market) for market in markets)
    total_steps = settings.train_cycles * steps_per_cycle
    events.write("training_started", **facts_in_force(model, settings, compute, total_steps))
    report = _Reports(model, total_steps, on_progress, events)
    report.progress("evaluation")
    book = Book(markets, settings)
    learner = ExactLearner(model.policy, book, settings)
    judge = _Judge(learner, validation, settings, model)
    try:
        for cycle in range(settings.train_cycles):
            fee_share = _fee_share(cycle, settings)
            report.progress("update")
            losses = learner.cycle(fee_share)
            model.num_timesteps = (cycle + 1) * steps_per_cycle
            judge.look(is_at_full_fees=fee_share >= 1.0)
            report.after_cycle(losses, fee_share, judge)
            if judge.is_done:
                break
    finally:
        model.logger.close()
    judge.load_best()
    return model, report.history


def _new_model(
    market: Market,
    settings: Settings,
    compute: ComputeSetup,
    initial: PPO | None,
    tensorboard_log: str | None,
) -> PPO:
    sees_position = settings.add_state_info
    layers: Any = list(settings.net_arch)
    model = new_model(
        PPO,
        PositionPolicy if sees_position else MaskedPolicy,
        # Only its spaces are looked at.
        BatchedVecEnv(market, settings, [settings.window_size - 1] * settings.n_envs),
        settings,
        compute,
        initial,
        tensorboard_log,
        # No value function is learned: values are computed.
        net_arch=layers if sees_position else {"pi": layers, "vf": []},
        optimizer_class=torch.optim.AdamW,
        optimizer_kwargs={"eps": 1e-5, "weight_decay": settings.weight_decay},
    )
    if initial is None:
        with torch.no_grad():
            _logit_biases(model)[Action.NEUTRAL] += settings.keep_bias
    model._logger = configure_logger(0, tensorboard_log, "PPO")
    return model


def _logit_biases(model: PPO) -> torch.Tensor:
    output = model.policy.action_net
    assert isinstance(output, torch.nn.Linear)
    return output.bias


def _fee_share(cycle: int, settings: Settings) -> float:
    """Return the share of the fees in force: linear over the first part of the training."""
    rising = settings.fee_warmup * settings.train_cycles
    return 1.0 if cycle >= rising else cycle / rising


class _Judge:
    """Keeps the weights that earn most on held-back candles, and says when nothing better comes.

    A few days of candles hold few independent trades, and the best of thirty passes by one return
    is mostly the luckiest. Passes are compared by the mean of their last few returns, and none is
    kept whose return is not ``evidence`` standard errors above that of the policy before the
    training: one that trades nothing, or leaves all exits to the rules.
    """

    def __init__(
        self, learner: ExactLearner, validation: Sequence[Market], settings: Settings, model: PPO
    ) -> None:
        self._learner = learner
        self._model = model
        self._patience = settings.patience
        self._evidence = settings.evidence
        self._book = Book(validation, settings) if validation else None
        self._oracle = 0.0
        self._weights = copy.deepcopy(model.policy.state_dict())
        self._best = -math.inf
        self._start = 0.0
        if self._book is not None:
            self._oracle = sum(best_actions(chains).value for chains in self._book.chains)
            self._start = learner.score(self._book).log_return
        self._latest: deque[float] = deque(maxlen=_SMOOTHED_PASSES)
        self._waited = 0
        self.log_return: float | None = None
        self.n_trades: int | None = None

    @property
    def oracle_share(self) -> float | None:
        """Latest validation return as a share of the hindsight optimum, if there is one."""
        if self.log_return is None or self._oracle <= 0.0:
            return None
        return self.log_return / self._oracle

    @property
    def is_done(self) -> bool:
        """Whether the training may end."""
        return self._waited >= self._patience

    @property
    def learned_nothing(self) -> bool:
        """Whether no pass was better than the policy before the training by enough."""
        return self._book is not None and self._best == -math.inf

    def look(self, *, is_at_full_fees: bool) -> None:
        """Let the policy trade the held-back candles."""
        with self._learner.averaged():
            weights = copy.deepcopy(self._model.policy.state_dict())
            score = None if self._book is None else self._learner.score(self._book)
        if score is None:
            self._weights = weights
            return
        self.log_return, self.n_trades = score.log_return, score.n_trades
        self._latest.append(score.log_return)
        smoothed = float(np.mean(self._latest))
        is_evident = smoothed - self._start > self._evidence * score.deviation
        if is_evident and smoothed > self._best:
            self._best, self._weights = smoothed, weights
            self._waited = 0
        elif is_at_full_fees:
            self._waited += 1

    def load_best(self) -> None:
        """Put the weights that are kept into the model."""
        if self.learned_nothing:
            logger.warning(
                "nothing was learned: no pass earned %g standard errors more on the held-back "
                "candles than the policy before the training, which is kept",
                self._evidence,
            )
        self._model.policy.load_state_dict(self._weights)


class _Reports:
    """Tells history, log, events and a person how far the training is."""

    def __init__(
        self,
        model: PPO,
        total_steps: int,
        on_progress: ProgressCallback | None,
        events: EventLog,
    ) -> None:
        self.history: list[HistoryRow] = []
        self._model = model
        self._total_steps = total_steps
        self._on_progress = on_progress
        self._events = events
        self._started = time.monotonic()
        self._oracle_share: float | None = None

    def progress(self, phase: str) -> None:
        """Tell the progress."""
        progress = Progress(
            steps=self._model.num_timesteps,
            total_steps=self._total_steps,
            seconds=time.monotonic() - self._started,
            phase=phase,
            oracle_share=self._oracle_share,
        )
        self._events.write("progress", **asdict(progress))
        if self._on_progress is not None:
            self._on_progress(progress)

    def after_cycle(self, losses: dict[str, float], fee_share: float, judge: _Judge) -> None:
        """Tell what a pass brought."""
        self._oracle_share = judge.oracle_share
        row = HistoryRow(
            steps=self._model.num_timesteps,
            seconds=time.monotonic() - self._started,
            mean_episode_return=losses.pop("objective"),
            validation_log_return=judge.log_return,
            validation_trades=judge.n_trades,
            oracle_share=judge.oracle_share,
        )
        self.history.append(row)
        logger = self._model.logger
        for name, value in losses.items():
            logger.record(f"train/{name}", value)
        logger.record("train/fee_share", fee_share)
        logger.record("rollout/ep_rew_mean", row.mean_episode_return)
        validation = {
            "log_return": row.validation_log_return,
            "trades": row.validation_trades,
            "oracle_share": row.oracle_share,
        }
        for name, seen in validation.items():
            if seen is not None:
                logger.record(f"validation/{name}", seen)
        logger.dump(row.steps)
        self._events.write("update", **asdict(row))
        self.progress("evaluation")


def held_back(markets: Sequence[Market], settings: Settings) -> tuple[list[Market], list[Market]]:
    """Split each market into what is learned on and its last part, which selects the weights.

    A market whose last part would be no longer than a window is not split.
    """
    train, validation = [], []
    for market in markets:
        n_held = int(np.floor(len(market) * settings.validation_share))
        if n_held < settings.window_size + 2 or len(market) - n_held < settings.window_size + 2:
            train.append(market)
            continue
        train.append(market.slice(0, len(market) - n_held))
        validation.append(market.slice(len(market) - n_held, len(market)))
    return train, validation

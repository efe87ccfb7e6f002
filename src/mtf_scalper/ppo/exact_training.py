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

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.utils import configure_logger

from mtf_scalper.errors import SettingsError, WeightsError
from mtf_scalper.market.market import Market
from mtf_scalper.ppo.base_policy import base_of, choose_thresholds
from mtf_scalper.ppo.checkpoints import Spaces, give_up, load_weights, new_model, training_facts
from mtf_scalper.ppo.compute import ComputeSetup
from mtf_scalper.ppo.contexts import Book
from mtf_scalper.ppo.exact_learner import ExactLearner
from mtf_scalper.ppo.forecasting import fit_forecasts
from mtf_scalper.ppo.forecasts import N_FORECASTS
from mtf_scalper.ppo.late_buffer import LateRolloutBuffer
from mtf_scalper.ppo.masked_policy import MaskedPolicy
from mtf_scalper.ppo.position_policy import PositionPolicy
from mtf_scalper.ppo.selection import Judge
from mtf_scalper.ppo.surrogate import LOSSES
from mtf_scalper.ppo.team import team
from mtf_scalper.records.events import EventLog, HistoryRow, Progress, ProgressCallback
from mtf_scalper.records.trainings import FORETOLD
from mtf_scalper.settings import EntryMode, PolicyInputs, RewardName, Settings
from mtf_scalper.simulator.observation import n_extras
from mtf_scalper.simulator.types import N_ACTIONS, Action

logger = logging.getLogger(__name__)


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

    With ``settings.n_seeds`` above 1 several are trained, one after the other, and averaged.

    Returns
    -------
    model : PPO
        With the weights of the best validation return, or the last ones without validation.
    history : list of HistoryRow
        One row per pass.
    """
    starts = _starting_weights(initial, settings)
    steps_per_pass = sum(len(market) for market in markets)
    total_steps = settings.n_seeds * settings.train_cycles * steps_per_pass
    reports = _Reports(total_steps, on_progress, events)
    models = [
        _new_model(
            markets[0], settings.changed(random_state=settings.random_state + member), compute
        )
        for member in range(settings.n_seeds)
    ]
    facts = training_facts(models[0], settings, compute, total_steps)
    events.write("training_started", **facts, n_seeds=settings.n_seeds)
    reports.progress(0, "evaluation")
    rows = np.concatenate([market.features for market in markets])
    for model, start in zip(models, starts, strict=True):
        if start is None:
            policy = _policy_of(model)
            policy.standard.fit(rows, settings.window_size)
            if settings.used_policy_inputs is PolicyInputs.FORECASTS:
                policy.base_policy.take(base_of(None, N_FORECASTS, settings.keep_bias))
            else:
                _begin_with_a_bias(model, settings)
        else:
            load_weights(model.policy, start)
    inputs = _what_networks_see(models, markets, validation, settings)
    if inputs.foretold is not None:
        events.write(FORETOLD, standard_errors=inputs.foretold, asked=settings.evidence)
    if initial is None and validation and inputs.is_hopeless(settings):
        logger.warning(
            "%s: nothing was learned: returns agree with no forecast at %g standard errors; the "
            "policy before the training is kept",
            ", ".join(dict.fromkeys(market.pair for market in markets)),
            settings.evidence,
        )
    else:
        _learn_all(models, markets, validation, settings, inputs, reports, tensorboard_log)
    model = models[0] if settings.n_seeds == 1 else _ensemble(models, markets[0], settings, compute)
    model.num_timesteps = reports.steps
    return model, reports.history


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What stands before the networks and beside them.

    Attributes
    ----------
    seen : list of ndarray of float32, shape (T, F)
        Their inputs of each market, those held back last.
    foretold : float or None
        Standard errors at which returns agree with the best forecast; None where none are made.
    """

    seen: list[NDArray[np.float32]]
    foretold: float | None = None

    def is_hopeless(self, settings: Settings) -> bool:
        """Say whether there is nothing to learn from: forecasts alone, and none that is evident.

        There is where the rules enter whatever is foretold, where a trade's own profit and age are
        seen, and where the reward is not the return that the forecasts are of.
        """
        enters = settings.rules.entry is EntryMode.ALWAYS
        if enters or settings.add_state_info or settings.reward != RewardName.LOG_RETURN:
            return False
        return self.foretold is not None and self.foretold < settings.evidence


def _what_networks_see(
    models: Sequence[PPO],
    markets: Sequence[Market],
    validation: Sequence[Market],
    settings: Settings,
) -> _Inputs:
    """Fit what stands before the networks and beside them."""
    policies = [_policy_of(model) for model in models]
    every = [*markets, *validation]
    features = [policies[0].standard.of_features(market.features) for market in every]
    if settings.used_policy_inputs is PolicyInputs.FEATURES:
        return _Inputs(features)
    fitted = fit_forecasts(features, every, len(validation), settings)
    for policy in policies:
        policy.forecasts.take(fitted.tables, fitted.without_held_back)
    best = max(0.0, *fitted.evidence)
    logger.info(
        "%s: returns agree with the best of %d forecasts at %.1f standard errors",
        ", ".join(dict.fromkeys(market.pair for market in markets)),
        len(fitted.evidence),
        best,
    )
    return _Inputs(fitted.seen, best)


def _learn_all(
    models: Sequence[PPO],
    markets: Sequence[Market],
    validation: Sequence[Market],
    settings: Settings,
    inputs: _Inputs,
    reports: _Reports,
    tensorboard_log: str | None,
) -> None:
    """Train each policy and let it have the weights that are kept."""
    known = inputs.seen[: len(markets)]
    base = None
    if inputs.foretold is not None:
        found = choose_thresholds(markets, known, settings)
        base = base_of(found, N_FORECASTS, settings.keep_bias)
    book = Book(markets, settings, np.concatenate(known))
    held = None
    if validation:
        held = Book(validation, settings, np.concatenate(inputs.seen[len(markets) :]))
    steps_per_pass = sum(len(market) for market in markets)
    for member, model in enumerate(models):
        name = "PPO" if settings.n_seeds == 1 else f"PPO_seed_{model.seed}"
        if tensorboard_log is not None:
            model.set_logger(configure_logger(0, tensorboard_log, name))
        first_step = member * settings.train_cycles * steps_per_pass
        with team():
            learner = ExactLearner(model.policy, book, settings, seed=model.seed or 0)
            judge = Judge(learner, held, settings, model, inputs.foretold or 0.0)
            # What is judged against is from before this; it is the first that may be kept.
            if base is not None:
                _policy_of(model).base_policy.take(base)
                judge.begin()
            _learn(judge, learner, settings, reports, first_step, steps_per_pass)


def _learn(
    judge: Judge,
    learner: ExactLearner,
    settings: Settings,
    reports: _Reports,
    first_step: int,
    steps_per_pass: int,
) -> None:
    """Train one policy."""
    model = judge.model
    try:
        for cycle in range(settings.train_cycles):
            fee_share = _fee_share(cycle, settings)
            reports.progress(first_step + cycle * steps_per_pass, "update")
            try:
                losses = learner.cycle(fee_share)
            except WeightsError as error:
                give_up(model, error)
                break
            judge.look(is_at_full_fees=fee_share >= 1.0)
            steps = first_step + (cycle + 1) * steps_per_pass
            reports.after_pass(steps, losses, fee_share, judge, model)
            if judge.is_done:
                break
    finally:
        model.logger.close()
    judge.load_best()


def _new_model(
    market: Market, settings: Settings, compute: ComputeSetup, **policy_kwargs: Any
) -> PPO:
    sees_position = settings.add_state_info
    layers: Any = list(settings.net_arch)
    length = settings.window_size * market.n_features + n_extras(settings)
    forecasts = settings.used_policy_inputs is PolicyInputs.FORECASTS
    return new_model(
        PPO,
        PositionPolicy if sees_position else MaskedPolicy,
        Spaces(spaces.Box(-np.inf, np.inf, (length,)), spaces.Discrete(N_ACTIONS), settings.n_envs),
        settings,
        compute,
        None,
        None,
        rollout_buffer_class=LateRolloutBuffer,
        # No value function is learned: values are computed.
        net_arch=layers if sees_position else {"pi": layers, "vf": []},
        optimizer_class=torch.optim.AdamW,
        optimizer_kwargs={"eps": 1e-5, "weight_decay": settings.weight_decay},
        **({"forecast_window": settings.window_size} if forecasts else {}),
        **policy_kwargs,
    )


def _ensemble(
    models: Sequence[PPO], market: Market, settings: Settings, compute: ComputeSetup
) -> PPO:
    """Return one model whose probabilities are the mean of all models'."""
    ensemble = _new_model(market, settings, compute, n_members=len(models))
    assert isinstance(ensemble.policy, MaskedPolicy)
    for member, model in enumerate(models):
        ensemble.policy.set_member_state(member, model.policy.state_dict())
    if ensemble.policy.forecast_window is not None:
        # The members' own, which know how held-back candles were foretold.
        ensemble.policy.forecasts = _policy_of(models[0]).forecasts
    return ensemble


def _starting_weights(
    initial: PPO | None, settings: Settings
) -> list[dict[str, torch.Tensor] | None]:
    """Return the weights that each policy of the ensemble goes on from, None to begin anew."""
    if initial is None:
        return [None] * settings.n_seeds
    policy = initial.policy
    n_members = policy.n_members if isinstance(policy, MaskedPolicy) else 1
    if n_members != settings.n_seeds:
        raise SettingsError(
            f"n_seeds {settings.n_seeds} differs from the {n_members} of the model to go on from; "
            "switch continual learning off or start under another identifier"
        )
    if not isinstance(policy, MaskedPolicy):
        return [policy.state_dict()]
    return [policy.member_state(member) for member in range(n_members)]


def _begin_with_a_bias(model: PPO, settings: Settings) -> None:
    """Make keeping the present position more likely at first."""
    with torch.no_grad():
        _logit_biases(model)[Action.NEUTRAL] += settings.keep_bias


@contextlib.contextmanager
def as_judged(model: PPO) -> Iterator[None]:
    """Let a model that was just trained see validation candles as it did when it was judged."""
    policy = model.policy
    if isinstance(policy, MaskedPolicy) and policy.forecast_window is not None:
        with policy.forecasts.judged():
            yield
    else:
        yield


def _policy_of(model: PPO) -> MaskedPolicy:
    assert isinstance(model.policy, MaskedPolicy)
    return model.policy


def _logit_biases(model: PPO) -> torch.Tensor:
    output = model.policy.action_net
    assert isinstance(output, torch.nn.Linear)
    return output.bias


def _fee_share(cycle: int, settings: Settings) -> float:
    """Return the share of the fees that is charged: linear over the first part of the training."""
    rising = settings.used_fee_warmup * settings.train_cycles
    return 1.0 if cycle >= rising else cycle / rising


class _Reports:
    """Tells history, TensorBoard, events and a person how far the training is."""

    def __init__(
        self, total_steps: int, on_progress: ProgressCallback | None, events: EventLog
    ) -> None:
        self.history: list[HistoryRow] = []
        self.steps = 0
        self._total_steps = total_steps
        self._on_progress = on_progress
        self._events = events
        self._started = time.monotonic()
        self._oracle_share: float | None = None

    def progress(self, steps: int, phase: str) -> None:
        """Tell the progress."""
        self.steps = steps
        progress = Progress(
            steps=steps,
            total_steps=self._total_steps,
            seconds=time.monotonic() - self._started,
            phase=phase,
            oracle_share=self._oracle_share,
        )
        self._events.write("progress", **asdict(progress))
        if self._on_progress is not None:
            self._on_progress(progress)

    def after_pass(
        self, steps: int, losses: dict[str, float], fee_share: float, judge: Judge, model: PPO
    ) -> None:
        """Tell what a pass brought."""
        self._oracle_share = judge.oracle_share
        row = HistoryRow(
            steps=steps,
            seconds=time.monotonic() - self._started,
            mean_episode_return=losses["objective"],
            validation_log_return=judge.log_return,
            validation_trades=judge.n_trades,
            oracle_share=judge.oracle_share,
        )
        self.history.append(row)
        scalars: dict[str, float | None] = {
            **{f"train/{name}": losses[name] for name in LOSSES},
            "train/fee_share": fee_share,
            "rollout/ep_rew_mean": row.mean_episode_return,
            "validation/log_return": row.validation_log_return,
            "validation/trades": row.validation_trades,
            "validation/oracle_share": row.oracle_share,
        }
        for name, value in scalars.items():
            if value is not None:
                model.logger.record(name, value)
        model.logger.dump(steps)
        self._events.write("update", **{**asdict(row), "seed": model.seed})
        self.progress(steps, "evaluation")

"""``train``: one market or several and one settings object in, one policy out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from mtf_scalper.errors import MarketError, SettingsError, UntrainableError
from mtf_scalper.evaluation.report import Report, evaluate
from mtf_scalper.market.market import Market
from mtf_scalper.market.names import check_names, feature_difference
from mtf_scalper.ppo.checkpoints import DRAWING, release
from mtf_scalper.ppo.compute import ComputeSetup, configure_torch
from mtf_scalper.ppo.exact_training import as_judged, learn_exactly
from mtf_scalper.ppo.policy import Policy, remember_features, remembered_features, simulate
from mtf_scalper.ppo.selection import held_back
from mtf_scalper.records.events import EventLog, HistoryRow, ProgressCallback
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.rollouts.rollout_training import learn_from_rollouts
from mtf_scalper.settings import Advantage, Device, Settings
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.prepared import check_length
from mtf_scalper.simulator.reference import ReferenceEnv

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A trained policy and how it came about.

    Attributes
    ----------
    policy : Policy
        The weights with the best validation return, or the last ones without validation.
    history : tuple of HistoryRow
        One row per update, or per pass with exact advantages.
    compute : ComputeSetup
    steps : int
        Candles decided on, environments and passes added up.
    seconds : float
        Wall time of the training, environments' start and end and the reports included.
    reports : tuple of Report
        How the policy trades each validation market, beside the baselines and the hindsight
        optimum, with forecasts that have not seen it; those of ``policy`` are then fitted on all
        candles. The weights were chosen there: later candles may well say less.
    """

    policy: Policy
    history: tuple[HistoryRow, ...]
    compute: ComputeSetup
    steps: int
    seconds: float
    reports: tuple[Report, ...] = ()

    @property
    def steps_per_second(self) -> float:
        """Steps per second of the whole training."""
        return self.steps / self.seconds


def train(
    market: Market | Sequence[Market],
    settings: Settings,
    validation: Market | Sequence[Market] | None = None,
    *,
    initial: PPO | None = None,
    env: VecEnv | None = None,
    on_progress: ProgressCallback | None = None,
    events: EventLog | None = None,
    record: RunRecord | None = None,
    tensorboard_log: Path | None = None,
) -> TrainResult:
    """Train a PPO policy on ``market``.

    Several may run at once in threads of one process; those by rollouts take turns.

    Parameters
    ----------
    market : Market or sequence of Market
        What it learns on; several, of the same features, with exact advantages only.
    settings : Settings
        Every setting of the run.
    validation : Market or sequence of Market, optional
        Later candles of the same features; after every update the policy trades them, and the
        weights with the best log return there are kept. With exact advantages the last
        ``settings.validation_share`` of each market is held back for that where none is given.
        Forecasts of still later candles are fitted on these as well: judge a policy on others.
    initial : PPO, optional
        A model whose weights and optimiser state to go on from (continual learning); it stays as
        it is, and everything else comes from ``settings``.
    env : VecEnv, optional
        Environments over ``market`` to use instead of ``make_vec_env(market, settings)``. They
        are closed at the end of the training, as those would be. For rollouts only.
    on_progress : callable, optional
        Called with a ``Progress`` about twice a second, with exact advantages once per pass.
    events : EventLog, optional
        Told what was used and how the training went.
    record : RunRecord, optional
        Where the same is written, under the market's pair and the settings' seed; nothing is
        written without it. ``events`` wins where both are given.
    tensorboard_log : Path, optional
        Folder of the TensorBoard run.

    Raises
    ------
    MarketError, SettingsError
        Before the first step.
    LearningError
        If rewards are infinite or NaN. Weights that become so end the training: one line of the log
        names the setting that is likely to blame, and weights from before are kept.
    WorkerDiedError
        If an environment process ends; all others are ended too.
    """
    started = time.monotonic()
    markets, held = _as_list(market), _as_list(validation)
    if not markets:
        raise MarketError("there is no market to train on")
    events = events or _events(record, markets, settings)
    settings = settings.for_market(markets[0])
    is_exact = settings.advantage is Advantage.EXACT
    if is_exact and validation is None:
        markets, held = held_back(markets, settings)
    if is_exact:
        # The matrices are small and the rest is compiled for the CPU.
        settings = settings.changed(device=Device.CPU)
    compute = configure_torch(settings)
    log = None if tensorboard_log is None else str(tensorboard_log)
    try:
        _check(markets, held, settings, env)
        if initial is not None:
            cure = "go on with the features of the first training, in their order, or begin anew"
            now = markets[0]
            check_names(remembered_features(initial), now.feature_names, now.pair, cure)
        if is_exact:
            model, history = learn_exactly(
                markets,
                settings,
                held,
                compute,
                initial=initial,
                on_progress=on_progress,
                events=events,
                tensorboard_log=log,
            )
        else:
            env = env if env is not None else make_vec_env(markets[0], settings)
            with DRAWING:  # actions are drawn from torch's generator until the end
                model, history = learn_from_rollouts(
                    env,
                    settings,
                    held[0] if held else None,
                    compute,
                    market=markets[0],
                    initial=initial,
                    on_progress=on_progress,
                    events=events,
                    tensorboard_log=log,
                )
    except BaseException as error:
        events.write("training_failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        if env is not None:
            env.close()
    release(model)
    remember_features(model, markets[0].feature_names)
    policy = Policy(model, settings)
    with as_judged(model):
        reports = tuple(_report(policy, each) for each in held)
    result = TrainResult(
        policy=policy,
        history=tuple(history),
        compute=compute,
        steps=model.num_timesteps,
        seconds=time.monotonic() - started,
        reports=reports,
    )
    for report in result.reports:
        logger.info("on the candles that chose the weights: %s", report.summary)
    events.write(
        "training_finished",
        steps=result.steps,
        seconds=result.seconds,
        steps_per_second=result.steps_per_second,
        history=[asdict(row) for row in result.history],
        reports=[report.as_dict() for report in result.reports],
    )
    return result


def _events(record: RunRecord | None, markets: Sequence[Market], settings: Settings) -> EventLog:
    if record is None:
        return EventLog(None)
    pairs = dict.fromkeys(market.pair for market in markets)
    return record.events(pair=", ".join(pairs), window=None, seed=settings.random_state)


def _report(policy: Policy, market: Market) -> Report:
    settings = policy.settings
    return evaluate(simulate(policy, market), market, settings, oracle=oracle(market, settings))


def _as_list(market: Market | Sequence[Market] | None) -> list[Market]:
    if market is None:
        return []
    return [market] if isinstance(market, Market) else list(market)


def _check(
    markets: Sequence[Market], validation: Sequence[Market], settings: Settings, env: VecEnv | None
) -> None:
    """Find what would fail only after a while."""
    is_exact = settings.advantage is Advantage.EXACT
    if not is_exact and (len(markets) > 1 or len(validation) > 1):
        raise SettingsError("advantage 'gae' learns on one market; use 'exact' for several")
    if is_exact and env is not None:
        raise SettingsError("advantage 'exact' uses no environments; use 'gae' to give some")
    for each in markets:
        check_length(each, settings.window_size)
        if len(each) <= 2 * settings.window_size:
            raise UntrainableError(
                f"{each.pair}: window_size {settings.window_size} is half of the "
                f"{len(each)} candles to learn from, or more; lower it, or give more candles"
            )
        if each.feature_names != markets[0].feature_names:
            raise MarketError(
                f"{each.pair}: has other features ({each.n_features}) than {markets[0].pair} "
                f"({markets[0].n_features}): {_difference(markets[0], each)}"
            )
    for each in validation:
        ReferenceEnv(each, settings)
        if each.feature_names != markets[0].feature_names:
            raise MarketError(
                f"{each.pair}: the validation market has other features "
                f"({each.n_features}) than the training market ({markets[0].n_features}): "
                f"{_difference(markets[0], each)}"
            )


def _difference(trained: Market, given: Market) -> str:
    return feature_difference(trained.feature_names, given.feature_names)

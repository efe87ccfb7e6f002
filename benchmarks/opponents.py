"""Who is compared: six ways to train, each with its settings, timed in the same way.

``(a)`` is freqtrade as it comes: its own environment and the settings of its users before. All
others use this project's environments. ``(b)`` to ``(d)`` and ``(f)`` go through
``mtf_scalper.training.train``; ``(a)`` and ``(e)`` are built by hand, without a callback that
reports progress, which favours them.
"""

from __future__ import annotations

import importlib.util
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from freqtrade.freqai.prediction_models.ReinforcementLearner import ReinforcementLearner
from pandas import DataFrame
from report import ParityError, Workload
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.compute import available_cpus, configure_torch
from mtf_scalper.records.events import Progress
from mtf_scalper.rollouts.environments import make_vec_env
from mtf_scalper.settings import EntryMode
from mtf_scalper.training import train

SEED = 42


@dataclass(frozen=True)
class Training:
    """What one training took; ``seconds`` holds start and end of the environments too."""

    steps: int
    minibatches: int
    threads: int
    seconds: float
    rollout_seconds: float
    update_seconds: float
    update_cpu_seconds: float

    def figures(self) -> dict[str, float]:
        """Return the training as speeds and shares."""
        learning = self.rollout_seconds + self.update_seconds
        return {
            "steps_per_second": self.steps / self.seconds,
            "learning_steps_per_second": self.steps / learning,
            "rollout_steps_per_second": self.steps / self.rollout_seconds,
            "minibatch_ms": 1e3 * self.update_seconds / self.minibatches,
            "update_cpu_share": self.update_cpu_seconds / self.update_seconds / available_cpus(),
            "rollout_seconds": self.rollout_seconds,
            "update_seconds": self.update_seconds,
            "start_and_end_seconds": self.seconds - learning,
            "threads": self.threads,
        }


class PhaseClock:
    """Wall and CPU time of this process by phase; environment processes are not in it."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._now: tuple[str, float, float] | None = None

    def enter(self, phase: str) -> None:
        """Book the time since the last call on its phase."""
        wall, cpu = time.perf_counter(), time.process_time()
        if self._now is not None:
            before, wall_before, cpu_before = self._now
            self.wall[before] += wall - wall_before
            self.cpu[before] += cpu - cpu_before
        self._now = phase, wall, cpu

    def on_progress(self, progress: Progress) -> None:
        """Follow ``train``, which reports when a rollout begins and ends, and the end of all."""
        self.enter(progress.phase)

    def training(self, steps: int, minibatches: int, threads: int, seconds: float) -> Training:
        """Return the booked times as a training."""
        return Training(
            steps=steps,
            minibatches=minibatches,
            threads=threads,
            seconds=seconds,
            rollout_seconds=self.wall["rollout"],
            update_seconds=self.wall["update"],
            update_cpu_seconds=self.cpu["update"],
        )


class ClockCallback(BaseCallback):
    """The same phases for a model that is trained by hand."""

    def __init__(self, clock: PhaseClock) -> None:
        super().__init__()
        self._clock = clock

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._clock.enter("rollout")

    def _on_rollout_end(self) -> None:
        self._clock.enter("update")

    def _on_training_end(self) -> None:
        self._clock.enter("end")


Train = Callable[[Market, Workload, EntryMode], Training]


@dataclass(frozen=True)
class Opponent:
    """One way to train. ``needs`` is a module that has to be installed for it."""

    name: str
    train: Train
    needs: str = "torch"

    @property
    def is_installed(self) -> bool:
        """Whether it can run here."""
        return importlib.util.find_spec(self.needs) is not None

    def measure(self, market: Market, workload: Workload, entry: EntryMode) -> Training:
        """Train once; every opponent does exactly the workload's steps."""
        training = self.train(market, workload, entry)
        if training.steps != workload.steps:
            raise ParityError(f"{self.name}: {training.steps} steps, not {workload.steps}")
        return training


def through_train(**changes: Any) -> Train:
    """Return a training by ``mtf_scalper.training.train`` with changed settings."""

    def run(market: Market, workload: Workload, entry: EntryMode) -> Training:
        settings = workload.settings(entry, **changes)
        clock = PhaseClock()
        result = train(market, settings, on_progress=clock.on_progress)
        minibatches = settings.used_n_epochs * result.steps // settings.batch_size
        return clock.training(result.steps, minibatches, result.compute.threads, result.seconds)

    return run


def freqtrade_environment(market: Market, window: int) -> gymnasium.Env[Any, Any]:
    """Return freqtrade's own training environment, with its default reward."""
    features = DataFrame(market.features, columns=list(market.feature_names))
    reward = {"rr": 1.0, "profit_aim": 0.025}
    return ReinforcementLearner.MyRLEnv(
        df=features,
        prices=DataFrame(market.ohlc, columns=["open", "high", "low", "close"]),
        reward_kwargs=reward,
        window_size=window,
        config={
            "freqai": {"rl_config": {"model_reward_parameters": reward}},
            "stake_amount": "unlimited",
        },
        fee=market.fee_rate,
        can_short=True,
        pair=market.pair,
        df_raw=features,
    )


def freqtrade_as_it_comes(market: Market, workload: Workload, entry: EntryMode) -> Training:
    """Train stable-baselines3's PPO on freqtrade's environment; it knows no entry modes."""
    started = time.perf_counter()
    threads = configure_torch(workload.settings(entry)).threads
    environment = freqtrade_environment(market, workload.window)
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([lambda: Monitor(environment)]),
        n_steps=workload.before_n_steps,
        batch_size=workload.before_batch_size,
        n_epochs=workload.n_epochs,
        policy_kwargs={
            "activation_fn": torch.nn.ReLU,
            "net_arch": list(workload.before_net_arch),
        },
        seed=SEED,
        device="cpu",
    )
    model.set_logger(Logger(None, []))  # or every training leaves an empty folder
    clock = PhaseClock()
    model.learn(workload.steps, callback=ClockCallback(clock))
    minibatches = workload.n_epochs * workload.steps // workload.before_batch_size
    seconds = time.perf_counter() - started
    return clock.training(model.num_timesteps, minibatches, threads, seconds)


def sbx_on_batched(market: Market, workload: Workload, entry: EntryMode) -> Training:
    """Train SBX's PPO on the batched environments.

    It has no masked policy: the mask is five more inputs, an invalid action is executed as the
    first valid one, and all samples go through both networks. JAX compiles while the model is made
    and in its first rollout and epoch; none of the three is timed.
    """
    import flax.linen
    from sbx import PPO as SbxPPO  # noqa: N811 - its name is that of stable-baselines3's

    env = VecMonitor(make_vec_env(market, workload.settings(entry)))
    model = SbxPPO(
        "MlpPolicy",
        env,
        n_steps=workload.n_steps,
        batch_size=workload.batch_size,
        n_epochs=1,
        policy_kwargs={
            "activation_fn": flax.linen.relu,
            "net_arch": list(workload.net_arch),
        },
        seed=SEED,
    )
    model.set_logger(Logger(None, []))
    model.learn(workload.steps)
    model.n_epochs = workload.n_epochs
    clock = PhaseClock()
    started = time.perf_counter()
    model.learn(workload.steps, callback=ClockCallback(clock))
    seconds = time.perf_counter() - started
    minibatches = workload.n_epochs * workload.steps // workload.batch_size
    return clock.training(model.num_timesteps, minibatches, available_cpus(), seconds)


OPPONENTS = {
    "a": Opponent("freqtrade's environment, *before*, SB3", freqtrade_as_it_comes),
    "b": Opponent("*after*: SB3, processes", through_train(algorithm="ppo", vec_env="subproc")),
    "c": Opponent("*after*: SB3, dummy", through_train(algorithm="ppo", vec_env="dummy")),
    "d": Opponent("SB3, batched", through_train(algorithm="ppo")),
    "e": Opponent("SBX (JAX), batched, no masks", sbx_on_batched, needs="sbx"),
    "f": Opponent("FastPPO, batched", through_train()),
}

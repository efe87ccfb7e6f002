"""One training on a planted market, looked at after every update on a market it has not seen.

All sides go through ``mtf_scalper.training.train``, learn on the same candles and choose their
weights on the same held-back ones. While they learn, the weights of every moment are copied, which
costs a millisecond and is not counted; the held-out market is traded with them afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from report import commit

from mtf_scalper.evaluation.degenerate import degeneracy, exposure
from mtf_scalper.evaluation.peers import peer_runs
from mtf_scalper.market.market import Market
from mtf_scalper.ppo import exact_training
from mtf_scalper.ppo.contexts import Book
from mtf_scalper.ppo.exact_learner import ExactLearner, Score
from mtf_scalper.ppo.policy import Policy, simulate
from mtf_scalper.ppo.selection import held_back
from mtf_scalper.rollouts import rollout_training
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import Simulation, play
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import Action
from mtf_scalper.training import TrainResult, train
from mtf_scalper.worlds.planted import PlantedMarket, planted_market
from mtf_scalper.worlds.planted_reference import reference_targets

HELD_OUT = 1000
"""Added to the seed of a training market, this is the seed of its held-out market."""
CHOOSING = 2000
"""The same for candles that choose weights, where they are none of the training market's."""

_PPO = {
    "advantage": "gae",
    "learning_rate": 3e-4,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
}
"""The reference recipe's PPO, written out: the defaults may move, opponents may not."""
_AFTER = {**_PPO, "n_envs": 8, "n_steps": 4096, "batch_size": 256, "net_arch": (512, 512, 256)}
_BEFORE = {**_PPO, "n_envs": 1, "n_steps": 2048, "batch_size": 64, "net_arch": (256, 256, 128)}


@dataclass(frozen=True)
class Side:
    """One way to learn.

    Attributes
    ----------
    name : str
    settings : dict
        What differs from ``Settings()``.
    is_timed : bool
        Whether its time counts: it then runs alone and on all threads.
    holds_back : bool
        Whether weights are chosen on the last part of the training market. Else the whole of it is
        learned on, and other candles choose.
    is_peer : bool
        Whether it is a supervised peer, which is fitted once and chooses thresholds, not weights.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    is_timed: bool = False
    holds_back: bool = True
    is_peer: bool = False


SIDES = {
    "exact": Side("exact advantages", {"advantage": "exact"}, is_timed=True),
    "after": Side("*after*", _AFTER),
    "before": Side("*before*", _BEFORE),
    "after-sb3": Side(
        "*after*, stable-baselines3, 8 processes",
        {**_AFTER, "algorithm": "ppo", "vec_env": "subproc"},
        is_timed=True,
    ),
    "before-sb3": Side(
        "*before*, stable-baselines3",
        {**_BEFORE, "algorithm": "ppo", "vec_env": "dummy"},
        is_timed=True,
    ),
    "all-passes": Side(
        "exact advantages, no early end",
        {"advantage": "exact", "patience": 1_000_000},
        is_timed=True,
        holds_back=False,
    ),
    "ridge": Side("ridge regression", {"advantage": "exact"}, is_timed=True, is_peer=True),
    "lightgbm": Side("LightGBM", {"advantage": "exact"}, is_timed=True, is_peer=True),
}


def settings_of(side: str, changes: dict[str, Any], threads: int) -> dict[str, Any]:
    """Return the settings of a side as plain values; ``changes`` make it smaller.

    Those of opponents are what is set and no more, so that a new default is no reason to do their
    runs again. With exact advantages defaults matter, and all of them are listed.
    """
    values = {**SIDES[side].settings, **changes, "cpu_count": threads, "device": "cpu"}
    is_exact = values["advantage"] == "exact"
    return Settings(**values).model_dump(mode="json") if is_exact else values


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Train once and look at every moment of it; return plain values.

    Parameters
    ----------
    task : dict
        ``kind``, ``side``, ``seed``, ``n_candles``, ``threads`` and the ``settings`` as a dict;
        see ``learning.tasks_of``.
    """
    settings = Settings(**task["settings"])
    kind, seed, n_candles = task["kind"], task["seed"], task["n_candles"]
    held_out = planted_market(kind, seed + HELD_OUT, n_candles)
    learned, choosing = _candles(task, settings)
    if SIDES[task["side"]].is_peer:
        return _peer_run(task, settings, held_out, learned, choosing)
    _compile(kind, settings)
    watch = Watch()
    with watch.watching():
        result = train(learned, settings, choosing)
    best = simulate(result.policy, held_out.market)
    return {
        **_facts(task, held_out, best, result.policy.settings),
        "learned_candles": len(learned),
        "steps": result.steps,
        "wanted_steps": settings.train_cycles * len(learned),
        "rollout_steps": settings.rollout_steps,
        "updates": len(result.history),
        "seconds": result.seconds - watch.lost_seconds,
        "curve": _curve(result, watch, held_out.market),
    }


def _peer_run(
    task: dict[str, Any],
    settings: Settings,
    held_out: PlantedMarket,
    learned: Market,
    choosing: Market,
) -> dict[str, Any]:
    """Fit a peer once; its only moment is when all is done, forecasts of the held-out included."""
    settings = settings.changed(random_state=task["seed"])
    names = (task["side"],)
    # Imported and compiled before the time counts.
    peer_runs(learned.slice(0, 200), learned.slice(200, 300), choosing, settings, names)
    started = time.perf_counter()
    (run,) = peer_runs(learned, choosing, held_out.market, settings, names).values()
    seconds = time.perf_counter() - started
    return {
        **_facts(task, held_out, run, settings),
        "learned_candles": len(learned),
        "steps": 0,
        "seconds": seconds,
        "curve": [[0, seconds, run.log_return, len(run.trades)]],
    }


def _facts(
    task: dict[str, Any], held_out: PlantedMarket, best: Simulation, used: Settings
) -> dict[str, Any]:
    """Return what a run was and what it made of the held-out candles."""
    ideal = play_reference(held_out, used)
    return {
        **{name: task[name] for name in ("kind", "side", "seed", "n_candles", "threads")},
        "commit": commit(),
        "log_return": best.log_return,
        "n_trades": len(best.trades),
        "exposure": exposure(best, used),
        "max_drawdown": best.max_drawdown,
        "degenerate": degeneracy(best, held_out.market, used),
        "reference": ideal.log_return,
        "reference_trades": len(ideal.trades),
        "oracle": oracle(held_out.market, used).log_return,
        "chance": held_out.spec.volatility * float(np.sqrt(task["n_candles"])),
    }


def _candles(task: dict[str, Any], settings: Settings) -> tuple[Market, Market]:
    """Return the candles to learn on and those that choose the weights."""
    market = planted_market(task["kind"], task["seed"], task["n_candles"]).market
    if SIDES[task["side"]].holds_back:
        (learned,), (choosing,) = held_back([market], settings)
        return learned, choosing
    share = settings.validation_share
    n_choosing = round(task["n_candles"] * share / (1.0 - share))
    return market, planted_market(task["kind"], task["seed"] + CHOOSING, n_choosing).market


def _compile(kind: str, settings: Settings) -> None:
    """Let everything run once, so that nothing is compiled or loaded while the time counts."""
    small = {"train_cycles": 1, "n_steps": 64, "batch_size": 32, "n_epochs": 1}
    (learned,), (choosing,) = held_back([planted_market(kind, 0, 300).market], settings)
    train(learned, settings.changed(**small), choosing)


@dataclass
class Moment:
    """The weights after an update, and when that was."""

    seconds: float
    weights: dict[str, torch.Tensor]


class Watch:
    """Copies the weights whenever a training judges them."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.lost_seconds = 0.0
        self._started = time.perf_counter()

    def note(self, policy: torch.nn.Module) -> None:
        """Copy the weights of the moment."""
        now = time.perf_counter()
        weights = {name: value.clone() for name, value in policy.state_dict().items()}
        self.moments.append(Moment(now - self._started - self.lost_seconds, weights))
        self.lost_seconds += time.perf_counter() - now

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the training inside; its time begins here."""
        watch = self

        class Watched(ExactLearner):
            def __init__(self, policy: Any, *arguments: Any, **named: Any) -> None:
                super().__init__(policy, *arguments, **named)
                self._watched = policy

            def score(self, book: Book) -> Score:
                watch.note(self._watched)
                return super().score(book)

        def watched_simulate(policy: Policy, market: Market) -> Simulation:
            watch.note(policy.model.policy)
            return simulate(policy, market)

        with (
            patch.object(exact_training, "ExactLearner", Watched),
            patch.object(rollout_training, "simulate", watched_simulate),
        ):
            self._started = time.perf_counter()
            yield


def _curve(result: TrainResult, watch: Watch, market: Market) -> list[list[float]]:
    """Return steps, seconds, held-out log return and trades after every update."""
    curve = []
    policy = result.policy
    # Exact trainings also look at the policy before the first pass.
    moments = watch.moments[-len(result.history) :]
    for row, moment in zip(result.history, moments, strict=True):
        policy.model.policy.load_state_dict(moment.weights)
        run = simulate(policy, market)
        curve.append([row.steps, moment.seconds, run.log_return, len(run.trades)])
    return curve


def play_reference(planted: PlantedMarket, settings: Settings) -> Simulation:
    """Return what the reference policy, which knows the hidden signal, earns."""
    prepared = prepare(planted.market, settings)
    entry = prepared.rules.entry or EntryMode.ANY
    targets = reference_targets(planted, entry, first_row=settings.window_size - 1)

    def choose(
        row: int, states: NDArray[np.void], _extras: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        side, wanted = int(states["side"][0]), int(targets[row])
        action = Action.NEUTRAL
        if side == 0 and wanted:
            action = Action.LONG_ENTER if wanted > 0 else Action.SHORT_ENTER
        elif side and wanted != side:
            action = Action.LONG_EXIT if side > 0 else Action.SHORT_EXIT
        return np.array([action], dtype=np.int64)

    return play(prepared, choose)[0]

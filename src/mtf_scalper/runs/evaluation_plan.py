"""What an evaluation learns and trades, and how the command's options become that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from mtf_scalper.engines.cluster import RayCluster
from mtf_scalper.engines.processes import LocalProcesses, threads_per_job
from mtf_scalper.engines.tasks import Engine
from mtf_scalper.errors import SettingsError
from mtf_scalper.evaluation.recipe import Recipe
from mtf_scalper.paths import user_data
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.runs.program import MODEL, STRATEGY
from mtf_scalper.runs.project import SYNTHETIC_PERIOD, demo_market
from mtf_scalper.settings import Device, Settings
from mtf_scalper.walk_forward.sources import PairSource, PlantedPairs, RecordedPairs, planted_recipe
from mtf_scalper.walk_forward.windows import Window, parse_timerange, rolling_windows
from mtf_scalper.worlds.datadir import ensure_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

_LEAST_WARMUP = timedelta(hours=1212)
"""A market's candles depend on its first day: the same for all recipes that need no more."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What an evaluation learns and trades.

    Attributes
    ----------
    recipe : Recipe
    source : PairSource
    timerange : str
        Days that are traded, ``YYYYMMDD-YYYYMMDD``; the first training begins before them.
    seeds : tuple of int
    train_days, test_days : int
    embargo_candles : int or None
        Candles between training and test; by default as many as the longest trade lasts.
    jobs : int
        Trainings at a time.
    n_draws : int
        Random exits per pair and seed.
    datadir : Path or None
        Where the candles are from, None for a planted market.
    configs : tuple of Path
        Laid over the shipped configuration.
    with_program : bool
        Whether the real program backtests the same windows. It knows no embargo, its tests see no
        candles before them, and both sides train on one thread.
    with_peers : bool
        Whether ridge regression and LightGBM learn the same windows and trade the same tests, as
        baselines. They are fitted once per pair and window, with the first seed.
    on_ray : bool
        Whether Ray runs the trainings, each on one CPU.
    ray_address : str or None
        Of a cluster that is there; without one it is this machine's ``jobs`` CPUs.
    """

    recipe: Recipe
    source: PairSource
    timerange: str
    seeds: tuple[int, ...] = (42,)
    train_days: int = 30
    test_days: int = 7
    embargo_candles: int | None = None
    jobs: int = 1
    n_draws: int = 100
    datadir: Path | None = None
    configs: tuple[Path, ...] = ()
    with_program: bool = False
    with_peers: bool = False
    on_ray: bool = False
    ray_address: str | None = None

    @property
    def embargo(self) -> int:
        """Candles between training and test."""
        if self.with_program:
            return 0
        return self.recipe.longest_trade if self.embargo_candles is None else self.embargo_candles

    @property
    def settings(self) -> Settings:
        """The recipe's settings as each training gets them."""
        threads = 1 if self.with_program or self.on_ray else threads_per_job(self.jobs)
        settings = self.recipe.settings
        threads = min(threads, settings.cpu_count)
        return settings.changed(cpu_count=threads, progress_bar=False, device=Device.CPU)

    def engine(self) -> Engine:
        """Return what runs the trainings; not started yet."""
        if self.on_ray:
            return RayCluster(self.ray_address, jobs=self.jobs)
        return LocalProcesses(self.jobs)

    def windows(self) -> list[Window]:
        """Return the windows."""
        start, stop = parse_timerange(self.timerange)
        return rolling_windows(
            start,
            stop,
            train_days=self.train_days,
            test_days=self.test_days,
            embargo_candles=self.embargo,
            timeframe=self.recipe.timeframe,
        )

    def facts(self) -> dict[str, Any]:
        """Return all that makes this another variant than one with other facts, for the record."""
        recipe = self.recipe
        return {
            "train_days": self.train_days,
            "test_days": self.test_days,
            "embargo_candles": self.embargo,
            "thresholds": recipe.thresholds,
            "max_leverage": recipe.max_leverage,
            "exit_threshold": recipe.settings.rules.exit_confidence,
            "fee_rate": recipe.fee_rate,
            "timeframes": recipe.timeframes,
            "periods": recipe.periods,
            **self.settings.model_dump(mode="json"),
        }


def plan_evaluation(
    project: Path,
    *,
    timerange: str,
    pairs: Sequence[str] = (),
    n_seeds: int = 1,
    datadir: Path | None = None,
    planted: str | None = None,
    signal: float | None = None,
    market_seed: int = 0,
    train_days: int = 30,
    configs: Sequence[Path] = (),
    with_program: bool = False,
    jobs: int | None = None,
    ray_address: str | None = None,
    **more: Any,
) -> EvaluationPlan:
    """Find the candles and read the recipe; a synthetic market is written where there is none yet.

    Parameters
    ----------
    project : Path
    pairs : sequence of str
        Instead of the configuration's, if there are any.
    n_seeds : int
    datadir : Path, optional
    planted : str, optional
        Kind of a planted market.
    signal : float, optional
        Signal strength of a synthetic market.
    market_seed : int
        Of the planted or synthetic market.
    jobs : int, optional
    ray_address : str, optional
        Of a cluster of Ray that is there.
    timerange, train_days, configs, with_program, **more
        As ``EvaluationPlan`` has them.

    Raises
    ------
    SettingsError
        If two sources of candles are asked for, or something that one of them cannot have.
    """
    if [datadir, planted, signal].count(None) < 2:
        raise SettingsError("choose one of --datadir, --planted and --signal")
    if ray_address is not None and jobs is not None:
        raise SettingsError("--jobs: the cluster at --ray ADDRESS has as many as it has CPUs")
    if with_program and more.get("embargo_candles"):
        raise SettingsError(
            "--freqtrade: FreqAI knows no embargo between training and test; leave "
            "--embargo-candles out"
        )
    source: PairSource
    if planted is not None:
        if with_program or pairs or configs:
            raise SettingsError(
                "--planted is a market of arrays: --freqtrade, --pairs and --config need candles"
            )
        recipe, source = planted_recipe(planted), PlantedPairs(planted, market_seed)
    else:
        # Imported when it is asked for: a planted market needs no freqtrade.
        from mtf_scalper.runs.recipe_reader import read_recipe

        spec = _spec(pairs, signal, market_seed) if datadir is None else None
        name = "" if spec is None else f"synthetic-{spec.signal_strength:g}-{spec.seed}"
        folder = datadir or user_data(project) / "data" / name
        shipped = project / "configs" / "config_rl_hybrid.json"
        recipe = read_recipe((shipped, *configs), user_data(project), folder, STRATEGY, MODEL)
        if spec is not None:
            first_day, stop = parse_timerange(timerange)
            start = first_day - timedelta(days=train_days)
            if signal is None and not market_seed and _demo_has(start - recipe.warmup, stop):
                folder = demo_market(project)
            else:
                before = timedelta(days=1) + max(recipe.warmup, _LEAST_WARMUP)
                ensure_datadir(spec, folder, (start - before).floor("D"), stop + timedelta(days=1))
        if pairs:
            recipe = replace(recipe, pairs=tuple(dict.fromkeys(pairs)))
        source, datadir = RecordedPairs(folder, recipe), folder
    first = recipe.settings.random_state
    return EvaluationPlan(
        recipe=recipe,
        source=source,
        timerange=timerange,
        seeds=tuple(range(first, first + n_seeds)),
        train_days=train_days,
        # A training on one thread waits for no other: two of them do more than one on two.
        jobs=jobs or available_cpus(),
        datadir=datadir,
        configs=tuple(configs),
        with_program=with_program,
        ray_address=ray_address,
        **more,
    )


def _spec(pairs: Sequence[str], signal: float | None, market_seed: int) -> SyntheticSpec:
    default = SyntheticSpec()
    return SyntheticSpec(
        seed=market_seed or default.seed,
        signal_strength=default.signal_strength if signal is None else signal,
        pairs=tuple(map(pair_spec, pairs)) or default.pairs,
    )


def _demo_has(start: pd.Timestamp, stop: pd.Timestamp) -> bool:
    """Whether the demo's market has the candles from ``start`` to ``stop``."""
    begins, ends = (pd.Timestamp(day, tz="UTC") for day in SYNTHETIC_PERIOD)
    return bool(begins <= start and stop <= ends)

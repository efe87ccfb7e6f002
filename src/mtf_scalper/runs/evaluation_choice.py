"""From what was asked for on the command line to the plan of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pandas as pd

from mtf_scalper.compute import available_cpus
from mtf_scalper.errors import SettingsError
from mtf_scalper.evaluation.recipe import Recipe
from mtf_scalper.market.datadir import ensure_datadir
from mtf_scalper.market.synthetic import SyntheticSpec, pair_spec
from mtf_scalper.paths import user_data
from mtf_scalper.runs.evaluated_pairs import PlantedPairs, RecordedPairs, planted_recipe
from mtf_scalper.runs.evaluation import EvaluationPlan
from mtf_scalper.runs.program import MODEL, STRATEGY
from mtf_scalper.runs.project import SYNTHETIC_PERIOD, demo_market
from mtf_scalper.runs.windows import parse_timerange

__all__ = ["EvaluationChoice", "ReadRecipe", "plan_evaluation"]

ReadRecipe = Callable[[Sequence[Path], Path, Path, str, str], Recipe]
"""``mtf_scalper.freqai.recipe.read_recipe``."""

_LEAST_WARMUP = timedelta(hours=1212)
"""A market's candles depend on its first day: the same for all recipes that need no more."""


@dataclass(frozen=True, kw_only=True)
class EvaluationChoice:
    """What was asked for; None and empty where nothing was said.

    Attributes
    ----------
    timerange : str
    pairs : tuple of str
    n_seeds : int
    datadir : Path or None
    configs : tuple of Path
        Laid over the shipped configuration.
    with_program : bool
    planted : str or None
        Kind of a planted market.
    signal : float or None
        Signal strength of a synthetic market.
    market_seed : int
        Of the planted or synthetic market.
    train_days, test_days : int
    embargo_candles, jobs : int or None
    """

    timerange: str
    pairs: tuple[str, ...] = ()
    n_seeds: int = 1
    datadir: Path | None = None
    configs: tuple[Path, ...] = ()
    with_program: bool = False
    planted: str | None = None
    signal: float | None = None
    market_seed: int = 0
    train_days: int = 30
    test_days: int = 7
    embargo_candles: int | None = None
    jobs: int | None = None


def plan_evaluation(
    choice: EvaluationChoice, project: Path, read_recipe: ReadRecipe
) -> EvaluationPlan:
    """Find the candles and read the recipe; a synthetic market is written where there is none yet.

    Raises
    ------
    SettingsError
        If two sources of candles are asked for, or something that one of them cannot have.
    """
    sources = [choice.datadir is not None, choice.planted is not None, choice.signal is not None]
    if sum(sources) > 1:
        raise SettingsError("choose one of --datadir, --planted and --signal")
    if choice.with_program and choice.embargo_candles:
        raise SettingsError(
            "--freqtrade: FreqAI knows no embargo between training and test; leave "
            "--embargo-candles out"
        )
    if choice.planted is not None:
        return _planted(choice, choice.planted)
    datadir = choice.datadir or _synthetic_folder(choice, project)
    shipped = project / "configs" / "config_rl_hybrid.json"
    configs = (shipped, *choice.configs)
    recipe = read_recipe(configs, user_data(project), datadir, STRATEGY, MODEL)
    if choice.datadir is None:
        datadir = _synthetic(choice, recipe, project)
    if choice.pairs:
        recipe = replace(recipe, pairs=tuple(dict.fromkeys(choice.pairs)))
    return _plan(choice, recipe, RecordedPairs(datadir, recipe), datadir)


def _planted(choice: EvaluationChoice, kind: str) -> EvaluationPlan:
    if choice.with_program or choice.pairs or choice.configs:
        raise SettingsError(
            "--planted is a market of arrays: --freqtrade, --pairs and --config need candles"
        )
    return _plan(choice, planted_recipe(kind), PlantedPairs(kind, choice.market_seed), None)


def _synthetic(choice: EvaluationChoice, recipe: Recipe, project: Path) -> Path:
    """Return the demo's market, or one of the wanted strength that is long enough."""
    start, stop = parse_timerange(choice.timerange)
    wanted = (choice.signal is None, not choice.market_seed)
    demo_begins, demo_ends = (pd.Timestamp(day, tz="UTC") for day in SYNTHETIC_PERIOD)
    needed = start - timedelta(days=choice.train_days) - recipe.warmup
    if all(wanted) and demo_begins <= needed and stop <= demo_ends:
        return demo_market(project)
    spec, datadir = _synthetic_spec(choice), _synthetic_folder(choice, project)
    before = timedelta(days=choice.train_days + 1) + max(recipe.warmup, _LEAST_WARMUP)
    ensure_datadir(spec, datadir, (start - before).floor("D"), stop + timedelta(days=1))
    return datadir


def _synthetic_folder(choice: EvaluationChoice, project: Path) -> Path:
    spec = _synthetic_spec(choice)
    name = f"synthetic-{spec.signal_strength:g}-{spec.seed}"
    return user_data(project) / "data" / name


def _synthetic_spec(choice: EvaluationChoice) -> SyntheticSpec:
    default = SyntheticSpec()
    names = choice.pairs or tuple(each.pair for each in default.pairs)
    return SyntheticSpec(
        seed=choice.market_seed or default.seed,
        signal_strength=default.signal_strength if choice.signal is None else choice.signal,
        pairs=tuple(map(pair_spec, names)),
    )


def _plan(
    choice: EvaluationChoice,
    recipe: Recipe,
    source: PlantedPairs | RecordedPairs,
    datadir: Path | None,
) -> EvaluationPlan:
    first = recipe.settings.random_state
    return EvaluationPlan(
        recipe=recipe,
        source=source,
        timerange=choice.timerange,
        seeds=tuple(range(first, first + choice.n_seeds)),
        train_days=choice.train_days,
        test_days=choice.test_days,
        embargo_candles=choice.embargo_candles,
        # Two threads share a training's work well; more windows at a time share nothing at all.
        jobs=choice.jobs or max(1, available_cpus() // 2),
        datadir=datadir,
        configs=choice.configs,
        with_program=choice.with_program,
    )

"""What a search learns and trades, and which days it never looks at."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mtf_scalper.errors import SettingsError
from mtf_scalper.evaluation.bootstrap import LEAST_DAYS
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.paths import user_data
from mtf_scalper.records.manifest import engine_digest
from mtf_scalper.runs.evaluation_plan import EvaluationPlan, plan_evaluation
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.user_rewards import reward_digest
from mtf_scalper.tuning.space import SearchSpace, plain_value, search_space
from mtf_scalper.walk_forward.sources import PairSource
from mtf_scalper.walk_forward.windows import Window, parse_timerange

LOCKED: Final = 0.25
"""Share of the period, its last part, that is locked away."""
N_DRAWS: Final = 40
"""Random exits per pair and seed of a trial."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_OF_THE_MACHINE = ("cpu_count", "interop_threads", "progress_bar")


@dataclass(frozen=True)
class WholePairs:
    """Pairs of another source, loaded from the first training to the last candle of all windows.

    The market of the search and that of the locked part are then one and the same.

    Attributes
    ----------
    source : PairSource
    windows : sequence of Window
        Those of the search, then those of the locked part.
    """

    source: PairSource
    windows: Sequence[Window]

    @property
    def name(self) -> str:
        """What it is, for people."""
        return self.source.name

    def load(self, pair: str, windows: Sequence[Window]) -> RecordedPair:
        """Return a pair's candles."""
        return self.source.load(pair, self.windows)


@dataclass(frozen=True, kw_only=True)
class TuningPlan:
    """What a search tries, where, and how often.

    Attributes
    ----------
    name : str
        Of the study.
    storage : str or None
        URL of its database; None for a file of its own.
    search, locked : EvaluationPlan
        Of the days that trials are compared on, and of those that are looked at once.
    space : SearchSpace
    n_trials : int
        That the study is to have in all.
    """

    name: str
    storage: str | None
    search: EvaluationPlan
    locked: EvaluationPlan
    space: SearchSpace
    n_trials: int

    def folder(self, project: Path) -> Path:
        """Return where the study keeps its files."""
        return user_data(project) / "studies" / self.name

    @property
    def seed(self) -> int:
        """Of the sampler; the first of the trainings'."""
        return self.search.seeds[0]

    def of_settings(self, plan: EvaluationPlan, settings: Settings) -> EvaluationPlan:
        """Return the plan with other settings."""
        return replace(plan, recipe=replace(plan.recipe, settings=settings))

    def facts(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """Return all that trials depend on, for the study; not how many there are, nor the machine.

        Parameters
        ----------
        digests : mapping of str to str
            Of the candles, by pair.
        """
        plan = self.search
        facts = {k: v for k, v in plan.facts().items() if k not in _OF_THE_MACHINE}
        return {
            **facts,
            "candles": dict(digests),
            "source": plan.source.name,
            "timerange": plan.timerange,
            "locked": self.locked.timerange,
            "seeds": list(plan.seeds),
            "space": self.space.facts(),
            "rewards": self._rewards(),
            "engine": engine_digest(),
        }

    def _rewards(self) -> dict[str, str]:
        """Return digests of what rewards of the user's own are made of, by reward."""
        base = self.space.base
        tried = [each.choices for each in self.space.dimensions if each.name == "reward"]
        names = {plain_value(base, "reward"), *(name for each in tried for name in each)}
        digests = {name: reward_digest(base.changed(reward=name)) for name in names}
        return {name: digest for name, digest in digests.items() if digest is not None}


def plan_tuning(
    project: Path,
    *,
    timerange: str,
    name: str,
    n_trials: int,
    storage: str | None = None,
    space: Path | None = None,
    locked: float = LOCKED,
    **evaluation: Any,
) -> TuningPlan:
    """Split the period, and read the configuration and the search space.

    Parameters
    ----------
    project : Path
    timerange : str
        Search and locked part together.
    name : str
        Of the study.
    n_trials : int
    storage : str, optional
    space : Path, optional
        TOML file; see ``search_space``.
    locked : float
        Share of the days, rounded up.
    **evaluation
        As ``plan_evaluation`` takes it.

    Raises
    ------
    SettingsError
        If the parts are too short, or an option or a key of the space is not understood.
    """
    plan = plan_evaluation(project, timerange=timerange, **evaluation)
    return tuning_plan(
        plan, name=name, n_trials=n_trials, storage=storage, space=space, locked=locked
    )


def tuning_plan(
    plan: EvaluationPlan,
    *,
    name: str,
    n_trials: int,
    storage: str | None = None,
    space: Path | None = None,
    locked: float = LOCKED,
) -> TuningPlan:
    """Return the search that begins from an evaluation; see ``plan_tuning``."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"--study: {name!r} is no name; letters, digits, _ and - are allowed, at most 60"
        )
    found = search_space(plan.recipe.settings, space)
    plan = replace(plan, n_draws=N_DRAWS)
    if found.longest_trade is not None:
        embargo = max(plan.embargo, found.longest_trade + 1)
        plan = replace(plan, embargo_candles=embargo)
    else:
        plan = replace(plan, embargo_candles=plan.embargo)
    start, stop = parse_timerange(plan.timerange)
    n_locked = math.ceil(locked * (stop - start).days)
    split = stop - pd.Timedelta(days=n_locked)
    if n_locked < LEAST_DAYS:
        raise SettingsError(
            f"--locked: {locked:g} of {(stop - start).days} days are {n_locked}, and a verdict "
            f"needs {LEAST_DAYS}; give a longer --timerange, or lock more away"
        )
    if (split - start).days <= plan.test_days:
        raise SettingsError(
            f"--timerange: {(split - start).days} days are left to search on, which is one window "
            f"of --test-days {plan.test_days}; the standard error needs two"
        )
    search = replace(plan, timerange=f"{start:%Y%m%d}-{split:%Y%m%d}")
    last = replace(plan, timerange=f"{split:%Y%m%d}-{stop:%Y%m%d}", n_draws=EvaluationPlan.n_draws)
    source = WholePairs(plan.source, (*search.windows(), *last.windows()))
    return TuningPlan(
        name=name,
        storage=storage,
        search=replace(search, source=source),
        locked=replace(last, source=source),
        space=found,
        n_trials=n_trials,
    )

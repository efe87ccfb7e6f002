"""What a validation runs on: the candles, pairs and days that there are, and the recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from mtf_scalper.checks.doctor import REQUIRED_FILES, own_candles
from mtf_scalper.checks.inventory import CandleFile, find_candles
from mtf_scalper.checks.speed import BEFORE
from mtf_scalper.errors import MarketError
from mtf_scalper.market.candles import timeframe_delta
from mtf_scalper.market.features import WARMUP_CANDLES_5M
from mtf_scalper.market.market import Market
from mtf_scalper.market.stored import recorded_pair
from mtf_scalper.paths import user_data
from mtf_scalper.records.check import Recipe
from mtf_scalper.runs.program import BacktestRequest
from mtf_scalper.runs.project import demo_market
from mtf_scalper.shipped import REFERENCE_RECIPE, shipped_text
from mtf_scalper.worlds.synthetic import utc_timestamp

SHORT_CYCLES = 4
"""Passes over the candles of a short run: as many as one rollout of the recipe takes."""
BACKTEST_DAYS = 7
TRAIN_DAYS = 30
_MOST_PAIRS = 2
_CANDLES_PER_DAY = 288


@dataclass(frozen=True, kw_only=True)
class ValidationPlan:
    """What a validation runs and what it expects.

    Attributes
    ----------
    request : BacktestRequest
        The backtest; its folder is that of its record once it has begun.
    recipe : Recipe
        Settings that have to be used in it.
    exact : ValidationPlan or None
        The same with exact advantages, as shipped, where this one learns from rollouts by the
        reference recipe to the letter.
    pair : str
        Pair whose candles the speed is measured on.
    until : Timestamp
        UTC; end of the candles that the speed is measured on.
    before : mapping
        Settings that the speed is compared with; see ``compare_speed``.
    """

    request: BacktestRequest
    recipe: Recipe
    pair: str
    until: pd.Timestamp
    before: Mapping[str, Any] = field(default_factory=lambda: dict(BEFORE))
    exact: ValidationPlan | None = None


def plan_validation(project: Path, *, full: bool, datadir: Path | None) -> ValidationPlan:
    """Choose data, pairs and days: the last week that has candles enough before it.

    Raises
    ------
    MarketError
        If ``datadir`` is given and holds no such pair.
    """
    if datadir is None:
        own = own_candles(project)
        datadir = own if _usable_pairs(own) else demo_market(project)
    usable = _usable_pairs(datadir)
    if not usable:
        raise MarketError(
            f"{datadir}: no pair has {_needed_days()} days of candles ({', '.join(REQUIRED_FILES)})"
            "; download more, or leave --datadir out to use a synthetic market"
        )
    pairs = _preferred(project, usable)
    until = min(usable[pair] for pair in pairs)
    since = until - timedelta(days=BACKTEST_DAYS)
    recipe = Recipe() if full else replace(Recipe(), train_cycles=SHORT_CYCLES)
    exactly = replace(recipe, advantage="exact", vec_env="batched")
    runs = user_data(project) / "runs"
    reference = json.loads(shipped_text(REFERENCE_RECIPE))["freqai"]["rl_config"]
    from_rollouts, exact = (
        _request(project, runs / name, datadir, (since, until), pairs, settings)
        for name, settings in (
            ("validation", {**reference, "train_cycles": recipe.train_cycles}),
            ("validation-exact", {"advantage": "exact", "train_cycles": recipe.train_cycles}),
        )
    )
    with_exact = ValidationPlan(request=exact, recipe=exactly, pair=pairs[0], until=since)
    return ValidationPlan(
        request=from_rollouts, recipe=recipe, pair=pairs[0], until=since, exact=with_exact
    )


def _request(
    project: Path,
    folder: Path,
    datadir: Path,
    days: tuple[pd.Timestamp, pd.Timestamp],
    pairs: list[str],
    rl_config: Mapping[str, Any],
) -> BacktestRequest:
    return BacktestRequest(
        project=project,
        folder=folder,
        datadir=datadir.resolve(),
        timerange=f"{days[0]:%Y%m%d}-{days[1]:%Y%m%d}",
        overrides={
            "exchange": {"pair_whitelist": pairs},
            "freqai": {
                "train_period_days": TRAIN_DAYS,
                "backtest_period_days": BACKTEST_DAYS,
                "rl_config": {**rl_config, "progress_bar": False},
            },
        },
    )


def training_market(datadir: Path, pair: str, until: pd.Timestamp) -> Market:
    """Return the training window of ``pair`` that ends before ``until``, features unscaled."""
    return recorded_pair(
        datadir, pair, since=until - timedelta(days=TRAIN_DAYS), until=until
    ).market


def _needed_days() -> int:
    return BACKTEST_DAYS + TRAIN_DAYS + -(-WARMUP_CANDLES_5M // _CANDLES_PER_DAY)


def _usable_pairs(datadir: Path) -> dict[str, pd.Timestamp]:
    """Return the pairs with every file and days enough, and the midnight their candles end at."""
    files, _ = find_candles(datadir)
    by_pair: dict[str, dict[str, CandleFile]] = {}
    for file in files:
        by_pair.setdefault(file.pair, {})[f"{file.timeframe}-{file.kind}"] = file
    usable = {}
    for pair, kinds in by_pair.items():
        if not set(REQUIRED_FILES) <= set(kinds):
            continue
        base = kinds[REQUIRED_FILES[0]]
        midnight = (utc_timestamp(base.last) + timeframe_delta(base.timeframe)).floor("D")
        if utc_timestamp(base.first) + timedelta(days=_needed_days()) <= midnight:
            usable[pair] = midnight
    return usable


def _preferred(project: Path, usable: Mapping[str, pd.Timestamp]) -> list[str]:
    """Return the configuration's pairs if there are candles of any, else those that there are."""
    path = project / "configs" / "config_rl_hybrid.json"
    configured = json.loads(path.read_text(encoding="utf-8"))["exchange"]["pair_whitelist"]
    return list(dict.fromkeys(pair for pair in (*configured, *usable) if pair in usable))[
        :_MOST_PAIRS
    ]

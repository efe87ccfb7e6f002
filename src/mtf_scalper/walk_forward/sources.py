"""Where the candles of an evaluation come from: a data directory, or a planted market."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from mtf_scalper.errors import MarketError, MtfScalperError, SettingsError, UntrainableError
from mtf_scalper.evaluation.recipe import Recipe
from mtf_scalper.market.market import with_early_ends
from mtf_scalper.market.pairs import check_linear
from mtf_scalper.market.stored import FEE_RATE, RecordedPair, recorded_pair
from mtf_scalper.settings import EntryMode, Settings, TradeRules, UntrainablePairs
from mtf_scalper.walk_forward.learned_window import check_window
from mtf_scalper.walk_forward.windows import Window
from mtf_scalper.worlds.planted import planted_market
from mtf_scalper.worlds.planted_spec import PlantedKind


class PairSource(Protocol):
    """Something that has the candles of pairs."""

    @property
    def name(self) -> str:
        """What it is, for people."""

    def load(self, pair: str, windows: Sequence[Window]) -> RecordedPair:
        """Return a pair's candles from the first training to the end of the last test."""


@dataclass(frozen=True)
class RecordedPairs:
    """Pairs of a freqtrade data directory.

    Attributes
    ----------
    datadir : Path
    recipe : Recipe
    """

    datadir: Path
    recipe: Recipe

    @property
    def name(self) -> str:
        """Name of the data directory."""
        return self.datadir.name

    def load(self, pair: str, windows: Sequence[Window]) -> RecordedPair:
        """Return a pair's candles; see ``recorded_pair``."""
        recipe = self.recipe
        return recorded_pair(
            self.datadir,
            pair,
            since=windows[0].train_from,
            # The candle at which the period ends belongs to a backtest; nothing after it is seen.
            until=windows[-1].test_to + recipe.candle,
            fee_rate=recipe.fee_rate,
            thresholds=recipe.thresholds,
            max_leverage=recipe.max_leverage,
            timeframes=recipe.timeframes,
            periods=recipe.periods,
            timeframe=recipe.timeframe,
            startup_candles=recipe.startup_candles,
            terms=None if recipe.terms is None else recipe.terms(pair),
            data_format=recipe.data_format,
        )


@dataclass(frozen=True)
class PlantedPairs:
    """A planted market, whose first candle is that of the first training.

    Attributes
    ----------
    kind : PlantedKind or str
    seed : int
        Another seed, another market.
    fee_rate : float
        Per side.
    """

    kind: PlantedKind | str
    seed: int = 0
    fee_rate: float = FEE_RATE

    @property
    def name(self) -> str:
        """Kind and seed."""
        return f"planted market {self.kind}, seed {self.seed}"

    def load(self, pair: str, windows: Sequence[Window]) -> RecordedPair:
        """Return the market; ``pair`` is its name."""
        start = windows[0].train_from.tz_localize(None).to_datetime64()
        minutes = (windows[-1].test_to - windows[0].train_from) / pd.Timedelta(minutes=1)
        n_candles = int(minutes) // 5 + 1
        dates = start.astype("datetime64[ns]") + np.arange(n_candles) * np.timedelta64(5, "m")
        market = planted_market(self.kind, self.seed, n_candles, fee_rate=self.fee_rate).market
        market = replace(market, dates=dates, pair=pair)
        candles = pd.DataFrame(market.ohlc, columns=["open", "high", "low", "close"])
        candles.insert(0, "date", pd.DatetimeIndex(dates, tz="UTC"))
        candles["volume"] = 0.0
        return RecordedPair(market, market.features.astype(np.float64), candles)


def load_pairs(
    source: PairSource, pairs: Sequence[str], windows: Sequence[Window], settings: Settings
) -> tuple[dict[str, RecordedPair], dict[str, str]]:
    """Load all pairs that can be learned in every window, and say what the others lack.

    Returns
    -------
    recordeds : dict of str to RecordedPair
        Those whose candles end before the last of them are marked so.
    left_out : dict of str to str
        By pair, why it is left out.

    Raises
    ------
    MarketError
        If a pair cannot be learned and ``settings.untrainable_pairs`` leaves none of its kind out,
        or if no pair is left.
    """
    recordeds: dict[str, RecordedPair] = {}
    left_out: dict[str, str] = {}
    for pair in pairs:
        check_linear(pair)
        try:
            recorded = source.load(pair, windows)
            for window in windows:
                check_window(recorded, window, settings)
        except MarketError as error:
            if not goes_on_without(error, settings):
                raise
            left_out[pair] = str(error)
        else:
            recordeds[pair] = recorded
    check_some_left(recordeds, left_out)
    markets = with_early_ends({pair: each.market for pair, each in recordeds.items()})
    recordeds = {pair: replace(each, market=markets[pair]) for pair, each in recordeds.items()}
    return recordeds, left_out


def goes_on_without(error: MtfScalperError, settings: Settings) -> bool:
    """Whether a run goes on without a pair that cannot be learned.

    What ends a training that had begun, or the process that did it, says nothing of other pairs.
    """
    if settings.untrainable_pairs is UntrainablePairs.FAIL:
        return False
    is_damaged = isinstance(error, MarketError) and not isinstance(error, UntrainableError)
    return not is_damaged or settings.untrainable_pairs is UntrainablePairs.LEAVE_OUT_DAMAGED


def check_some_left(pairs: Collection[str], left_out: Mapping[str, str]) -> None:
    """Check that a run has pairs.

    Raises
    ------
    UntrainableError
        If it has none: why the first one was left out.
    """
    if not pairs:
        reason = next(iter(left_out.values()))
        rest = f"; no pair is left, {len(left_out) - 1} more cannot be learned"
        raise UntrainableError(reason + rest if len(left_out) > 1 else reason)


def planted_recipe(kind: PlantedKind | str) -> Recipe:
    """Return the recipe for a planted market: enter anywhere, leave at will, within four hours.

    Raises
    ------
    SettingsError
        If there is no such kind.
    """
    if kind not in list(PlantedKind):
        raise SettingsError(f"planted: {kind!r} must be one of {', '.join(PlantedKind)}")
    rules = TradeRules(entry=EntryMode.ANY, max_trade_duration_candles=48)
    return Recipe(settings=Settings(rules=rules), pairs=(f"planted-{PlantedKind(kind)}",))

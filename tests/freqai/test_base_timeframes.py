"""The strategy on any base timeframe: in its own frame, at a live start, and where it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType, RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import Exchange
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import IStrategy

from mtf_scalper.freqai import columns
from mtf_scalper.freqai.strategy import HybridStrategy
from mtf_scalper.market.candles import resample_candles, timeframe_delta
from mtf_scalper.market.features import WARMUP_CANDLES_5M
from mtf_scalper.market.signals import EntryThresholds, classic_entries, entry_indicators

PAIR = "BTC/USDT:USDT"
Config = dict[str, Any]
MakeConfig = Callable[..., Config]
MakeStrategy = Callable[..., IStrategy]

FRAMES = {
    "1m": ("1m", "15m", "1h"),
    "3m": ("3m", "15m", "1h"),
    "5m": ("5m", "15m", "1h"),
    "15m": ("15m", "1h", "4h"),
    "1h": ("1h", "4h", "1d"),
}
EVERY = pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES)


def of_frames(frames: tuple[str, ...], base: str | None = None) -> Config:
    """Return overrides with a base and FreqAI's timeframes."""
    return {
        "timeframe": base or frames[0],
        "freqai": {"feature_parameters": {"include_timeframes": list(frames)}},
    }


@pytest.fixture(scope="module")
def walk(invented_market: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function of frames and length: candles of the base."""
    folder = tmp_path_factory.mktemp("walks")
    made: dict[tuple[str, int], pd.DataFrame] = {}

    def candles(base: str, count: int) -> pd.DataFrame:
        if (base, count) not in made:
            datadir = invented_market(folder / f"{base}-{count}", (base,), count, seed=4)
            path = datadir / "futures" / f"BTC_USDT_USDT-{base}-futures.feather"
            made[base, count] = pd.read_feather(path)
        return made[base, count].copy()

    return candles


def analysed(strategy: IStrategy, frame: pd.DataFrame, add: Callable[..., Any]) -> pd.DataFrame:
    """Run the strategy over candles at which the agent always agrees."""
    always = np.tile([0.2, 0.3, 0.1, 0.3, 0.1], (len(frame), 1))
    strategy.freqai = SimpleNamespace(start=lambda frame, metadata, strategy: add(frame, always))
    found = strategy.populate_indicators(frame.copy(), {"pair": PAIR})
    found = strategy.populate_entry_trend(found, {"pair": PAIR})
    return strategy.populate_exit_trend(found, {"pair": PAIR})


@EVERY
def test_nothing_in_the_strategys_frame_knows_the_future(
    frames: tuple[str, str, str],
    walk: Any,
    make_config: MakeConfig,
    make_strategy: MakeStrategy,
    with_predictions: Callable[..., pd.DataFrame],
) -> None:
    strategy = make_strategy(make_config(of_frames(frames)))
    strategy.dp = None
    base, *longer = frames
    frame = walk(base, 4000)
    ratio = timeframe_delta(frames[2]) // timeframe_delta(base)
    known = analysed(strategy, frame, with_predictions)
    assert (known["enter_long"] + known["enter_short"]).sum() > 5
    table = strategy._tables[PAIR]
    kitchen = FreqaiDataKitchen(strategy.config, False, PAIR)

    def seen(frame: pd.DataFrame) -> pd.DataFrame:
        return kitchen.use_strategy_to_populate_indicators(
            strategy,
            base_dataframes={
                base: frame,
                **{each: resample_candles(frame, each, base) for each in longer},
            },
            pair=PAIR,
        )

    features = seen(frame)
    last = 3900 // ratio * ratio  # the first base candle after the longest has closed
    for row in (last - 1, last - 2, last - ratio // 2 - 1, last - 2 * ratio):
        changed = frame.copy()
        factor = np.random.default_rng(row).uniform(0.5, 2.0, len(frame) - row - 1)
        for column in ("open", "high", "low", "close", "volume"):
            changed.loc[row + 1 :, column] *= factor
        other = analysed(strategy, changed, with_predictions)
        pd.testing.assert_frame_equal(other.iloc[: row + 1], known.iloc[: row + 1])
        for name, values in vars(table).items():
            ours = getattr(strategy._tables[PAIR], name)
            np.testing.assert_array_equal(ours[: row + 1], values[: row + 1], err_msg=name)
        pd.testing.assert_frame_equal(seen(changed).iloc[: row + 1], features.iloc[: row + 1])
        name = f"adx_14_{frames[2]}"
        assert not other.iloc[row + 1 :][name].equals(known.iloc[row + 1 :][name])


@EVERY
def test_a_live_start_gives_the_indicators_of_the_full_history(
    frames: tuple[str, str, str],
    walk: Any,
    make_config: MakeConfig,
    exchange: Exchange,
    with_predictions: Callable[..., pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """freqtrade hands a bot at its start as many closed candles of every timeframe as it asks for.

    The exchange is freqtrade's Binance with its own limit of candles, the provider its own.
    """
    config = make_config(of_frames(frames))
    config["runmode"] = RunMode.DRY_RUN
    strategy = StrategyResolver.load_strategy(config)
    strategy.bot_start()
    startup, base = strategy.startup_candle_count, frames[0]
    assert config["startup_candle_count"] == startup
    calls = exchange.validate_required_startup_candles(startup, base)
    assert calls * exchange.ohlcv_candle_limit(base, CandleType.FUTURES) > startup
    ratio = timeframe_delta(frames[2]) // timeframe_delta(base)
    count = max(startup, 260 * ratio) + 2 * ratio
    frame = walk(base, count)
    whole = entry_indicators(frame, frames)
    strategy.dp = DataProvider(config, exchange)
    for row in (count - 1, count - ratio // 2 - 2):
        now = frame["date"].iloc[row] + timeframe_delta(base)
        klines = {(PAIR, base, CandleType.FUTURES): frame.iloc[: row + 1].tail(startup)}
        for each in frames[1:]:
            longer = resample_candles(frame, each, base)
            closed = longer[longer["date"] + timeframe_delta(each) <= now]
            klines[PAIR, each, CandleType.FUTURES] = closed.tail(startup)
        monkeypatch.setattr(exchange, "_klines", klines)
        fetched = strategy.dp.ohlcv(PAIR, base).reset_index(drop=True)
        assert len(fetched) == startup
        found = analysed(strategy, fetched, with_predictions).iloc[-1]
        for name in whole:
            assert abs(found[name] - whole[name].iloc[row]) <= 0.005, name


@EVERY
def test_columns_start_and_plots_follow_the_timeframes(
    frames: tuple[str, str, str],
    walk: Any,
    make_config: MakeConfig,
    make_strategy: MakeStrategy,
    with_predictions: Callable[..., pd.DataFrame],
) -> None:
    strategy = make_strategy(make_config(of_frames(frames)))
    strategy.dp = None
    frame = analysed(strategy, walk(frames[0], 4000), with_predictions)
    plots = [strategy.plot_config["main_plot"], *strategy.plot_config["subplots"].values()]
    names = {name for part in plots for name in part}
    assert names <= set(frame)
    assert {f"adx_14_{each}" for each in frames} <= names
    long, short = classic_entries(entry_indicators(walk(frames[0], 4000)), EntryThresholds())
    np.testing.assert_array_equal(frame["enter_long"] == 1, long)
    np.testing.assert_array_equal(frame["enter_short"] == 1, short)
    np.testing.assert_array_equal(
        strategy._tables[PAIR].atr_pct, frame[f"atr_pct_{frames[0]}"].to_numpy()
    )


def test_the_shipped_strategy_is_as_it_was(make_config: MakeConfig) -> None:
    strategy = StrategyResolver.load_strategy(make_config())
    assert strategy.startup_candle_count == WARMUP_CANDLES_5M == HybridStrategy.startup_candle_count
    assert strategy.plot_config == HybridStrategy.plot_config
    assert set(strategy.plot_config["subplots"]["ADX"]) == {"adx_14_5m", "adx_14_15m", "adx_14_1h"}
    assert columns.CONFIDENCE in strategy.plot_config["subplots"]["agent"]


def test_count_and_plots_of_a_subclass_or_a_configuration_stay(make_config: MakeConfig) -> None:
    own_plots: Config = {"main_plot": {"close": {}}, "subplots": {}}
    subclass = type(
        "Own", (HybridStrategy,), {"startup_candle_count": 77, "plot_config": own_plots}
    )
    strategy = subclass(make_config(of_frames(FRAMES["15m"])))
    assert strategy.startup_candle_count == 77
    assert strategy.plot_config is own_plots
    config = make_config({**of_frames(FRAMES["1m"]), "startup_candle_count": 1499})
    assert StrategyResolver.load_strategy(config).startup_candle_count == 1499


@pytest.mark.parametrize(
    ("base", "included", "words"),
    [
        ("3m", ["3m", "5m", "15m"], "include_timeframes: '5m' is not a multiple of the timeframe"),
        ("4h", ["4h", "1d"], "fewer than two timeframes above the base '4h'"),
        ("1m", ["1m", "15m"], "'1h' would need 12060 candles of '1m'; add '1h' to it"),
        ("1h", ["1h", "4h", "1w"], "include_timeframes: '1w' is not a whole number of minutes"),
    ],
)
def test_timeframes_that_cannot_be_stop_the_program_at_its_start(
    base: str, included: list[str], words: str, make_config: MakeConfig
) -> None:
    config = make_config(of_frames(tuple(included), base))
    with pytest.raises(OperationalException) as refused:
        StrategyResolver.load_strategy(config)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_timeframes_that_take_a_missing_ones_place_are_told(
    make_config: MakeConfig, make_strategy: MakeStrategy, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        make_strategy(make_config(of_frames(FRAMES["15m"])))
    assert "include_timeframes" not in caplog.text
    with caplog.at_level(logging.WARNING):
        strategy = make_strategy(make_config(of_frames(("5m", "1h"))))
    assert (
        "freqai.feature_parameters.include_timeframes: ['5m', '1h'] has fewer than two timeframes "
        "above the base '5m'; the classic rule looks at 15m as well" in caplog.text
    )
    assert strategy.startup_candle_count == WARMUP_CANDLES_5M

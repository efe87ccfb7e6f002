"""The real program and ``evaluate`` on base timeframes other than 5m."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.evaluation.recipe import Recipe
from mtf_scalper.market.stored import recorded_pair
from mtf_scalper.runs.agreement import compare_trades, program_request
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.runs.program import MODEL, STRATEGY
from mtf_scalper.runs.recipe_reader import read_recipe
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.walk_forward.learned_window import learn_window, window_task
from mtf_scalper.walk_forward.sources import RecordedPairs
from mtf_scalper.walk_forward.walk import walk

# freqtrade calls pandas in ways that pandas 3.1 deprecates; nothing of ours does.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The inplace keyword in:pandas.errors.Pandas4Warning",
    "ignore:Series.values returning an ndarray that drops:pandas.errors.Pandas4Warning",
)

PAIR = "BTC/USDT:USDT"
MINUTES = {"1m": 1, "15m": 15}
INCLUDED = {"1m": ["1m", "15m", "1h"], "15m": ["15m", "1h", "4h"]}
N_CANDLES = {"1m": 11 * 1440, "15m": 36 * 96}
DAYS = {"1m": 2, "15m": 9}
START = "2024-01-01"

Overlay = Callable[..., Path]


@pytest.fixture(scope="module")
def datadirs(
    invented_market: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return a data directory for each base."""
    folder = tmp_path_factory.mktemp("bases")
    return {
        base: invented_market(
            folder / base, included, N_CANDLES[base], start=START, seed=5, signal_strength=0.9
        )
        for base, included in INCLUDED.items()
    }


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    """Return a writer of configurations to lay over the shipped one."""

    def write(base: str, **freqai: Any) -> Path:
        path = tmp_path / f"{base}.json"
        content = {
            "timeframe": base,
            "exchange": {"pair_whitelist": [PAIR]},
            "freqai": {"feature_parameters": {"include_timeframes": INCLUDED[base]}, **freqai},
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


def days(base: str, count: int, before_end: int = 0) -> str:
    """Return the last whole days of a market as a timerange."""
    end = pd.Timestamp(START) + N_CANDLES[base] * pd.Timedelta(minutes=MINUTES[base])
    stop = end.floor("D") - pd.Timedelta(days=before_end)
    return f"{stop - pd.Timedelta(days=count):%Y%m%d}-{stop:%Y%m%d}"


@pytest.mark.parametrize("base", INCLUDED)
@pytest.mark.parametrize("entry", ["any", "always"])
def test_simulator_and_program_make_the_same_trades(
    base: str,
    entry: str,
    datadirs: dict[str, Path],
    overlay: Overlay,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project)
    config = overlay(base, train_period_days=1, rl_config={"entry": entry})
    result = CliRunner(env={"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}).invoke(
        app,
        [
            *("parity", "--config", "configs/config_rl_hybrid.json", "--config", str(config)),
            *(
                "--policy",
                "random",
                "--timerange",
                days(base, DAYS[base]),
                "--datadir",
                str(datadirs[base]),
            ),
        ],
    )
    assert result.exit_code == 0, result.output
    words = result.stdout.splitlines()[-1].split()
    assert words[0] == "all"
    assert words[2:] == ["trades", "are", "the", "same"]
    assert int(words[1]) >= (20 if entry == "any" else 3)


@pytest.mark.parametrize("base", INCLUDED)
def test_evaluate_learns_and_trades_what_the_program_does(
    base: str,
    datadirs: dict[str, Path],
    overlay: Overlay,
    project: Path,
    run_ready_backtest: Callable[..., Any],
) -> None:
    """Features, entries and warm-up of the recorded pair are those of FreqAI to the last bit."""
    n_days = 2 if base == "1m" else 4
    small = {
        "conv_width": 4,
        "activate_tensorboard": False,
        "rl_config": {
            **{"train_cycles": 1, "learning_rate": 0.01, "net_arch": [8], "cpu_count": 1},
            **{"validation_share": 0.0, "progress_bar": False, "entry": "always"},
        },
        "data_split_parameters": {"test_size": 0.01},
    }
    config = overlay(base, **small)
    shipped = project / "configs" / "config_rl_hybrid.json"
    recipe = read_recipe((shipped, config), project / "user_data", datadirs[base], STRATEGY, MODEL)
    assert recipe.timeframe == base
    assert recipe.timeframes == tuple(INCLUDED[base])
    plan = EvaluationPlan(
        recipe=recipe,
        source=RecordedPairs(datadirs[base], recipe),
        timerange=days(base, n_days, before_end=1),
        train_days=n_days,
        test_days=n_days,
        datadir=datadirs[base],
        configs=(config,),
        with_program=True,
    )
    windows = plan.windows()
    recorded = plan.source.load(PAIR, windows)
    assert recorded.market.timeframe_minutes == MINUTES[base]
    settings = recipe.settings.changed(cpu_count=1, progress_bar=False)
    learned = [
        learn_window(window_task(recorded, each, settings, seed=42, with_history=False))
        for each in windows
    ]
    found = walk(recorded, windows, learned, settings)
    outcome = run_ready_backtest(
        program_request(
            plan,
            project,
            project / "user_data" / "runs" / f"base-{base}",
            [PAIR],
            seed=42,
        )
    )
    agreement = compare_trades(found, outcome.strategy["trades"])
    assert agreement.difference is None
    assert agreement.n_program > 10


def test_windows_and_longest_trades_are_counted_in_candles_of_the_base(
    datadirs: dict[str, Path],
) -> None:
    """50 candles of 15m are 12.5 hours; a day has 96 of them."""
    rules = TradeRules(max_trade_duration_candles=49)
    recipe = Recipe(settings=Settings(rules=rules), pairs=(PAIR,), timeframe="15m")
    plan = EvaluationPlan(
        recipe=recipe,
        source=RecordedPairs(datadirs["15m"], recipe),
        timerange="20240120-20240122",
        train_days=3,
        test_days=2,
    )
    (window,) = plan.windows()
    assert window.test_from - window.train_to == pd.Timedelta(hours=12, minutes=30)
    endless = Recipe(settings=Settings(), pairs=(PAIR,), timeframe="15m")
    assert endless.longest_trade == 96
    assert Recipe(settings=Settings(), pairs=(PAIR,)).longest_trade == 288


def test_the_last_candle_of_a_period_is_one_of_the_base(
    datadirs: dict[str, Path], overlay: Overlay, project: Path
) -> None:
    files = (project / "configs" / "config_rl_hybrid.json", overlay("15m"))
    recipe = read_recipe(files, project / "user_data", datadirs["15m"], STRATEGY, MODEL)
    source = RecordedPairs(datadirs["15m"], recipe)
    timerange = days("15m", 2, before_end=1)
    plan = EvaluationPlan(
        recipe=recipe, source=source, timerange=timerange, train_days=4, test_days=2
    )
    recorded = source.load(PAIR, plan.windows())
    stop = pd.Timestamp(timerange.partition("-")[2], tz="UTC")
    assert recorded.candles["date"].iloc[-1] == stop
    assert recorded.candles["date"].iloc[0] == stop - pd.Timedelta(days=6)
    assert np.isfinite(recorded.features).all()
    again = recorded_pair(
        datadirs["15m"],
        PAIR,
        since=stop - pd.Timedelta(days=6),
        timeframes=recipe.timeframes,
    )
    rows = slice(0, len(recorded.features))
    np.testing.assert_array_equal(again.features[rows], recorded.features)


def test_timeframes_that_evaluate_cannot_make_are_named(tmp_path: Path, project: Path) -> None:
    config = tmp_path / "weeks.json"
    included = {"feature_parameters": {"include_timeframes": ["5m", "15m", "1h", "1w"]}}
    config.write_text(json.dumps({"freqai": included}), encoding="utf-8")
    files = (project / "configs" / "config_rl_hybrid.json", config)
    with pytest.raises(SettingsError, match="include_timeframes: '1w' is not a whole number"):
        read_recipe(files, project / "user_data", tmp_path, STRATEGY, MODEL)


def test_candles_that_begin_too_late_for_the_longest_features_are_named(
    datadirs: dict[str, Path],
) -> None:
    """101 hours before midnight of the 5th of January is 19:00 on the last day of the year."""
    since = pd.Timestamp("2024-01-05", tz="UTC")
    with pytest.raises(MarketError) as refused:
        recorded_pair(datadirs["1m"], PAIR, since=since, timeframes=INCLUDED["1m"])
    assert str(refused.value) == (
        f"{PAIR}: candles of 1m begin on 2024-01-01 00:00, the features of 2024-01-05 00:00 need "
        "them from 2023-12-31 19:00 on; download more"
    )

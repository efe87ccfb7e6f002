"""``play`` against the reference environment, run by run, and what a ``Simulation`` says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from markets import wild_market

import mtf_scalper
from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator import playback
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import (
    Simulation,
    play,
    play_by_chance,
    play_decided,
    valid_actions,
)
from mtf_scalper.simulator.playback import Simulation as SimulationOfInference
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import Action, ExitReason, Side, Trade

WINDOW = 4
LONG, SHORT = Side.LONG, Side.SHORT


def random_settings(rng: np.random.Generator) -> Settings:
    """Return rules of which each is on or off."""

    def maybe(value: float) -> float | None:
        return value if rng.random() < 0.6 else None

    duration = maybe(float(rng.integers(1, 30)))
    stops: dict[str, object] = {"stoploss": maybe(-float(rng.choice([0.02, 0.1, 0.3])))}
    if stops["stoploss"] is not None and rng.random() < 0.5:
        stops |= {"trailing_stop": True, "trailing_stop_positive": maybe(0.01)}
    return Settings(
        window_size=WINDOW,
        add_state_info=bool(rng.random() < 0.5),
        rules=TradeRules(
            entry=rng.choice(list(EntryMode)),
            can_short=bool(rng.random() < 0.6),
            **stops,
            is_liquidated=bool(rng.random() < 0.5),
            minimal_roi={} if rng.random() < 0.3 else {0: 0.04, 10: 0.02, 30: 0.01, 60: -1.0},
            max_trade_duration_candles=None if duration is None else int(duration),
            emergency_loss=maybe(-0.03),
            break_even_trigger=maybe(0.015),
            break_even_floor=0.001,
            slippage_bps=maybe(25.0) or 0.0,
        ),
    )


def by_reference(
    market: Market, settings: Settings, decide: Callable[[int, np.ndarray, np.ndarray], int]
) -> Simulation:
    """Drive the reference environment by ``decide(row, state, mask)``."""
    env = ReferenceEnv(market, settings)
    equity, actions = np.ones(len(market)), np.zeros(len(market), dtype=np.int64)
    env.reset(options={"row": settings.window_size - 1})
    terminated = False
    while not terminated:
        row = env.row
        action = decide(row, env.position_state(), env.action_masks())
        _, _, terminated, _, info = env.step(action)
        actions[row] = info["executed"]
        equity[env.row] = info["equity"]
    equity[env.row :] = env.equity
    return Simulation(tuple(env.trades), equity, actions)


def assert_equal_runs(seed: int, n_runs: int) -> list[Simulation]:
    """Random policies, of which some look at their position, on both sides."""
    rng = np.random.default_rng(seed)
    market, settings = wild_market(rng), random_settings(rng)
    acts = rng.random((len(market), n_runs)) < rng.choice([0.1, 0.6])
    random_actions = np.where(acts, rng.integers(0, 5, (len(market), n_runs)), 0)
    levels = rng.normal(0.5, 1.0, n_runs)  # profit at which a position is left in any case

    def choose(row: int, states: np.ndarray, extras: np.ndarray) -> np.ndarray:
        assert (states["row"] == row).all()
        leaves = (extras[:, 0] != 0) & (extras[:, 1] > levels)
        return np.where(leaves, np.where(extras[:, 0] > 0, 2, 4), random_actions[row])

    runs = play(prepare(market, settings), choose, n_runs)
    assert len(runs) == n_runs
    for run, ours in enumerate(runs):

        def decide(row: int, state: np.ndarray, mask: np.ndarray, run: int = run) -> int:
            if state[0] and state[1] > levels[run]:
                return 2 if state[0] > 0 else 4
            return int(random_actions[row, run])

        theirs = by_reference(market, settings, decide)
        assert ours.trades == theirs.trades
        np.testing.assert_array_equal(ours.equity, theirs.equity)
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        assert ours.actions.dtype == np.int64
    return list(runs)


def test_runs_equal_those_of_the_reference_for_every_exit() -> None:
    reasons: Counter[str] = Counter()
    for seed in range(40):
        for run in assert_equal_runs(seed, n_runs=5):
            reasons.update(trade.exit_reason for trade in run.trades)
    assert set(reasons) == set(ExitReason), f"exits that never happened: {reasons}"
    assert min(reasons.values()) >= 10


@settings_of_hypothesis(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), n_runs=st.sampled_from([1, 2, 9]))
def test_any_number_of_runs(seed: int, n_runs: int) -> None:
    assert_equal_runs(seed, n_runs)


def assert_same(ours: Simulation, theirs: Simulation) -> None:
    assert ours.trades == theirs.trades
    np.testing.assert_array_equal(ours.equity, theirs.equity)
    np.testing.assert_array_equal(ours.actions, theirs.actions)
    assert (ours.equity.dtype, ours.actions.dtype) == (np.float64, np.int64)


@pytest.mark.parametrize("steps_at_once", [1, 50, 2**17])
def test_tables_are_walked_as_the_reference_steps(
    monkeypatch: pytest.MonkeyPatch, steps_at_once: int
) -> None:
    """Every exit, every entry mode, any cut of the walk into pieces: to the last bit."""
    monkeypatch.setattr(playback, "_STEPS_AT_ONCE", steps_at_once)
    reasons: Counter[str] = Counter()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        market, settings = (
            wild_market(rng),
            random_settings(rng),
        )
        acts = rng.random((3, len(market), 3)) < rng.choice([0.1, 0.6])
        tables = np.where(acts, rng.integers(0, 5, acts.shape), 0)
        runs = play_decided(prepare(market, settings), tables)
        assert len(runs) == 3
        for table, ours in zip(tables, runs, strict=True):

            def decide(row: int, state: np.ndarray, _mask: object, table: Any = table) -> int:
                return int(table[row, int(state[0]) + 1])

            assert_same(ours, by_reference(market, settings, decide))
            reasons.update(trade.exit_reason for trade in ours.trades)
    assert set(reasons) == set(ExitReason), f"exits that never happened: {reasons}"
    assert min(reasons.values()) >= 3


@pytest.mark.parametrize("steps_at_once", [1, 50, 2**17])
def test_trades_left_by_chance_are_those_of_runs_that_are_stepped(
    monkeypatch: pytest.MonkeyPatch, steps_at_once: int
) -> None:
    monkeypatch.setattr(playback, "_STEPS_AT_ONCE", steps_at_once)
    n_runs = 7
    for seed in range(10):
        rng = np.random.default_rng(seed)
        market, settings = wild_market(rng), random_settings(rng)
        entries, chances = rng.integers(0, 5, len(market)), rng.random(6) * 0.3
        prepared, again = prepare(market, settings), np.random.default_rng(seed)

        def choose(
            row: int,
            states: np.ndarray,
            _extras: np.ndarray,
            known: Any = (again, entries, chances),
        ) -> np.ndarray:
            drawn, entries, chances = known
            ages = np.clip(row + 1 - states["open_row"], 0, len(chances) - 1)
            leaves = drawn.random(n_runs) < chances[ages]
            exits = np.where(states["side"] > 0, Action.LONG_EXIT, Action.SHORT_EXIT)
            stays = np.where(leaves, exits, Action.NEUTRAL)
            return np.where(states["side"] == 0, entries[row], stays)

        runs = play_by_chance(prepared, entries, chances, n_runs, np.random.default_rng(seed))
        for ours, theirs in zip(runs, play(prepared, choose, n_runs), strict=True):
            assert_same(ours, theirs)


def test_the_optimum_leaves_a_trade_that_outlives_its_plan() -> None:
    """An exit that the plan counts as filled waits here, and then the stop's order does."""
    rng = np.random.default_rng(103)
    market, settings = wild_market(rng), random_settings(rng)
    assert oracle(market, settings).trades  # it did not return


def enter_long(_row: int, states: np.ndarray, _extras: np.ndarray) -> np.ndarray:
    return np.where(states["side"] == 0, Action.LONG_ENTER, Action.NEUTRAL)


def test_what_concerns_training_only_does_not_apply(make_market) -> None:
    market = make_market(volatility=0.02)
    plain = {"window_size": WINDOW, "rules": {"entry": "any", "stoploss": -0.03}}
    changes = [
        {"rules": {"entry": "any", "stoploss": -0.03, "max_training_drawdown": 0.001}},
        {"max_episode_steps": 3},
        {"randomize_starting_position": True},
        {"reward": "no_such_module:my_reward"},
        {"reward": "freqtrade_example", "fills": "freqtrade_env", "n_actions": 3},
    ]
    (whole,) = play(prepare(market, Settings(**plain)), enter_long)
    assert len(whole.trades) > 3
    for change in changes:
        (run,) = play(prepare(market, Settings(**{**plain, **change})), enter_long)
        assert run.trades == whole.trades
        np.testing.assert_array_equal(run.equity, whole.equity)


def test_a_ruined_account_ends_alone() -> None:
    """The price falls by 99% from one open to the next; the second run enters after that."""
    before, after = (100.0, 100.5, 99.5, 100.0), (1.0, 2.0, 1.0, 1.0)
    market = Market(features=np.zeros((8, 1)), ohlc=[before] * 2 + [after] * 6, leverage=5.0)
    settings = Settings(window_size=1, rules={"entry": "any", "emergency_loss": -0.5})

    def choose(row: int, states: np.ndarray, _extras: np.ndarray) -> np.ndarray:
        enters = (states["side"] == 0) & (row >= np.array([0, 3]))
        return np.where(enters, Action.LONG_ENTER, Action.NEUTRAL)

    gone, alive = play(prepare(market, settings), choose, 2)
    assert [trade.exit_reason for trade in gone.trades] == [ExitReason.EMERGENCY]
    assert gone.trades[0].close_row == 2
    assert gone.equity.tolist() == [1.0, *[1e-6] * 7]
    assert gone.actions.tolist() == [1, *[0] * 7]
    assert [trade.open_row for trade in alive.trades] == [4]
    assert alive.equity[-1] == pytest.approx(1.0 + 5.0 * (0.9995 / 1.0005 - 1.0))
    (alone,) = play(prepare(market, settings), enter_long)
    assert (alone.trades, alone.equity.tolist()) == (gone.trades, gone.equity.tolist())
    table = np.zeros((2, 8, 3), dtype=np.int8)
    table[0, :, 1] = table[1, 3:, 1] = Action.LONG_ENTER
    walked = play_decided(prepare(market, settings), table)
    for ours, theirs in zip(walked, (gone, alive), strict=True):
        assert_same(ours, theirs)


def test_calls_that_cannot_be_are_refused(make_market) -> None:
    settings = Settings(window_size=WINDOW)
    with pytest.raises(MarketError, match="5 candles are too few for a window of 4; at least 6"):
        prepare(make_market(n_candles=5), settings)
    with pytest.raises(ValueError, match="n_runs must be at least 1, got 0"):
        play(prepare(make_market(), settings), enter_long, 0)
    with pytest.raises(ValueError, match=r"choose returned shape \(1,\) for 2 runs"):
        play(prepare(make_market(), settings), lambda *_: np.zeros(1, dtype=np.int64), 2)


@pytest.mark.parametrize("entry", list(EntryMode))
@pytest.mark.parametrize("can_short", [True, False])
def test_valid_actions_are_the_masks_of_the_environment(entry, can_short) -> None:
    market = wild_market(np.random.default_rng(2))
    settings = Settings(window_size=WINDOW, rules={"entry": entry, "can_short": can_short})
    valid = valid_actions(prepare(market, settings))
    assert valid.shape == (len(market), 3, 5)
    env, rng, seen = ReferenceEnv(market, settings), np.random.default_rng(3), set()
    env.reset()
    while env.row < len(market) - 1:
        np.testing.assert_array_equal(valid[env.row, env.side + 1], env.action_masks())
        seen.add(int(env.side))
        env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))
    np.testing.assert_array_equal(valid[env.row, 1], env.action_masks())
    assert seen == ({-1, 0, 1} if can_short else {0, 1})


def trade(profit_ratio: float, side: Side = LONG, rows: tuple[int, int] = (1, 2)) -> Trade:
    return Trade("market", side, *rows, 100.0, 101.0, 1.0, profit_ratio, ExitReason.AGENT)


def test_statistics_of_a_simulation() -> None:
    run = Simulation(
        trades=(trade(0.1), trade(-0.1, rows=(3, 7)), trade(0.0), trade(0.2)),
        equity=np.array([1.0, 1.2, 0.9, 1.5, 1.35]),
        actions=np.zeros(5, dtype=np.int64),
    )
    assert run.log_return == pytest.approx(math.log(1.35))
    assert run.max_drawdown == pytest.approx(0.25)
    assert run.win_rate == 0.5
    assert run.profit_factor == pytest.approx(3.0)
    assert run.mean_profit_ratio == pytest.approx(0.05)
    assert run.mean_holding_candles == pytest.approx(7 / 4)


def test_statistics_without_trades() -> None:
    run = Simulation((), np.ones(5), np.zeros(5, dtype=np.int64))
    assert run.log_return == 0.0
    assert run.max_drawdown == 0.0
    for value in (run.win_rate, run.profit_factor, run.mean_profit_ratio):
        assert math.isnan(value)
    assert math.isnan(run.mean_holding_candles)
    assert run.sides_held().tolist() == run.sides_decided_in().tolist() == [0] * 5


def test_the_profit_factor_without_losses_is_infinite_and_without_either_unknown() -> None:
    arrays = (np.ones(5), np.zeros(5, dtype=np.int64))
    assert Simulation((trade(0.1), trade(0.0)), *arrays).profit_factor == math.inf
    assert math.isnan(Simulation((trade(0.0),), *arrays).profit_factor)
    assert Simulation((trade(-0.1),), *arrays).profit_factor == 0.0


def test_sides_by_candle() -> None:
    stopped = Trade("market", SHORT, 5, 6, 100.0, 101.0, 1.0, -0.1, ExitReason.STOP_LOSS)
    at_once = Trade("market", LONG, 8, 8, 100.0, 99.0, 1.0, -0.1, ExitReason.STOP_LOSS)
    run = Simulation(
        (trade(0.1, rows=(1, 3)), stopped, at_once), np.ones(10), np.zeros(10, dtype=np.int64)
    )
    assert run.sides_decided_in().tolist() == [0, 1, 1, 0, 0, -1, 0, 0, 0, 0]
    assert run.sides_held().tolist() == [0, 1, 1, 0, 0, -1, -1, 0, 1, 0]


def test_there_is_one_simulation_class() -> None:
    assert mtf_scalper.Simulation is Simulation is SimulationOfInference

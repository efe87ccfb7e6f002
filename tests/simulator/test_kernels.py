"""Parts of the compiled environment that take a shorter way than the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.simulator import kernels
from mtf_scalper.simulator.exits import STAY
from mtf_scalper.simulator.observation import PROFIT_UNIT, STATE_LIMIT, in_units
from mtf_scalper.simulator.prepared import prepare

N_TRADES = 400


def random_trades(rng: np.random.Generator, leverage: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return candles, and trades of either side and any age that live through one each."""
    reach = rng.choice([0.0005, 0.005, 0.05])
    opened = 100.0 * np.exp(rng.normal(0.0, reach, N_TRADES))
    close = opened * np.exp(rng.normal(0.0, reach, N_TRADES))
    market = Market(
        features=np.zeros((N_TRADES, 1)),
        ohlc=np.column_stack(
            [opened, np.maximum(opened, close) * 1.0001, np.minimum(opened, close) * 0.9999, close]
        ),
        tick_size=rng.choice([0.0, 0.01, 0.5, 5.0]),
        leverage=rng.choice(leverage, N_TRADES),
    )
    states = np.zeros(N_TRADES, kernels.STATE)
    states["row"] = np.arange(N_TRADES)
    states["side"] = rng.choice([-1, 1], N_TRADES)
    states["open_row"] = states["row"] - rng.integers(0, 20, N_TRADES)
    states["open_rate"] = 100.0
    states["leverage"] = market.leverage
    best = np.abs(rng.normal(0.0, reach, N_TRADES))
    states["best_rate"] = 100.0 * np.exp(states["side"] * best)
    states["funding_paid"] = rng.choice([0.0, 0.1, -0.1], N_TRADES)
    # Stops and liquidation prices as a market may give them, also beyond the entry.
    away = rng.normal(reach, reach, (2, N_TRADES))
    states["stop"] = 100.0 * (1.0 - states["side"] * away[0])
    given = 1.0 - states["side"] * away[1]
    states["liquidation"] = np.where(rng.random(N_TRADES) < 0.2, 0.0, given)
    states["liquidation"][rng.random(N_TRADES) < 0.5] = np.nan
    states["has_trailed"] = rng.random(N_TRADES) < 0.5
    states["tick_size"] = market.tick_size
    return kernels.candles_of(market), states


def random_rules(rng: np.random.Generator) -> TradeRules:
    return TradeRules(
        **[
            {"stoploss": None},
            {"stoploss": -0.02},
            {"stoploss": -0.5},
            {"stoploss": -0.5, "trailing_stop": True},
        ][rng.integers(4)],
        minimal_roi=[{}, {0: 0.04, 30: 0.01}, {5: 0.02, 60: -1.0}][rng.integers(3)],
        max_trade_duration_candles=rng.choice([None, 12]),
        emergency_loss=rng.choice([None, -0.03]),
        break_even_trigger=rng.choice([None, 0.015]),
        break_even_floor=0.001,
        maintenance_margin_rate=rng.choice([0.004, 0.1]),
        liquidation_buffer=rng.choice([0.0, 0.05, 0.9]),
        is_liquidated=bool(rng.random() < 0.8),
    )


@pytest.mark.parametrize("leverage", [[1.0, 2.5], [20.0, 125.0], [9.9, 10.1, 249.0, 400.0]])
def test_no_exit_that_the_rules_force_is_overlooked(leverage: list[float]) -> None:
    """Also where the liquidation price lies beyond the entry: leverage above 1 / maintenance."""
    rng = np.random.default_rng(7)
    n_exits = n_spared = 0
    for _ in range(60):
        candles, states = random_trades(rng, leverage)
        settings = Settings(window_size=1, rules=random_rules(rng))
        market = Market(features=np.zeros((3, 1)), ohlc=np.arange(1.0, 4.0)[:, None] * np.ones(4))
        terms = kernels.terms_with(prepare(market, settings).terms, last_row=-1)  # no end of data
        _, roi, rules = terms
        for candle, state in zip(candles, states, strict=True):
            code, _ = kernels.find_exit(candle, roi, rules[0], state)
            may_be = kernels._may_be_forced(candle, rules[0], state)
            assert may_be or code == STAY, (candle, state, settings.rules)
            n_exits += code != STAY
            n_spared += not may_be
    assert min(n_exits, n_spared) > 1000


def test_profits_in_units_are_those_of_the_division() -> None:
    rng = np.random.default_rng(3)
    digits = np.concatenate(
        [
            np.arange(-20_000, 20_000),
            rng.integers(-(10**8), 10**8, 100_000),
            15_625 * np.arange(-1300, 1300),  # exact in float32
        ]
    )
    for digit in digits.tolist():
        profit = digit / 1e8
        expected = max(-STATE_LIMIT, min(STATE_LIMIT, profit / PROFIT_UNIT))
        assert np.float32(in_units(profit)) == np.float32(expected), digit


def test_log_of_a_ratio() -> None:
    rng = np.random.default_rng(5)
    for size in (1e-9, 1e-4, 0.02, 0.05, 0.11, 1.0, 10.0):
        for numerator in np.exp(rng.uniform(-size, size, 1000)).tolist():
            expected = math.log(numerator)
            assert kernels.log_ratio(numerator, 1.0) == pytest.approx(
                expected, rel=0, abs=4e-16 * max(1.0, size)
            )
    assert kernels.log_ratio(0.7, 0.7) == 0.0

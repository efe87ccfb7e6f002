from datetime import date

import numpy as np
import pytest

from mtf_scalper.evaluation.days import (
    FIGURES,
    calendar_of,
    days_by_row,
    days_of,
    max_drawdown,
    pooled_days,
    sharpe_ratio,
    sortino_ratio,
)
from mtf_scalper.market.market import Market
from mtf_scalper.simulator.playback import Simulation
from mtf_scalper.simulator.types import ExitReason, Side, Trade


def market(n_candles, start=None):
    dates = None
    if start is not None:
        dates = np.datetime64(start, "ns") + np.arange(n_candles) * np.timedelta64(5, "m")
    prices = 100.0 + np.arange(n_candles)[:, None] * np.ones(4)
    return Market(features=np.zeros((n_candles, 1)), ohlc=prices, dates=dates)


def trade(open_row, close_row, profit, leverage=2.0, close_rate=110.0):
    return Trade(
        "x", Side.LONG, open_row, close_row, 100.0, close_rate, leverage, profit, ExitReason.AGENT
    )


def test_days_are_those_of_the_calendar_in_utc():
    days = days_by_row(market(300, "2024-01-01T23:50"))
    assert [str(day) for day in np.unique(days)] == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert np.unique(days, return_counts=True)[1].tolist() == [2, 288, 10]


def test_the_candle_at_midnight_that_ends_a_market_belongs_to_the_day_before():
    whole = market(289, "2024-01-01")
    assert len(calendar_of([whole])) == 1
    # One candle later trades are made on the second day.
    assert days_by_row(market(290, "2024-01-01"))[-2:].tolist() == [date(2024, 1, 2)] * 2
    assert whole.dates[-1] == np.datetime64("2024-01-02")


def test_the_days_of_several_markets_are_those_of_any_of_them():
    days = calendar_of([market(288, "2024-01-03"), market(300, "2024-01-01")])
    assert [str(day) for day in days] == ["2024-01-01", "2024-01-02", "2024-01-03"]


def test_a_day_holds_what_was_earned_held_and_closed_on_it():
    equity = np.array([1.0, 1.0, 1.1, 1.1, 1.21, 1.0])
    run = Simulation((trade(1, 3, 0.2), trade(3, 5, -0.1)), equity, np.zeros(6, np.int64))
    found = days_of(run, np.array([0, 0, 0, 0, 1, 1]), 3)
    np.testing.assert_allclose(found.log_return, [np.log(1.1), -np.log(1.1), 0.0])
    np.testing.assert_allclose(found.exposure, [0.75, 0.5, 0.0])
    # Two ways in and one out (2 x 110 / 100) on the first day, one out on the second.
    np.testing.assert_allclose(found.turnover, [2.0 + 2.2 + 2.0, 2.2, 0.0])
    assert found.n_trades.tolist() == [1.0, 1.0, 0.0]
    assert found.n_wins.tolist() == [1.0, 0.0, 0.0]
    np.testing.assert_allclose(found.profit, [0.2, -0.1, 0.0])


def test_sharpe_and_sortino_by_hand():
    returns = np.array([0.01, -0.02, 0.03, 0.0])
    # mean 0.005, variance (0.005^2 + 0.025^2 + 0.025^2 + 0.005^2) / 3, downside 0.02^2 / 4
    assert sharpe_ratio(returns) == pytest.approx(0.005 / np.sqrt(0.0013 / 3) * np.sqrt(365))
    assert sortino_ratio(returns) == pytest.approx(0.005 / 0.01 * np.sqrt(365))


def test_ratios_without_anything_that_varies_are_not_defined():
    assert np.isnan(sharpe_ratio(np.full(9, 0.1)))
    assert np.isnan(sortino_ratio(np.array([0.1, 0.2])))


def test_drawdown_counts_from_the_start_and_from_peaks():
    assert max_drawdown(np.log([0.9, 1.0])) == pytest.approx(0.1)
    assert max_drawdown(np.log([2.0, 0.5, 0.8])) == pytest.approx(0.6)
    assert max_drawdown(np.log([[2.0, 0.5], [1.0, 1.1]])) == pytest.approx([0.5, 0.0])


def test_figures_of_trades_weigh_trades_and_not_days_or_seeds():
    equity = np.ones(6)
    many = Simulation(
        tuple(trade(row, row + 1, 0.01) for row in (1, 2, 3)), equity, np.zeros(6, np.int64)
    )
    few = Simulation((trade(1, 2, -0.03),), equity, np.zeros(6, np.int64))
    days = np.array([0, 0, 0, 0, 1, 1])
    pooled = pooled_days([days_of(many, days, 2), days_of(few, days, 2)]).stacked()
    assert FIGURES["average_trade"](pooled) == pytest.approx(0.0)
    assert FIGURES["win_rate"](pooled) == pytest.approx(0.75)
    assert FIGURES["trades_per_day"](pooled) == pytest.approx(1.0)


def test_figures_of_many_resamples_at_once_are_those_of_each():
    days = np.abs(np.random.default_rng(1).normal(size=(5, 20, 6)))
    days[..., 0] -= 0.8
    for figure in FIGURES.values():
        np.testing.assert_allclose(figure(days), [figure(each) for each in days])

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtf_scalper.settings import RewardName, RewardParameters, Settings
from mtf_scalper.simulator.rewards import (
    REWARDS,
    Parameters,
    RewardState,
    drawdown_control,
    exit_quality,
    exit_timing,
    freqtrade_example,
    log_return,
    parameters_of,
    risk_reward,
    weighted_profit,
)

AIM = Parameters(rr=1.0, profit_aim=0.02, win_reward_factor=2.0)
IN_A_LONG = RewardState(
    action=0,
    is_valid=True,
    side_before=1,
    side_after=1,
    log_return=0.003,
    closed=False,
    profit=0.01,
    best_profit=0.02,
    worst_profit=-0.01,
    age_candles=12,
    max_age_candles=48,
)
CLOSED = IN_A_LONG._replace(closed=True, side_after=0, action=2)

finite = st.floats(-1e12, 1e12)


@st.composite
def states(draw: st.DrawFn) -> RewardState:
    profit = draw(finite)
    return RewardState(
        action=draw(st.integers(0, 4)),
        is_valid=draw(st.booleans()),
        side_before=draw(st.integers(-1, 1)),
        side_after=draw(st.integers(-1, 1)),
        log_return=draw(st.floats(-60.0, 60.0)),
        closed=draw(st.booleans()),
        profit=profit,
        best_profit=max(profit, draw(finite)),
        worst_profit=min(profit, draw(finite)),
        age_candles=draw(st.integers(0, 100_000)),
        max_age_candles=draw(st.integers(1, 1000)),
    )


parameters = st.builds(
    Parameters,
    rr=st.floats(1e-3, 100.0),
    profit_aim=st.floats(1e-4, 1.0),
    win_reward_factor=st.floats(-10.0, 10.0),
)


def test_every_name_has_a_reward() -> None:
    assert set(REWARDS) == set(RewardName)


def test_parameters_are_those_of_the_settings() -> None:
    settings = Settings(reward_parameters=RewardParameters(rr=3.0, win_reward_factor=-1.0))
    assert parameters_of(settings) == (3.0, 0.025, -1.0)
    assert set(Parameters._fields) == set(RewardParameters.model_fields)


@pytest.mark.parametrize("name", list(RewardName))
@given(state=states(), parameters=parameters)
def test_rewards_are_finite(name, state, parameters) -> None:
    assert math.isfinite(REWARDS[name](state, parameters))


@pytest.mark.parametrize(
    "term", [weighted_profit, drawdown_control, exit_timing, risk_reward, exit_quality]
)
@given(state=states(), parameters=parameters)
def test_terms_of_exit_quality_lie_between_minus_one_and_one(term, state, parameters) -> None:
    assert -1.0 <= term(state, parameters) <= 1.0


def test_log_return_is_the_change_of_log_equity() -> None:
    assert log_return(IN_A_LONG, AIM) == 0.003


@pytest.mark.parametrize(
    ("term", "change", "expected"),
    [
        (weighted_profit, {"profit": 0.0}, 0.0),
        (weighted_profit, {"profit": 0.02}, math.tanh(1.0)),
        (weighted_profit, {"profit": -0.04}, -math.tanh(2.0)),
        (drawdown_control, {"worst_profit": 0.0}, 1.0),
        (drawdown_control, {"worst_profit": 0.005}, 1.0),
        (drawdown_control, {"worst_profit": -0.01}, 0.0),
        (drawdown_control, {"worst_profit": -0.02}, -1.0),
        (drawdown_control, {"worst_profit": -5.0}, -1.0),
        (exit_timing, {"profit": 0.02, "best_profit": 0.02}, 1.0),
        (exit_timing, {"profit": 0.005, "best_profit": 0.02}, 0.25),
        (exit_timing, {"profit": -0.05, "best_profit": 0.02}, -1.0),
        # The best profit counts as at least a tenth of the aim.
        (exit_timing, {"profit": -0.001, "best_profit": 0.0}, -0.5),
        (risk_reward, {"profit": 0.01, "worst_profit": -0.02}, 0.5),
        (risk_reward, {"profit": 0.03, "worst_profit": -0.01}, 1.0),
        (risk_reward, {"profit": 0.001, "worst_profit": 0.0}, 0.5),
    ],
)
def test_terms_by_hand(term, change, expected) -> None:
    assert term(CLOSED._replace(**change), AIM) == pytest.approx(expected)


def test_risk_reward_is_relative_to_the_ratio_aimed_at() -> None:
    state = CLOSED._replace(profit=0.01, worst_profit=-0.02)
    assert risk_reward(state, AIM._replace(rr=2.0)) == pytest.approx(0.25)


def test_exit_quality_weighs_its_terms() -> None:
    state = CLOSED._replace(profit=0.01, best_profit=0.02, worst_profit=-0.01)
    expected = 0.35 * math.tanh(0.5) + 0.25 * 0.0 + 0.20 * 0.5 + 0.20 * 1.0
    assert exit_quality(state, AIM) == pytest.approx(expected)
    assert exit_quality(state._replace(closed=False), AIM) == 0.0


FLAT = IN_A_LONG._replace(
    side_before=0, side_after=0, profit=0.0, best_profit=0.0, worst_profit=0.0, age_candles=0
)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (IN_A_LONG._replace(is_valid=False), -2.0),
        (FLAT._replace(action=1, side_after=1), 25.0),
        (FLAT._replace(action=3, side_after=-1), 25.0),
        (FLAT, -1.0),
        (IN_A_LONG, -12 / 48),
        (IN_A_LONG._replace(side_before=-1, side_after=-1), -12 / 48),
        # 1% within the maximum duration, below the aim of 2%.
        (CLOSED, 0.01 * 100 * 1.5),
        (CLOSED._replace(age_candles=49), 0.01 * 100 * 0.5),
        (CLOSED._replace(profit=0.03), 0.03 * 100 * 1.5 * 2.0),
        (CLOSED._replace(profit=-0.03), -0.03 * 100 * 1.5),
        (CLOSED._replace(side_before=-1, action=4), 0.01 * 100 * 1.5),
    ],
)
def test_freqtrade_example_by_hand(state, expected) -> None:
    assert freqtrade_example(state, AIM) == pytest.approx(expected)

"""Exact values against brute force: every way enumerated, simulated episodes, numeric slopes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from markets import lively_market

from mtf_scalper.market.market import Market
from mtf_scalper.rollouts.vec_env import BatchedVecEnv
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.advantages import PolicyTable, evaluate_policy, start_weights
from mtf_scalper.simulator.chains import FLAT_ACTIONS, Chains, chains_of
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import N_ACTIONS, Action

GAMMA = 0.97
RULES: dict[str, dict[str, Any]] = {
    "free": {},
    "long": {"can_short": False},
    "exits": {
        "stoploss": -0.03,
        "minimal_roi": {0: 0.05, 10: 0.02},
        "max_trade_duration_candles": 5,
        "emergency_loss": -0.02,
        "break_even_trigger": 0.01,
    },
}


def random_policy(chains: Chains, seed: int) -> PolicyTable:
    rng = np.random.default_rng(seed)
    flat = rng.dirichlet(np.ones(3), chains.n_rows) * chains.flat_valid
    total = flat.sum(axis=1, keepdims=True)
    return PolicyTable(flat / np.where(total > 0.0, total, 1.0), rng.random(chains.n_states))


def state_index(chains: Chains) -> dict[tuple[int, int, int], int]:
    """Return the state of a trade by fill row, side and row of the decision."""
    index = {}
    for row, side in np.argwhere(chains.chain_at >= 0):
        chain = chains.chain_at[row, side]
        for state in range(chains.starts[chain], chains.starts[chain + 1]):
            index[(int(row) + 1, (1, -1)[side], int(chains.rows[state]))] = state
    return index


def enumerated(
    env: ReferenceEnv, policy: PolicyTable, index: dict[tuple[int, int, int], int]
) -> float:
    """Return the value of where ``env`` stands by going every way from there."""
    position = env._position
    if position is None:
        choices = list(zip(FLAT_ACTIONS, policy.flat[env.row], strict=True))
    else:
        leave = policy.leave[index[(position.open_row, position.side, env.row)]]
        exit_ = Action.LONG_EXIT if position.side > 0 else Action.SHORT_EXIT
        choices = [(Action.NEUTRAL, 1.0 - leave), (exit_, leave)]
    value = 0.0
    for action, chance in choices:
        if chance > 0.0:
            twin = copy.copy(env)
            twin._position, twin.trades = copy.copy(position), []
            _, reward, terminated, _, _ = twin.step(int(action))
            rest = 0.0 if terminated else enumerated(twin, policy, index)
            value += chance * (reward + GAMMA * rest)
    return value


@pytest.mark.parametrize("entry", EntryMode)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("reward", ["log_return", "exit_quality"])
def test_values_are_those_of_every_way_enumerated(
    entry: EntryMode, rules: dict[str, Any], reward: str
) -> None:
    for seed in range(2):
        market = lively_market(seed, 9)
        settings = Settings(window_size=2, reward=reward, rules=TradeRules(entry=entry, **rules))
        chains = chains_of(prepare(market, settings))
        policy = random_policy(chains, seed)
        evaluation = evaluate_policy(chains, policy, GAMMA)
        index = state_index(chains)
        for row in range(chains.first_row, len(market) - 1):
            env = ReferenceEnv(market, settings)
            env.reset(options={"row": row})
            value = enumerated(env, policy, index)
            assert evaluation.flat_values[row] == pytest.approx(value, abs=1e-10)
            for number, action in enumerate(FLAT_ACTIONS):
                if not chains.flat_valid[row, number]:
                    assert evaluation.flat_advantages[row, number] == 0.0
                    continue
                twin = copy.copy(env)
                twin.trades = []
                _, gain, terminated, _, _ = twin.step(int(action))
                rest = 0.0 if terminated else enumerated(twin, policy, index)
                advantage = gain + GAMMA * rest - value
                found = evaluation.flat_advantages[row, number]
                assert found == pytest.approx(advantage, abs=1e-10)


def simulated(
    market: Market, settings: Settings, policy: PolicyTable, chains: Chains, n_episodes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return discounted returns of episodes, and visits of flat rows and of states."""
    env = BatchedVecEnv(market, settings, [chains.first_row] * n_episodes)
    env.reset()
    rng = np.random.default_rng(5)
    index = state_index(chains)
    place = np.full((len(market), 2, len(market)), -1)
    for (open_row, side, row), state in index.items():
        place[open_row, 0 if side > 0 else 1, row] = state
    returns = np.zeros(n_episodes)
    flat_visits, state_visits = np.zeros(len(market)), np.zeros(chains.n_states)
    for step in range(len(market) - 1 - chains.first_row):
        row, sides = chains.first_row + step, env.state["side"]
        uniform = rng.random(n_episodes)
        actions = np.zeros(n_episodes, dtype=np.int64)
        flat = sides == 0
        cumulated = policy.flat[row].cumsum()
        chosen = np.searchsorted(cumulated / cumulated[-1], uniform[flat], side="right")
        actions[flat] = np.array(FLAT_ACTIONS)[chosen]
        states = place[env.state["open_row"], (sides < 0).astype(int), row][~flat]
        exits = np.where(sides[~flat] > 0, int(Action.LONG_EXIT), int(Action.SHORT_EXIT))
        actions[~flat] = np.where(uniform[~flat] < policy.leave[states], exits, 0)
        flat_visits[row] += GAMMA**step * flat.sum()
        np.add.at(state_visits, states, GAMMA**step)
        env._actions[:] = actions
        env._advance()
        returns += GAMMA**step * env.outcome["reward"]
    assert env.outcome["terminated"].all()
    return returns, flat_visits / n_episodes, state_visits / n_episodes


@pytest.mark.parametrize("entry", EntryMode)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_values_and_occupancy_are_those_of_simulated_episodes(
    entry: EntryMode, rules: dict[str, Any]
) -> None:
    n_episodes = 20_000
    market = lively_market(7, 24)
    settings = Settings(window_size=3, rules=TradeRules(entry=entry, **rules))
    chains = chains_of(prepare(market, settings))
    policy = random_policy(chains, 7)
    weights = np.zeros(len(market))
    weights[chains.first_row] = 1.0
    evaluation = evaluate_policy(chains, policy, GAMMA, weights=weights)
    returns, flat_visits, state_visits = simulated(market, settings, policy, chains, n_episodes)
    error = returns.std() / np.sqrt(n_episodes)
    assert abs(returns.mean() - evaluation.objective) < 4.0 * error
    # A visit is a coin of known bias: 4 of its standard errors, and a little for rare states.
    for seen, expected in (
        (flat_visits, evaluation.flat_occupancy),
        (state_visits, evaluation.state_occupancy),
    ):
        bound = 5.0 * np.sqrt(expected / n_episodes) + 5.0 / n_episodes
        assert (np.abs(seen - expected) < bound).all()


@pytest.mark.parametrize("entry", EntryMode)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_policy_gradient_is_the_slope_of_the_exact_value(
    entry: EntryMode, rules: dict[str, Any], gamma: float
) -> None:
    market = lively_market(11, 16)
    settings = Settings(window_size=3, rules=TradeRules(entry=entry, **rules))
    chains = chains_of(prepare(market, settings))
    rng = np.random.default_rng(0)
    flat_logits = rng.normal(size=(chains.n_rows, 3))
    leave_logits = rng.normal(size=chains.n_states)

    def policy(flat: np.ndarray, leave: np.ndarray) -> PolicyTable:
        chances = np.exp(flat) * chains.flat_valid
        total = chances.sum(axis=1, keepdims=True)
        return PolicyTable(chances / np.where(total > 0.0, total, 1.0), 1 / (1 + np.exp(-leave)))

    def objective(flat: np.ndarray, leave: np.ndarray) -> float:
        return evaluate_policy(chains, policy(flat, leave), gamma).objective

    table = policy(flat_logits, leave_logits)
    found = evaluate_policy(chains, table, gamma)
    flat_slope = found.flat_occupancy[:, None] * table.flat * found.flat_advantages
    chance = table.leave
    leave_slope = found.state_occupancy * chance * (1.0 - chance)
    leave_slope *= found.leave_advantages - found.stay_advantages
    step = 1e-5
    for index in np.ndindex(*flat_logits.shape):
        moved = np.zeros_like(flat_logits)
        moved[index] = step
        up, down = (objective(flat_logits + s * moved, leave_logits) for s in (1, -1))
        assert flat_slope[index] == pytest.approx((up - down) / (2 * step), abs=1e-6)
    for state in range(chains.n_states):
        moved = np.zeros_like(leave_logits)
        moved[state] = step
        up, down = (objective(flat_logits, leave_logits + s * moved) for s in (1, -1))
        assert leave_slope[state] == pytest.approx((up - down) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_every_candle_is_visited_once(gamma: float) -> None:
    market = lively_market(2, 40)
    chains = chains_of(
        prepare(market, Settings(window_size=3, rules=RULES["exits"] | {"entry": "any"}))
    )
    evaluation = evaluate_policy(chains, random_policy(chains, 2), gamma)
    per_row = evaluation.flat_occupancy + np.bincount(
        chains.rows, weights=evaluation.state_occupancy, minlength=chains.n_rows
    )
    decided = slice(chains.first_row, chains.n_rows - 1)
    np.testing.assert_allclose(per_row[decided], 1.0, atol=1e-12)
    assert start_weights(chains, gamma)[decided].sum() == pytest.approx(
        1.0 + (1.0 - gamma) * (chains.n_rows - 2 - chains.first_row)
    )


def test_fees_below_the_whole_raise_the_worth_of_entering() -> None:
    market = lively_market(4, 40)
    chains = chains_of(prepare(market, Settings(window_size=3, rules={"entry": "any"})))
    policy = random_policy(chains, 4)
    values = [
        evaluate_policy(chains, policy, 1.0, fee_share=share).objective for share in (0.0, 0.5, 1.0)
    ]
    entries = evaluate_policy(chains, policy, 1.0).flat_occupancy[:, None] * policy.flat[:, 1:]
    taken = chains.chain_at >= 0
    relief = (entries[taken] * chains.fee_relief[chains.chain_at[taken]]).sum()
    assert values[0] - values[2] == pytest.approx(relief, rel=1e-9)
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-9)


def test_a_cut_chain_hands_value_and_occupancy_on(make_market: Any) -> None:
    """With a policy that knows only row and side, cutting changes longs by rounding alone."""
    market = make_market(n_candles=60, volatility=0.01)
    settings = Settings(window_size=3, rules={"entry": "any", "can_short": False})
    rng = np.random.default_rng(3)
    leave_at = rng.random(len(market)) * 0.2
    found = []
    for longest in (60, 5):
        chains = chains_of(prepare(market, settings), longest=longest)
        flat = random_policy(chains, 3).flat
        found.append(
            (chains, evaluate_policy(chains, PolicyTable(flat, leave_at[chains.rows]), 0.99))
        )
    (whole, exact), (cut, close) = found
    assert (cut.continues >= 0).any()
    np.testing.assert_allclose(close.flat_values, exact.flat_values, atol=1e-6)
    held = [
        np.bincount(chains.rows, weights=each.state_occupancy, minlength=60)
        for chains, each in ((whole, exact), (cut, close))
    ]
    np.testing.assert_allclose(held[1], held[0], atol=1e-12)


def test_actions_have_the_numbers_of_the_environment() -> None:
    assert [int(action) for action in FLAT_ACTIONS] == [0, 1, 3]
    assert N_ACTIONS == 5

"""The batched environments against the reference environment, step by step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, RewardName, Settings, TradeRules, VecEnvKind
from mtf_scalper.simulator.environments import make_vec_env, open_vec_env
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import ExitReason
from mtf_scalper.simulator.vec_env import BatchedVecEnv

N_CANDLES, WINDOW = 300, 4
EXACT = 1e-12


def wild_market(rng: np.random.Generator) -> Market:
    """Return candles with gaps and spikes, so that every exit of a trade happens."""
    volatility = rng.choice([0.001, 0.01, 0.03])
    close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0, volatility, N_CANDLES))), 2) + 0.01
    opened = np.concatenate([close[:1], close[:-1]])
    gaps = rng.random(N_CANDLES) < 0.1
    jumped = np.round(opened * np.exp(rng.normal(0.0, 0.02, N_CANDLES)), 2) + 0.01
    opened = np.where(gaps, jumped, opened)
    reach = 1.0 + rng.exponential(0.005, (2, N_CANDLES))
    high = np.maximum(opened, close)
    low = np.minimum(opened, close)
    return Market(
        features=rng.normal(size=(N_CANDLES, 3)),
        ohlc=np.column_stack(
            [
                opened,
                np.maximum(np.round(high * reach[0], 2), high),
                np.minimum(np.maximum(np.round(low / reach[1], 2), 0.01), low),
                close,
            ]
        ),
        entry_long=rng.random(N_CANDLES) < 0.2,
        entry_short=rng.random(N_CANDLES) < 0.2,
        leverage=rng.choice([1.0, 2.5, 3.0, 20.0], N_CANDLES),
        funding=np.where(rng.random(N_CANDLES) < 0.1, rng.normal(0, 0.05, N_CANDLES), 0.0),
        tick_size=rng.choice([0.0, 0.01, 0.1]),
    )


def random_settings(rng: np.random.Generator, reward: RewardName) -> Settings:
    """Return rules of which each is on or off."""

    def maybe(value: float) -> float | None:
        return value if rng.random() < 0.6 else None

    ladder = {0: 0.04, 10: 0.02, 12: 0.015, 30: 0.01, 60: -1.0}
    duration = maybe(float(rng.integers(1, 30)))
    return Settings(
        window_size=WINDOW,
        reward=reward,
        rules=TradeRules(
            entry=rng.choice(list(EntryMode)),
            can_short=bool(rng.random() < 0.7),
            stoploss=maybe(-float(rng.choice([0.02, 0.1, 0.3]))),
            minimal_roi={} if rng.random() < 0.3 else ladder,
            max_trade_duration_candles=None if duration is None else int(duration),
            emergency_loss=maybe(-0.03),
            break_even_trigger=maybe(0.015),
            break_even_floor=0.001,
            max_training_drawdown=maybe(0.5),
        ),
    )


def assert_lockstep(seed: int, n_envs: int, n_steps: int, reward: RewardName) -> Counter[str]:
    """Step both, compare everything, and return how often trades ended for which reason."""
    rng = np.random.default_rng(seed)
    market, settings = wild_market(rng), random_settings(rng, reward)
    rows = [WINDOW - 1 + int(row) for row in rng.integers(0, 200, n_envs)]
    batched = BatchedVecEnv(market, settings, rows)
    references = [ReferenceEnv(market, settings, first_row=row) for row in rows]
    expected = np.stack([env.reset()[0] for env in references])
    np.testing.assert_array_equal(batched.reset(), expected)
    reasons: Counter[str] = Counter()
    activity = rng.choice([0.15, 0.6])
    for _ in range(n_steps):
        acts = rng.random(n_envs) < activity
        actions = np.where(acts, rng.integers(0, 5, n_envs), 0)
        observations, rewards, dones, infos = batched.step(actions)
        outcome = batched.outcome
        for env, reference in enumerate(references):
            window, reward_, terminated, truncated, info = reference.step(int(actions[env]))
            assert (dones[env], truncated) == (terminated, False)
            assert outcome["executed"][env] == info["executed"]
            assert outcome["row"][env] == info["row"]
            assert outcome["side"][env] == info["side"]
            assert outcome["equity"][env] == pytest.approx(info["equity"], abs=EXACT)
            assert outcome["log_return"][env] == pytest.approx(info["log_return"], abs=EXACT)
            assert outcome["reward"][env] == pytest.approx(reward_, rel=EXACT, abs=EXACT)
            assert rewards[env] == np.float32(outcome["reward"][env])
            assert infos[env].get("trade") == info.get("trade")
            if "trade" in info:
                reasons[info["trade"].exit_reason] += 1
            if terminated:
                np.testing.assert_array_equal(infos[env]["terminal_observation"], window)
                assert infos[env]["TimeLimit.truncated"] is False
                window, _ = reference.reset()
            np.testing.assert_array_equal(observations[env], window)
            assert batched.state["row"][env] == reference.row
            assert batched.state["side"][env] == reference.side
    return reasons


@pytest.mark.parametrize("reward", list(RewardName))
def test_batched_steps_equal_reference_steps(reward: RewardName) -> None:
    reasons: Counter[str] = Counter()
    for seed in range(25):
        reasons += assert_lockstep(seed, n_envs=8, n_steps=150, reward=reward)
    assert set(reasons) == set(ExitReason), f"exits that never happened: {reasons}"


@pytest.mark.parametrize("n_envs", [1, 257])
def test_any_number_of_environments(n_envs: int) -> None:
    reasons = assert_lockstep(7, n_envs, n_steps=40, reward=RewardName.LOG_RETURN)
    assert sum(reasons.values()) > 0


def test_same_as_dummy_through_the_factory() -> None:
    rng = np.random.default_rng(3)
    market = wild_market(rng)
    settings = random_settings(rng, RewardName.LOG_RETURN).changed(n_envs=4)
    actions = rng.integers(0, 5, (400, 4))
    results = []
    for kind in (VecEnvKind.BATCHED, VecEnvKind.DUMMY):
        with open_vec_env(market, settings.changed(vec_env=kind)) as env:
            steps = [env.reset().copy()]
            for row in actions:
                observations, rewards, dones, _ = env.step(row)
                steps += [observations.copy(), rewards.copy(), dones.copy()]
            results.append(steps)
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_returned_observation_survives_the_next_step() -> None:
    market = wild_market(np.random.default_rng(1))
    env = BatchedVecEnv(market, Settings(window_size=WINDOW), [WINDOW - 1])
    first = env.reset()
    before = first.copy()
    env.step(np.array([0]))
    np.testing.assert_array_equal(first, before)


def test_random_starts_are_seeded() -> None:
    market = wild_market(np.random.default_rng(1))
    settings = Settings(
        window_size=WINDOW, n_envs=3, vec_env="batched", randomize_starting_position=True
    )

    def restarts(random_state: int) -> list[int]:
        env = make_vec_env(market, settings.changed(random_state=random_state))
        assert isinstance(env, BatchedVecEnv)
        env.reset()
        rows = []
        for _ in range(N_CANDLES + 10):
            _, _, dones, _ = env.step(np.zeros(3, dtype=np.int64))
            rows += [int(env.state["row"][e]) for e in np.flatnonzero(dones)]
        return rows

    assert restarts(5) == restarts(5) != restarts(6)
    assert all(WINDOW - 1 <= row < N_CANDLES // 4 for row in restarts(5))


def test_attributes_of_single_environments_are_refused() -> None:
    env = make_vec_env(wild_market(np.random.default_rng(1)), Settings(vec_env="batched"))
    assert not isinstance(env, DummyVecEnv)
    with pytest.raises(AttributeError, match="no attributes of their own"):
        env.set_attr("anything", 1)
    with pytest.raises(AttributeError, match="no methods of their own"):
        env.env_method("anything")

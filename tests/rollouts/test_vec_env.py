"""The batched environments against the reference environment, step by step."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from markets import wild_market
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from mtf_scalper.market.market import Market
from mtf_scalper.rollouts.environments import make_vec_env, open_vec_env
from mtf_scalper.rollouts.vec_env import BatchedVecEnv
from mtf_scalper.settings import EntryMode, RewardName, Settings, TradeRules, VecEnvKind
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import ExitReason, Trade

N_CANDLES, WINDOW = 300, 4
EXACT = 1e-12


def random_settings(rng: np.random.Generator, reward: str) -> Settings:
    """Return rules of which each is on or off."""

    def maybe(value: float) -> float | None:
        return value if rng.random() < 0.6 else None

    stoploss = maybe(-float(rng.choice([0.02, 0.1, 0.3])))
    trailing: dict[str, object] = {}
    if stoploss is not None and rng.random() < 0.5:
        trailing = {
            "trailing_stop": True,
            "trailing_stop_positive": maybe(0.01),
            "trailing_stop_positive_offset": rng.choice([0.0, 0.02]),
            "trailing_only_offset_is_reached": bool(rng.random() < 0.5),
        }
    ladder = {0: 0.04, 10: 0.02, 12: 0.015, 30: 0.01, 60: -1.0}
    duration = maybe(float(rng.integers(1, 30)))
    return Settings(
        window_size=WINDOW,
        reward=reward,
        add_state_info=bool(rng.random() < 0.6),
        max_episode_steps=int(rng.integers(20, 80)) if rng.random() < 0.3 else None,
        rules=TradeRules(
            entry=rng.choice(list(EntryMode)),
            can_short=bool(rng.random() < 0.7),
            stoploss=stoploss,
            **trailing,
            exit_timeout_minutes=maybe(10.0),
            is_liquidated=bool(rng.random() < 0.8),
            minimal_roi={} if rng.random() < 0.3 else ladder,
            max_trade_duration_candles=None if duration is None else int(duration),
            emergency_loss=maybe(-0.03),
            break_even_trigger=maybe(0.015),
            break_even_floor=0.001,
            max_training_drawdown=maybe(0.5),
            slippage_bps=maybe(25.0) or 0.0,
        ),
    )


# What is recorded after every step: of the step itself, and of the state that it left, which is
# that of a new episode where one ended.
EXACTLY = ("executed", "row", "side", "terminated", "truncated", "has_trade")
EXACTLY_AFTER = ("row", "first_row", "side")
WITHIN = ("reward", "log_return", "equity")
WITHIN_AFTER = ("equity", "closed_equity")
OF_A_TRADE = (
    "open_row",
    "open_rate",
    "leverage",
    "best_rate",
    "worst_rate",
    "funding_paid",
    "tick_size",
    "stop",
    "has_trailed",
    "order_rate",
    "order_row",
)

Record = dict[str, np.ndarray]


def reference_record(
    market: Market, settings: Settings, first_row: int, actions: np.ndarray
) -> tuple[Record, list[Trade], list[np.ndarray]]:
    """Step the reference environment: what happened, its trades and its last observations."""
    env = ReferenceEnv(market, settings, first_row=first_row)
    env.reset()
    steps, after, observations = [], [], []
    trades: list[Trade] = []
    ends: list[np.ndarray] = []
    for action in actions.tolist():
        observation, reward, terminated, truncated, info = env.step(action)
        trade = info.get("trade")
        if trade is not None:
            trades.append(trade)
        steps.append(
            (
                info["executed"],
                info["row"],
                info["side"],
                terminated,
                truncated,
                trade is not None,
                reward,
                info["log_return"],
                info["equity"],
            )
        )
        if terminated or truncated:
            ends.append(observation)
            observation, _ = env.reset()
        held = env._position
        of_a_trade = (
            (0.0,) * len(OF_A_TRADE)
            if held is None
            else (
                held.open_row,
                held.open_rate,
                held.leverage,
                held.best_rate,
                held.worst_rate,
                held.funding_paid,
                held.tick_size,
                held.stop if settings.rules.trailing_stop else 0.0,
                held.has_trailed,
                held.order.rate if held.order else 0.0,
                held.order.row if held.order else 0,
            )
        )
        after.append(
            (
                env.row,
                env._started_row,
                0 if held is None else held.side,
                env.equity,
                env._closed_equity,
                *of_a_trade,
            )
        )
        observations.append(observation)
    names = EXACTLY + WITHIN
    names_after = tuple(f"{name} after" for name in EXACTLY_AFTER + WITHIN_AFTER + OF_A_TRADE)
    record = dict(zip(names, np.array(steps, dtype=np.float64).T, strict=True))
    record |= dict(zip(names_after, np.array(after, dtype=np.float64).T, strict=True))
    record["observation"] = np.array(observations)
    return record, trades, ends


def batched_record(
    market: Market, settings: Settings, first_rows: list[int], actions: np.ndarray
) -> tuple[list[Record], list[list[Trade]], list[list[np.ndarray]]]:
    """Step the batched environments; the same of each of them."""
    env = BatchedVecEnv(market, settings, first_rows)
    env.reset()
    n_steps, n_envs = actions.shape
    outcomes = np.zeros((n_steps, n_envs), env.outcome.dtype)
    states = np.zeros((n_steps, n_envs), env.state.dtype)
    observations = np.zeros((n_steps, *env.observe().shape), np.float32)
    trades: list[list[Trade]] = [[] for _ in range(n_envs)]
    ends: list[list[np.ndarray]] = [[] for _ in range(n_envs)]
    for step, row in enumerate(actions):
        observations[step], rewards, dones, infos = env.step(row)
        outcomes[step], states[step] = env.outcome, env.state
        np.testing.assert_array_equal(rewards, env.outcome["reward"].astype(np.float32))
        np.testing.assert_array_equal(dones, env.outcome["terminated"] | env.outcome["truncated"])
        for e in np.flatnonzero(dones | (env.outcome["exit_code"] > 0)):
            if "trade" in infos[e]:
                trades[e].append(infos[e]["trade"])
            if dones[e]:
                ends[e].append(infos[e]["terminal_observation"])
                assert infos[e]["TimeLimit.truncated"] == env.outcome["truncated"][e]
    records = []
    for e in range(n_envs):
        record: Record = {name: outcomes[name][:, e] for name in EXACTLY[:-1] + WITHIN}
        record["has_trade"] = outcomes["exit_code"][:, e] > 0
        for name in EXACTLY_AFTER + WITHIN_AFTER:
            record[f"{name} after"] = states[name][:, e]
        for name in OF_A_TRADE:
            # Fields of a trade mean nothing without one.
            is_known = states["side"][:, e] != 0
            if name == "stop":  # kept only where it trails
                is_known &= settings.rules.trailing_stop
            if name == "order_row":
                is_known &= states["order_rate"][:, e] > 0.0
            record[f"{name} after"] = np.where(is_known, states[name][:, e], 0.0)
        record["observation"] = observations[:, e]
        records.append(record)
    return records, trades, ends


def drawn(seed: int, reward: str) -> tuple[np.random.Generator, Market, Settings]:
    """Return a market and rules, and the generator that goes on from there."""
    rng = np.random.default_rng(seed)
    market = wild_market(rng)
    return rng, market, random_settings(rng, reward)


def assert_lockstep(seed: int, n_envs: int, n_steps: int, reward: str) -> Counter[str]:
    """Step both, compare everything, and return how often trades ended for which reason."""
    rng, market, settings = drawn(seed, reward)
    rows = [WINDOW - 1 + int(row) for row in rng.integers(0, 200, n_envs)]
    acts = rng.random((n_steps, n_envs)) < rng.choice([0.15, 0.6])
    actions = np.where(acts, rng.integers(0, 5, (n_steps, n_envs)), 0)
    records, trades, ends = batched_record(market, settings, rows, actions)
    reasons: Counter[str] = Counter()
    for e, row in enumerate(rows):
        expected, their_trades, their_ends = reference_record(market, settings, row, actions[:, e])
        assert set(records[e]) == set(expected)
        exactly = (*EXACTLY, *(f"{name} after" for name in (*EXACTLY_AFTER, "open_row")))
        for name in exactly:
            # Comparing at once is many times faster than numpy's assertion.
            if not np.array_equal(records[e][name], expected[name]):
                np.testing.assert_array_equal(records[e][name], expected[name], err_msg=name)
        for name in set(expected) - {*exactly, "observation"}:
            ours, theirs = records[e][name], expected[name]
            if not (np.abs(ours - theirs) <= EXACT * np.maximum(1.0, np.abs(theirs))).all():
                np.testing.assert_allclose(ours, theirs, rtol=EXACT, atol=EXACT, err_msg=name)
        np.testing.assert_array_equal(records[e]["observation"], expected["observation"])
        np.testing.assert_array_equal(np.array(ends[e]), np.array(their_ends))
        assert trades[e] == their_trades
        reasons.update(trade.exit_reason for trade in their_trades)
    return reasons


# 20 markets under rules of their own for each reward.
SEEDS = {reward: range(20 * number, 20 * number + 20) for number, reward in enumerate(RewardName)}


@pytest.mark.parametrize("reward", list(RewardName))
def test_all_steps_equal_those_of_the_reference(reward: RewardName) -> None:
    """Three rewards, each in 20 markets under 20 rules: 172,800 steps together."""
    reasons: Counter[str] = Counter()
    for seed in SEEDS[reward]:
        reasons += assert_lockstep(seed, n_envs=4, n_steps=720, reward=reward)
    assert set(reasons) == set(ExitReason), f"exits that never happened: {reasons}"
    assert min(reasons.values()) >= 10


def switches(settings: Settings) -> dict[str, object]:
    """Return what is on and what is off, and the kind of entry."""
    rules = settings.rules
    return {
        "entry": rules.entry,
        "state": settings.add_state_info,
        "limit": settings.max_episode_steps is not None,
        "short": rules.can_short,
        "stop": rules.stoploss is not None,
        "trails": rules.trailing_stop,
        "timeout": rules.exit_timeout_minutes is not None,
        "liquidated": rules.is_liquidated,
        "ladder": bool(rules.minimal_roi),
        "duration": rules.max_trade_duration_candles is not None,
        "emergency": rules.emergency_loss is not None,
        "break even": rules.break_even_trigger is not None,
        "drawdown": rules.max_training_drawdown is not None,
        "slippage": rules.slippage_bps > 0.0,
    }


def test_every_two_rules_are_met_in_every_combination() -> None:
    drawn_rules = [switches(drawn(s, each)[2]) for each, seeds in SEEDS.items() for s in seeds]
    for one, other in combinations(drawn_rules[0], 2):
        met = {(rules[one], rules[other]) for rules in drawn_rules}
        of_one, of_other = ({rules[name] for rules in drawn_rules} for name in (one, other))
        possible = set(product(of_one, of_other))
        if (one, other) == ("stop", "trails"):
            possible.remove((False, True))
        assert len(of_one) == (3 if one == "entry" else 2)
        assert met == possible, (one, other)


@settings_of_hypothesis(max_examples=16)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_envs=st.sampled_from([1, 2, 8, 257]),
    reward=st.sampled_from(list(RewardName)),
)
def test_any_number_of_environments(seed: int, n_envs: int, reward: RewardName) -> None:
    assert_lockstep(seed, n_envs, n_steps=400 // n_envs + 20, reward=reward)


def test_masks_are_those_of_the_reference() -> None:
    market = wild_market(np.random.default_rng(4))
    settings = random_settings(np.random.default_rng(4), RewardName.LOG_RETURN)
    env = BatchedVecEnv(market, settings, [WINDOW - 1])
    reference = ReferenceEnv(market, settings)
    env.reset()
    reference.reset()
    seen = set()
    for action in np.random.default_rng(1).integers(0, 5, 200):
        mask = reference.action_masks()
        np.testing.assert_array_equal(env.action_masks()[0], mask)
        seen.add(tuple(mask))
        env.step(np.array([action]))
        _, _, terminated, truncated, _ = reference.step(int(action))
        if terminated or truncated:
            break
    assert len(seen) >= 3


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


def test_maskable_ppo_of_sb3_contrib_learns_on_batched_environments(
    make_market, tiny_settings
) -> None:
    """It asks every environment for its mask, and takes no action that is not valid."""
    settings = tiny_settings(n_envs=3, rules={"entry": "classic"})
    env = make_vec_env(make_market(n_candles=200), settings)
    assert is_masking_supported(env)
    np.testing.assert_array_equal(get_action_masks(env), env.action_masks())
    model = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=32, seed=1, device="cpu")
    model.set_logger(Logger(None, []))  # findings/stable-baselines3-temporary-folders.sh
    model.learn(3 * 64)
    taken = model.rollout_buffer.actions.reshape(-1, 1).astype(int)
    masks = model.rollout_buffer.action_masks.reshape(-1, 5) > 0.5
    assert len(taken) == len(masks) == 3 * 64
    assert not masks.all()
    assert np.take_along_axis(masks, taken, axis=1).all()

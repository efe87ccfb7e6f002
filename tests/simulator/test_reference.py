"""The reference environment as an environment: time, masks, accounting, episodes."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium.utils.env_checker
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from hypothesis import given
from hypothesis import strategies as st
from markets import extreme_market

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, RewardName, Settings, TradeRules
from mtf_scalper.simulator.exits import EQUITY_FLOOR
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import N_ACTIONS, Action, ExitReason, Side

ANY = {"entry": "any"}
LADDER = {0: 0.04, 30: 0.02, 60: 0.01}
FULL_RULES = TradeRules(
    entry=EntryMode.ANY,
    stoploss=-0.10,
    minimal_roi=LADDER,
    max_trade_duration_candles=12,
    emergency_loss=-0.05,
    break_even_trigger=0.02,
)

# One step: (row after it, observation, reward, terminated, info).
Step = tuple[int, np.ndarray, float, bool, dict[str, Any]]


def run(env: ReferenceEnv, actions: Any, row: int | None = None) -> list[Step]:
    """Step until the episode or the actions end."""
    env.reset(options=None if row is None else {"row": row})
    steps: list[Step] = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(int(action))
        assert not truncated
        steps.append((env.row, observation.copy(), reward, terminated, info))
        if terminated:
            break
    return steps


def random_actions(seed: int, n_steps: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, N_ACTIONS, n_steps)


@pytest.mark.parametrize("entry", list(EntryMode))
def test_gymnasiums_check_passes(entry, make_market, tiny_settings) -> None:
    market = make_market(entry_long=np.arange(120) % 7 == 0, entry_short=np.arange(120) % 5 == 0)
    env = ReferenceEnv(market, tiny_settings(rules={"entry": entry}))
    with warnings.catch_warnings():
        # Features have no bounds.
        warnings.filterwarnings("ignore", ".*Box observation space (minimum|maximum) value is")
        # It was not made by gym.make.
        warnings.filterwarnings("ignore", ".*not able to test alternative render modes")
        gymnasium.utils.env_checker.check_env(env, skip_render_check=True)


def test_stable_baselines3s_check_passes(make_market, tiny_settings) -> None:
    env = ReferenceEnv(make_market(), tiny_settings())
    with warnings.catch_warnings():
        # A window of features is neither an image nor a vector.
        warnings.filterwarnings("ignore", ".*unconventional shape")
        stable_baselines3.common.env_checker.check_env(env, skip_render_check=True)


def test_spaces(make_market, tiny_settings) -> None:
    env = ReferenceEnv(make_market(n_features=5), tiny_settings(window_size=7))
    assert env.observation_space.shape == (7 * 5 + 5,)
    assert env.observation_space.dtype == np.float32
    assert env.action_space.n == 5


def test_a_market_too_short_for_the_window_is_refused(make_market, tiny_settings) -> None:
    market = make_market(n_candles=9, pair="SOL/USDT:USDT")
    assert ReferenceEnv(market, tiny_settings(window_size=7)).reset()[0].shape == (7 * 3 + 5,)
    with pytest.raises(MarketError) as caught:
        ReferenceEnv(market, tiny_settings(window_size=8))
    assert str(caught.value) == (
        "SOL/USDT:USDT: 9 candles are too few for a window of 8; at least 10 are needed"
    )


def test_the_observation_is_the_window_that_ends_at_the_decision_row(
    make_market, tiny_settings
) -> None:
    market = make_market()
    env = ReferenceEnv(market, tiny_settings(window_size=4))
    observation, info = env.reset()
    assert info["row"] == 3
    np.testing.assert_array_equal(observation[:-5], market.features[:4].ravel())
    for row in range(4, len(market)):
        observation, _, terminated, _, info = env.step(0)
        assert info["row"] == row
        np.testing.assert_array_equal(observation[:-5], market.features[row - 3 : row + 1].ravel())
        assert terminated == (row == len(market) - 1)


@pytest.mark.parametrize("side", [Side.LONG, Side.SHORT])
@pytest.mark.parametrize("row", [3, 40, 117])
def test_an_entry_fills_at_the_next_open_with_the_leverage_of_its_decision(
    side, row, make_market, tiny_settings
) -> None:
    leverage = 1.0 + np.arange(120) / 10.0
    market = make_market(leverage=leverage)
    env = ReferenceEnv(market, tiny_settings())
    env.reset(options={"row": row})
    env.step(Action.LONG_ENTER if side is Side.LONG else Action.SHORT_ENTER)
    assert env.side is side
    while not env.trades:
        env.step(Action.NEUTRAL)
    trade = env.trades[0]
    assert trade.side is side
    assert trade.open_row == row + 1
    assert trade.open_rate == market.ohlc[row + 1, 0]
    assert trade.leverage == leverage[row]


@pytest.mark.parametrize("side", [Side.LONG, Side.SHORT])
def test_the_agents_exit_fills_at_the_next_open(side, make_market, tiny_settings) -> None:
    market = make_market()
    env = ReferenceEnv(market, tiny_settings())
    enter, leave = (1, 2) if side is Side.LONG else (3, 4)
    steps = run(env, [enter, 0, 0, leave])
    trade = steps[-1][-1]["trade"]
    assert (trade.open_row, trade.close_row) == (4, 7)
    assert trade.close_rate == market.ohlc[7, 0]
    assert trade.exit_reason is ExitReason.AGENT


def test_a_new_trade_can_open_on_the_candle_after_an_exit_but_not_on_the_same(
    make_market, tiny_settings
) -> None:
    env = ReferenceEnv(make_market(), tiny_settings())
    run(env, [1, 2, 3, 4, 1, 2])
    assert [(t.open_row, t.close_row) for t in env.trades] == [(4, 5), (6, 7), (8, 9)]


def test_no_trade_is_opened_on_the_last_candle(make_market, tiny_settings) -> None:
    market = make_market()
    env = ReferenceEnv(market, tiny_settings())
    env.reset(options={"row": len(market) - 2})
    assert set(np.flatnonzero(env.action_masks())) == {0}
    _, reward, terminated, _, info = env.step(Action.LONG_ENTER)
    assert terminated
    assert info["executed"] == Action.NEUTRAL
    assert reward == 0.0
    assert env.trades == []


def perturbed(market: Market, row: int, *, keep_open: bool) -> Market:
    """Change everything from ``row`` on, all but that row's open if asked to."""
    rng = np.random.default_rng(row)
    n_changed = len(market) - row
    ohlc = market.ohlc.copy()
    opens = ohlc[row:, 0] * np.exp(rng.normal(0.0, 0.2, n_changed))
    if keep_open:
        opens[0] = ohlc[row, 0]
    closes = opens * np.exp(rng.normal(0.0, 0.2, n_changed))
    ohlc[row:] = np.stack(
        [opens, 1.3 * np.maximum(opens, closes), 0.7 * np.minimum(opens, closes), closes], 1
    )
    fields: dict[str, Any] = {}
    for name in ("features", "funding", "tick_size"):
        fields[name] = getattr(market, name).copy()
        fields[name][row:] = rng.random(fields[name][row:].shape)
    fields["leverage"] = market.leverage.copy()
    fields["leverage"][row:] = 9.0
    for name in ("entry_long", "entry_short"):
        fields[name] = getattr(market, name).copy()
        fields[name][row:] ^= True
    return Market(ohlc=ohlc, fee_rate=market.fee_rate, **fields)


def seen(steps: list[Step], up_to_row: int, *keys: str) -> list[Any]:
    return [
        (observation.tolist(), terminated, *(info.get(key) for key in keys))
        for row, observation, _, terminated, info in steps
        if row <= up_to_row
    ]


@pytest.mark.parametrize("entry", list(EntryMode))
@pytest.mark.parametrize("row", range(20, 110, 9))
def test_nothing_known_depends_on_later_candles(row, entry, make_market, tiny_settings) -> None:
    """What a step may read.

    The step that decides at ``t`` observes rows up to ``t`` before it and up to ``t + 1`` after
    it; its fills, its forced exits and its trade read candle ``t + 1`` and no later one. Its mark
    (equity and reward) reads one number more, the open of ``t + 2``.
    """
    rng = np.random.default_rng(3)
    market = make_market(
        volatility=0.01,
        leverage=5.0,
        entry_long=rng.random(120) < 0.2,
        entry_short=rng.random(120) < 0.2,
        funding=rng.normal(0.0, 0.01, 120),
    )
    settings = tiny_settings(rules=FULL_RULES.changed(entry=entry))
    actions = random_actions(row, 120)
    before = run(ReferenceEnv(market, settings), actions)

    # All but the open of `row` differs from there on: steps through candles up to `row - 1` do
    # not notice, marks and rewards included.
    after = run(ReferenceEnv(perturbed(market, row, keep_open=True), settings), actions)
    keys = ("executed", "side", "trade", "equity", "log_return")
    assert seen(before, row - 1, *keys) == seen(after, row - 1, *keys)
    rewards = [[step[2] for step in steps if step[0] <= row - 1] for steps in (before, after)]
    assert rewards[0] == rewards[1]

    # That open differs too: only the mark of the last of these steps may.
    after = run(ReferenceEnv(perturbed(market, row, keep_open=False), settings), actions)
    keys = ("executed", "side", "trade")
    assert seen(before, row - 1, *keys) == seen(after, row - 1, *keys)
    assert seen(before, row - 2, "equity") == seen(after, row - 2, "equity")


def test_the_mark_reads_the_open_after_the_candle_just_lived_through(
    make_market, tiny_settings
) -> None:
    """Guards the test above: a perturbed open does show in the mark of an open trade."""
    market = make_market()
    actions = [1, *[0] * 20]
    marks = []
    for candidate in (market, perturbed(market, 10, keep_open=False)):
        steps = run(ReferenceEnv(candidate, tiny_settings()), actions)
        marks.append({row: info["equity"] for row, *_, info in steps})
    assert marks[0][8] == marks[1][8]
    assert marks[0][9] != marks[1][9]


def flat_mask(make_market, tiny_settings, rules: dict[str, Any], **signals: bool) -> set[int]:
    fields = {name: np.full(120, value) for name, value in signals.items()}
    env = ReferenceEnv(make_market(**fields), tiny_settings(rules=rules))
    env.reset()
    return set(np.flatnonzero(env.action_masks()))


@pytest.mark.parametrize(
    ("rules", "signals", "expected"),
    [
        ({"entry": "any"}, {}, {0, 1, 3}),
        ({"entry": "any", "can_short": False}, {}, {0, 1}),
        ({"entry": "classic"}, {}, {0}),
        ({"entry": "classic"}, {"entry_long": True}, {0, 1}),
        ({"entry": "classic"}, {"entry_short": True}, {0, 3}),
        ({"entry": "classic", "can_short": False}, {"entry_short": True}, {0}),
        ({"entry": "always"}, {}, {0}),
        ({"entry": "always"}, {"entry_long": True}, {1}),
        ({"entry": "always"}, {"entry_short": True}, {3}),
        ({"entry": "always"}, {"entry_long": True, "entry_short": True}, {1, 3}),
    ],
)
def test_valid_actions_when_flat(rules, signals, expected, make_market, tiny_settings) -> None:
    assert flat_mask(make_market, tiny_settings, rules, **signals) == expected


@pytest.mark.parametrize("entry", [EntryMode.CLASSIC, EntryMode.ALWAYS])
def test_entries_happen_only_where_the_classic_rule_fired(
    entry, make_market, tiny_settings
) -> None:
    rng = np.random.default_rng(1)
    long, short = rng.random((2, 400)) < 0.15
    market = make_market(n_candles=400, entry_long=long, entry_short=short)
    env = ReferenceEnv(market, tiny_settings(rules={"entry": entry}))
    run(env, random_actions(0, 400))
    assert len(env.trades) > 10
    assert {trade.side for trade in env.trades} == {Side.LONG, Side.SHORT}
    for trade in env.trades:
        fired = long if trade.side is Side.LONG else short
        assert fired[trade.open_row - 1]


def test_under_always_every_classic_entry_is_taken(make_market, tiny_settings) -> None:
    """The agent says neutral throughout; a maximum duration of 1 makes room for each entry."""
    long = np.zeros(120, dtype=bool)
    long[[3, 10, 50, 90]] = True
    short = np.zeros(120, dtype=bool)
    short[[20, 70]] = True
    rules = {"entry": "always", "max_trade_duration_candles": 1}
    env = ReferenceEnv(make_market(entry_long=long, entry_short=short), tiny_settings(rules=rules))
    run(env, [0] * 120)
    assert [(t.open_row, t.side) for t in env.trades] == [
        (4, Side.LONG),
        (11, Side.LONG),
        (21, Side.SHORT),
        (51, Side.LONG),
        (71, Side.SHORT),
        (91, Side.LONG),
    ]


@pytest.mark.parametrize(
    ("rules", "long", "short", "action", "executed"),
    [
        (ANY, False, False, 2, 0),
        (ANY, False, False, 4, 0),
        ({"entry": "any", "can_short": False}, False, False, 3, 0),
        ({"entry": "classic"}, False, False, 1, 0),
        ({"entry": "classic"}, True, False, 3, 0),
        ({"entry": "always"}, True, False, 0, 1),
        ({"entry": "always"}, False, True, 0, 3),
        ({"entry": "always"}, True, True, 4, 1),
        ({"entry": "always"}, False, True, 1, 3),
    ],
)
def test_an_invalid_action_is_executed_as_the_first_valid_one(
    rules, long, short, action, executed, make_market, tiny_settings
) -> None:
    fields = {"entry_long": np.full(120, long), "entry_short": np.full(120, short)}
    env = ReferenceEnv(make_market(**fields), tiny_settings(rules=rules))
    env.reset()
    assert env.step(action)[-1]["executed"] == executed


@pytest.mark.parametrize(("enter", "invalid"), [(1, [1, 3, 4]), (3, [1, 2, 3])])
def test_in_a_position_invalid_actions_hold_it(enter, invalid, make_market, tiny_settings) -> None:
    env = ReferenceEnv(make_market(), tiny_settings())
    steps = run(env, [enter, *invalid])
    assert [info["executed"] for *_, info in steps] == [enter, 0, 0, 0]
    assert env.trades == []


extreme = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "n_candles": st.integers(8, 40),
        "volatility": st.sampled_from([1e-4, 0.01, 0.1, 1.0, 3.0]),
        "scale": st.sampled_from([1e-9, 1e-4, 1.0, 1e5, 1e9]),
        "leverage": st.floats(1.0, 50.0),
        "fee_rate": st.sampled_from([0.0, 0.0005, 0.09]),
        "funding": st.sampled_from([0.0, 1e-4, 0.1]),
        "tick": st.sampled_from([0.0, 1e-4]),
    }
)
rule_sets = st.sampled_from(
    [
        TradeRules(entry=EntryMode.ANY),
        FULL_RULES,
        FULL_RULES.changed(entry=EntryMode.CLASSIC, stoploss=-0.99, emergency_loss=None),
        FULL_RULES.changed(entry=EntryMode.ALWAYS, minimal_roi={0: 10.0, 10: -1.0}),
        TradeRules(entry=EntryMode.ANY, max_training_drawdown=1.0),
        TradeRules(entry=EntryMode.ANY, max_training_drawdown=0.2),
    ]
)


def tiny(rules: TradeRules, **values: Any) -> Settings:
    return Settings(window_size=2, rules=rules, **values)


@given(draw=extreme, rules=rule_sets, reward=st.sampled_from(list(RewardName)))
def test_rewards_are_finite_and_the_account_stays_positive(draw, rules, reward) -> None:
    market = extreme_market(draw)
    env = ReferenceEnv(market, tiny(rules, reward=reward))
    for _, _, value, _, info in run(env, random_actions(draw["seed"], len(market))):
        assert math.isfinite(value)
        assert math.isfinite(info["log_return"])
        assert info["equity"] > 0.0
        assert math.isfinite(info["equity"])
        if reward is RewardName.EXIT_QUALITY:
            assert -1.0 <= value <= 1.0


@given(draw=extreme, rules=rule_sets)
def test_log_returns_sum_to_the_log_of_the_final_equity(draw, rules) -> None:
    market = extreme_market(draw)
    env = ReferenceEnv(market, tiny(rules))
    steps = run(env, random_actions(draw["seed"], len(market)))
    total = sum(reward for _, _, reward, _, _ in steps)
    assert total == pytest.approx(math.log(env.equity), abs=1e-9)
    assert steps[-1][-1]["equity"] == env.equity
    if env.side is Side.FLAT:
        product = 0.0
        for trade in env.trades:
            product += math.log(max(1.0 + trade.profit_ratio, EQUITY_FLOOR))
        assert total == pytest.approx(product, abs=1e-9)


@given(draw=extreme, rules=rule_sets)
def test_trades_follow_one_another_and_fill_inside_their_candles(draw, rules) -> None:
    market = extreme_market({**draw, "tick": 0.0})
    env = ReferenceEnv(market, tiny(rules))
    run(env, random_actions(draw["seed"], len(market)))
    free_from = 0
    for trade in env.trades:
        assert free_from <= trade.open_row <= trade.close_row
        assert trade.open_row < len(market) - 1
        assert trade.open_rate == market.ohlc[trade.open_row, 0]
        low, high = market.ohlc[trade.close_row, 2], market.ohlc[trade.close_row, 1]
        assert low * (1 - 1e-12) <= trade.close_rate <= high * (1 + 1e-12)
        free_from = trade.close_row + 1


def test_an_open_trade_is_marked_at_the_next_open_as_if_closed_there(
    make_market, tiny_settings
) -> None:
    """Long at 100 with leverage 2; the next opens are 103 and 98; fees 0.1%, funding 0.05."""
    market = make_market(
        [
            (100, 101, 99, 100),
            (100, 104, 99, 103),
            (103, 104, 97, 98),
            (98, 99, 97, 98),
            (98, 99, 97, 98),
        ],
        fee_rate=0.001,
        leverage=2.0,
        funding=[0.0, 0.0, 0.05, 0.0, 0.0],
    )
    env = ReferenceEnv(market, tiny_settings(window_size=1))
    (_, _, first, _, info), (_, _, second, _, later) = run(env, [1, 0])
    equity = 1 + (103 * 0.999 / 100.1 - 1) * 2
    assert info["equity"] == pytest.approx(equity, abs=1e-7)
    assert first == pytest.approx(math.log(equity), abs=1e-7)
    after = 1 + ((98 * 0.999 - 0.05) / 100.1 - 1) * 2
    assert later["equity"] == pytest.approx(after, abs=1e-7)
    assert second == pytest.approx(math.log(after / equity), abs=1e-7)


def test_profits_compound(make_market, tiny_settings) -> None:
    env = ReferenceEnv(make_market(volatility=0.02), tiny_settings())
    run(env, [1, 0, 0, 2, 3, 0, 4] + [0] * 200)
    assert len(env.trades) == 2
    expected = math.prod(1.0 + trade.profit_ratio for trade in env.trades)
    assert env.equity == pytest.approx(expected)


def test_an_account_that_is_gone_ends_the_episode_with_its_trade(
    make_market, tiny_settings
) -> None:
    """A short at leverage 10 meets a gap of 50%."""
    market = make_market(
        [(100, 101, 99, 100)] * 2 + [(150, 151, 149, 150)] * 5, fee_rate=0.001, leverage=10.0
    )
    env = ReferenceEnv(market, tiny_settings(window_size=1))
    steps = run(env, [3] + [0] * 10)
    assert [trade.exit_reason for trade in env.trades] == [ExitReason.LIQUIDATION]
    assert [row for row, *_ in steps] == [1, 2]
    assert steps[-1][3]
    assert env.equity == pytest.approx(EQUITY_FLOOR)


def test_a_drawdown_ends_the_episode(make_market, tiny_settings) -> None:
    """A long at leverage 1 in a market that falls by 1% per candle; fees are nothing."""
    prices = 100.0 * 0.99 ** np.arange(60)
    ohlc = np.stack([prices, prices, 0.99 * prices, 0.99 * prices], 1).tolist()
    market = make_market(ohlc, fee_rate=0.0)
    rules = {"entry": "any", "max_training_drawdown": 0.10}
    env = ReferenceEnv(market, tiny_settings(window_size=1, rules=rules))
    steps = run(env, [1] + [0] * 100)
    # The entry's candle is marked at 0.99; 0.99 ** 10 is 0.9044, 0.99 ** 11 is 0.8953.
    assert len(steps) == 11
    assert [terminated for _, _, _, terminated, _ in steps] == [False] * 10 + [True]
    assert env.equity == pytest.approx(0.99**11)


def test_a_drawdown_counts_from_the_start_of_its_own_episode(make_market, tiny_settings) -> None:
    prices = 100.0 * 0.99 ** np.arange(60)
    ohlc = np.stack([prices, prices, 0.99 * prices, 0.99 * prices], 1).tolist()
    rules = {"entry": "any", "max_training_drawdown": 0.10}
    env = ReferenceEnv(make_market(ohlc, fee_rate=0.0), tiny_settings(window_size=1, rules=rules))
    lengths = [len(run(env, [1] + [0] * 100)) for _ in range(3)]
    assert lengths == [11, 11, 11]


def test_reset_forgets_the_episode_before(make_market, tiny_settings) -> None:
    env = ReferenceEnv(make_market(), tiny_settings())
    first = run(env, random_actions(1, 60))
    assert env.trades
    _, info = env.reset()
    assert (env.trades, env.equity, env.side, info["row"]) == ([], 1.0, Side.FLAT, 3)
    second = run(env, random_actions(1, 60))
    assert [step[2] for step in first] == [step[2] for step in second]


def test_random_starts_are_seeded_and_lie_in_the_first_quarter(make_market, tiny_settings) -> None:
    env = ReferenceEnv(make_market(n_candles=400), tiny_settings(randomize_starting_position=True))

    def starts(seed: int) -> list[int]:
        rows = [env.reset(seed=seed)[1]["row"]]
        return rows + [env.reset()[1]["row"] for _ in range(20)]

    assert starts(1) == starts(1)
    assert starts(1) != starts(2)
    assert len(set(starts(1))) > 10
    assert all(3 <= row < 100 for row in starts(1))


def test_the_first_episode_starts_where_it_is_told_and_later_ones_at_the_first_window(
    make_market, tiny_settings
) -> None:
    env = ReferenceEnv(make_market(), tiny_settings(), first_row=50)
    assert [env.reset()[1]["row"] for _ in range(3)] == [50, 3, 3]


@pytest.mark.parametrize("row", [-1, 2, 119, 500])
def test_a_start_outside_the_data_is_refused(row, make_market, tiny_settings) -> None:
    env = ReferenceEnv(make_market(), tiny_settings())
    with pytest.raises(MarketError, match=f"cannot start at row {row}; rows 3 to 118 are possible"):
        env.reset(options={"row": row})


def test_exit_quality_is_told_what_the_trade_went_through(make_market, tiny_settings) -> None:
    """Long at 100, fees nothing, leverage 1: best 104, worst 99, closed at 102."""
    market = make_market(
        [
            (100, 101, 99, 100),
            (100, 101, 99, 100),
            (100, 104, 99.5, 103),
            (102, 110, 90, 102),
            (102, 102, 102, 102),
        ],
        fee_rate=0.0,
    )
    settings = tiny_settings(
        window_size=1, reward="exit_quality", reward_parameters={"profit_aim": 0.02}
    )
    rewards = [step[2] for step in run(ReferenceEnv(market, settings), [1, 0, 2])]
    quality = 0.35 * math.tanh(0.02 / 0.02)
    quality += 0.25 * (1 - 2 * 0.01 / 0.02)
    quality += 0.20 * 0.02 / 0.04
    quality += 0.20 * min(1.0, 0.02 / 0.01)
    assert rewards[:2] == [0.0, 0.0]
    assert rewards[2] == pytest.approx(quality)


def test_freqtrades_example_reward_in_the_environment(make_market, tiny_settings) -> None:
    """Flat, invalid, enter, hold twice, leave at 102 after 3 candles."""
    market = make_market([(100, 101, 99, 100)] * 6 + [(102, 103, 101, 102)] * 4, fee_rate=0.0)
    settings = tiny_settings(
        window_size=1,
        reward="freqtrade_example",
        rules={"entry": "any", "max_trade_duration_candles": 10},
    )
    rewards = [step[2] for step in run(ReferenceEnv(market, settings), [0, 2, 1, 0, 0, 2])]
    assert rewards == pytest.approx([-1.0, -2.0, 25.0, -0.1, -0.2, 0.02 * 100 * 1.5])

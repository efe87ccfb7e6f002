"""The batched environments against freqtrade's own classes, as installed, step by step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markets import gapped_market

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.rollouts.freqtrade_env import FreqtradeVecEnv
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.types import Action, five_actions

base = pytest.importorskip(
    "freqtrade.freqai.RL.BaseEnvironment", reason="freqtrade is not installed"
)
learner = pytest.importorskip("freqtrade.freqai.prediction_models.ReinforcementLearner")
three = pytest.importorskip("freqtrade.freqai.RL.Base3ActionRLEnv")
four = pytest.importorskip("freqtrade.freqai.RL.Base4ActionRLEnv")

StockEnv = learner.ReinforcementLearner.MyRLEnv
WINDOW, N_FEATURES, N_ENVS = 5, 2, 4
EXACT = 1e-12
INFO = (
    "tick",
    "action",
    "total_reward",
    "total_profit",
    "position",
    "trade_duration",
    "current_profit_pct",
)
EVENTS = {
    "end of data",
    "drawdown",
    "invalid",
    "nothing",
    "entry",
    "too long",
    "beyond 300",
    "gain",
    "loss",
    "long",
    "short",
    "turn",
}


class Translated:
    """An environment as freqtrade's default reward expects it, for one action of another set."""

    def __init__(self, env: Any, action: int) -> None:
        self._env = env
        self._action = action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def _is_valid(self, _: int) -> bool:
        return self._env._is_valid(self._action)


def translated_reward(env: Any, action: int) -> float:
    """Return freqtrade's default reward, asked with the name that it has for the action."""
    position, name = env._position, env.actions(action).name
    if name == "Exit":
        name = "Short_exit" if position == base.Positions.Short else "Long_exit"
    elif name == "Buy":
        name = "Short_exit" if position == base.Positions.Short else "Long_enter"
    elif name == "Sell":
        name = "Long_exit" if position == base.Positions.Long else "Short_enter"
    return StockEnv.calculate_reward(Translated(env, action), base.BaseActions[name].value)


class FourActions(four.Base4ActionRLEnv):
    calculate_reward = translated_reward


class ThreeActions(three.Base3ActionRLEnv):
    calculate_reward = translated_reward


class ThreeActionsUnchanged(three.Base3ActionRLEnv):
    calculate_reward = StockEnv.calculate_reward


class FourActionsUnchanged(four.Base4ActionRLEnv):
    calculate_reward = StockEnv.calculate_reward


STOCK_CLASSES = {5: StockEnv, 4: FourActions, 3: ThreeActions}


@dataclass(frozen=True)
class Case:
    """One comparison: a random market, settings, and how wild the actions are."""

    seed: int
    n_actions: int
    can_short: bool = True
    fee_rate: float = 0.0005
    drawdown: float | None = None
    max_trade_duration: int | None = None
    rr: float = 1.0
    profit_aim: float = 0.025
    win_reward_factor: float = 2.0
    compound_trades: bool = True
    randomize: bool = False
    volatility: float = 0.01
    random_share: float = 0.1
    valid_share: float = 0.3
    n_candles: int = 400
    n_steps: int = 380

    def market(self) -> Market:
        return gapped_market(self.seed, self.n_candles, self.volatility, self.fee_rate)

    def settings(self) -> Settings:
        return make_settings(
            n_actions=self.n_actions,
            randomize_starting_position=self.randomize,
            reward_parameters={
                "rr": self.rr,
                "profit_aim": self.profit_aim,
                "win_reward_factor": self.win_reward_factor,
            },
            rules={
                "can_short": self.can_short,
                "max_training_drawdown": self.drawdown,
                "max_trade_duration_candles": self.max_trade_duration,
            },
        )

    def config(self) -> dict[str, Any]:
        parameters = {"rr": self.rr, "profit_aim": self.profit_aim}
        if self.win_reward_factor != 2.0:  # freqtrade's own default
            parameters["win_reward_factor"] = self.win_reward_factor
        rl_config: dict[str, Any] = {"model_reward_parameters": parameters}
        rl_config["randomize_starting_position"] = self.randomize
        if self.drawdown is not None:
            rl_config["max_training_drawdown_pct"] = self.drawdown
        if self.max_trade_duration is not None:
            rl_config["max_trade_duration_candles"] = self.max_trade_duration
        stake = "unlimited" if self.compound_trades else 100.0
        return {"freqai": {"rl_config": rl_config}, "stake_amount": stake}


CASES = [
    Case(1, 5),
    Case(2, 5, random_share=1.0, fee_rate=0.05),
    Case(3, 5, drawdown=0.05, fee_rate=0.002),
    Case(4, 5, max_trade_duration=4, rr=2.0, profit_aim=0.01, win_reward_factor=3.5),
    Case(5, 5, can_short=False, compound_trades=False, drawdown=0.1),
    Case(6, 5, randomize=True, drawdown=0.03, volatility=0.03),
    Case(7, 5, n_candles=1600, n_steps=800, random_share=0.0, valid_share=0.004, fee_rate=0.0),
    Case(11, 4),
    Case(12, 4, random_share=1.0, fee_rate=0.0),
    Case(13, 4, drawdown=0.05, fee_rate=0.002),
    Case(14, 4, max_trade_duration=4, rr=2.0, profit_aim=0.01, win_reward_factor=3.5),
    Case(15, 4, can_short=False, compound_trades=False, drawdown=0.1),
    Case(16, 4, randomize=True, drawdown=0.03, volatility=0.03),
    Case(17, 4, n_candles=1600, n_steps=800, random_share=0.0, valid_share=0.004),
    Case(21, 3),
    Case(22, 3, random_share=1.0, drawdown=0.2, fee_rate=0.002),
    Case(23, 3, can_short=False, random_share=0.5),
    Case(24, 3, can_short=False, drawdown=0.05, max_trade_duration=4, win_reward_factor=3.5),
    Case(25, 3, max_trade_duration=4, rr=2.0, profit_aim=0.01, compound_trades=False),
    Case(26, 3, randomize=True, drawdown=0.03, volatility=0.03),
    Case(27, 3, n_candles=1600, n_steps=800, random_share=0.0, valid_share=0.004),
]
TOTAL_STEPS = N_ENVS * sum(case.n_steps for case in CASES)


def make_settings(**values: Any) -> Settings:
    defaults = {"fills": "freqtrade_env", "reward": "freqtrade_example", "window_size": WINDOW}
    return Settings(**{**defaults, **values})


def make_stock(case: Case, market: Market) -> Any:
    """Return freqtrade's environment, with its own default reward wherever that works."""
    stock_class = STOCK_CLASSES[case.n_actions]
    if case.n_actions == 3 and not case.can_short:
        stock_class = ThreeActionsUnchanged
    features = pd.DataFrame(market.features)
    return stock_class(
        df=features,
        prices=pd.DataFrame(market.ohlc, columns=["open", "high", "low", "close"]),
        reward_kwargs=case.config()["freqai"]["rl_config"]["model_reward_parameters"],
        window_size=WINDOW,
        config=case.config(),
        fee=case.fee_rate,
        can_short=case.can_short,
        df_raw=features,
    )


class Draw:
    """In the place of ``random`` in freqtrade's module: draws the tick that ours has drawn."""

    tick = 0

    def randint(self, lowest: int, highest: int) -> int:
        assert lowest <= self.tick <= highest
        return self.tick


def start_anywhere(stock: Any, tick: int) -> np.ndarray:
    """Start freqtrade's environment at ``tick``, where its own first episode never starts."""
    rl_config = stock.rl_config
    stock.rl_config = {**rl_config, "randomize_starting_position": False}
    stock._start_tick = tick
    observation, _ = stock.reset()
    stock.rl_config, stock._start_tick = rl_config, WINDOW
    return observation.to_numpy().ravel()


def choose_actions(rng: np.random.Generator, masks: np.ndarray, case: Case) -> np.ndarray:
    """Return any action in one share of the environments, a valid one in another, else 0."""
    n_envs, n_actions = masks.shape
    is_random = rng.random(n_envs) < case.random_share
    anything = rng.integers(0, n_actions, n_envs)
    valid = np.argmax(np.where(masks, rng.random(masks.shape), -1.0), axis=1)
    acts = rng.random(n_envs) < case.valid_share
    return np.where(is_random, anything, np.where(acts, valid, 0))


def assert_same_step(env: FreqtradeVecEnv, stocks: list[Any], results: list[Any]) -> None:
    """Compare what one step did: integers and flags exactly."""
    outcome = env.outcome
    for index, name in ((1, "reward"), (2, "terminated"), (3, "truncated")):
        theirs = np.array([result[index] for result in results])
        np.testing.assert_allclose(outcome[name], theirs, rtol=EXACT, atol=0.0, err_msg=name)
    for name in INFO:
        ours, theirs = outcome[name], np.array([result[4][name] for result in results])
        rtol = 0.0 if np.issubdtype(ours.dtype, np.integer) else EXACT
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=0.0, err_msg=name)
    unrealized = [stock._total_unrealized_profit for stock in stocks]
    np.testing.assert_allclose(outcome["total_unrealized_profit"], unrealized, rtol=EXACT, atol=0.0)
    has_traded = [
        bool(stock.trade_history) and stock.trade_history[-1]["index"] == stock._current_tick
        for stock in stocks
    ]
    np.testing.assert_array_equal(outcome["executed"] != Action.NEUTRAL, has_traded)


def count_events(counts: Counter[str], outcome: np.ndarray, end_tick: int) -> None:
    """Count what the comparison has to have seen."""
    reward, at_end = outcome["reward"], outcome["tick"] == end_tick
    exits = np.isin(outcome["executed"], (Action.LONG_EXIT, Action.SHORT_EXIT))
    events = {
        "end of data": outcome["terminated"] & at_end,
        "drawdown": outcome["terminated"] & ~at_end,
        "invalid": reward == -2.0,
        "nothing": reward == 0.0,
        "entry": reward == 25.0,
        "too long": (reward < -1.0) & (reward != -2.0),
        "beyond 300": outcome["trade_duration"] > 300,
        "gain": exits & (reward > 0.0),
        "loss": exits & (reward < 0.0),
        "long": outcome["position"] == 1.0,
        "short": outcome["position"] == 0.0,
        "turn": exits & (outcome["position"] != 0.5),
    }
    for name, happened in events.items():
        counts[name] += int(happened.sum())


def assert_lockstep(case: Case, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Step both, compare everything, and return how often what happened."""
    market, draw = case.market(), Draw()
    monkeypatch.setattr(base, "random", draw)
    rng = np.random.default_rng([case.seed, 1])
    rows = rng.integers(WINDOW - 1, case.n_candles - 2, N_ENVS)
    env = FreqtradeVecEnv(
        market, case.settings(), rows.tolist(), compound_trades=case.compound_trades
    )
    env.seed(case.seed)
    stocks = [make_stock(case, market) for _ in rows]
    assert env.action_space == stocks[0].action_space
    windows = np.stack([start_anywhere(s, r + 1) for s, r in zip(stocks, rows, strict=True)])
    np.testing.assert_array_equal(env.reset()[:, : -env.action_space.n], windows)
    counts: Counter[str] = Counter()
    for _ in range(case.n_steps):
        masks = env.action_masks()
        np.testing.assert_array_equal(masks, [stock.action_masks() for stock in stocks])
        actions = choose_actions(rng, masks, case)
        seen, rewards, dones, infos = env.step(actions)
        results = [s.step(action) for s, action in zip(stocks, actions.tolist(), strict=True)]
        assert_same_step(env, stocks, results)
        np.testing.assert_array_equal(rewards, env.outcome["reward"].astype(np.float32))
        np.testing.assert_array_equal(dones, env.outcome["terminated"])
        count_events(counts, env.outcome, case.n_candles - 1)
        windows = np.stack([result[0].to_numpy().ravel() for result in results])
        for e in np.flatnonzero(dones):
            np.testing.assert_array_equal(
                infos[e]["terminal_observation"][: -env.action_space.n], windows[e]
            )
            assert infos[e]["TimeLimit.truncated"] is False
            draw.tick = int(env.rows[e]) + 1
            windows[e] = stocks[e].reset()[0].to_numpy().ravel()
        np.testing.assert_array_equal(seen[:, : -env.action_space.n], windows)
        np.testing.assert_array_equal(env.rows + 1, [stock._current_tick for stock in stocks])
    return counts


def test_the_comparison_is_long_enough() -> None:
    assert TOTAL_STEPS >= 35_000
    assert {case.n_actions for case in CASES} == {3, 4, 5}


@pytest.mark.parametrize("n_actions", [5, 4, 3])
def test_every_step_equals_freqtrades(n_actions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    for case in CASES:
        if case.n_actions == n_actions:
            counts += assert_lockstep(case, monkeypatch)
    impossible = {5: {"turn"}, 4: {"nothing", "turn"}, 3: set()}[n_actions]
    assert {name for name, count in counts.items() if count >= 5} == EVENTS - impossible, counts


@pytest.mark.parametrize("n_envs", [1, 8, 257])
def test_each_environment_is_as_if_alone(n_envs: int) -> None:
    market = gapped_market(31, volatility=0.03)
    settings = make_settings(
        randomize_starting_position=True,
        max_episode_steps=40,
        rules={"max_training_drawdown": 0.1},
    )
    rng = np.random.default_rng(31)
    first_rows = rng.integers(WINDOW - 1, len(market) - 1, n_envs).tolist()
    actions = rng.integers(0, 5, (120, n_envs))
    together = FreqtradeVecEnv(market, settings, first_rows)
    together.seed(7)
    alone = [FreqtradeVecEnv(market, settings, [row]) for row in first_rows]
    for rank, env in enumerate(alone):
        env.seed(7 + rank)
    np.testing.assert_array_equal(together.reset(), np.concatenate([e.reset() for e in alone]))
    n_ended = 0
    for row in actions:
        seen, rewards, dones, infos = together.step(row)
        for e, env in enumerate(alone):
            seen_, reward, done, info = env.step(row[e : e + 1])
            np.testing.assert_array_equal(seen[e], seen_[0])
            assert together.outcome[e] == env.outcome[0]
            assert (rewards[e], dones[e]) == (reward[0], done[0])
            assert infos[e].keys() == info[0].keys()
        n_ended += int(dones.sum())
    assert n_ended >= 3 * n_envs


def test_observation_is_window_and_mask() -> None:
    market = gapped_market(1)
    env = FreqtradeVecEnv(market, make_settings(n_actions=3), [WINDOW - 1, 17])
    assert env.observation_space.shape == (WINDOW * N_FEATURES + 3,)
    seen = env.reset()
    assert (seen.dtype, seen.shape) == (np.float32, (2, WINDOW * N_FEATURES + 3))
    for e, row in enumerate([WINDOW - 1, 17]):
        window = market.features[row - WINDOW + 1 : row + 1]
        np.testing.assert_array_equal(seen[e], [*window.ravel(), 1, 1, 1])
    np.testing.assert_array_equal(env.extras, np.ones((2, 3), dtype=np.float32))
    assert env.features is market.features


def test_episodes_are_truncated() -> None:
    market, limit = gapped_market(1), 7
    # The second arrives at the end of the data with its last step: an end, not a truncation.
    rows = [WINDOW - 1, len(market) - 2 - limit]
    env = FreqtradeVecEnv(market, make_settings(max_episode_steps=limit), rows)
    env.reset()
    for count in range(1, 3 * limit + 1):
        _, _, dones, infos = env.step(np.zeros(2, dtype=np.int64))
        assert dones.tolist() == [count % limit == 0] * 2
        if not dones[0]:
            continue
        outcome, is_first = env.outcome, count == limit
        assert outcome["truncated"].tolist() == [True, not is_first]
        assert outcome["terminated"].tolist() == [False, is_first]
        assert [info["TimeLimit.truncated"] for info in infos] == [True, not is_first]
        assert env.rows.tolist() == [WINDOW - 1] * 2
        last_row = WINDOW - 1 + limit
        window = market.features[last_row - WINDOW + 1 : last_row + 1]
        np.testing.assert_array_equal(infos[0]["terminal_observation"][:-5], window.ravel())
        np.testing.assert_array_equal(infos[0]["terminal_observation"][-5:], np.ones(5))


def restart_ticks(seed: int, n_envs: int, n_steps: int) -> np.ndarray:
    """Return the ticks at which episodes of one step each start: shape (n_steps, n_envs)."""
    settings = make_settings(randomize_starting_position=True, max_episode_steps=1)
    env = FreqtradeVecEnv(gapped_market(1, 100), settings, [WINDOW - 1] * n_envs)
    env.seed(seed)
    env.reset()
    ticks = []
    for _ in range(n_steps):
        env.step(np.zeros(n_envs, dtype=np.int64))
        ticks.append(env.rows + 1)
    return np.stack(ticks)


def test_random_starts_are_spread_as_freqtrades() -> None:
    ticks = restart_ticks(5, n_envs=64, n_steps=150)
    counts = np.bincount(ticks.ravel())
    expected = np.arange(WINDOW + 1, int(99 / 4) + 1)
    np.testing.assert_array_equal(np.flatnonzero(counts), expected)
    mean = ticks.size / len(expected)
    assert np.abs(counts[expected] - mean).max() < 4.0 * np.sqrt(mean)


def test_random_starts_are_seeded_by_seed_and_rank() -> None:
    first, again, other = (restart_ticks(seed, 2, 40) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:, 1], other[:, 0])
    assert (first[:, 0] != first[:, 1]).any()


def test_last_first_row_leaves_a_step() -> None:
    market = gapped_market(1)
    env = FreqtradeVecEnv(market, make_settings(), [len(market) - 2])
    env.reset()
    assert env.rows.tolist() == [len(market) - 3]
    _, _, dones, _ = env.step(np.array([0]))
    assert dones.tolist() == [True]
    assert env.outcome["tick"].tolist() == [len(market) - 1]


def test_shortest_market() -> None:
    env = FreqtradeVecEnv(gapped_market(1, WINDOW + 2), make_settings(), [WINDOW - 1])
    env.reset()
    assert env.step(np.array([0]))[2].tolist() == [True]
    with pytest.raises(MarketError, match="6 candles are too few for a window of 5; at least 7"):
        FreqtradeVecEnv(gapped_market(1, WINDOW + 1), make_settings(), [WINDOW - 1])


def test_random_starts_need_a_quarter_of_the_data() -> None:
    settings = make_settings(randomize_starting_position=True)
    env = FreqtradeVecEnv(gapped_market(1, 25), settings, [WINDOW - 1])
    env.reset()
    with pytest.raises(MarketError, match="first quarter; at least 25"):
        FreqtradeVecEnv(gapped_market(1, 24), settings, [WINDOW - 1])


@pytest.mark.parametrize("row", [WINDOW - 2, 399])
def test_first_rows_outside_of_the_market_are_refused(row: int) -> None:
    with pytest.raises(MarketError, match=f"cannot start at row {row}; rows 4 to 398"):
        FreqtradeVecEnv(gapped_market(1), make_settings(), [WINDOW - 1, row])


@pytest.mark.parametrize("action", [-1, 3])
def test_actions_outside_of_the_space_are_refused(action: int) -> None:
    env = FreqtradeVecEnv(gapped_market(1), make_settings(n_actions=3), [10, 10])
    env.reset()
    with pytest.raises(IndexError, match="action space"):
        env.step(np.array([1, action]))
    assert env.rows.tolist() == [10, 10]


@pytest.mark.parametrize(
    ("n_actions", "expected"),
    [
        (5, ["Neutral", "Long_enter", "Long_exit", "Short_enter", "Short_exit"]),
        (4, ["Neutral", "Long_enter", "Exit", "Short_enter", "Exit"]),
        (3, ["Neutral", "Buy", "Sell", "Sell", "Buy"]),
    ],
)
def test_five_actions_by_freqtrades_names(n_actions: int, expected: list[str]) -> None:
    actions = make_stock(Case(1, n_actions), gapped_market(1)).actions
    assert [actions(action).name for action in five_actions(n_actions)] == expected


@pytest.mark.parametrize(
    ("stock_class", "entry"), [(ThreeActionsUnchanged, 2), (FourActionsUnchanged, 2)]
)
def test_unchanged_default_reward_fails_where_ours_is_translated(
    stock_class: type[Any], entry: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(1, 3)
    monkeypatch.setitem(STOCK_CLASSES, 3, stock_class)
    stock = make_stock(case, case.market())
    stock.reset()
    with pytest.raises(TypeError, match="unsupported operand"):
        stock.step(entry)

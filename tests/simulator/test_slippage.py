"""What exits at market lose to the order book: charged where money is counted, seen by no rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from markets import lively_market

from mtf_scalper.errors import SettingsError
from mtf_scalper.evaluation.baselines import buy_and_hold
from mtf_scalper.evaluation.report import evaluate
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.simulator.exits import profit_ratio, slipped
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import play_decided
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.reference import ReferenceEnv
from mtf_scalper.simulator.types import ExitReason, Side

BPS = 20.0
RULES: dict[str, Any] = {
    "entry": "any",
    "stoploss": -0.04,
    "minimal_roi": {0: 0.03, 10: 0.02},
    "max_trade_duration_candles": 6,
    "emergency_loss": -0.02,
    "break_even_trigger": 0.01,
    "is_liquidated": False,
}


def settings_with(slippage_bps: float, **rules: Any) -> Settings:
    return Settings(
        window_size=1, rules=TradeRules(**{**RULES, **rules}, slippage_bps=slippage_bps)
    )


def played(market: Any, settings: Settings, seed: int) -> ReferenceEnv:
    """Play random actions in the reference environment, from the first row to the last."""
    rng, env = np.random.default_rng(seed), ReferenceEnv(market, settings)
    env.reset(options={"row": 0})
    log_return, terminated = 0.0, False
    while not terminated:
        weights = env.action_masks() * np.array([4.0, 1.0, 0.5, 1.0, 0.5])
        action = rng.choice(5, p=weights / weights.sum())
        _, reward, terminated, _, _ = env.step(int(action))
        log_return += reward
    assert log_return == pytest.approx(np.log(env.equity))  # the marks in between have it too
    return env


def test_an_exit_gets_less_for_a_long_and_pays_more_for_a_short() -> None:
    assert slipped(1, 100.0, 25.0) == pytest.approx(99.75)
    assert slipped(-1, 100.0, 25.0) == pytest.approx(100.25)
    assert slipped(1, 0.1 + 0.2, 0.0) == 0.1 + 0.2


def test_every_exit_pays_and_no_rule_sees_it() -> None:
    """The same trades for the same reasons, at other closes."""
    reasons: set[ExitReason] = set()
    for seed in range(6):
        market = lively_market(seed, 400)
        without = played(market, settings_with(0.0), seed).trades
        with_slippage = played(market, settings_with(BPS), seed).trades
        assert len(without) == len(with_slippage) > 30
        for plain, trade in zip(without, with_slippage, strict=True):
            side = int(trade.side)
            assert trade.close_rate == plain.close_rate * (1.0 - side * BPS / 10_000.0)
            assert replace(trade, close_rate=0.0, profit_ratio=0.0) == replace(
                plain, close_rate=0.0, profit_ratio=0.0
            )
            lost = plain.profit_ratio - trade.profit_ratio
            paid = trade.close_rate / trade.open_rate * trade.leverage
            assert lost == pytest.approx(BPS / 10_000.0 * paid, rel=0.01)
            reasons.add(trade.exit_reason)
    assert reasons >= {
        *(ExitReason.AGENT, ExitReason.MAX_DURATION, ExitReason.EMERGENCY),
        *(ExitReason.BREAK_EVEN, ExitReason.STOP_LOSS, ExitReason.ROI),
    }


def test_the_profit_is_that_of_the_slipped_rate() -> None:
    market = replace(lively_market(1, 100), funding=np.zeros(100), funding_between=np.zeros(100))
    for trade in played(market, settings_with(BPS), 1).trades:
        terms = int(trade.side), trade.open_rate, trade.close_rate, market.fee_rate, trade.leverage
        assert trade.profit_ratio == pytest.approx(profit_ratio(*terms), abs=1e-8)


def test_the_compiled_kernels_charge_what_the_reference_does() -> None:
    market = lively_market(4, 300)
    for bps in (0.0, BPS):
        settings = settings_with(bps)
        env = ReferenceEnv(market, settings)
        env.reset(options={"row": 0})
        decided = np.random.default_rng(0).choice([0, 0, 1, 2, 3, 4], (1, len(market), 3))
        decided = decided.astype(np.int8)
        terminated = False
        while not terminated:
            action = int(decided[0, env.row, env.side + 1])
            valid = env.action_masks()
            _, _, terminated, _, _ = env.step(action if valid[action] else int(valid.argmax()))
        (run,) = play_decided(prepare(market, settings), decided)
        assert list(run.trades) == env.trades
        assert run.equity[-1] == pytest.approx(env.equity, rel=1e-12)


def test_the_optimum_and_the_baselines_pay_it_as_well() -> None:
    market = lively_market(2, 200)
    free, charged = settings_with(0.0), settings_with(BPS)
    assert 0.0 < oracle(market, charged).log_return < oracle(market, free).log_return
    cost = buy_and_hold(market, free).log_return - buy_and_hold(market, charged).log_return
    assert cost == pytest.approx(BPS / 10_000.0, rel=0.02)
    best = oracle(market, charged)
    report = evaluate(best, market, charged, n_draws=0)
    assert dict(report.as_table())["slippage per exit"] == "0.200%"
    assert "slippage 20 bps per exit" in report.summary
    assert "slippage" not in evaluate(oracle(market, free), market, free, n_draws=0).summary


@pytest.mark.parametrize("bps", [-1.0, 1001.0, np.nan])
def test_a_slippage_that_cannot_be_meant_is_refused(bps: float) -> None:
    with pytest.raises(SettingsError, match="slippage_bps"):
        TradeRules(slippage_bps=bps)


def test_freqtrades_own_environments_have_none() -> None:
    with pytest.raises(SettingsError, match="does not go with slippage_bps"):
        Settings(
            fills="freqtrade_env",
            reward="freqtrade_example",
            rules=TradeRules(slippage_bps=BPS),
        )


def test_sides_are_signs() -> None:
    assert (int(Side.LONG), int(Side.SHORT)) == (1, -1)

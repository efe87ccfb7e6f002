"""The verdict on a backtest: its trades played again, beside the optimum and the baselines."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from mtf_scalper.errors import MarketError
from mtf_scalper.market.market import Market
from mtf_scalper.runs.verdict import (
    degenerate_pairs,
    judge_trades,
    replay,
    trades_on,
    verdict_lines,
    verdict_sentence,
    verdict_table,
)
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import Simulation, play
from mtf_scalper.simulator.types import Side

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
RULES = TradeRules(
    entry=EntryMode.ALWAYS,
    stoploss=-0.05,
    minimal_roi={0: 0.03},
    max_trade_duration_candles=24,
)
SETTINGS = Settings(window_size=5, rules=RULES)


def market(pair: str, seed: int) -> Market:
    """Return 600 candles with an entry at one in twelve."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.006, 600)))
    open_ = np.append(100.0, close[:-1])
    spread = np.abs(rng.normal(0.0, 0.002, (2, 600)))
    high = np.maximum(open_, close) * (1.0 + spread[0])
    low = np.minimum(open_, close) * (1.0 - spread[1])
    signal = rng.random(600)
    return Market(
        features=close[:, None].astype(np.float32),
        ohlc=np.stack([open_, high, low, close], axis=1),
        entry_long=signal < 0.05,
        entry_short=signal > 0.97,
        leverage=np.where(rng.random(600) < 0.5, 1.0, 3.0),
        fee_rate=0.0005,
        dates=np.datetime64("2024-10-01", "ns") + np.arange(600) * np.timedelta64(5, "m"),
        pair=pair,
    )


def traded(market: Market, seed: int = 0, settings: Settings = SETTINGS) -> Simulation:
    """Return a run that leaves at random."""
    rng = np.random.default_rng(seed)

    def choose(row: int, states: np.ndarray, _extras: np.ndarray) -> np.ndarray:
        side = int(states["side"][0])
        return np.array([(0, 2, 4)[side] if rng.random() < 0.1 else 0])

    return play(market, settings, choose)[0]


def as_freqtrade_writes(market: Market, run: Simulation) -> list[dict[str, Any]]:
    assert market.dates is not None
    return [
        {
            "pair": market.pair,
            "is_short": trade.side is Side.SHORT,
            "open_date": f"{np.datetime_as_string(market.dates[trade.open_row], 's')}+00:00",
            "close_date": f"{np.datetime_as_string(market.dates[trade.close_row], 's')}+00:00",
            "open_rate": trade.open_rate,
            "close_rate": trade.close_rate,
            "leverage": trade.leverage,
            "profit_ratio": trade.profit_ratio,
            "exit_reason": str(trade.exit_reason),
        }
        for trade in run.trades
    ]


def test_a_replay_makes_the_same_trades_and_the_same_equity() -> None:
    traded_on = market(BTC, 1)
    run = traded(traded_on)
    assert len({trade.exit_reason for trade in run.trades}) >= 3
    assert {trade.side for trade in run.trades} == {Side.LONG, Side.SHORT}
    written = as_freqtrade_writes(traded_on, run)
    trades = trades_on(traded_on, written[::-1])
    assert trades == run.trades
    again = replay(traded_on, SETTINGS, trades)
    assert again.trades == run.trades
    np.testing.assert_array_equal(again.equity, run.equity)


def test_entries_that_the_backtest_left_out_stay_out() -> None:
    traded_on = market(BTC, 1)
    run = traded(traded_on)
    some = run.trades[::2]
    again = replay(traded_on, SETTINGS, some)
    assert again.trades == some
    # The entry rule is known all the same, so that random exits can follow it.
    assert again.entries is not None
    decided = again.entries[SETTINGS.window_size - 1 : -2]
    signals = traded_on.entry_long | traded_on.entry_short
    np.testing.assert_array_equal(decided > 0, signals[SETTINGS.window_size - 1 : -2])


def test_where_the_agent_chooses_entries_its_rule_is_not_known() -> None:
    traded_on = market(BTC, 1)
    settings = SETTINGS.changed(rules=RULES.changed(entry=EntryMode.CLASSIC))
    assert replay(traded_on, settings, traded(traded_on).trades).entries is None


def test_every_pair_is_judged_and_all_together(caplog: pytest.LogCaptureFixture) -> None:
    markets = {BTC: market(BTC, 1), ETH: market(ETH, 2)}
    runs = {pair: traded(each, seed) for seed, (pair, each) in enumerate(markets.items())}
    trades = [t for pair, run in runs.items() for t in as_freqtrade_writes(markets[pair], run)]
    judged, differences = judge_trades(trades, markets, SETTINGS, n_draws=20)
    assert differences == {}
    assert caplog.messages == []
    assert judged.calendar.tolist() == [date(2024, 10, day) for day in (1, 2, 3)]
    for evidence, row in zip(judged.pairs, judged.figures[1:], strict=True):
        run, account = runs[evidence.pair], judged.by_pair[evidence.pair]
        best = oracle(markets[evidence.pair], SETTINGS).log_return
        assert row["pair"] == evidence.pair
        assert row["n_trades"] == len(run.trades)
        assert row["log_return"]["value"] == pytest.approx(run.log_return, abs=1e-12)
        assert row["oracle"] == pytest.approx(best, abs=1e-12)
        assert row["oracle_share"]["value"] == pytest.approx(run.log_return / best)
        assert account.draws.shape == (20, 3)
        assert account.degenerate == ()
    whole = judged.figures[0]
    assert whole["pair"] == "all"
    for name in ("n_trades", "oracle", "buy_and_hold", "classic_exits"):
        assert whole[name] == pytest.approx(sum(row[name] for row in judged.figures[1:]))
    draws = judged.whole.draws.sum(axis=1)
    assert whole["random_rank"] == np.mean(whole["log_return"]["value"] > draws)
    said = verdict_sentence(judged)
    assert said.startswith("no evidence of an edge: 3 days are too few to tell (1 variant tried); ")
    assert f"log return {whole['log_return']['value']:+.3f} in {whole['n_trades']:.0f} trad" in said
    assert f"classic exits {whole['classic_exits']:+.3f}" in said


def test_rules_alone_are_named_as_what_they_are() -> None:
    traded_on = market(BTC, 1)

    def stay(_row: int, states: np.ndarray, _extras: np.ndarray) -> np.ndarray:
        return np.zeros(len(states), dtype=np.int64)

    run = play(traded_on, SETTINGS, stay)[0]
    written = as_freqtrade_writes(traded_on, run)
    judged, differences = judge_trades(written, {BTC: traded_on}, SETTINGS, n_draws=5)
    (row,) = judged.figures
    assert row["log_return"]["value"] == pytest.approx(row["classic_exits"], abs=1e-12)
    why = degenerate_pairs(judged)[BTC]
    assert why is not None
    assert why.startswith("never exits by itself (0 of ")
    assert f"{BTC}: DEGENERATE, {why}" in verdict_lines(judged, differences)
    said = "no evidence of an edge: the policy is degenerate, it never exits by itself "
    assert verdict_sentence(judged).startswith(said)


def test_a_pair_without_trades_has_random_exits_that_earn_nothing() -> None:
    markets = {BTC: market(BTC, 1), ETH: market(ETH, 2)}
    written = as_freqtrade_writes(markets[BTC], traded(markets[BTC]))
    judged, _ = judge_trades(written, markets, SETTINGS, n_draws=5)
    _, _, eth = judged.figures
    assert (eth["n_trades"], eth["log_return"]["value"]) == (0, 0.0)
    assert str(degenerate_pairs(judged)[ETH]).startswith("never trades")
    np.testing.assert_array_equal(judged.whole.draws, judged.by_pair[BTC].draws)


def test_a_pair_that_is_traded_on_fewer_days_earns_nothing_on_the_others() -> None:
    btc, eth = market(BTC, 1), market(ETH, 2).slice(288, 576)
    written = as_freqtrade_writes(btc, traded(btc)) + as_freqtrade_writes(eth, traded(eth))
    judged, differences = judge_trades(written, {BTC: btc, ETH: eth}, SETTINGS, n_draws=5)
    assert differences == {}
    assert len(judged.calendar) == 3
    late = judged.by_pair[ETH].days
    assert late.log_return[[0, 2]].tolist() == [0.0, 0.0]
    assert late.exposure[[0, 2]].tolist() == [0.0, 0.0]
    assert late.log_return[1] == pytest.approx(traded(eth).log_return)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"close_rate": 1.0}, "close_rate of the trade of 2024-10-01 "),
        ({"profit_ratio": 0.5}, "profit_ratio of the trade of 2024-10-01 "),
        ({"leverage": 2.0}, "leverage of the trade of 2024-10-01 "),
    ],
)
def test_a_replay_that_differs_is_told(
    change: dict[str, float], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    traded_on = market(BTC, 1)
    written = as_freqtrade_writes(traded_on, traded(traded_on))
    written[2].update(change)
    with caplog.at_level(logging.WARNING):
        judged, differences = judge_trades(written, {BTC: traded_on}, SETTINGS, n_draws=1)
    (message,) = caplog.messages
    assert message.startswith(f"{BTC}: the replay differs from the backtest: {words}")
    assert "\n" not in message
    assert message in verdict_lines(judged, differences)


def test_a_forced_exit_that_does_not_happen_again_is_told() -> None:
    traded_on = market(BTC, 1)
    written = as_freqtrade_writes(traded_on, traded(traded_on))
    left = next(trade for trade in written if trade["exit_reason"] == "agent_exit")
    left["exit_reason"] = "roi"
    _, differences = judge_trades(written, {BTC: traded_on}, SETTINGS, n_draws=1)
    assert list(differences) == [BTC]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"open_date": "2024-10-01 00:52:00+00:00"}, "open_date .* is no candle"),
        ({"close_date": "2025-10-01 00:50:00+00:00"}, "close_date .* is no candle"),
        ({"exit_reason": "partial_exit"}, "'partial_exit' .* cannot be played again"),
    ],
)
def test_what_cannot_be_played_again_is_an_error(change: dict[str, str], words: str) -> None:
    traded_on = market(BTC, 1)
    written = as_freqtrade_writes(traded_on, traded(traded_on))
    written[0].update(change)
    with pytest.raises(MarketError, match=f"^{BTC}: .*{words}"):
        trades_on(traded_on, written)


def test_the_table_shows_what_is_known() -> None:
    never = np.zeros(600, dtype=np.bool_)
    still = replace(market(ETH, 2), entry_long=never, entry_short=never)
    markets = {BTC: market(BTC, 1), ETH: still}
    written = as_freqtrade_writes(markets[BTC], traded(markets[BTC]))
    judged, _ = judge_trades(written, markets, SETTINGS, n_draws=3)
    columns = [list(column.cells) for column in verdict_table(judged).columns]
    btc, eth, together = zip(*columns, strict=True)
    row = judged.figures[1]
    assert (btc[0], eth[0], together[0]) == ("BTC/USDT", "ETH/USDT", "all")
    assert btc[1:3] == (f"{len(written)}", f"{row['log_return']['value']:+.3f}")
    assert btc[3] == f"{row['oracle_share']['value']:.1%}"
    assert btc[5:7] == (f"{row['classic_exits']:+.3f}", f"{row['random_median']:+.3f}")
    # Nobody can earn anything there.
    assert eth[1:4] == ("0", "+0.000", "-")

"""The verdict on a backtest: its trades played again, beside the optimum and the baselines."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markets import classic_market

from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.baselines import classic_exits
from mtf_scalper.evaluation.judge import Judged, NotJudged
from mtf_scalper.evaluation.judge_into import (
    judge_into,
    judge_trades,
    verdict_checks,
    verdict_sentence,
)
from mtf_scalper.evaluation.replay import replay, with_entries_made
from mtf_scalper.evaluation.trades import ClosedTrade, from_freqtrade, on_rows
from mtf_scalper.market.market import Market
from mtf_scalper.page.summary import verdict_of
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.settings import EntryMode, Settings, TradeRules
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import Simulation, play
from mtf_scalper.simulator.prepared import prepare
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
    leverage = np.random.default_rng(seed).choice([1.0, 3.0], 600)
    dates = np.datetime64("2024-10-01", "ns") + np.arange(600) * np.timedelta64(5, "m")
    given = {"leverage": leverage, "fee_rate": 0.0005, "dates": dates, "pair": pair}
    return classic_market(seed, 600, 0.04, volatility=0.006, **given)


def traded(market: Market, seed: int = 0, settings: Settings = SETTINGS) -> Simulation:
    """Return a run that leaves at random."""
    rng = np.random.default_rng(seed)

    def choose(row: int, states: np.ndarray, _extras: np.ndarray) -> np.ndarray:
        side = int(states["side"][0])
        return np.array([(0, 2, 4)[side] if rng.random() < 0.1 else 0])

    return play(prepare(market, settings), choose)[0]


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


def closed(written: list[dict[str, Any]]) -> list[ClosedTrade]:
    return [from_freqtrade(row) for row in written]


def test_a_replay_makes_the_same_trades_and_the_same_equity() -> None:
    traded_on = market(BTC, 1)
    run = traded(traded_on)
    assert len({trade.exit_reason for trade in run.trades}) >= 3
    assert {trade.side for trade in run.trades} == {Side.LONG, Side.SHORT}
    written = as_freqtrade_writes(traded_on, run)
    trades = on_rows(closed(written[::-1]), traded_on)
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
    judged = judge_trades(closed(trades), markets, SETTINGS, n_draws=20)
    assert isinstance(judged, Judged)
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

    run = play(prepare(traded_on, SETTINGS), stay)[0]
    written = as_freqtrade_writes(traded_on, run)
    judged = judge_trades(closed(written), {BTC: traded_on}, SETTINGS, n_draws=5)
    (row,) = judged.figures
    assert row["log_return"]["value"] == pytest.approx(row["classic_exits"], abs=1e-12)
    agrees, policy = verdict_checks(judged)
    assert (agrees["verdict"], policy["verdict"]) == ("passed", "failed")
    assert policy["reason"].startswith("never exits by itself (0 of ")
    said = "no evidence of an edge: the policy is degenerate, it never exits by itself "
    assert verdict_sentence(judged).startswith(said)


def test_a_pair_without_trades_has_random_exits_that_earn_nothing() -> None:
    markets = {BTC: market(BTC, 1), ETH: market(ETH, 2)}
    written = as_freqtrade_writes(markets[BTC], traded(markets[BTC]))
    judged = judge_trades(closed(written), markets, SETTINGS, n_draws=5)
    _, _, eth = judged.figures
    assert (eth["n_trades"], eth["log_return"]["value"]) == (0, 0.0)
    assert str(judged.by_pair[ETH].degenerate[0]).startswith("never trades")
    np.testing.assert_array_equal(judged.whole.draws, judged.by_pair[BTC].draws)


def test_a_pair_that_is_traded_on_fewer_days_earns_nothing_on_the_others() -> None:
    btc, eth = market(BTC, 1), market(ETH, 2).slice(288, 576)
    written = as_freqtrade_writes(btc, traded(btc)) + as_freqtrade_writes(eth, traded(eth))
    judged = judge_trades(closed(written), {BTC: btc, ETH: eth}, SETTINGS, n_draws=5)
    assert isinstance(judged, Judged)
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
        judged = judge_trades(closed(written), {BTC: traded_on}, SETTINGS, n_draws=1)
    (message,) = caplog.messages
    assert message.startswith(f"{BTC}: the replay differs from the backtest: {words}")
    assert "\n" not in message
    assert isinstance(judged, NotJudged)
    difference = judged.differences[BTC]
    # No figure of the replay is told: it is that of other trades.
    assert verdict_sentence(judged) == f"not judged: the replay differs at {BTC}: {difference}"
    (check,) = verdict_checks(judged)
    assert (check["verdict"], check["reason"]) == ("failed", difference)


def test_one_pair_that_differs_leaves_all_without_a_verdict() -> None:
    markets = {BTC: market(BTC, 1), ETH: market(ETH, 2)}
    written = [t for each in markets.values() for t in as_freqtrade_writes(each, traded(each))]
    left = next(trade for trade in written if trade["pair"] == ETH)
    left["open_rate"] *= 1.001
    judged = judge_trades(closed(written), markets, SETTINGS, n_draws=1)
    assert isinstance(judged, NotJudged)
    assert list(judged.differences) == [ETH]
    said = verdict_sentence(judged)
    assert said.startswith(f"not judged: the replay differs at {ETH}: open_rate of the trade of 20")
    assert [each["verdict"] for each in verdict_checks(judged)] == ["passed", "failed"]


def test_a_record_of_trades_that_are_not_judged_has_no_figures(tmp_path: Path) -> None:
    traded_on = market(BTC, 1)
    written = as_freqtrade_writes(traded_on, traded(traded_on))
    with RunRecord.begin(tmp_path, "backtest") as record:
        judge_into(record, closed(written), {BTC: traded_on}, SETTINGS)
    judged = Run.open(record.folder)
    assert judged.figures()
    written[0]["close_rate"] *= 1.01
    with RunRecord.begin(tmp_path, "backtest") as record:
        found = judge_into(record, closed(written), {BTC: traded_on}, SETTINGS)
        record.finish(verdict_sentence(found))
    run = Run.open(record.folder)
    assert run.figures() == []
    assert run.statistics() is None
    assert not {path.stem for path in run.folder.glob("*.feather")} & {"equity", "daily"}
    # The page says so where the verdict stands, and in the colour of what is wrong.
    text, tone = verdict_of(run)
    assert text.startswith(f"Not judged: the replay differs at {BTC}: close_rate of the trade of ")
    assert tone == "bad"


def with_entries(base: Market, kept: np.ndarray) -> Market:
    return replace(base, entry_long=base.entry_long & kept, entry_short=base.entry_short & kept)


KEPT = {
    "all": lambda base: np.ones(600, dtype=bool),
    "the second half": lambda base: np.arange(600) >= 300,
    "longs": lambda base: base.entry_long,
    "every other hour": lambda base: np.arange(600) // 12 % 2 == 0,
    "above the average": lambda base: base.ohlc[:, 3] > base.ohlc[:, 3].mean(),
}


def test_a_backtest_is_judged_without_slippage_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """freqtrade's backtester charges none, and its trades would not be played again."""
    traded_on = market(BTC, 1)
    written = closed(as_freqtrade_writes(traded_on, traded(traded_on)))
    judged = []
    for number, bps in enumerate((0.0, 5.0)):
        settings = SETTINGS.changed(rules=RULES.changed(slippage_bps=bps))
        with RunRecord.begin(tmp_path / str(number), "backtest", pairs=[BTC]) as record:
            judged.append(judge_into(record, written, {BTC: traded_on}, settings))
        assert len(caplog.messages) == number
    assert all(isinstance(each, Judged) for each in judged)
    assert judged[0].figures == judged[1].figures
    assert caplog.messages[0].startswith("slippage_bps 5 is charged in training and by `mtf-scal")


@pytest.mark.parametrize("name", KEPT)
def test_baselines_use_the_entries_that_the_strategy_made(name: str) -> None:
    """What is right is traded on a market that has no other entries than the strategy's own."""
    whole = market(BTC, 1)
    own = with_entries(whole, KEPT[name](whole))
    run = classic_exits(own, SETTINGS)
    assert run is not None
    judged = judge_trades(closed(as_freqtrade_writes(own, run)), {BTC: whole}, SETTINGS, n_draws=20)
    assert isinstance(judged, Judged)
    (row,) = judged.figures
    assert row["log_return"]["value"] == pytest.approx(run.log_return, abs=1e-12)
    assert row["classic_exits"] == pytest.approx(run.log_return, abs=1e-12)
    everything = classic_exits(whole, SETTINGS)
    assert everything is not None
    is_filtered = abs(everything.log_return - run.log_return) > 1e-3
    assert is_filtered == (name != "all")
    # Who never leaves by itself leaves nothing to the draws: they trade what the rules trade.
    np.testing.assert_allclose(judged.whole.draws.sum(axis=1), run.log_return, atol=1e-12)
    entries = {t.open_row for t in run.trades}
    assert {t.open_row for t in judged.pairs[0].oracle.trades if t.open_row} <= {
        row + 1 for row in np.flatnonzero(own.entry_long | own.entry_short)
    } | entries
    assert row["oracle"] >= run.log_return


def test_a_side_that_was_always_taken_counts_where_a_position_was_held_too() -> None:
    """The filter drops shorts. Its longs are the classic ones, those it held through as well."""
    whole = market(BTC, 1)
    own = replace(whole, entry_short=np.zeros(600, dtype=bool))
    run = traded(own)
    made = with_entries_made(whole, SETTINGS, run.trades)
    held = run.sides_decided_in() != Side.FLAT
    assert (own.entry_long & held).any()
    decided = slice(SETTINGS.window_size - 1, -2)
    np.testing.assert_array_equal(made.entry_long[decided], own.entry_long[decided])
    assert not made.entry_short.any()
    judged = judge_trades(closed(as_freqtrade_writes(own, run)), {BTC: whole}, SETTINGS, n_draws=3)
    right = classic_exits(own, SETTINGS)
    assert right is not None
    assert judged.figures[0]["classic_exits"] == pytest.approx(right.log_return, abs=1e-12)


def test_of_a_side_that_was_dropped_once_only_the_entries_made_count() -> None:
    whole = market(BTC, 1)
    trades = tuple(trade for trade in traded(whole).trades if trade.open_row > 200)
    made = with_entries_made(whole, SETTINGS, trades)
    by_side = {
        side: {trade.open_row - 1 for trade in trades if trade.side is side} for side in Side
    }
    assert set(np.flatnonzero(made.entry_long)) == by_side[Side.LONG]
    assert set(np.flatnonzero(made.entry_short)) == by_side[Side.SHORT]


def test_entries_of_the_strategys_own_count_as_well() -> None:
    whole = market(BTC, 1)
    own = replace(whole, entry_long=whole.entry_long | (np.arange(600) % 97 == 0))
    run = classic_exits(own, SETTINGS)
    assert run is not None
    judged = judge_trades(closed(as_freqtrade_writes(own, run)), {BTC: whole}, SETTINGS, n_draws=3)
    assert isinstance(judged, Judged)
    assert judged.figures[0]["classic_exits"] == pytest.approx(run.log_return, abs=1e-12)


def test_a_strategy_that_made_no_entry_has_declined_them_all() -> None:
    judged = judge_trades([], {BTC: market(BTC, 1)}, SETTINGS, n_draws=3)
    chances = offered(market(BTC, 1))
    assert judged.by_pair[BTC].degenerate == (f"never trades (0 of {chances} chances)",)
    assert judged.figures[0].get("classic_exits") is None


def test_an_agent_that_declined_them_all_stands_aside() -> None:
    settings = SETTINGS.changed(rules=RULES.changed(entry=EntryMode.CLASSIC))
    whole = market(BTC, 1)
    judged = judge_trades([], {BTC: whole}, settings, n_draws=3)
    took = f"took 0 of {offered(whole):,} classic entries"
    assert judged.figures[0]["stands_aside"] == took
    assert f"standing aside is the finding, the agent {took}" in verdict_sentence(judged)
    _, policy = verdict_checks(judged)
    assert (policy["verdict"], policy["measured"]) == ("passed", f"stands aside, {took}")


def offered(market: Market) -> int:
    decided = slice(SETTINGS.window_size - 1, -2)
    return int((market.entry_long | market.entry_short)[decided].sum())


def test_entries_that_the_agent_declined_are_part_of_what_is_judged() -> None:
    whole = market(BTC, 1)
    settings = SETTINGS.changed(rules=RULES.changed(entry=EntryMode.CLASSIC))
    assert with_entries_made(whole, settings, traded(whole).trades[::3]) is whole


def test_a_forced_exit_that_does_not_happen_again_is_told() -> None:
    traded_on = market(BTC, 1)
    written = as_freqtrade_writes(traded_on, traded(traded_on))
    left = next(trade for trade in written if trade["exit_reason"] == "agent_exit")
    left["exit_reason"] = "roi"
    judged = judge_trades(closed(written), {BTC: traded_on}, SETTINGS, n_draws=1)
    assert isinstance(judged, NotJudged)


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
        on_rows(closed(written), traded_on)

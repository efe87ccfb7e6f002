from __future__ import annotations

import json
import math
from dataclasses import fields

import numpy as np
import pytest

import mtf_scalper
from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.baselines import flat, random_exits
from mtf_scalper.evaluation.report import Report, evaluate
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.playback import Simulation

START = np.datetime64("2024-10-01T00:00")
DATES = START + np.arange(9) * np.timedelta64(5, "m")
# Window of one candle, so row 0 decides first; fees are 0.1% per side.
OPENS = [100.0, 100.0, 102.0, 104.0, 103.0, 101.0, 99.0, 98.0, 98.0]
CANDLES = [(o, max(o, c) + 1, min(o, c) - 1, c) for o, c in zip(OPENS, [*OPENS[1:], 98.0])]  # noqa: B905


def tiny_market(**changes) -> Market:
    fired = np.zeros(9, dtype=bool)
    fired[0] = True
    return Market(
        **{
            "features": np.zeros((9, 1)),
            "ohlc": CANDLES,
            "fee_rate": 0.001,
            "entry_long": fired,
            "dates": DATES,
            "pair": "BTC",
            **changes,
        }
    )


TINY = Settings(window_size=1, rules={"entry": "any"})


def by_rows(trade_by, market: Market, actions: dict[int, int]) -> Simulation:
    return trade_by(market, TINY, lambda row, _side, _age: actions.get(row, 0))


@pytest.fixture
def run(trade_by) -> Simulation:
    """Long from 100 (row 1) to 104 (row 3), short from 101 (row 5) to 98 (row 7)."""
    return by_rows(trade_by, tiny_market(), {0: 1, 2: 2, 4: 3, 6: 4})


LONG = 104 * 0.999 / (100 * 1.001) - 1
SHORT = 1 - 98 * 1.001 / (101 * 0.999)
LOSS = 103 * 0.999 / (104 * 1.001) - 1


def test_figures_by_hand(run) -> None:
    report = evaluate(run, tiny_market(), TINY, oracle=run)
    assert report.log_return == pytest.approx(math.log1p(LONG) + math.log1p(SHORT), abs=1e-7)
    assert (report.pair, report.n_trades, report.win_rate) == ("BTC", 2, 1.0)
    assert report.profit_factor == math.inf
    assert report.mean_profit_ratio == pytest.approx((LONG + SHORT) / 2, abs=1e-8)
    assert report.mean_holding_candles == 2.0
    # Rows 1, 2, 5 and 6 of the tradable rows 1 to 7.
    assert report.exposure == pytest.approx(4 / 7)
    assert report.flat == 0.0
    assert report.buy_and_hold == pytest.approx(math.log(98 * 0.999 / (100 * 1.001)), abs=1e-8)
    assert report.classic_exits == pytest.approx(report.buy_and_hold, abs=1e-12)
    assert (report.oracle, report.oracle_share) == (run.log_return, 1.0)
    assert report.period == "2024-10-01 00:00 to 2024-10-01 00:40"
    assert (report.n_candles, report.timeframe_minutes, report.fee_rate) == (9, 5, 0.001)
    assert (report.entry, report.max_leverage, report.degenerate) == ("any", 1.0, None)
    assert (report.n_draws, report.seed, report.knows_entry_rule) == (100, 0, True)


def test_drawdown_and_losses_by_hand(trade_by) -> None:
    """Long from 104 (row 3) to 103 (row 4), then as before; the marks fall by less than that."""
    market = tiny_market()
    run = by_rows(trade_by, market, {2: 1, 3: 2, 4: 3, 6: 4})
    report = evaluate(run, market, TINY)
    assert report.win_rate == 0.5
    assert report.profit_factor == pytest.approx(SHORT / -LOSS, abs=1e-5)
    assert report.log_return == pytest.approx(math.log1p(LOSS) + math.log1p(SHORT), abs=1e-7)
    assert report.max_drawdown == pytest.approx(-LOSS, abs=1e-8)
    assert (report.oracle, report.oracle_share) == (None, None)


def test_ranks_of_random_exits_by_hand(trade_by) -> None:
    """Two longs, one candle and two candles long: a draw leaves each after one or after two.

    Entries are possible at rows 0 and 4 alone, so that the four pairs of holding times are equally
    likely: the run holds 100 -> 104 and 101 -> 99; by chance 100 -> 102 and 101 -> 98.
    """
    market = tiny_market()

    def decide(row: int, side: int, _age: int) -> int:
        return (2 if row in (2, 5) else 0) if side else int(row in (0, 4))

    run = trade_by(market, TINY, decide)
    assert [trade.duration_candles for trade in run.trades] == [2, 1]
    report = evaluate(run, market, TINY, n_draws=4000)
    log = {
        (first, second): math.log(first * second * 0.999**2 / (100 * 101 * 1.001**2))
        for first in (102, 104)
        for second in (99, 98)
    }
    assert report.log_return == pytest.approx(log[104, 99], abs=1e-7)
    # Beats three of four and ties with itself; the standard error of the share is 0.007.
    assert report.random_rank == pytest.approx(3 / 4 + 1 / 8, abs=0.02)
    assert report.random_low == pytest.approx(log[102, 98], abs=1e-7)
    assert report.random_high == pytest.approx(log[104, 99], abs=1e-7)


def test_the_rank_of_a_run_among_draws_like_itself_is_uniform(make_market, trade_by) -> None:
    """40 draws of one run, each judged in turn; Kolmogorov and Smirnov's distance at 1% is 0.25."""
    rng = np.random.default_rng(5)
    market = make_market(n_candles=600, volatility=0.004)
    game = Settings(
        window_size=4, rules={"entry": "any", "stoploss": -0.02, "minimal_roi": {0: 0.02}}
    )
    wanted = np.where(rng.random(600) < 0.3, rng.choice([1, 3], 600), 0)
    leaves = rng.random(600) < 0.1

    def decide(row: int, side: int, _age: int) -> int:
        return ((2 if side > 0 else 4) if leaves[row] else 0) if side else int(wanted[row])

    parent = trade_by(market, game, decide)
    ranks = [
        evaluate(draw, market, game, n_draws=50, seed=seed).random_rank
        for seed, draw in enumerate(random_exits(parent, market, game, n_draws=40, seed=99))
    ]
    distance = np.abs(np.sort(ranks) - (np.arange(40) + 0.5) / 40).max()
    assert distance < 0.25
    assert 0.2 < np.std(ranks) < 0.37


def test_an_exit_with_foresight_ranks_first(make_market, trade_by) -> None:
    market, game = make_market(n_candles=800, volatility=0.01), Settings(rules={"entry": "any"})
    opens = market.ohlc[:, 0]

    def decide(row: int, side: int, _age: int) -> int:
        if side == 0:
            return 1 if row % 3 == 0 else 0
        return 2 if row + 2 < 800 and opens[row + 2] < opens[row + 1] else 0

    report = evaluate(trade_by(market, game, decide), market, game)
    assert report.random_rank == 1.0
    assert report.log_return > report.random_high


def test_a_higher_fee_lowers_every_return(trade_by, make_market) -> None:
    rng = np.random.default_rng(2)
    actions = rng.integers(0, 5, 200)
    reports = []
    for fee_rate in (0.0, 0.0005, 0.002):
        market = make_market(n_candles=200, fee_rate=fee_rate)
        run = trade_by(market, TINY, lambda row, _side, _age: int(actions[row]))
        reports.append(evaluate(run, market, TINY))
    for name in ("log_return", "mean_profit_ratio", "buy_and_hold", "random_median"):
        values = [getattr(report, name) for report in reports]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 3


def test_nothing_traded_is_nothing_measured() -> None:
    market = tiny_market(entry_long=np.zeros(9, dtype=bool), dates=None)
    report = evaluate(flat(market), market, TINY)
    assert report.degenerate == "never trades (0 of 7 chances)"
    assert (report.log_return, report.n_trades, report.n_draws) == (0.0, 0, 0)
    assert report.classic_exits is report.random_rank is report.random_median is None
    assert report.period == "rows 0 to 8"
    for value in (report.win_rate, report.profit_factor, report.mean_profit_ratio):
        assert math.isnan(value)
    assert report.summary.startswith("BTC: DEGENERATE, never trades (0 of 7 chances): log return")
    assert "random exits beaten not measured" in report.summary
    table = dict(report.as_table())
    assert table["policy"] == "DEGENERATE: never trades (0 of 7 chances)"
    assert table["win rate"] == "undefined"
    assert table["classic exits"] == "none: no classic entries"
    assert table["oracle"] == table["share of the oracle"] == "not measured"


def test_an_oracle_that_earns_nothing_has_no_shares(run) -> None:
    market = tiny_market()
    report = evaluate(run, market, TINY, oracle=flat(market))
    assert (report.oracle, report.oracle_share) == (0.0, None)
    assert dict(report.as_table())["share of the oracle"] == "none: it earns nothing"


def test_a_loss_is_a_negative_share(trade_by, run) -> None:
    market = tiny_market()
    loser = by_rows(trade_by, market, {2: 1, 3: 2})
    report = evaluate(loser, market, TINY, oracle=run)
    assert report.oracle_share == pytest.approx(loser.log_return / run.log_return)
    assert report.oracle_share < 0.0


def test_the_report_reads_well(run) -> None:
    report = evaluate(run, tiny_market(), TINY, oracle=run)
    assert report.summary == (
        f"BTC: log return {report.log_return:+.4f} in 2 trades, share of the oracle 100.0%, "
        f"random exits beaten {report.random_rank:.0%}, buy and hold -0.0222, "
        "classic exits -0.0222 "
        "(2024-10-01 00:00 to 2024-10-01 00:40, fee 0.100% per side)"
    )
    lines = report.lines()
    assert lines[0].split("  ")[0] == "policy"
    assert lines[0].endswith("not degenerate")
    assert len({line.index(value) for line, (_, value) in zip(lines, report.as_table())}) == 1  # noqa: B905
    assert dict(report.as_table())["fee per side"] == "0.100%"
    assert (
        "2024-10-01 00:00 to 2024-10-01 00:40, 9 candles of 5m" in dict(report.as_table()).values()
    )


def test_every_figure_is_in_the_dictionary_and_json_takes_it(run) -> None:
    report = evaluate(run, tiny_market(), TINY)
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert list(values) == [field.name for field in fields(Report)]
    assert values["profit_factor"] == "inf"
    assert values["oracle"] is None
    market = tiny_market()
    values = json.loads(json.dumps(evaluate(flat(market), market, TINY).as_dict(), allow_nan=False))
    assert values["win_rate"] is None


def test_entries_that_are_not_known_are_said(run) -> None:
    bare = Simulation(run.trades, run.equity, run.actions)
    report = evaluate(bare, tiny_market(), TINY)
    assert not report.knows_entry_rule
    assert "random exits beaten, entries as executed" in dict(report.as_table())


def test_draws_can_be_left_out_and_are_seeded(run) -> None:
    market = tiny_market()
    report = evaluate(run, market, TINY, n_draws=0)
    assert (report.n_draws, report.random_rank) == (0, None)
    assert evaluate(run, market, TINY, seed=3) == evaluate(run, market, TINY, seed=3)


@pytest.mark.parametrize("name", ["run", "oracle"])
def test_a_run_of_another_market_is_refused(name, run) -> None:
    other = Simulation((), np.ones(8), np.zeros(8, dtype=np.int64))
    chosen = {"run": run, "oracle": run, name: other}
    with pytest.raises(MarketError, match=f"BTC: the {name} has 8 candles and the market 9"):
        evaluate(chosen["run"], tiny_market(), TINY, oracle=chosen["oracle"])


def test_both_are_part_of_the_api() -> None:
    assert mtf_scalper.evaluate is evaluate
    assert mtf_scalper.Report is Report

"""One form of a closed trade, and the comparison of two lists of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pandas as pd

from mtf_scalper.evaluation.trades import Match, as_row, differences, from_freqtrade, matched

WRITTEN = {
    "pair": "BTC/USDT:USDT",
    "is_short": True,
    "open_date": "2024-10-01 10:05:00+00:00",
    "close_date": "2024-10-01 11:00:00+00:00",
    "open_rate": 100.0,
    "close_rate": 99.0,
    "leverage": 2.0,
    "profit_ratio": 0.019,
    "exit_reason": "roi",
    "enter_tag": "always",
}
TRADE = from_freqtrade(WRITTEN)
LATER = replace(TRADE, open_date=TRADE.open_date + pd.Timedelta(minutes=5))


def test_an_object_of_freqtrades_and_what_it_writes_are_the_same_trade() -> None:
    made = {**WRITTEN, "close_profit": 0.019}
    # A bot's database has no time zones.
    made |= {name: datetime.fromisoformat(made[name][:19]) for name in ("open_date", "close_date")}
    del made["profit_ratio"]
    assert from_freqtrade(SimpleNamespace(**made)) == TRADE


def test_a_record_gets_its_row() -> None:
    row = as_row(TRADE, window=None, seed=42, log_return=None)
    assert (row["series"], row["side"], row["seed"]) == ("agent", "short", 42)
    assert row["open_date"] == "2024-10-01T10:05:00+00:00"


def test_trades_match_by_the_time_at_which_they_open_two_at_a_time_as_well() -> None:
    twice = [TRADE, replace(TRADE, leverage=3.0)]
    assert [each.is_equal for each in matched([*twice, LATER], twice)] == [True, True, False]
    assert matched(twice, [TRADE])[1] == Match(twice[1], None)


def test_what_differs_is_named_and_rounding_is_no_difference() -> None:
    near, far = (replace(TRADE, profit_ratio=0.019 + shift) for shift in (5e-7, 5e-6))
    assert differences([near], [TRADE]) == []
    assert differences([far], [TRADE])[0].names == ("profit_ratio",)
    other = replace(far, side="long", leverage=3.0)
    (found,) = differences([other], [TRADE])
    assert found.names == ("side", "leverage")
    said = "side of the trade of 2024-10-01 10:05 is long in the replay, short in the backtest"
    assert found.words("the replay", "the backtest") == said
    (lost,) = differences([], [LATER])
    assert lost.words("us", "freqtrade") == "only freqtrade has the trade of 2024-10-01 10:10"

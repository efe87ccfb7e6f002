"""Every degenerate kind is named, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from markets import classic_market

from mtf_scalper.evaluation.degenerate import (
    MOST_TAKEN,
    Choices,
    aside_in_words,
    choices_of,
    degeneracy,
    exposure,
    mean_choices,
)
from mtf_scalper.market.market import Market
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.playback import Simulation, play
from mtf_scalper.simulator.prepared import prepare

N_CANDLES = 400
STOPS = {"stoploss": -0.01, "minimal_roi": {0: 0.01}}


@pytest.fixture(scope="module")
def market() -> Market:
    return classic_market(7, N_CANDLES)


def settings(entry: str, **rules) -> Settings:
    return Settings(window_size=4, rules={"entry": entry, **rules})


def leave(side: int) -> int:
    return 2 if side > 0 else 4


def stay_always(_row: int, _side: int, _age: int) -> int:
    return 0


def enter_and_stay(_row: int, side: int, _age: int) -> int:
    return 0 if side else 1


def enter_and_leave(_row: int, side: int, _age: int) -> int:
    return leave(side) if side else 1


def enter_either_and_stay(row: int, side: int, _age: int) -> int:
    return 0 if side else (1, 3)[row % 2]


def sometimes(row: int, side: int, _age: int) -> int:
    """Choose both the entries and the exits."""
    if side:
        return leave(side) if row % 7 == 0 else 0
    return (1, 3, 0, 0, 0)[row % 5]


def enter_sometimes_and_stay(row: int, side: int, _age: int) -> int:
    return 0 if side else (1, 3, 0)[row % 3]


def enter_late_and_stay(row: int, side: int, _age: int) -> int:
    return 1 if row >= 100 and side == 0 else 0


def enter_all_and_leave_sometimes(row: int, side: int, _age: int) -> int:
    """Take every classic entry, long where both fired; the entries are the rule's."""
    if side:
        return leave(side) if row % 7 == 0 else 0
    return 1


def enter_sometimes_and_leave_at_once(row: int, side: int, _age: int) -> int:
    return leave(side) if side else (1, 0, 3, 0)[row % 4]


def take_all(market: Market):
    """Take every classic entry and leave the exits to the rules."""

    def decide(row: int, side: int, _age: int) -> int:
        if side:
            return 0
        return 1 if market.entry_long[row] else 3 if market.entry_short[row] else 0

    return decide


@pytest.mark.parametrize(
    ("entry", "rules", "decide", "expected"),
    [
        ("any", {}, stay_always, "never trades (0 of 395 chances)"),
        ("classic", {}, stay_always, "never trades (0 of 1"),
        ("any", {}, enter_and_stay, "stays in the market on one side (long)"),
        ("any", STOPS, enter_and_stay, "stays in the market on one side (long)"),
        ("any", {}, enter_and_leave, "always exits at once ("),
        ("any", STOPS, enter_and_leave, "always exits at once ("),
        ("any", {}, enter_sometimes_and_leave_at_once, "always exits at once ("),
        ("classic", STOPS, enter_and_leave, "always exits at once ("),
        ("always", {}, enter_and_leave, "always exits at once ("),
        ("any", {}, enter_either_and_stay, "stays in the market on one side (short)"),
        ("any", {}, enter_late_and_stay, "never exits by itself (0 of 298 chances)"),
        ("always", STOPS, stay_always, "never exits by itself (0 of "),
        ("always", {}, stay_always, "never exits by itself (0 of "),
        ("classic", {}, enter_sometimes_and_stay, "never exits by itself (0 of "),
        ("always", {"max_trade_duration_candles": 9}, stay_always, "never exits by itself (0 of "),
        # What they choose is real: entries, exits, or the side.
        ("any", STOPS, sometimes, None),
        ("any", {}, sometimes, None),
        ("classic", {}, sometimes, None),
        ("always", {}, sometimes, None),
        ("any", STOPS, enter_either_and_stay, None),
        ("any", STOPS, enter_sometimes_and_stay, None),
        ("classic", STOPS, enter_sometimes_and_stay, None),
        ("classic", STOPS, enter_all_and_leave_sometimes, None),
        ("any", {"max_trade_duration_candles": 1}, enter_sometimes_and_stay, None),
        ("any", {"max_trade_duration_candles": 1}, enter_sometimes_and_leave_at_once, None),
    ],
)
def test_what_is_degenerate_is_named(entry, rules, decide, expected, market, trade_by) -> None:
    game = settings(entry, **rules)
    named = degeneracy(trade_by(market, game, decide), market, game)
    if expected is None:
        assert named is None
    else:
        assert named is not None
        assert named.startswith(expected)


def test_the_classic_strategy_is_named_where_entries_could_be_declined(market, trade_by) -> None:
    game = settings("classic", **STOPS)
    named = degeneracy(trade_by(market, game, take_all(market)), market, game)
    assert named is not None
    assert named.startswith("takes every entry and never exits by itself (0 of ")


def test_shorts_only_is_one_side_too(market, trade_by) -> None:
    game = settings("any", **STOPS)
    run = trade_by(market, game, lambda _row, side, _age: 0 if side else 3)
    assert degeneracy(run, market, game) == "stays in the market on one side (short)"


def test_the_market_by_itself_says_where_entries_are_possible(make_market, trade_by) -> None:
    """Without an entry mode it is ``any`` on a market without classic entries."""
    bare, game = make_market(n_candles=N_CANDLES), Settings(window_size=4)
    run = trade_by(bare, game, enter_and_stay)
    assert degeneracy(run, bare, game) == "stays in the market on one side (long)"


@pytest.mark.parametrize("entry", ["classic", "always"])
def test_no_trade_for_want_of_an_entry_is_named_too(entry, make_market, trade_by) -> None:
    bare, game = make_market(n_candles=N_CANDLES), settings(entry)
    run = trade_by(bare, game, enter_and_stay)
    assert degeneracy(run, bare, game) == "never trades (no entry was possible)"


def test_nearly_always_in_the_market_counts_and_much_of_the_time_does_not(market, trade_by) -> None:
    game = settings("any")

    def every(candles: int) -> Simulation:
        def decide(row: int, side: int, _age: int) -> int:
            return (2 if row % candles == 0 else 0) if side else 1

        return trade_by(market, game, decide)

    rare, often = every(200), every(10)
    assert exposure(rare, game) > 0.99 > exposure(often, game) > 0.85
    assert degeneracy(rare, market, game) == "stays in the market on one side (long)"
    assert degeneracy(often, market, game) is None


def test_trades_that_the_rules_end_inside_their_first_candle_last_one_candle(make_market) -> None:
    """Each candle moves 10% and the stop is at 1%: no exit is ever the agent's to decide."""
    candles = [(100.0, 110.0, 90.0, 100.0)] * 30
    wild = make_market(candles)
    game = settings("any", stoploss=-0.01)
    (run,) = play(prepare(wild, game), lambda row, *_: np.array([(1, 0, 3)[row % 3]]))
    assert len(run.trades) > 10
    assert degeneracy(run, wild, game) == f"all trades last one candle ({len(run.trades)} of 17)"


def test_exposure_by_hand(make_market, trade_by) -> None:
    """Of ten candles with a window of 4, a position can be held in rows 4 to 8."""
    ten, game = make_market(n_candles=10), settings("any")
    run = trade_by(ten, game, lambda row, side, age: (2 if age == 2 else 0) if side else row == 3)
    assert [(trade.open_row, trade.close_row) for trade in run.trades] == [(4, 6)]
    assert exposure(run, game) == pytest.approx(2 / 5)
    assert exposure(trade_by(ten, game, enter_and_stay), game) == 1.0
    assert exposure(trade_by(ten, game, stay_always), game) == 0.0
    stopped = settings("any", stoploss=-1e-9)
    run = trade_by(ten, stopped, lambda row, side, _age: 0 if side else row == 3)
    assert [trade.duration_candles for trade in run.trades] == [0]
    assert exposure(run, stopped) == pytest.approx(1 / 5)


def test_a_ruined_account_is_judged_by_what_it_decided(make_market, trade_by) -> None:
    before, after = (100.0, 100.5, 99.5, 100.0), (1.0, 2.0, 1.0, 1.0)
    crash = make_market([before] * 9 + [after] * 9, leverage=5.0)
    game = settings("any", emergency_loss=-0.5)
    run = trade_by(crash, game, enter_and_stay)
    assert run.equity[-1] < 1e-5
    assert degeneracy(run, crash, game) == "stays in the market on one side (long)"


@pytest.mark.parametrize("entry", ["classic", "any"])
@pytest.mark.parametrize(("n_entries", "is_aside"), [(0, True), (1, True), (10**9, False)])
def test_who_declines_nearly_all_stands_aside(entry, n_entries, is_aside, market, trade_by) -> None:
    game, left = settings(entry, **STOPS), [n_entries]

    def decide(row: int, side: int, _age: int) -> int:
        """Take the first chances, and leave at once."""
        if side:
            return leave(side)
        possible = market.entry_long[row] if entry == "classic" else row >= 4
        left[0] -= bool(possible)
        return int(possible and left[0] >= 0)

    found = choices_of(trade_by(market, game, decide), market, game)
    assert found.mode == entry
    assert found.is_aside is is_aside
    assert found.n_taken == min(n_entries, found.n_taken) <= found.n_chances
    assert (found.n_taken / found.n_chances <= MOST_TAKEN) or not is_aside


def test_where_every_entry_is_taken_nobody_stands_aside(market, trade_by) -> None:
    game = settings("always")
    found = choices_of(trade_by(market, game, stay_always), market, game)
    assert (found.n_chances, found.is_aside) == (0, False)


def test_accounts_stand_aside_together_or_not_at_all() -> None:
    classic = Choices(EntryMode.CLASSIC, 1, 1200, is_aside=True)
    assert aside_in_words([classic, classic]) == "took 2 of 2,400 classic entries"
    busy = Choices(EntryMode.CLASSIC, 900, 1200, is_aside=False)
    assert aside_in_words([classic, busy]) is None
    assert aside_in_words([]) is None
    # Seeds had the same chances; one entry of three seeds is not none.
    none = Choices(EntryMode.CLASSIC, 0, 1200, is_aside=True)
    assert mean_choices([none, classic, none]) == Choices(EntryMode.CLASSIC, 1, 1200, is_aside=True)
    assert not mean_choices([none, busy]).is_aside
    anywhere = Choices(EntryMode.ANY, 3, 1200, is_aside=True)
    assert aside_in_words([anywhere]) == "entered at 3 of 1,200 candles"

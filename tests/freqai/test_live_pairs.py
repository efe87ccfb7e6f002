"""Pairs that FreqAI has trouble with: freqtrade's own bot and FreqAI, in dry run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import freqtrade.freqai.utils
import numpy as np
import pandas as pd
import pytest
from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import CandleType
from live_bot import BEGIN, MINUTES, OTHER, PAIR, Desk, dry, keep_time, trained, within

from mtf_scalper.errors import MarketError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.histories import complete, without_duplicates
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.freqai.waiting import Turns, WaitingPairs

FIVE = pd.Timedelta(minutes=5)
SECOND = pd.Timedelta(seconds=1)


@pytest.fixture
def make_desk(
    make_config: Callable[..., dict[str, Any]],
    rl_config: Callable[..., dict[str, Any]],
    datadir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Desk]]:
    """Return a maker of bots that train; their disk has the candles of the pairs that are given."""
    keep_time(monkeypatch)
    monkeypatch.setattr(freqtrade.freqai.utils, "download_all_data_for_training", lambda *_: None)
    desks: list[Desk] = []

    def make(stored: tuple[str, ...] = (PAIR, OTHER)) -> Desk:
        config = make_config({**rl_config(entry="any"), "max_open_trades": 1})
        folder = tmp_path / "stored"
        folder.mkdir()
        desk = Desk(dry(config, tmp_path) | {"datadir": folder}, datadir)
        desks.append(desk)
        for (pair, timeframe), frame in desk.frames.items():
            closed = frame["date"] + pd.Timedelta(minutes=MINUTES[timeframe]) <= BEGIN
            if pair in stored:
                get_datahandler(folder, "feather").ohlcv_store(
                    pair, timeframe, frame[closed], CandleType.FUTURES
                )
        desk.tell(BEGIN + SECOND, 100.0)
        desk.start()
        return desk

    yield make
    for desk in desks:
        if hasattr(desk, "bot"):
            desk.stop()


def last_prediction(desk: Desk, pair: str) -> pd.Series:
    frame, _ = desk.bot.dataprovider.get_analyzed_dataframe(pair, "5m")
    return frame.iloc[-1]


def test_a_pair_without_stored_candles_stops_no_other_and_is_trained_on_what_there_is(
    make_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk(stored=(PAIR,))
    desk.bot.process()
    assert trained(desk, PAIR)
    desk.at(BEGIN + FIVE + SECOND)
    assert trained(desk, PAIR, OTHER)
    for number in (2, 3):  # FreqAI gives none with a model's first prediction
        desk.at(BEGIN + number * FIVE + SECOND)
    for pair in (PAIR, OTHER):
        assert last_prediction(desk, pair)["do_predict"] == 1
    told = [line for line in caplog.messages if line.startswith(f"{OTHER}: stored candles of 5m")]
    assert len(told) == 1
    assert "freqtrade download-data" in told[0]
    assert not [line for line in caplog.messages if "is not analysed" in line]


def test_a_pair_without_any_candles_stops_no_other(
    make_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk(stored=(PAIR,))
    desk.without = {OTHER}
    desk.bot.process()
    assert trained(desk, PAIR)
    for number in (1, 2):
        desk.at(BEGIN + number * FIVE + SECOND)
    assert last_prediction(desk, PAIR)["do_predict"] == 1
    told = [line for line in caplog.messages if line.startswith(f"{OTHER}: the exchange gives no")]
    assert len(told) == 3
    assert not [line for line in caplog.messages if "is not analysed" in line]


def test_a_pair_with_a_price_of_zero_is_predicted_and_trained_again(
    make_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    """Without ours it is neither for as long as the candle is among those that are looked at."""
    desk = make_desk()
    desk.bot.process()
    assert trained(desk, PAIR)
    for timeframe in MINUTES:
        frame = desk.frames[PAIR, timeframe]
        frame.loc[frame["date"] == BEGIN, ["low", "close"]] = 0.0
    for number in (1, 2, 3):
        desk.at(BEGIN + number * FIVE + SECOND)
        row = last_prediction(desk, PAIR)
        if number == 1:
            assert row["enter_long"] == row["enter_short"] == 0
    assert row["date"] == BEGIN + 2 * FIVE
    assert row["do_predict"] == 1
    told = [line for line in caplog.messages if line.startswith(PAIR)]
    failed = [line for line in told if "is not analysed" in line]
    assert len(failed) == 1
    assert "column 'low' is 0.0, not above zero, at 2024-02-02 12:00 (1 such row)" in failed[0]
    assert [line for line in told if "count as missing" in line] == [
        f"{PAIR}: candles with prices that no market can have count as missing, up to now 1; the "
        "last one is that of 2024-02-02 12:00"
    ]
    drawer = desk.bot.strategy.freqai.dd
    for timeframe in MINUTES:
        frame = drawer.historic_data[PAIR][timeframe]
        assert (frame[["open", "high", "low", "close"]] > 0.0).all(axis=None)
    assert drawer.historic_data[PAIR]["5m"]["date"].iloc[-1] == BEGIN + 2 * FIVE
    desk.at(BEGIN + 12 * FIVE + SECOND)  # the longer candles with it have closed
    assert last_prediction(desk, PAIR)["date"] == BEGIN + 11 * FIVE
    assert len([line for line in told if "is not analysed" in line]) == 1


def test_an_open_trade_of_a_pair_that_left_the_list_goes_on_with_its_agent(
    make_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk()
    desk.bot.process()
    assert trained(desk, PAIR, OTHER)
    desk.at(BEGIN + FIVE + SECOND)
    desk.bot.execute_entry(PAIR, 100.0)
    desk.fill()
    (trade,) = [each for each in desk.trades if each.pair == PAIR]
    assert trade.has_open_position
    desk.stop()
    desk.config["exchange"] = {**desk.config["exchange"], "pair_whitelist": [OTHER]}
    desk.tell(BEGIN + 2 * FIVE + SECOND)
    desk.start()
    for number in (2, 3, 4):
        desk.at(BEGIN + number * FIVE + SECOND)
    row = last_prediction(desk, PAIR)
    assert row["do_predict"] == 1
    assert row[list(columns.PROBABILITIES)].sum() == pytest.approx(1.0)
    told = [line for line in caplog.messages if line.startswith(f"{PAIR}: is not in exchange.pair")]
    assert len(told) == 1
    assert not [line for line in caplog.messages if "is not analysed" in line]


def has_few_candles() -> None:
    raise MarketError(f"{OTHER}: too few candles")


def has_no_memory() -> None:
    np.ones(2**58)


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (has_few_candles, "too few candles"),
        (
            has_no_memory,
            r"there is not enough memory \(Unable to allocate .*\); choose a smaller .*",
        ),
    ],
)
def test_a_pair_whose_training_failed_does_not_wait_for_another_to_be_due(
    make_desk: Callable[..., Desk],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fail: Callable[[], None],
    reason: str,
) -> None:
    really, failing = MtfScalperRLModel.fit, {OTHER}

    def fit(model: Any, data: Any, kitchen: Any, **named: Any) -> Any:
        if kitchen.pair in failing:
            fail()
        return really(model, data, kitchen, **named)

    monkeypatch.setattr(MtfScalperRLModel, "fit", fit)
    desk = make_desk()
    desk.bot.process()
    assert trained(desk, PAIR)  # not due again for 24 hours

    def failures() -> list[str]:
        return [line for line in caplog.messages if line.startswith(f"{OTHER} is not trained")]

    assert within(60.0, failures)
    time.sleep(1.0)  # FreqAI looks at its queue many times
    (told,) = failures()
    said = (
        f"{OTHER} is not trained, and tried again at every new candle; until then the model before "
        f"is used, and without one nothing is entered: {OTHER}: {reason}"
    )
    assert re.fullmatch(said, told)
    failing.clear()
    desk.at(BEGIN + FIVE + SECOND)
    assert trained(desk, OTHER)


def test_stored_candles_that_end_before_the_exchanges_begin_are_not_gone_on_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """FreqAI raises an error, at the analysis of every pair."""
    dates = pd.date_range("2024-02-01", periods=30, freq="5min", tz="UTC")
    stored, told = (pd.DataFrame({"date": dates[rows]}) for rows in (slice(10), slice(15, None)))
    fits = pd.DataFrame({"date": dates[:20]})
    histories = {PAIR: {"5m": stored}, OTHER: {"5m": fits}}
    given = SimpleNamespace(dp=SimpleNamespace(get_pair_dataframe=lambda *_: told))
    kitchen = SimpleNamespace(pair=OTHER, all_pairs=[PAIR, OTHER])
    known = complete(histories, frozenset(), given, kitchen, ["5m"])
    assert known == {(PAIR, "5m"), (OTHER, "5m")}
    assert histories[PAIR]["5m"] is told
    assert histories[OTHER]["5m"] is fits
    assert caplog.messages == [
        f"{PAIR}: stored candles of 5m cannot be gone on from, they end too early: trainings have "
        "the 15 candles from 2024-02-01 01:15 on alone; for more, run `freqtrade download-data` "
        "and start the bot again"
    ]
    given.dp.get_pair_dataframe = None  # those that are known are not asked for again
    assert complete(histories, known, given, kitchen, ["5m"]) == known


def test_a_pair_without_any_candles_is_refused_by_name() -> None:
    nothing = pd.DataFrame({"date": []})
    given = SimpleNamespace(dp=SimpleNamespace(get_pair_dataframe=lambda *_: nothing))
    kitchen = SimpleNamespace(pair=PAIR, all_pairs=[PAIR])
    with pytest.raises(MarketError, match=f"{PAIR}: neither the disk nor the exchange has candles"):
        complete({}, frozenset(), given, kitchen, ["5m", "1h"])


def test_everyone_has_a_turn_whatever_freqai_does_with_its_queue() -> None:
    queue = Turns(["A", "B", "C"])
    waiting = WaitingPairs(queue)
    seen = []
    for _ in range(6):
        seen.append(queue[0])
        queue.rotate(-1)  # as FreqAI does after each training
    assert seen == ["A", "B", "C"] * 2
    assert queue[0] == "A"
    queue.popleft()  # as FreqAI does where A is in no list
    assert {queue[0] for _ in range(4)} == {"B", "C"}
    waiting.has_new_candle("A")
    waiting.has_new_candle("B")
    assert sorted(queue) == ["A", "B", "C"]
    with waiting.trying("B"):
        raise ZeroDivisionError
    assert sorted(queue) == ["A", "C"]


def test_two_predictions_of_a_candle_count_as_none(caplog: pytest.LogCaptureFixture) -> None:
    dates = pd.date_range("2024-02-02", periods=3, freq="5min", tz="UTC")
    kept = pd.DataFrame(
        {"date_pred": dates[[0, 1, 1, 2]], "do_predict": 1, columns.ACTION: [1.0, 2.0, 3.0, 4.0]}
    )
    once = without_duplicates(kept, PAIR)
    assert once["date_pred"].tolist() == dates.tolist()
    assert once["do_predict"].tolist() == [1, 0, 1]
    assert caplog.messages == [
        f"{PAIR}: 1 candles have more than one prediction, the first that of 2024-02-02 00:05: "
        "they count as none"
    ]
    assert without_duplicates(once, PAIR) is once


def test_a_bot_whose_history_has_two_rows_of_a_candle_goes_on(
    make_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk()
    desk.bot.process()
    assert trained(desk, PAIR)
    for number in (1, 2, 3):
        desk.at(BEGIN + number * FIVE + SECOND)
    drawer = desk.bot.strategy.freqai.dd
    kept = drawer.historic_predictions[PAIR]
    drawer.historic_predictions[PAIR] = pd.concat([kept, kept.tail(1)], ignore_index=True)
    desk.at(BEGIN + 4 * FIVE + SECOND)
    frame, _ = desk.bot.dataprovider.get_analyzed_dataframe(PAIR, "5m")
    assert frame["date"].is_unique
    assert frame["do_predict"].tail(3).tolist() == [1, 0, 1]
    assert not [line for line in caplog.messages if "is not analysed" in line]
    assert np.isfinite(frame[list(columns.PROBABILITIES)].tail(3)).all(axis=None)

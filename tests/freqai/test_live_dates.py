"""A bot trains again after its first new candle, through freqtrade's own classes.

Candles on disk were stored and are read by freqtrade's data handler; those that come are fetched by
freqtrade from the replay exchange. pandas joins their dates to objects, which nothing can be merged
with.
"""

from __future__ import annotations

import datetime as dt
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import freqtrade.freqai.data_kitchen
import numpy as np
import pandas as pd
import pytest
from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import CandleType, RunMode
from freqtrade.exchange import Exchange
from freqtrade.freqai.data_drawer import FreqaiDataDrawer
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.plugins.pairlistmanager import PairListManager
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import IStrategy
from live_bot import look_often, within

from mtf_scalper.errors import MarketError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.drawer import in_one_form
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.kept_files import file_digest, read_list
from mtf_scalper.records.events import WEIGHTS
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.freezing import freeze_run
from mtf_scalper.trusted import TrustedFiles

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
PAIRS = (PAIR, OTHER)
STOPPED = pd.Timestamp("2024-02-02 12:00", tz="UTC")  # where the candles on disk end
FIVE_MINUTES = pd.Timedelta(minutes=5)
BEGAN_MS, ENDS_MS = (
    pd.Timestamp(day, tz="UTC").value // 10**6 for day in ("2024-01-24", "2024-02-03")
)
MINUTES = {"5m": 5, "15m": 15, "1h": 60}
LIVE = {
    "dry_run": True,
    "freqai": {"live_retrain_hours": 0.05, "purge_old_models": False},
}


class Clock(dt.datetime):
    """What FreqAI asks for the time."""

    moment = STOPPED.to_pydatetime()

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
        return cls.moment


@dataclass
class Bot:
    """A model and a strategy in dry run, and a clock that goes on candle by candle."""

    config: dict[str, Any]
    strategy: IStrategy
    exchange: Exchange
    fetched: dict[tuple[str, str], pd.DataFrame]
    model: MtfScalperRLModel = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin with what is on disk."""
        self.model = MtfScalperRLModel(config=self.config)

    def until(self, moment: pd.Timestamp) -> None:
        """Set the clock; the exchange has told all candles that have closed."""
        Clock.moment = moment.to_pydatetime()
        for (pair, timeframe), frame in self.fetched.items():
            closed = frame["date"] + pd.Timedelta(minutes=MINUTES[timeframe]) <= moment
            key = (pair, timeframe, CandleType.FUTURES)
            self.exchange._klines[key] = frame[closed].reset_index(drop=True)

    def candle(self, pair: str = PAIR) -> pd.DataFrame:
        """Hand FreqAI the pair's candles, as the strategy does at every new one."""
        frame = self.strategy.dp.ohlcv(pair, "5m")
        return self.model.start(frame, {"pair": pair}, self.strategy)

    def trained(self, pair: str = PAIR) -> int:
        """Return when the pair's model was trained, 0 for never."""
        return int(self.model.dd.get_pair_dict_info(pair)[1])

    def trained_after(self, moment: int, pair: str = PAIR) -> int:
        """Wait for a training in FreqAI's own thread, which notes the moment before it saves."""
        models = self.model.dd.model_dictionary
        within(30.0, lambda: self.trained(pair) > moment and pair in models)
        return self.trained(pair)


@pytest.fixture
def make_bot(
    make_config: Callable[..., Any],
    exchange: Exchange,
    datadir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Bot]]:
    """Return a maker of bots, whose candles on disk are in the format that is asked for."""
    monkeypatch.setattr(exchange, "_klines", {})
    monkeypatch.setattr(freqtrade.freqai.data_kitchen, "datetime", Clock)
    look_often(monkeypatch)
    bots: list[Bot] = []

    def make(dataformat: str = "feather", pairs: tuple[str, ...] = (PAIR,)) -> Bot:
        folder = tmp_path / dataformat
        folder.mkdir()
        fetched = {}
        for pair in pairs:
            for timeframe in MINUTES:
                frame = exchange.get_historic_ohlcv(
                    pair, timeframe, BEGAN_MS, CandleType.FUTURES, until_ms=ENDS_MS
                )
                fetched[pair, timeframe] = frame
                closed = frame["date"] + pd.Timedelta(minutes=MINUTES[timeframe]) <= STOPPED
                get_datahandler(folder, dataformat).ohlcv_store(
                    pair, timeframe, frame[closed], CandleType.FUTURES
                )
        whitelist = {"exchange": {"pair_whitelist": list(pairs)}}
        config = make_config({**LIVE, **whitelist, "dataformat_ohlcv": dataformat})
        config["runmode"] = RunMode.DRY_RUN
        config["datadir"] = folder
        strategy = StrategyResolver.load_strategy(config)
        strategy.dp = DataProvider(config, exchange)
        pairlists = PairListManager(exchange, config, strategy.dp)
        strategy.dp.add_pairlisthandler(pairlists)
        pairlists.refresh_pairlist()
        strategy.bot_start()
        bots.append(Bot(config, strategy, exchange, fetched))
        bots[-1].until(STOPPED)
        return bots[-1]

    yield make
    for bot in bots:
        bot.model.shutdown()


@pytest.mark.parametrize("dataformat", ["feather", "parquet", "json"])
def test_dates_on_disk_and_dates_that_come_are_joined_as_dates(
    make_bot: Callable[..., Bot], dataformat: str
) -> None:
    bot = make_bot(dataformat)
    kitchen = FreqaiDataKitchen(bot.config, True, PAIR)
    whole = TimeRange("date", None, BEGAN_MS // 1000, 0)
    drawers = bot.model.dd, FreqaiDataDrawer(Path(bot.model.full_path), bot.config)
    for drawer in drawers:
        bot.until(STOPPED)
        drawer.load_all_pair_histories(whole, kitchen)
        for hours in (0.25, 1.0, 2.0):
            bot.until(STOPPED + pd.Timedelta(hours=hours))
            drawer.update_historic_data(bot.strategy, kitchen)
    ours, freqtrades = (drawer.historic_data[PAIR] for drawer in drawers)
    for timeframe, minutes in MINUTES.items():
        frame = ours[timeframe]
        told = bot.strategy.dp.get_pair_dataframe(PAIR, timeframe)
        assert frame["date"].dtype == "datetime64[us, UTC]"
        assert frame["date"].dt.tz is dt.UTC
        assert (frame["date"].diff().dropna() == pd.Timedelta(minutes=minutes)).all()
        pd.testing.assert_frame_equal(
            frame.tail(500).reset_index(drop=True), told.tail(500).reset_index(drop=True)
        )
        # As it is without us: the reason for all this. It may end with a version of either.
        assert freqtrades[timeframe]["date"].dtype == (
            "object" if dataformat in ("feather", "parquet") else "datetime64[us, UTC]"
        )


def test_a_bot_trains_again_after_new_candles_and_goes_on_after_a_restart(
    make_bot: Callable[..., Bot], caplog: pytest.LogCaptureFixture
) -> None:
    bot = make_bot()
    bot.candle()
    moments = [bot.trained_after(0)]
    assert moments == [STOPPED.timestamp()]
    for _ in range(2):
        bot.until(pd.Timestamp(Clock.moment) + FIVE_MINUTES)
        frame = bot.candle()
        moments.append(bot.trained_after(moments[-1]))
    assert np.diff(moments).tolist() == [300, 300]
    assert not [line for line in caplog.messages if "exception" in line or "not trained" in line]
    assert frame["date"].iloc[-1] == STOPPED + FIVE_MINUTES
    assert frame["do_predict"].iloc[-1] == 1

    bot.model.shutdown()
    bot.restart()
    bot.until(STOPPED + 3 * FIVE_MINUTES)
    bot.candle()
    bot.until(STOPPED + 4 * FIVE_MINUTES)
    frame = bot.candle()
    kept = bot.model.dd.historic_predictions[PAIR]["date_pred"]
    assert kept.dtype == "datetime64[us, UTC]"
    assert (kept.diff().dropna() == FIVE_MINUTES).all()
    assert kept.iloc[-1] == frame["date"].iloc[-1] == STOPPED + 3 * FIVE_MINUTES
    told = frame.loc[frame["date"] >= STOPPED, columns.CONFIDENCE]
    assert (told > 0.0).tolist() == [True, True, False, True]  # the restart's candle is a gap
    assert bot.trained_after(moments[-1]) > moments[-1]


@pytest.mark.parametrize("form", ["ns", "object", "zone", "naive"])
def test_predictions_that_another_version_kept_are_joined_with_new_ones(
    make_bot: Callable[..., Bot], form: str
) -> None:
    bot = make_bot()
    dates = pd.Series(pd.date_range("2024-02-02 11:00", periods=3, freq="5min", tz="UTC"))
    as_kept = {
        "ns": dates.dt.as_unit("ns"),
        "object": dates.astype(object),
        "zone": dates.dt.tz_convert(ZoneInfo("UTC")).dt.as_unit("ms"),
        "naive": dates.dt.tz_localize(None),
    }[form]
    kept = pd.DataFrame({columns.ACTION: 1.0, "do_predict": 1, "date_pred": as_kept})
    with bot.model.dd.historic_predictions_path.open("wb") as file:
        pickle.dump({PAIR: kept}, file)
    path = Path(bot.model.dd.historic_predictions_path)
    TrustedFiles(Path(bot.config["user_data_dir"])).add(file_digest(path), path, "the test's own")
    bot.restart()
    found = bot.model.dd.historic_predictions[PAIR]["date_pred"]
    assert found.dtype == "datetime64[us, UTC]"
    assert found.dt.tz is dt.UTC
    assert found.tolist() == dates.tolist()


def test_a_training_that_fails_is_told_once_and_tried_again_at_the_next_candle(
    make_bot: Callable[..., Bot], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bot = make_bot(pairs=PAIRS)
    tried: list[str] = []
    really = MtfScalperRLModel.train

    def train(model: Any, frame: pd.DataFrame, pair: str, *rest: Any, **named: Any) -> Any:
        tried.append(pair)
        if pair == PAIR and Clock.moment < STOPPED + FIVE_MINUTES:
            raise MarketError(f"{PAIR}: too few candles")
        return really(model, frame, pair, *rest, **named)

    monkeypatch.setattr(MtfScalperRLModel, "train", train)
    for pair in PAIRS:
        bot.candle(pair)
    assert bot.trained_after(0, OTHER) == STOPPED.timestamp()
    time.sleep(1.0)  # FreqAI looks at its queue many times
    assert tried == [PAIR, OTHER]
    assert bot.trained() == 0
    told = [line for line in caplog.records if f"{PAIR}: too few" in line.getMessage()]
    assert [line.levelname for line in told] == ["WARNING"]
    assert told[0].exc_info is None  # freqtrade's log would keep all that a traceback holds
    assert not [line for line in caplog.messages if "raised exception" in line]

    bot.until(STOPPED + FIVE_MINUTES)
    for pair in PAIRS:
        bot.candle(pair)
    assert bot.trained_after(0) == Clock.moment.timestamp()


def test_dates_in_one_form_are_left_alone() -> None:
    dates = pd.date_range("2024-01-01", periods=3, freq="5min", tz=dt.UTC, unit="us")
    frame = pd.DataFrame({"date": dates, "close": 1.0})
    assert in_one_form(frame) is frame
    assert in_one_form(frame, "date_pred") is frame
    other = frame.assign(date=dates.tz_convert(ZoneInfo("UTC")))
    assert in_one_form(other)["date"].dt.tz is dt.UTC
    assert other["date"].dt.tz is not dt.UTC


def test_a_bot_with_a_frozen_policy_trains_nothing_and_predicts_by_it(
    make_bot: Callable[..., Bot],
) -> None:
    bot = make_bot()
    bot.config["freqai"]["live_retrain_hours"] = 100.0

    def second_candle() -> Any:
        """Return the last row after the first candle, which has no prediction, and one more."""
        bot.until(STOPPED)
        bot.candle()
        bot.until(STOPPED + FIVE_MINUTES)
        return bot.candle().iloc[-1]

    bot.candle()
    bot.trained_after(0)
    told = second_candle()
    assert told["do_predict"] == 1
    user_data = Path(bot.config["user_data_dir"])
    (folder,) = Path(bot.model.full_path).glob("sub-train-*")
    digest = read_list(folder)["weights"]
    identifier = bot.config["freqai"]["identifier"]
    with RunRecord.begin(user_data / "runs", "dry-run", identifier=identifier) as record:
        facts = {"pair": PAIR, "window": folder.name, "digest": digest, "policy": None}
        record.events().write(WEIGHTS, **facts)
    freeze_run(Run.open(record.folder), "mine", user_data)
    bot.model.shutdown()

    rl_config = bot.config["original_config"]["freqai"]["rl_config"]
    bot.config["freqai"]["identifier"] = "frozen"
    rl_config["policy"] = bot.config["freqai"]["rl_config"]["policy"] = "mine"
    bot.config["freqai"]["live_retrain_hours"] = 0.05
    bot.restart()
    again = second_candle()
    for name in (*columns.PREDICTIONS, "date"):
        assert again[name] == told[name]
    for _ in range(3):
        bot.until(pd.Timestamp(Clock.moment) + FIVE_MINUTES)
        assert bot.candle()["do_predict"].iloc[-1] == 1
    assert not bot.model._threads
    assert not list(Path(bot.model.full_path).glob("sub-train-*/*.zip"))
    assert bot.model.dd._in_use[PAIR].digest == digest


@pytest.mark.parametrize("older", [True, False])
def test_a_bot_whose_model_was_cut_goes_on_with_the_one_before_it(
    make_bot: Callable[..., Bot], older: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bot = make_bot()
    moments = []
    for _ in range(2 if older else 1):
        bot.candle()
        moments.append(bot.trained_after(moments[-1] if moments else 0))
        bot.until(pd.Timestamp(Clock.moment) + FIVE_MINUTES)
    bot.model.shutdown()  # waits for the training that is running
    # A training that began meanwhile has a folder, and no model.
    *before, path = sorted(Path(bot.model.full_path).glob("sub-train-*/*_policy.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    bot.restart()
    bot.candle()
    line = next(line for line in caplog.messages if str(path) in line)
    assert line.startswith(f"{PAIR}: {path} is damaged: ")
    if older:
        assert line.endswith("; the model before it is used")
        assert bot.model.dd._in_use[PAIR].folder == before[-1].parent
    else:
        assert line.endswith("; the pair is trained anew")
        assert bot.trained_after(0) > 0

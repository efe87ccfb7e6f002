"""What a bot finds after a kill, and how it goes on.

The bot is freqtrade's own with FreqAI, in dry run; what a killed one would not have saved is taken
from the disk again. ``benchmarks/kills.py`` kills the real program.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import freqtrade.freqai.utils
import numpy as np
import pandas as pd
import pytest
from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import CandleType
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from live_bot import BEGIN, MINUTES, OTHER, PAIR, Desk, dry, keep_time, trained

from mtf_scalper.freqai import opinions
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.freqai.vetting import BACKUP, HISTORY, PAIRS, vet
from mtf_scalper.kept_files import LIST, KeptFilesError, read_list
from mtf_scalper.market.candles import resample_candles
from mtf_scalper.trusted import TrustedFiles

FIVE = pd.Timedelta(minutes=5)
SECOND = pd.Timedelta(seconds=1)
PRICES = ["open", "high", "low", "close"]
OpenWorkshop = Callable[..., Any]


# Candles that were missed


def continued(desk: Desk, n_candles: int) -> None:
    """Let the market go on around 100 for so many candles after ``BEGIN``."""
    dates = pd.date_range(BEGIN, periods=n_candles, freq=FIVE).as_unit("ms")
    for number, pair in enumerate((PAIR, OTHER)):
        frame = desk.frames[pair, "5m"]
        walk = 0.1 * np.sin(np.arange(n_candles + 1) / 3.0 + number)
        opened, closed = 100.0 + walk[:-1], 100.0 + walk[1:]
        later = pd.DataFrame({"date": dates, "open": opened, "close": closed, "volume": 1000.0})
        later["high"], later["low"] = later["open"] + 0.2, later["open"] - 0.2
        whole = pd.concat([frame[frame["date"] < BEGIN], later], ignore_index=True)
        for timeframe in MINUTES:
            desk.frames[pair, timeframe] = (
                whole if timeframe == "5m" else resample_candles(whole, timeframe, "5m")
            )


@pytest.fixture
def desk(
    make_config: Callable[..., dict[str, Any]],
    rl_config: Callable[..., dict[str, Any]],
    datadir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Desk]:
    """A bot that trains; its candles up to ``BEGIN`` are on its disk."""
    keep_time(monkeypatch)
    monkeypatch.setattr(freqtrade.freqai.utils, "download_all_data_for_training", lambda *_: None)
    folder = tmp_path / "stored"
    folder.mkdir()
    config = make_config({**rl_config(entry="any"), "max_open_trades": 1})
    made = Desk(dry(config, tmp_path) | {"datadir": folder}, datadir)
    continued(made, 600)
    for (pair, timeframe), frame in made.frames.items():
        closed = frame["date"] + pd.Timedelta(minutes=MINUTES[timeframe]) <= BEGIN
        get_datahandler(folder, "feather").ohlcv_store(
            pair, timeframe, frame[closed], CandleType.FUTURES
        )
    made.tell(BEGIN + SECOND, 100.0)
    made.start()
    yield made
    made.stop()


def killed(desk: Desk, tmp_path: Path) -> None:
    """Stop a bot, and put back what lay on the disk before it saved for the last time."""
    models = Path(desk.config["user_data_dir"]) / "models"
    before = tmp_path / "before"
    shutil.copytree(models, before)
    desk.stop()
    shutil.rmtree(models)
    shutil.move(before, models)


@pytest.mark.parametrize(
    ("n_missed", "price", "reason"),
    [(1, 97.0, "emergency_loss"), (10, 97.0, "emergency_loss"), (500, 100.0, "max_duration")],
)
def test_a_bot_that_missed_candles_leaves_a_trade_at_once_and_has_no_opinion_on_them(
    desk: Desk,
    tmp_path: Path,
    n_missed: int,
    price: float,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk.bot.process()
    assert trained(desk, PAIR, OTHER)
    for number in (1, 2):
        desk.at(BEGIN + number * FIVE + SECOND)
    desk.bot.execute_entry(PAIR, 100.0)
    desk.fill()
    (trade,) = desk.trades
    assert trade.has_open_position
    models = desk.bot.strategy.freqai.dd.pair_dict[PAIR]["model_filename"]
    killed(desk, tmp_path)
    last = BEGIN + (3 + n_missed) * FIVE
    desk.tell(last + SECOND, price)
    desk.start()
    caplog.clear()
    desk.bot.process()  # the first loop
    (trade,) = desk.trades
    assert trade.exit_reason == reason
    assert not [line for line in caplog.messages if "is not analysed" in line]
    frame, _ = desk.bot.dataprovider.get_analyzed_dataframe(PAIR, "5m")
    assert frame["date"].iloc[-1] == last - FIVE
    assert (frame["date"].diff().dropna() == FIVE).all()
    missed = frame["date"] >= BEGIN + 2 * FIVE
    assert missed.sum() == n_missed + 1
    assert not opinions.predicted(frame)[missed].any()
    assert not frame.loc[missed, ["agent_exit_long", "agent_exit_short"]].any(axis=None)
    assert not frame.loc[missed, ["enter_long", "enter_short"]].any(axis=None)
    assert desk.bot.strategy.freqai.dd.pair_dict[PAIR]["model_filename"] == models
    desk.at(last + FIVE + SECOND, price)
    frame, _ = desk.bot.dataprovider.get_analyzed_dataframe(PAIR, "5m")
    assert opinions.predicted(frame)[-1]
    assert not opinions.predicted(frame)[-2]


# Files that were cut


@pytest.fixture
def two_models(open_workshop: OpenWorkshop) -> tuple[dict[str, Any], Path, Path]:
    """A configuration, and the folders of an older and a newer model of a bot."""
    workshop = open_workshop()
    kitchen, drawer = workshop.kitchen, workshop.model.dd
    drawer.set_pair_dict_info({"pair": PAIR})
    model = workshop.train()
    folders = []
    for later in (0, 3600):
        trained_at = int(BEGIN.timestamp()) + later
        kitchen.set_paths(PAIR, trained_at)
        kitchen.set_new_model_names(PAIR, trained_at)
        drawer.pair_dict[PAIR]["trained_timestamp"] = trained_at
        workshop.save(model)
        folders.append(Path(kitchen.data_path))
    return workshop.config, folders[0], folders[1]


def model_of_a_bot(config: dict[str, Any]) -> str | None:
    """Return which model a bot that starts predicts with."""
    model = MtfScalperRLModel(config=config)
    kitchen = FreqaiDataKitchen(config, True, PAIR)
    found = model.dd.load_data(PAIR, kitchen)
    return None if found is None else str(kitchen.model_filename)


def damages(content: bytes) -> Iterator[bytes | None]:
    """Yield a file's content cut at every kind of byte, and changed; None for no file."""
    size = len(content)
    for kept in (0, 1, 8, size // 2, size - 2):  # the last byte of JSON is the end of its line
        yield content[:kept]
    yield bytes(size)
    yield content[: size // 2] + bytes([content[size // 2] ^ 1]) + content[size // 2 + 1 :]
    yield content + b"\0"
    yield None


def test_a_bot_never_reads_a_damaged_model_and_takes_the_one_before(
    two_models: tuple[dict[str, Any], Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    config, older, newer = two_models
    pairs = (newer.parent / PAIRS).read_bytes()
    names = {folder: next(folder.glob("*_metadata.json")).stem for folder in (older, newer)}
    expected = {folder: name.removesuffix("_metadata") for folder, name in names.items()}
    assert model_of_a_bot(config) == expected[newer]
    listed = sorted(path for path in newer.glob("cb_*") if path.is_file())
    assert len(listed) == 8  # six of FreqAI's, two of ours
    n_damages = 0
    for path in (*listed, newer / LIST):
        content = path.read_bytes()
        for damaged in damages(content):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            caplog.clear()
            assert model_of_a_bot(config) == expected[older]
            (told,) = [line for line in caplog.messages if "the model before it is used" in line]
            is_list_changed = path.name == LIST and "is damaged: it is not what" in told
            assert told.startswith(f"{PAIR}: {newer if is_list_changed else path}")
            path.write_bytes(content)
            (newer.parent / PAIRS).write_bytes(pairs)
            n_damages += 1
    assert n_damages == 81
    assert model_of_a_bot(config) == expected[newer]


def test_a_kill_between_any_two_files_of_a_model_leaves_the_one_before(
    two_models: tuple[dict[str, Any], Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The list of files is written last; pipelines come after the weights."""
    config, older, newer = two_models
    written = sorted(newer.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert written[-1].name == LIST
    for path in reversed(written):
        path.unlink()
        assert model_of_a_bot(config) == next(older.glob("*_metadata.json")).stem.removesuffix(
            "_metadata"
        )
    (older / LIST).unlink()
    caplog.clear()
    assert model_of_a_bot(config) is None
    assert "the pair is trained anew" in caplog.text


def test_a_list_that_is_cut_at_any_byte_is_none(
    two_models: tuple[dict[str, Any], Path, Path],
) -> None:
    _, _, newer = two_models
    content = (newer / LIST).read_bytes()
    for kept in range(len(content.rstrip())):
        (newer / LIST).write_bytes(content[:kept])
        with pytest.raises(KeptFilesError):
            read_list(newer)


def test_a_pair_dictionary_that_is_cut_at_any_byte_is_found_again(
    two_models: tuple[dict[str, Any], Path, Path],
) -> None:
    config, _, newer = two_models
    path, trusted = newer.parent / PAIRS, TrustedFiles(Path(config["user_data_dir"]))
    content = path.read_bytes()
    expected = json.loads(content)
    for kept in range(0, len(content.rstrip()), 7):
        path.write_bytes(content[:kept])
        vet(newer.parent, trusted)
        assert json.loads(path.read_text()) == expected


def test_a_history_that_is_cut_or_garbled_anywhere_is_replaced_by_its_backup(
    make_config: Callable[..., dict[str, Any]],
) -> None:
    config = make_config()
    model = MtfScalperRLModel(config=config)
    dates = pd.date_range("2024-01-01", periods=50, freq="5min", tz="UTC")
    model.dd.historic_predictions = {PAIR: pd.DataFrame({"do_predict": 1, "date_pred": dates})}
    model.dd.save_historic_predictions_to_disk()
    path = Path(model.dd.historic_predictions_path)
    content, trusted = path.read_bytes(), TrustedFiles(Path(config["user_data_dir"]))
    chance = random.Random(0)
    for _ in range(100):
        place = chance.randrange(len(content))
        path.write_bytes(content[:place])
        vet(path.parent, trusted)
        assert path.read_bytes() == content
        garbled = bytearray(content)
        garbled[place] ^= chance.randrange(1, 256)
        path.write_bytes(garbled)
        vet(path.parent, trusted)
        assert path.read_bytes() == content
    assert (path.parent / BACKUP).read_bytes() == content
    assert path.name == HISTORY


# Candle files


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_candle_files_that_were_cut_are_put_aside_before_a_bot_reads_them(
    make_config: Callable[..., dict[str, Any]],
    datadir: Path,
    tmp_path: Path,
    kept: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """freqtrade writes them in place as it starts, and reads one that was cut with a traceback."""
    copy = tmp_path / "data"
    shutil.copytree(datadir, copy)
    (copy / "futures" / "BTC_USDT_USDT-5m-futures.feather.damaged").write_text("of another day")
    files = sorted((copy / "futures").glob("*.feather"))
    cut = [path for path in files if path.name.startswith("BTC")]
    assert len(cut) == 5
    for path in cut:
        content = path.read_bytes()
        path.write_bytes(content[: int(kept if abs(kept) >= 1 else len(content) * kept)])
    config = dry(make_config(), tmp_path) | {"datadir": copy}
    MtfScalperRLModel(config=config)
    told = [line for line in caplog.messages if "cannot be read" in line]
    assert len(told) == 5
    for path, line in zip(sorted(cut), sorted(told), strict=True):
        assert line.startswith(f"{PAIR}: {path} cannot be read (")
        assert line.endswith(f"): put aside as {path.name}.damaged, and downloaded anew")
    left = sorted((copy / "futures").glob("*.feather"))
    assert left == [path for path in files if path not in cut]
    caplog.clear()
    MtfScalperRLModel(config=config)
    assert not [line for line in caplog.messages if "cannot be read" in line]

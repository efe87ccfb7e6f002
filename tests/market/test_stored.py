from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtf_scalper.errors import MarketError
from mtf_scalper.market.features import WARMUP_CANDLES_5M, feature_frame
from mtf_scalper.market.stored import price_steps, recorded_pair
from mtf_scalper.worlds.datadir import write_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

PAIR = "BTC/USDT:USDT"


@pytest.fixture(scope="module")
def datadir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    write_datadir(SyntheticSpec(pairs=(pair_spec(PAIR),)), folder, "2023-12-26", "2024-01-10")
    return folder


def five_minutes(datadir):
    return datadir / "futures" / "BTC_USDT_USDT-5m-futures.feather"


def test_whole_file_after_the_warm_up(datadir):
    found = recorded_pair(datadir, PAIR)
    stored = pd.read_feather(five_minutes(datadir))
    market = found.market
    assert len(market) == len(stored) - WARMUP_CANDLES_5M
    expected = feature_frame(stored).to_numpy()[WARMUP_CANDLES_5M:]
    np.testing.assert_array_equal(market.features, expected)
    np.testing.assert_array_equal(found.features.astype(np.float32), expected)
    assert market.entry_long.any()
    assert (market.leverage >= 1.0).all()
    assert market.dates[0] == stored["date"].iloc[WARMUP_CANDLES_5M].tz_localize(None)


def test_funding_is_due_where_the_files_say_so(datadir):
    found = recorded_pair(datadir, PAIR)
    due = found.market.funding != 0.0
    hours = found.candles["date"][due]
    assert set(hours.dt.hour) <= {0, 8, 16}
    assert (hours.dt.minute == 0).all()
    rates = pd.read_feather(datadir / "futures" / "BTC_USDT_USDT-1h-funding_rate.feather")
    marks = pd.read_feather(datadir / "futures" / "BTC_USDT_USDT-1h-mark.feather")
    moment = hours.iloc[0]
    rate, mark = (each.set_index("date")["open"][moment] for each in (rates, marks))
    assert found.market.funding[due][0] == pytest.approx(rate * mark)


def test_since_is_the_first_candle_and_until_is_left_out(datadir):
    since, until = pd.Timestamp("2024-01-07", tz="UTC"), pd.Timestamp("2024-01-08", tz="UTC")
    found = recorded_pair(datadir, PAIR, since=since, until=until)
    assert found.candles["date"].iloc[0] == since
    assert len(found.market) == 288
    assert found.row_of(since + pd.Timedelta(hours=1)) == 12


def test_candles_to_come_change_nothing_before_them(datadir, tmp_path):
    whole = recorded_pair(datadir, PAIR)
    cut = whole.row_of(pd.Timestamp("2024-01-08 01:35", tz="UTC"))
    copy = tmp_path / "futures"
    copy.mkdir()
    for path in (datadir / "futures").iterdir():
        table = pd.read_feather(path)
        later = table["date"] >= pd.Timestamp("2024-01-08 01:35", tz="UTC")
        columns = ["open", "high", "low", "close"]
        table.loc[later, columns] = table.loc[later, columns] * 1.7
        table.to_feather(copy / path.name)
    other = recorded_pair(tmp_path, PAIR)
    for name in ("features", "ohlc", "entry_long", "entry_short", "leverage", "funding"):
        ours, theirs = getattr(whole.market, name), getattr(other.market, name)
        np.testing.assert_array_equal(ours[:cut], theirs[:cut], err_msg=name)
    assert not np.array_equal(whole.market.features[cut:], other.market.features[cut:])


def test_fee_thresholds_and_leverage_are_taken_over(datadir):
    from mtf_scalper.market.signals import EntryThresholds

    plain = recorded_pair(datadir, PAIR).market
    strict = recorded_pair(
        datadir, PAIR, fee_rate=0.001, max_leverage=1.5, thresholds=EntryThresholds(adx_min=40.0)
    ).market
    assert strict.fee_rate == 0.001
    assert strict.leverage.max() <= 1.5 < plain.leverage.max()
    assert strict.entry_long.sum() < plain.entry_long.sum()


def test_price_steps_are_those_of_freqtrade():
    history = pytest.importorskip("freqtrade.data.btanalysis")
    dates = pd.date_range("2024-01-30", periods=900, freq="5min")
    prices = np.round(np.random.default_rng(0).uniform(10, 20, (900, 4)), 3)
    prices[dates.month == 2] = np.round(prices[dates.month == 2], 1)
    steps = price_steps(dates.to_numpy("datetime64[ns]"), prices)
    table = pd.DataFrame(prices, columns=["open", "high", "low", "close"])
    table.insert(0, "date", dates.tz_localize("UTC"))
    theirs = history.get_tick_size_over_time(table).reindex(table["date"], method="ffill")
    np.testing.assert_array_equal(steps, theirs)
    assert set(steps) == {0.001, 0.1}


def test_whole_prices_take_the_step_of_the_month_before():
    dates = np.array(["2024-01-01", "2024-02-01", "2024-03-01"], dtype="datetime64[ns]")
    prices = np.array([[5.0] * 4, [5.25] * 4, [5.0] * 4])
    assert price_steps(dates, prices).tolist() == [0.0, 0.01, 0.01]


def test_a_pair_that_is_not_there_is_named(datadir):
    with pytest.raises(MarketError, match=r"ETH/USDT:USDT: no candles in .*ETH_USDT_USDT-5m"):
        recorded_pair(datadir, "ETH/USDT:USDT")


def test_too_few_candles_for_the_warm_up(datadir):
    with pytest.raises(MarketError, match="too few for the warm-up"):
        recorded_pair(datadir, PAIR, until=pd.Timestamp("2024-01-03", tz="UTC"))


def test_a_damaged_file_is_named(datadir, tmp_path):
    stored = pd.read_feather(five_minutes(datadir))
    stored.loc[7, "low"] = -1.0
    path = Path(tmp_path / "futures" / five_minutes(datadir).name)
    path.parent.mkdir()
    stored.to_feather(path)
    with pytest.raises(MarketError, match=r"BTC_USDT_USDT-5m-futures\.feather: .*'low' is -1\.0"):
        recorded_pair(tmp_path, PAIR)

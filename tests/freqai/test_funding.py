"""Funding of any files is what freqtrade's own functions charge for any trade."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from freqtrade.configuration import TimeRange
from freqtrade.data.history import load_pair_history
from freqtrade.enums import CandleType
from freqtrade.exchange import Exchange

from mtf_scalper import Market
from mtf_scalper.errors import MarketError
from mtf_scalper.freqai.markets import funding_due
from mtf_scalper.market.datafiles import FUNDING_RATE, FUTURES, MARK, DataFile
from mtf_scalper.market.funding import Funding, funding_notice, funding_of
from mtf_scalper.market.stored import recorded_pair
from mtf_scalper.market.terms import PairTerms
from mtf_scalper.settings import Settings, TradeRules
from mtf_scalper.simulator.kernels import candles_of
from mtf_scalper.simulator.playback import play
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import Action, Side

PAIR = "BTC/USDT:USDT"
HOURS = 24 * 10


def marks(seed: int = 0, *, missing: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    price = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.004, HOURS)))
    frame = pd.DataFrame(
        {"date": pd.date_range("2024-01-30", periods=HOURS, freq="h", tz="UTC").as_unit("ms")}
    )
    for name in ("open", "high", "low", "close"):
        frame[name] = price * (1.0 + rng.normal(0.0, 1e-3, HOURS))
    frame["volume"] = 0.0
    kept = rng.random(HOURS) >= missing
    kept[[0, -1]] = True
    return frame[kept].reset_index(drop=True)


def rates(hours: int, *, jitter_ms: int = 0, offset: str = "0h", seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2024-01-30", periods=HOURS // hours, freq=f"{hours}h", tz="UTC")
    late = pd.to_timedelta(rng.integers(0, jitter_ms + 1, len(dates)), unit="ms")
    values = rng.normal(0.0, 1e-3, len(dates))
    dates = (dates + late + pd.Timedelta(offset)).as_unit("ms")
    return pd.DataFrame({"date": dates, "funding_rate": values})


def charged_by_freqtrade(
    known: pd.DataFrame, opened: pd.Timestamp, closed: pd.Timestamp, is_short: bool
) -> float:
    return float(
        Exchange.calculate_funding_fees(
            None,  # type: ignore[arg-type]
            known,
            amount=2.0,
            is_short=is_short,
            open_date=opened,
            close_date=closed,
        )
    )


CASES: dict[str, tuple[pd.DataFrame, pd.DataFrame, float | None, str]] = {
    "8-hourly on 5m": (rates(8), marks(), None, "5min"),
    "4-hourly on 15m, jitter": (rates(4, jitter_ms=990), marks(), None, "15min"),
    "hourly on 1h, marks missing": (rates(1), marks(missing=0.3), None, "1h"),
    "hourly on 4h": (rates(1, jitter_ms=40), marks(missing=0.2), None, "4h"),
    "8-hourly on 1d": (rates(8), marks(), None, "1d"),
    "first rate late, fallback": (rates(8).iloc[5:], marks(), 3e-4, "5min"),
    "no rates, fallback": (rates(8).iloc[:0], marks(), 3e-4, "5min"),
    "never at one time": (rates(1, offset="7min"), marks(), None, "5min"),
    "never at one time, fallback": (rates(1, offset="7min"), marks(), 3e-4, "1h"),
    "no marks": (rates(8), marks().iloc[:0], None, "5min"),
}


@pytest.mark.parametrize(("known", "prices", "fallback", "step"), CASES.values(), ids=CASES)
def test_every_trade_is_charged_what_freqtrade_charges(
    known: pd.DataFrame, prices: pd.DataFrame, fallback: float | None, step: str, tmp_path: Path
) -> None:
    (tmp_path / "futures").mkdir()
    kinds = ((known, FUNDING_RATE), (prices, MARK))
    for frame, kind in kinds:
        frame.reset_index(drop=True).to_feather(DataFile(tmp_path, PAIR, "1h", kind).path)
    theirs = Exchange.combine_funding_and_mark(
        *(
            load_pair_history(PAIR, "1h", tmp_path, candle_type=CandleType.from_string(kind))
            for _, kind in kinds
        ),
        fallback,
    )
    offset = step.replace("d", "D")  # as pandas spells it
    dates = pd.date_range("2024-01-30 08:00", "2024-02-08", freq=offset, tz="UTC").floor(offset)
    opens = dates.tz_localize(None).to_numpy("datetime64[ns]")
    files = [DataFile(tmp_path, PAIR, "1h", kind).load() for _, kind in kinds]
    ours = funding_of(opens, *files, pair=PAIR, fallback=fallback)
    rng = np.random.default_rng(5)
    total = 0.0
    for _ in range(150):
        first, last = np.sort(rng.integers(0, len(dates), 2))
        is_short = bool(rng.random() < 0.5)
        due = ours.at_open[first : last + 1].sum() + ours.between[first + 1 : last + 1].sum()
        expected = charged_by_freqtrade(theirs, dates[first], dates[last], is_short)
        assert (1.0 if is_short else -1.0) * due * 2.0 == pytest.approx(expected, abs=1e-12)
        total += abs(expected)
    assert (total > 0.0) == (not theirs.empty)


def test_a_rate_that_is_no_number_is_refused_by_its_time() -> None:
    """freqtrade charges nothing at all for a trade that meets it, which no per-row sum can say."""
    known = rates(8)
    known.loc[3, "funding_rate"] = np.nan
    opens = pd.date_range("2024-01-30", periods=600, freq="5min").to_numpy("datetime64[ns]")
    combined = Exchange.combine_funding_and_mark(known, marks())
    dates = pd.date_range("2024-01-30", periods=600, freq="5min", tz="UTC")
    assert charged_by_freqtrade(combined, dates[0], dates[-1], False) == 0.0
    with pytest.raises(MarketError) as caught:
        funding_of(opens, known, marks(), pair=PAIR)
    assert str(caught.value).startswith(
        f"{PAIR}: column 'funding_rate' is nan at 2024-01-31 00:00 (1 such row); "
    )
    # Outside the market it does not matter.
    assert funding_of(opens[:200], known, marks(), pair=PAIR).at_open.any()


def test_a_trade_pays_what_fell_due_between_two_opens_while_it_was_open() -> None:
    """Rows of 4h, one unit due at each open and ten between two: from row 2 to row 4."""
    ohlc = np.full((8, 4), 100.0)
    ohlc[:, 1] = 100.5
    market = Market(
        features=np.zeros((8, 1)),
        ohlc=ohlc,
        fee_rate=0.0,
        funding=np.full(8, 0.01),
        funding_between=np.full(8, 0.1),
        timeframe_minutes=240,
    )
    assert candles_of(market)["funding_between"].tolist() == [0.1] * 8

    def choose(row: int, states: np.ndarray, _: np.ndarray) -> np.ndarray:
        enters = np.int64(Action.LONG_ENTER if row == 1 else Action.NEUTRAL)
        leaves = np.int64(Action.LONG_EXIT if row == 3 else Action.NEUTRAL)
        return np.where(states["side"] == Side.FLAT, enters, leaves)

    rules = TradeRules(entry="any", minimal_roi={}, stoploss=None)
    (run,) = play(prepare(market, Settings(window_size=1, rules=rules)), choose)
    (trade,) = run.trades
    assert (trade.open_row, trade.close_row) == (2, 4)
    # Opens of rows 2, 3 and 4, and what lies before those of rows 3 and 4: 0.03 + 0.2 of 100.
    assert trade.profit_ratio == pytest.approx(-0.0023)


LOGGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "old names": (
        lambda path: path.rename(path.with_name(path.name.replace("-1h-", "-8h-"))),
        "BTC_USDT_USDT-1h-funding_rate.feather is missing; freqtrade does not read "
        "BTC_USDT_USDT-8h-funding_rate.feather; funding counts as 0",
    ),
    "missing": (
        lambda path: path.unlink(),
        "BTC_USDT_USDT-1h-funding_rate.feather is missing; funding counts as 0",
    ),
    "shifted": (
        lambda path: shifted(path).to_feather(path),
        "funding rates and mark prices have no time in common; funding counts as 0",
    ),
    "late": (
        lambda path: pd.read_feather(path).iloc[25:].reset_index(drop=True).to_feather(path),
        "funding is known from ",
    ),
    "early": (
        lambda path: pd.read_feather(path).iloc[:25].to_feather(path),
        "funding is known up to ",
    ),
}


def shifted(path: Path) -> pd.DataFrame:
    frame = pd.read_feather(path)
    return frame.assign(date=frame["date"] + pd.Timedelta(minutes=7))


@pytest.mark.parametrize(("spoil", "words"), LOGGED.values(), ids=LOGGED)
def test_what_is_not_known_is_said(
    spoil: Callable[[Path], object],
    words: str,
    copied_market: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(copied_market / "futures" / "BTC_USDT_USDT-1h-funding_rate.feather")
    with caplog.at_level(logging.WARNING):
        recorded_pair(copied_market, PAIR)
    (line,) = [each for each in caplog.messages if "funding" in each]
    assert line.startswith(f"{PAIR}: {words}")


@pytest.fixture
def copied_market(datadir: Path, tmp_path: Path) -> Path:
    (tmp_path / "futures").mkdir()
    for path in (datadir / "futures").glob("BTC*"):
        (tmp_path / "futures" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_marks_may_be_the_futures_own_candles(copied_market: Path) -> None:
    """As freqtrade's Hyperliquid class says; there are no mark files then."""
    (copied_market / "futures" / "BTC_USDT_USDT-1h-mark.feather").unlink()
    terms = PairTerms(mark_kind=FUTURES)
    market = recorded_pair(copied_market, PAIR, terms=terms).market
    combined = Exchange.combine_funding_and_mark(
        *(
            load_pair_history(PAIR, "1h", copied_market, candle_type=kind)
            for kind in (CandleType.FUNDING_RATE, CandleType.FUTURES)
        )
    )
    dates = pd.DatetimeIndex(market.dates, tz="UTC")
    assert -2.0 * market.funding.sum() == pytest.approx(
        charged_by_freqtrade(combined, dates[0], dates[-1], False)
    )
    assert market.funding.any()


def test_a_provider_is_asked_for_the_exchanges_mark_prices() -> None:
    asked = []

    def pair_frame(pair: str, timeframe: str, kind: CandleType) -> pd.DataFrame:
        asked.append((pair, timeframe, kind))
        return rates(1) if kind is CandleType.FUNDING_RATE else marks()

    options = {
        "funding_fee_timeframe": "1h",
        "mark_ohlcv_timeframe": "1h",
        "mark_ohlcv_price": "futures",
    }
    provider = SimpleNamespace(
        _exchange=SimpleNamespace(trading_mode="futures", get_option=options.__getitem__),
        _config={},
        get_pair_dataframe=pair_frame,
    )
    opens = pd.date_range("2024-01-30", periods=600, freq="5min").to_numpy("datetime64[ns]")
    assert funding_due(opens, PAIR, provider).at_open.any()
    assert asked == [(PAIR, "1h", CandleType.FUNDING_RATE), (PAIR, "1h", CandleType.FUTURES)]


def test_a_backtests_fallback_counts_from_its_own_period(copied_market: Path) -> None:
    """freqtrade loads rates of the backtest alone; hours before its first rate take the fallback.

    It begins at 02:00 and the next rate is due at 08:00: six hours, of which a provider that has
    read the rate of 00:00 knows nothing.
    """
    known = load_pair_history(PAIR, "1h", copied_market, candle_type=CandleType.FUNDING_RATE)
    first = pd.Timestamp("2024-01-30 02:00", tz="UTC")
    period = TimeRange("date", "date", int(first.timestamp()), int(first.timestamp()) + 86_400)
    assert (known["date"] == first.floor("D")).any()
    opens = pd.date_range(first.tz_localize(None), periods=288, freq="5min")
    config = {
        "datadir": copied_market,
        "dataformat_ohlcv": "feather",
        "futures_funding_rate": 1e-3,
    }
    options = {"funding_fee_timeframe": "1h", "mark_ohlcv_timeframe": "1h"}
    exchange = SimpleNamespace(trading_mode="futures", get_option=options.__getitem__)
    provider = SimpleNamespace(_exchange=exchange, _config=config)
    ours = funding_due(opens.to_numpy("datetime64[ns]"), PAIR, provider, period)
    frames = [
        load_pair_history(PAIR, "1h", copied_market, timerange=period, candle_type=kind)
        for kind in (CandleType.FUNDING_RATE, CandleType.MARK)
    ]
    combined = Exchange.combine_funding_and_mark(*frames, 1e-3)
    assert np.flatnonzero(ours.at_open).tolist() == [0, 12, 24, 36, 48, 60, 72, 168, 264]
    last = opens[-1].tz_localize("UTC")
    assert -2.0 * ours.at_open.sum() == pytest.approx(
        charged_by_freqtrade(combined, first, last, False)
    )


@pytest.mark.parametrize(
    ("last", "is_told"), [("2024-10-01 00:25", False), ("2024-10-01 01:05", True)]
)
def test_a_settlement_is_missed_once_its_mark_candle_has_closed(last: str, is_told: bool) -> None:
    dates = pd.date_range("2024-09-30", last, freq="5min").to_numpy(dtype="datetime64[ns]")
    known = pd.Timestamp("2024-09-30 16:00", tz="UTC")
    nothing = np.zeros(len(dates))
    found = Funding(nothing, nothing, known - pd.Timedelta(hours=16), known)
    assert (funding_notice(found, dates) is not None) == is_told

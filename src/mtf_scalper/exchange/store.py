"""Candles, mark prices and funding rates of a freqtrade data directory, read when first asked for.

Futures lie in its folder ``futures``, spot candles in the directory itself.

A file is opened, validated, copied into arrays and closed again; the arrays are kept. What is
written to the directory afterwards is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.exchange.api_errors import DataDirectoryError
from mtf_scalper.exchange.symbols import INTERVALS_MS, CandleKind, Symbol, Venue
from mtf_scalper.market.datafiles import DAMAGE, FORMATS, parse_file

_PRICE_COLUMNS = ("open", "high", "low", "close")
_ENDINGS = tuple(FORMATS.values())


@dataclass(frozen=True)
class Candles:
    """Candles of one contract and interval, oldest first.

    Attributes
    ----------
    interval_ms
        Length of a candle in milliseconds.
    open_ms
        ``(N,)`` int64, opening times in milliseconds since 1970, rising.
    open, high, low, close
        ``(N,)`` float64 prices in the quote asset.
    volume
        ``(N,)`` float64 in the base asset.
    """

    interval_ms: int
    open_ms: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.open_ms)

    def rows(self, start: int, stop: int) -> Candles:
        """Return the candles ``start .. stop - 1`` as views."""
        part = slice(start, stop)
        return Candles(
            self.interval_ms,
            self.open_ms[part],
            self.open[part],
            self.high[part],
            self.low[part],
            self.close[part],
            self.volume[part],
        )

    def then(self, later: Candles) -> Candles:
        """Return these candles and ``later`` ones of the same interval as copies."""
        names = ("open_ms", "open", "high", "low", "close", "volume")
        columns = [np.concatenate([getattr(self, name), getattr(later, name)]) for name in names]
        return Candles(self.interval_ms, *columns)

    def closed_count(self, now_ms: int) -> int:
        """Return how many candles have closed by ``now_ms``."""
        return int(np.searchsorted(self.open_ms, now_ms - self.interval_ms, side="right"))


@dataclass(frozen=True)
class FundingRates:
    """Funding of one contract, oldest first.

    Attributes
    ----------
    time_ms
        ``(N,)`` int64, settlement times in milliseconds since 1970, rising.
    rate
        ``(N,)`` float64, the part of the position's value that longs pay to shorts.
    """

    time_ms: NDArray[np.int64]
    rate: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time_ms)


class CandleStore:
    """One market of a freqtrade data directory.

    Parameters
    ----------
    datadir
        The exchange's folder, the one that holds ``futures/``. Feather files come first, then
        parquet and JSON.
    venue
        Futures or spot.

    Raises
    ------
    DataDirectoryError
        There is no candle file of this market in it.
    """

    def __init__(self, datadir: Path | str, venue: Venue = Venue.FUTURES) -> None:
        self.datadir = Path(datadir)
        self.venue = venue
        self._folder = venue.folder(self.datadir)
        recorded: dict[tuple[Symbol, str], dict[str, Path]] = {}
        if self._folder.is_dir():
            name = venue.file_name
            found = [(name.fullmatch(path.name), path) for path in self._folder.iterdir()]
            matches = [(match, path) for match, path in found if match]
            matches.sort(key=lambda each: _ENDINGS.index(each[0]["ending"]))
            for match, path in matches:
                if match["interval"] in INTERVALS_MS:
                    symbol = Symbol(match["base"], match["quote"], venue)
                    kind = match["kind"] or CandleKind.TRADES.value
                    files = recorded.setdefault((symbol, kind), {})
                    files.setdefault(match["interval"], path)
        self._recorded = {
            key: dict(sorted(files.items(), key=lambda each: INTERVALS_MS[each[0]]))
            for key, files in recorded.items()
        }
        self._symbols = {
            symbol.name: symbol for symbol, kind in sorted(recorded) if kind == CandleKind.TRADES
        }
        if not self._symbols:
            raise DataDirectoryError(
                f"{self._folder}: no file like {venue.example}; name the folder "
                "of a freqtrade data directory that holds futures/, such as user_data/data/binance"
            )
        self._candles: dict[tuple[Symbol, CandleKind, str], Candles] = {}
        self._funding: dict[Symbol, FundingRates] = {}

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The contracts that have trade candles, sorted."""
        return tuple(self._symbols.values())

    def symbol(self, name: str) -> Symbol | None:
        """Return the contract of Binance's ``name``, or ``None`` if it is not recorded."""
        return self._symbols.get(name)

    def intervals(self, symbol: Symbol, kind: CandleKind) -> tuple[str, ...]:
        """Return the recorded intervals, shortest first; empty if there are none."""
        return tuple(self._recorded.get((symbol, kind.value), ()))

    def candles(self, symbol: Symbol, kind: CandleKind, interval: str) -> Candles:
        """Return all candles of a recorded interval.

        Raises
        ------
        DataDirectoryError
            The file cannot be read, or a column, time or price in it is not valid.
        """
        key = (symbol, kind, interval)
        if key not in self._candles:
            path = self._recorded[(symbol, kind.value)][interval]
            self._candles[key] = _read_candles(path, INTERVALS_MS[interval], kind.value)
        return self._candles[key]

    def finest(self, symbol: Symbol, kind: CandleKind = CandleKind.TRADES) -> Candles:
        """Return the candles of the shortest recorded interval."""
        return self.candles(symbol, kind, self.intervals(symbol, kind)[0])

    def funding(self, symbol: Symbol) -> FundingRates:
        """Return the funding of a contract, empty if none is recorded.

        Raises
        ------
        DataDirectoryError
            The file cannot be read, or a time or rate in it is not valid.
        """
        if symbol not in self._funding:
            files = self._recorded.get((symbol, "funding_rate"))
            if files:
                self._funding[symbol] = _read_funding(next(iter(files.values())))
            else:
                self._funding[symbol] = FundingRates(np.empty(0, np.int64), np.empty(0))
        return self._funding[symbol]

    def end_ms(self) -> int:
        """Return the time at which the last candle closes, in milliseconds since 1970."""
        ends = (self.finest(symbol) for symbol in self.symbols)
        return max(int(candles.open_ms[-1]) + candles.interval_ms for candles in ends)


def stores_in(datadir: Path | str) -> dict[Venue, CandleStore]:
    """Return the markets of a data directory.

    Raises
    ------
    DataDirectoryError
        There are candles of none; says what futures' would be called.
    """
    found: dict[Venue, CandleStore] = {}
    missing: DataDirectoryError | None = None
    for venue in Venue:
        try:
            found[venue] = CandleStore(datadir, venue)
        except DataDirectoryError as error:
            missing = missing or error
    if not found:
        assert missing is not None
        raise missing
    return found


def _read_candles(path: Path, interval_ms: int, kind: str) -> Candles:
    frame = _read_frame(path, kind, (*_PRICE_COLUMNS, "volume"))
    open_ms = _rising_times_ms(path, frame, interval_ms)
    prices = [_finite(path, frame, column) for column in _PRICE_COLUMNS]
    for column, values in zip(_PRICE_COLUMNS, prices, strict=True):
        if (values <= 0.0).any():
            row = int(np.argmax(values <= 0.0))
            raise DataDirectoryError(f"{path}: {column} is not positive in row {row}")
    opens, highs, lows, closes = prices
    outside = (highs < np.maximum(opens, closes)) | (lows > np.minimum(opens, closes))
    if outside.any():
        row = int(np.argmax(outside))
        raise DataDirectoryError(f"{path}: open or close is outside low..high in row {row}")
    volume = _finite(path, frame, "volume")
    if (volume < 0.0).any():
        row = int(np.argmax(volume < 0.0))
        raise DataDirectoryError(f"{path}: volume is negative in row {row}")
    return Candles(interval_ms, open_ms, opens, highs, lows, closes, volume)


def _read_funding(path: Path) -> FundingRates:
    frame = _read_frame(path, "funding_rate", ())
    # freqtrade kept the rate in "open" before it gave funding a column of its own.
    column = "funding_rate" if "funding_rate" in frame else "open"
    if column not in frame:
        raise DataDirectoryError(f"{path}: neither a column funding_rate nor open")
    return FundingRates(_rising_times_ms(path, frame, 1), _finite(path, frame, column))


def _read_frame(path: Path, kind: str, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = parse_file(path, kind)
    except DAMAGE as error:
        reason = str(error).partition("\n")[0]
        ending = path.name.partition(".")[2]
        raise DataDirectoryError(f"{path}: not a readable {ending} file ({reason})") from error
    if frame.empty:
        raise DataDirectoryError(f"{path}: no rows; delete the file or download it again")
    missing = [column for column in ("date", *columns) if column not in frame]
    if missing:
        raise DataDirectoryError(f"{path}: no column {', '.join(missing)}")
    return frame


def _rising_times_ms(path: Path, frame: pd.DataFrame, least_step_ms: int) -> NDArray[np.int64]:
    dates = frame["date"]
    if not isinstance(dates.dtype, pd.DatetimeTZDtype):
        raise DataDirectoryError(f"{path}: date is {dates.dtype}, not a time with time zone")
    if dates.isna().any():
        raise DataDirectoryError(f"{path}: date is missing in row {int(dates.isna().argmax())}")
    utc = dates.dt.tz_convert("UTC").dt.as_unit("ms")
    times: NDArray[np.int64] = utc.astype("int64").to_numpy()
    too_close = np.diff(times) < least_step_ms
    if too_close.any():
        row = int(np.argmax(too_close)) + 1
        raise DataDirectoryError(f"{path}: date in row {row} is not one step after the row before")
    return times


def _finite(path: Path, frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    try:
        values = frame[column].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataDirectoryError(f"{path}: {column} is not a number") from error
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise DataDirectoryError(f"{path}: {column} is not finite in row {row}")
    return values

"""Files of a freqtrade data directory, read and cleaned as freqtrade itself reads and cleans them.

Unlike freqtrade, which logs what it cannot read and goes on without candles, every unreadable file
is an error that names it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from pyarrow import feather

from mtf_scalper.errors import MarketError

FORMATS: Final = {"feather": "feather", "parquet": "parquet", "json": "json", "jsongz": "json.gz"}
"""freqtrade's ``dataformat_ohlcv``, and how its files end."""
SPOT: Final = "spot"
FUTURES: Final = "futures"
MARK: Final = "mark"
FUNDING_RATE: Final = "funding_rate"
KINDS: Final = (SPOT, FUTURES, MARK, FUNDING_RATE)

_OHLCV: Final = ("date", "open", "high", "low", "close", "volume")
_FUNDING: Final = ("date", "funding_rate")
_MERGED = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "max"}
_FILLED = {**_MERGED, "volume": "sum"}
_IN_NAMES = str.maketrans(dict.fromkeys("/ .@$+:", "_"))
_MINUTES = {"m": 1, "h": 60, "d": 1440}
_FIRST_YEAR, _LAST_YEAR = 1970, 2199
_MOST_FILLED, _MOST_BY_ROW = 1_000_000, 20
"""Candles that a file's gaps are filled up to: two years of 1m, or 20 for each that there is."""
DAMAGE: Final = (
    *(OSError, EOFError, zlib.error),
    *(ValueError, TypeError, KeyError, NotImplementedError),
)
"""What reading a truncated or damaged file raises, depending on the place of the damage."""


def name_in_files(pair: str) -> str:
    """Return a pair as freqtrade writes it into the names of data files."""
    return pair.translate(_IN_NAMES)


@dataclass(frozen=True)
class DataFile:
    """One file of a data directory, which need not exist.

    Attributes
    ----------
    datadir : Path
        What freqtrade calls ``--datadir``.
    pair, timeframe : str
        As in ``BTC/USDT:USDT``, ``5m``.
    kind : str
        ``SPOT``, ``FUTURES``, ``MARK`` or ``FUNDING_RATE``; freqtrade's candle type.
    data_format : str, optional
        One of ``FORMATS``. By default the first of them that there is a file of.
    """

    datadir: Path
    pair: str
    timeframe: str
    kind: str = FUTURES
    data_format: str | None = None

    def __post_init__(self) -> None:
        """Refuse a format that freqtrade has not."""
        if self.data_format is not None and self.data_format not in FORMATS:
            raise MarketError(
                f"dataformat_ohlcv: {self.data_format!r} is not one of {', '.join(FORMATS)}"
            )

    @property
    def path(self) -> Path:
        """Where it is, or would be."""
        wanted = FORMATS if self.data_format is None else (self.data_format,)
        paths = [self._path(each) for each in wanted]
        return next((path for path in paths if path.is_file()), paths[0])

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path.is_file()

    def relatives(self) -> list[str]:
        """Return the names of files of the same pair and kind, of any timeframe and format."""
        folder = self._path("feather").parent
        tail = "" if self.kind == SPOT else f"-{self.kind}"
        stem = f"{name_in_files(self.pair)}-*{tail}"
        endings = FORMATS.values()
        return sorted(each.name for end in endings for each in folder.glob(f"{stem}.{end}"))

    def read(self) -> pd.DataFrame:
        """Return the file's rows with freqtrade's columns, unsorted and uncleaned.

        Returns
        -------
        DataFrame
            ``date`` (UTC, milliseconds) and float columns: ``funding_rate``, or ``open``, ``high``,
            ``low``, ``close`` and ``volume``. Funding of an older freqtrade, which kept the rate
            in ``open``, is read as well.

        Raises
        ------
        MarketError
            If the file is missing, truncated or of another layout; names it.
        """
        path = self.path
        try:
            frame = parse_file(path, self.kind)
        except DAMAGE as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise self._error(f"cannot be read ({reason}); download it again") from None
        return self._normalized(frame)

    def load(self) -> pd.DataFrame:
        """Return the file's rows as freqtrade loads them: in order, merged, candles filled up."""
        return clean_frame(self.read(), self.timeframe, self.kind)

    def _path(self, data_format: str) -> Path:
        stem = f"{name_in_files(self.pair)}-{self.timeframe.replace('M', 'Mo')}"
        if self.kind == SPOT:
            return self.datadir / f"{stem}.{FORMATS[data_format]}"
        return self.datadir / "futures" / f"{stem}-{self.kind}.{FORMATS[data_format]}"

    def _normalized(self, frame: pd.DataFrame) -> pd.DataFrame:
        wanted = list(_columns(self.kind))
        if frame.empty:
            nothing = pd.DatetimeIndex([], tz="UTC").as_unit("ms")
            return pd.DataFrame({"date": nothing, **dict.fromkeys(wanted[1:], np.zeros(0))})
        if not set(wanted) <= set(frame.columns) and set(_OHLCV) <= set(frame.columns):
            frame = frame.rename(columns={"open": "funding_rate"})
        missing = [name for name in wanted if name not in frame.columns]
        if missing:
            raise self._error(f"has no column {missing[0]!r}; download it again")
        dates = frame["date"]
        if not isinstance(dates.dtype, pd.DatetimeTZDtype):
            raise self._error(f"column 'date' is {dates.dtype}, not a time in UTC")
        if dates.isna().any():
            raise self._error(f"column 'date' is missing at row {int(dates.isna().argmax())}")
        if (dates.dt.tz_localize(None) != dates.dt.tz_convert(None)).any():
            # freqtrade would fill candles of two hours and more up at that zone's hours.
            raise self._error(f"column 'date' is {dates.dtype}, not a time in UTC")
        try:
            values = frame[wanted[1:]].astype("float64")
        except DAMAGE as error:
            raise self._error(f"holds no numbers ({' '.join(str(error).split())})") from None
        moments = dates.dt.tz_convert("UTC").dt.as_unit("ms")
        self._check_span(moments)
        values.insert(0, "date", moments)
        return values.reset_index(drop=True)

    def _check_span(self, dates: pd.Series) -> None:
        """Refuse dates so far apart that filling them up would take all memory: one is damaged."""
        first, last = dates.min(), dates.max()
        if first.year < _FIRST_YEAR or last.year > _LAST_YEAR:
            raise self._error(f"column 'date' goes from the year {first.year} to {last.year}")
        if self.kind == FUNDING_RATE or self.timeframe[-1:] not in _MINUTES:
            return
        minutes = int(self.timeframe[:-1]) * _MINUTES[self.timeframe[-1]]
        n_candles = (last - first) / pd.Timedelta(minutes=minutes)
        if n_candles > max(_MOST_FILLED, _MOST_BY_ROW * len(dates)):
            raise self._error(
                f"holds {len(dates)} rows from {first:%Y-%m-%d} to {last:%Y-%m-%d}, where "
                f"{n_candles:,.0f} candles would be; download it again"
            )

    def _error(self, problem: str) -> MarketError:
        return MarketError(f"{self.pair}: {self.path.name} in {self.path.parent} {problem}")


def clean_frame(frame: pd.DataFrame, timeframe: str, kind: str = FUTURES) -> pd.DataFrame:
    """Sort rows, merge those of one time, and fill missing candles up, as freqtrade does.

    Candles of one time become one (freqtrade 2026.9, ``clean_ohlcv_dataframe``); those that do not
    open on a multiple of the timeframe belong to the multiple before; a missing one gets the close
    before it as all its prices, and no volume. Funding rates are floored to the second and never
    filled.

    Parameters
    ----------
    frame : DataFrame
        From ``DataFile.read``.
    timeframe : str
    kind : str

    Returns
    -------
    DataFrame
        The same columns, with a fresh index.
    """
    if kind == FUNDING_RATE:
        floored = frame.assign(date=frame["date"].dt.floor("s"))
        return floored.groupby("date", as_index=False, sort=True).agg({"funding_rate": "first"})
    merged = frame.groupby("date", as_index=False, sort=True).agg(_MERGED)
    step = f"{int(timeframe[:-1]) * _MINUTES[timeframe[-1]] * 60}s"
    filled = merged.resample(step, on="date").agg(_FILLED)
    filled["close"] = filled["close"].ffill()
    for name in ("open", "high", "low"):
        filled[name] = filled[name].fillna(filled["close"])
    return filled.reset_index()


def parse_file(path: Path, kind: str) -> pd.DataFrame:
    """Return a file's table; JSON, which knows no names, gets freqtrade's columns by their number.

    Raises
    ------
    One of ``DAMAGE``
        If it cannot be read.
    """
    if path.suffix == ".feather":
        table = feather.read_table(path)
        # What is written in the file about its own lengths and places is not believed.
        table.validate(full=True)
        read: pd.DataFrame = table.to_pandas()
        return read
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    frame = pd.read_json(path, orient="values")
    if frame.empty:
        return frame
    wanted = _columns(kind)
    layouts = {len(wanted): wanted, len(_OHLCV): _OHLCV}
    if len(frame.columns) not in layouts:
        raise ValueError(f"{len(frame.columns)} columns instead of {len(wanted)}")
    frame = frame.set_axis(list(layouts[len(frame.columns)]), axis=1)
    return frame.assign(date=pd.to_datetime(frame["date"], unit="ms", utc=True))


def _columns(kind: str) -> tuple[str, ...]:
    return _FUNDING if kind == FUNDING_RATE else _OHLCV

"""Tables of a record: read from Arrow files, and passed only with the columns that are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mtf_scalper.paths import printable
from mtf_scalper.records.files import RecordError
from mtf_scalper.records.schema import LARGEST

PROBABILITIES: Final = ("neutral", "long_enter", "long_exit", "short_enter", "short_exit")
"""Columns of predictions: the probability of every action, in the actions' order."""
_FIRST, _LAST = pd.Timestamp("1970-01-01", tz="UTC"), pd.Timestamp("2200-01-01", tz="UTC")


class Kind(StrEnum):
    """What a column holds."""

    DATE = "dates"
    TEXT = "texts"
    SEED = "whole numbers"
    NUMBER = "numbers"
    FINITE = "finite numbers"


_KEYS: Final = {"pair": Kind.TEXT, "window": Kind.TEXT, "seed": Kind.SEED}
_OHLC: Final = dict.fromkeys(("open", "high", "low", "close"), Kind.FINITE)

Schema = Mapping[str, Kind]
CANDLES: Final[Schema] = MappingProxyType(
    {"pair": Kind.TEXT, "date": Kind.DATE, **_OHLC, "volume": Kind.FINITE}
)
PREDICTIONS: Final[Schema] = MappingProxyType(
    {
        "pair": Kind.TEXT,
        "window": Kind.TEXT,
        "date": Kind.DATE,
        **dict.fromkeys(PROBABILITIES, Kind.FINITE),
        "confidence": Kind.FINITE,
    }
)
EQUITY: Final[Schema] = MappingProxyType(
    {
        "date": Kind.DATE,
        "pair": Kind.TEXT,
        "seed": Kind.SEED,
        "series": Kind.TEXT,
        "log_return": Kind.NUMBER,
    }
)
DAILY: Final[Schema] = MappingProxyType(
    {"date": Kind.DATE, "series": Kind.TEXT, "log_return": Kind.FINITE}
)
_NEEDED: Final = ("date", "log_return")
"""Columns that have to be there; a program of one's own may write without the others."""
_INSTEAD: Final = {"pair": "all", "series": "agent"}
"""What a column that is not there says."""
_MAY_BE_EMPTY: Final = ("window", "seed", *PROBABILITIES, "confidence", "log_return")
"""What may be missing in some rows."""


def parsed_table(content: bytes, schema: Schema) -> pd.DataFrame:
    """Return the columns of a schema; those that may be missing are empty then.

    Raises
    ------
    RecordError
        One line that says what is wrong.
    """
    try:
        alone = pa.ipc.IpcReadOptions(use_threads=False)  # they cost more than they save here
        table = pa.ipc.open_file(pa.BufferReader(content), options=alone).read_all()
        # What is written in the file about its own lengths and places is not believed.
        table.validate(full=True)
    except Exception as error:  # whatever Arrow met in a damaged file
        text = printable(str(error).partition("\n")[0])
        raise RecordError(text or type(error).__name__) from None
    names = table.column_names
    for name in schema:
        if names.count(name) > 1:
            raise RecordError(f"column {name!r} is there {names.count(name)} times")
        if name not in names and name in _NEEDED:
            raise RecordError(f"column {name!r} is missing")
    # Without the metadata of pandas: it is a second description, which may say something else.
    columns = {
        name: _column(table.column(name), name, kind)
        if name in names
        else _missing(name, kind, len(table))
        for name, kind in schema.items()
    }
    return pd.DataFrame(columns)


def _column(column: pa.ChunkedArray, name: str, kind: Kind) -> Any:
    if not (_IS_TYPE[kind](column.type) or pa.types.is_null(column.type)):
        raise RecordError(f"column {name!r} holds {column.type}, no {kind}")
    if column.null_count and name not in _MAY_BE_EMPTY:
        raise RecordError(f"column {name!r} is empty in {column.null_count} rows")
    if kind is Kind.DATE:
        return _dates(column, name)
    if kind is Kind.TEXT:
        return _texts(column)
    if kind is Kind.SEED:
        try:
            return pd.array(column.cast(pa.int64()).to_pylist(), dtype="Int64")
        except pa.ArrowInvalid:
            raise RecordError(f"column {name!r} holds numbers that are no seeds") from None
    values = column.cast(pa.float64()).to_numpy()
    is_beyond = abs(values) > LARGEST
    if kind is Kind.NUMBER:
        is_beyond &= abs(values) != float("inf")
    if is_beyond.any():
        raise RecordError(f"column {name!r} holds numbers beyond all bounds")
    return values


def _dates(column: pa.ChunkedArray, name: str) -> Any:
    if pa.types.is_null(column.type):
        return pd.Series([], dtype="datetime64[ns, UTC]")
    aware = column.cast(pa.timestamp(column.type.unit, "UTC"))
    bounds = pc.min_max(aware.cast(pa.int64())).as_py()
    per_second = 10 ** (3 * ("s", "ms", "us", "ns").index(column.type.unit))
    if bounds["min"] is not None and not (
        _FIRST.timestamp() * per_second <= bounds["min"]
        and bounds["max"] < _LAST.timestamp() * per_second
    ):
        raise RecordError(f"column {name!r} holds dates outside of 1970 to 2199")
    return aware.to_pandas()


def _texts(column: pa.ChunkedArray) -> Any:
    texts = column.cast(pa.string()).to_pandas()
    unsafe = [each for each in texts.dropna().unique() if not each.isprintable()]
    return texts.replace({each: printable(each) for each in unsafe}) if unsafe else texts


def _missing(name: str, kind: Kind, n_rows: int) -> Any:
    dtype = {Kind.TEXT: "str", Kind.SEED: "Int64"}
    return pd.Series([_INSTEAD.get(name)] * n_rows, dtype=dtype.get(kind, "float64"))


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


_IS_TYPE: Final[Mapping[Kind, Callable[[pa.DataType], bool]]] = MappingProxyType(
    {
        Kind.DATE: lambda type_: bool(pa.types.is_timestamp(type_)),
        Kind.TEXT: _is_text,
        Kind.SEED: _is_number,
        Kind.NUMBER: _is_number,
        Kind.FINITE: _is_number,
    }
)

"""What users hand over as arrays, brought to numbers or refused in one line.

NumPy turns nearly everything into numbers without a word: text, dates, what a mask hides, the real
part of a complex number.
"""

from __future__ import annotations

import decimal
import numbers
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.market.dates import is_date_index, read_dates
from mtf_scalper.market.problems import PRICES

_KINDS: Final = {
    "b": "booleans",
    "c": "complex numbers",
    "M": "dates",
    "m": "durations",
    "O": "objects",
    "S": "bytes",
    "U": "text",
    "V": "records",
}


def read_numbers(name: str, given: Any, *, takes_booleans: bool = False) -> NDArray[Any]:
    """Return an array of integers or floats, missing values as NaN.

    Parameters
    ----------
    name : str
        For messages.
    given : array-like
        Arrays, lists, tensors, Series and DataFrames of numbers.
    takes_booleans : bool
        Whether True and False are 1 and 0.

    Raises
    ------
    MarketError
        One line, without a pair.
    """
    if hasattr(given, "columns") and hasattr(given, "iloc"):
        columns = [
            _numbers(f"column {str(column)!r} of {name}", given.iloc[:, place], takes_booleans)
            for place, column in enumerate(given.columns)
        ]
        return np.column_stack(columns) if columns else np.zeros((len(given), 0))
    return _numbers(name, given, takes_booleans)


def read_prices(given: Any) -> NDArray[np.float64]:
    """Return prices in the order of ``PRICES``; columns of a DataFrame are found by their names."""
    if hasattr(given, "columns") and hasattr(given, "iloc"):
        names = [str(column).strip().lower() for column in given.columns]
        if set(names) & set(PRICES):
            for price in PRICES:
                if names.count(price) != 1:
                    raise MarketError(f"ohlc has {names.count(price)} columns {price!r}, not one")
            given = given.iloc[:, [names.index(price) for price in PRICES]]
    return np.array(read_numbers("ohlc", given), dtype=np.float64, order="C")


def read_mask(name: str, given: Any) -> NDArray[np.bool_]:
    """Return an array of bool; anything but true, false, 1 and 0 is refused."""
    values = read_numbers(name, given, takes_booleans=True)
    # As a bool a missing value would be true.
    bad = np.flatnonzero(~((values == 0) | (values == 1)))
    if bad.size:
        raise MarketError(f"{name} is {values.flat[bad[0]]} at row {bad[0]}; use True and False")
    return values.astype(np.bool_)


def one_number(name: str, given: Any) -> float:
    """Return a single number as a float.

    Raises
    ------
    MarketError
        An array is named by its shape.
    """
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    shape = getattr(given, "shape", ())
    if isinstance(given, (list, tuple)):
        shape = (len(given),)
    if tuple(shape) != ():
        raise MarketError(
            f"{name} must be one number for all rows, got an array of shape {tuple(shape)}"
        )
    value = given.item() if isinstance(given, (np.ndarray, np.generic)) else given
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, decimal.Decimal)):
        raise MarketError(f"{name} must be a number, got {value!r}".partition("\n")[0])
    return float(value)


def shared_dates(given: Mapping[str, Any]) -> Any:
    """Return the index of dates that Series and DataFrames share, None where none has one.

    Parameters
    ----------
    given : mapping of str to array-like
        By the name of the field.

    Raises
    ------
    MarketError
        If the rows of two of them are of other dates, or the same in another order.
    """
    found = {
        name: value.index
        for name, value in given.items()
        if hasattr(value, "iloc") and hasattr(value, "index")
    }
    dated = {name: index for name, index in found.items() if is_date_index(index)}
    for group in (dated, {name: each for name, each in found.items() if name not in dated}):
        names = list(group)
        for name in names[1:]:
            _compare(names[0], group[names[0]], name, group[name])
    return next(iter(dated.values()), None)


def _compare(one: str, first: Any, other: str, second: Any) -> None:
    """Refuse rows that lie beside rows of another candle."""
    if len(first) != len(second):
        return  # the shapes are told
    if is_date_index(first):
        differs = read_dates(first, len(first)) != read_dates(second, len(second))
        if differs.any():
            row = int(np.argmax(differs))
            raise MarketError(
                f"the index of {other} has other dates than that of {one} at row {row}"
            )
        return
    if not first.equals(second) and set(first) == set(second):
        row = int(np.argmax(np.asarray(first) != np.asarray(second)))
        raise MarketError(
            f"the index of {other} has the rows of {one} in another order from row {row}"
        )


def _numbers(name: str, given: Any, takes_booleans: bool) -> NDArray[Any]:
    if np.ma.is_masked(given):
        hidden = int(np.ma.getmaskarray(given).sum())
        raise MarketError(f"{name} is a masked array with {hidden} masked values; fill them")
    try:
        if hasattr(given, "detach"):  # a tensor
            given = given.detach().cpu().numpy()
        elif not isinstance(given, np.ndarray) and hasattr(given, "to_numpy"):
            given = _of_pandas(given)
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise MarketError(f"{name} is no array of numbers: {reason}") from None
    kind = values.dtype.kind
    if kind == "O":
        return _of_objects(name, values, takes_booleans)
    if kind in "iuf" or (kind == "b" and takes_booleans):
        return values
    raise MarketError(f"{name} holds {_KINDS.get(kind, values.dtype)}; give numbers")


def _of_pandas(given: Any) -> Any:
    """Return a column as NumPy has it; pandas's own types know values that are missing."""
    dtype = getattr(given, "dtype", None)
    if isinstance(dtype, np.dtype) or getattr(dtype, "kind", "O") not in "iufb":
        return given.to_numpy()
    return given.to_numpy(dtype=np.float64, na_value=np.nan)


def _of_objects(name: str, values: NDArray[Any], takes_booleans: bool) -> NDArray[np.float64]:
    result = np.empty(values.shape)
    for place, value in enumerate(values.flat):
        if value is None or type(value).__name__ == "NAType":
            result.flat[place] = np.nan
        elif isinstance(value, (numbers.Real, decimal.Decimal)) and not isinstance(value, bool):
            result.flat[place] = float(value)
        elif isinstance(value, (bool, np.bool_)) and takes_booleans:
            result.flat[place] = bool(value)
        else:
            row = place // max(1, values[:1].size) if values.ndim else 0
            shown = f"{type(value).__name__} {value!r}".partition("\n")[0][:80]
            raise MarketError(f"{name} holds {shown} at row {row}; give numbers")
    return result

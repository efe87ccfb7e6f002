"""Names of features: where they come from, and in what two lists of them differ.

A network knows its inputs by their place alone. Columns that are swapped, left out or renamed
since its training give another result without a word, unless names are compared.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mtf_scalper.errors import MarketError

logger = logging.getLogger(__name__)


def made_up_names(n_features: int) -> tuple[str, ...]:
    """Return the names of features that were given none."""
    return tuple(f"feature_{place}" for place in range(n_features))


def are_made_up(names: Sequence[str]) -> bool:
    """Return whether features were given no names; nothing but their number can be compared."""
    return tuple(names) == made_up_names(len(names))


def names_of(features: Any, given: Any, n_features: int) -> tuple[str, ...]:
    """Return the names of the columns of ``features``.

    Parameters
    ----------
    features : array-like, shape (T, F)
        Of a DataFrame the columns' names count where they are texts.
    given : sequence of str or None
        ``feature_names`` as the user gave them; empty where there are none.
    n_features : int
        F.

    Raises
    ------
    MarketError
        If names are of another number, repeat, or stand at other places than in the DataFrame.
    """
    if isinstance(given, str):
        raise MarketError(f"feature_names is the text {given!r}; give a sequence of names")
    told = tuple(str(name) for name in (() if given is None else given))
    columns = column_names(features)
    if told and len(told) != n_features:
        raise MarketError(f"{len(told)} feature_names for {n_features} features")
    if told and columns:
        for place, name in enumerate(told):
            if name in columns and columns[place] != name:
                raise MarketError(
                    f"feature_names has {name!r} at place {place + 1}, features has it at "
                    f"{columns.index(name) + 1}; leave feature_names out"
                )
    names = told or columns or made_up_names(n_features)
    name, number = Counter(names).most_common(1)[0]
    if number > 1:
        raise MarketError(f"feature {name!r} is there {number} times; names must differ")
    return names


def check_names(trained: Sequence[str], given: Sequence[str], pair: str, what: str) -> None:
    """Compare the features of a market with those that something else was made with.

    Parameters
    ----------
    trained, given : sequence of str
        Features of then and of now; empty where they are not known. Against names that were made
        up nothing is compared; where only one side has names of its own, the log says so.
    pair : str
    what : str
        What to do, at the end of the message.

    Raises
    ------
    MarketError
        One line that names the pair and the first feature that is missing, unknown or moved.
    """
    if not trained or not given or tuple(trained) == tuple(given):
        return
    made_up = are_made_up(trained), are_made_up(given)
    if not any(made_up):
        raise MarketError(f"{pair}: {feature_difference(trained, given)}; {what}")
    if not all(made_up) and len(trained) == len(given):
        logger.warning(
            "%s: features have names in one of training and use alone, and are not compared; "
            "give feature_names to both",
            pair,
        )


def feature_difference(trained: Sequence[str], given: Sequence[str]) -> str:
    """Name the first feature in which two lists that differ do so.

    Parameters
    ----------
    trained, given : sequence of str
        Features of the model's training, and those of now.
    """
    missing = list((Counter(trained) - Counter(given)).elements())
    unknown = list((Counter(given) - Counter(trained)).elements())
    parts = []
    if missing:
        parts.append(f"{missing[0]!r} of the model's training is missing")
    if unknown:
        parts.append(f"{unknown[0]!r} is not known to the model")
    if parts:
        return (
            f"feature {', '.join(parts)} ({len(missing)} missing, {len(unknown)} unknown, "
            f"{len(trained)} trained)"
        )
    now = next(i for i, names in enumerate(zip(given, trained, strict=True)) if len({*names}) > 1)
    then = list(trained).index(given[now])
    return f"feature {given[now]!r} is number {now + 1}, in the model's training {then + 1}"


def column_names(features: Any) -> tuple[str, ...]:
    """Return the names of a DataFrame's columns, empty where there are none."""
    columns = getattr(features, "columns", ())
    # Numbers are what pandas counts columns by that have no names.
    if not len(columns) or not all(isinstance(each, str) for each in columns):
        return ()
    return tuple(columns)

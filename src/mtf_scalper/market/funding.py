"""Funding that freqtrade charges, per unit of the base currency and row by row of a market.

Both ways to a ``Market`` end here: a data directory that is read (``recorded``), and the frames
that FreqAI's data provider has read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.market.problems import bad_rows

Floats = NDArray[np.float64]
_LONGEST_STEP = pd.Timedelta(hours=8)
_MARK_CANDLE = pd.Timedelta(hours=1)
"""A bot has the mark price of a settlement once the candle that opens with it has closed."""


@dataclass(frozen=True, eq=False)
class Funding:
    """Funding due to a trade, in quote currency per unit of the base currency held by a long.

    Attributes
    ----------
    at_open : ndarray of float64, shape (T,)
        Due at the open of row ``t``; ``Market.funding``.
    between : ndarray of float64, shape (T,)
        Due after the open of row ``t - 1`` and before that of row ``t``;
        ``Market.funding_between``.
    known_from, known_to : Timestamp or None
        First and last settlement, None if there is none.
    """

    at_open: Floats
    between: Floats
    known_from: pd.Timestamp | None
    known_to: pd.Timestamp | None


def no_funding(n_candles: int) -> Funding:
    """Return the funding of a market where nothing is charged."""
    return Funding(np.zeros(n_candles), np.zeros(n_candles), None, None)


def funding_of(
    dates: NDArray[np.datetime64],
    rates: pd.DataFrame,
    marks: pd.DataFrame,
    *,
    pair: str,
    fallback: float | None = None,
) -> Funding:
    """Return what freqtrade charges: rate times mark price wherever both have the same time.

    As ``Exchange.combine_funding_and_mark`` and ``calculate_funding_fees`` of freqtrade 2026.9,
    which charges a trade all settlements from its open to its close, both included.

    Parameters
    ----------
    dates : ndarray of datetime64[ns], shape (T,)
        Open times of the market's candles, rising, UTC.
    rates : DataFrame
        ``date`` and ``funding_rate`` (in older frames ``open``); times are floored to the second.
    marks : DataFrame
        ``date`` and ``open`` of the mark candles, missing ones filled up as freqtrade fills them.
    pair : str
        For messages.
    fallback : float, optional
        freqtrade's ``futures_funding_rate``: holds at every mark candle before the first rate.

    Raises
    ------
    MarketError
        If a rate or mark price among the market's candles is no number. freqtrade then charges a
        trade that meets it nothing at all, the other settlements included.
    """
    settled = _settlements(rates, marks, fallback)
    if settled.empty:
        return no_funding(len(dates))
    times = settled["date"].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
    due = settled["rate"].to_numpy(dtype=np.float64) * settled["mark"].to_numpy(dtype=np.float64)
    held = (times >= dates[0]) & (times <= dates[-1])
    if np.isnan(due[held]).any():
        place = bad_rows("funding_rate", "is nan", np.isnan(due) & held, times)
        raise MarketError(
            f"{pair}: {place}; freqtrade charges a trade that meets it no funding at all; remove "
            "the row or download it again"
        )
    times, due = times[held], due[held]
    rows = np.searchsorted(dates, times)
    exact = dates[rows] == times
    at_open, between = (
        np.bincount(rows[which], due[which], minlength=len(dates)).astype(np.float64)
        for which in (exact, ~exact)
    )
    return Funding(at_open, between, settled["date"].iloc[0], settled["date"].iloc[-1])


def funding_notice(funding: Funding, dates: NDArray[np.datetime64]) -> str | None:
    """Say for which of the candles no funding is known, None if there are none.

    Parameters
    ----------
    funding : Funding
    dates : ndarray of datetime64[ns], shape (T,)
    """
    if funding.known_from is None or funding.known_to is None:
        return "funding rates and mark prices have no time in common; funding counts as 0"
    first, last = (pd.Timestamp(moment, tz="UTC") for moment in (dates[0], dates[-1]))
    if funding.known_from > first + _LONGEST_STEP:
        return f"funding is known from {funding.known_from} on, it counts as 0 before"
    if funding.known_to < last - _LONGEST_STEP - _MARK_CANDLE:
        return f"funding is known up to {funding.known_to}, it counts as 0 after that"
    return None


def _settlements(rates: pd.DataFrame, marks: pd.DataFrame, fallback: float | None) -> pd.DataFrame:
    """Return ``date``, ``rate`` and ``mark`` of all times at which something is charged."""
    name = "funding_rate" if "funding_rate" in rates.columns else "open"
    known = _by_time(rates, name, "rate")
    known["date"] = known["date"].dt.floor("s")
    # Of rows within one second freqtrade keeps the first.
    known = known.groupby("date", as_index=False, sort=True).first()
    prices = _by_time(marks, "open", "mark").sort_values("date", kind="stable")
    if fallback is None:
        return prices.merge(known, on="date", how="inner")
    merged = prices.merge(known, on="date", how="left")
    first = merged["rate"].first_valid_index()
    leading = merged["rate"].isna() & (merged.index < (len(merged) if first is None else first))
    merged.loc[leading, "rate"] = fallback
    return merged.dropna()


def _by_time(frame: pd.DataFrame, name: str, new_name: str) -> pd.DataFrame:
    """Return two columns, with times of one unit and one zone object, so that they compare."""
    if frame.empty:
        nothing = pd.DatetimeIndex([], tz="UTC").as_unit("ns")
        return pd.DataFrame({"date": nothing, new_name: np.zeros(0)})
    dates = pd.to_datetime(frame["date"], utc=True).dt.as_unit("ns").reset_index(drop=True)
    values = frame[name].astype("float64").reset_index(drop=True)
    return pd.DataFrame({"date": dates, new_name: values})

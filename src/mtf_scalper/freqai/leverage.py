"""The leverage of a trade as the backtester will take it, before there is any trade.

The shipped strategy writes it into a column. A strategy's own ``leverage()`` is asked at every
candle as the backtester asks it; what it may look at there, and training cannot know, ends the run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.exchange import Exchange
from freqtrade.strategy import IStrategy
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.decision_table import DecisionTable
from mtf_scalper.freqai.exchange_terms import is_spot, most_leverage
from mtf_scalper.freqai.strategy import HybridStrategy
from mtf_scalper.settings import EntryMode, TradeRules

Floats = NDArray[np.float64]


def has_own_leverage(strategy: IStrategy) -> bool:
    """Say whether the strategy's ``leverage()`` is neither the shipped one nor freqtrade's."""
    return _method(strategy, "leverage") not in (HybridStrategy.leverage, IStrategy.leverage)


def has_own_stakes(strategy: IStrategy) -> bool:
    """Say whether the strategy stakes otherwise than the shipped one."""
    shipped: Callable[..., Any] = HybridStrategy.custom_stake_amount
    return _method(strategy, "custom_stake_amount") is not shipped


def leverage_of(
    strategy: IStrategy | None,
    rows: pd.DataFrame,
    window: pd.DataFrame,
    pair: str,
    rules: TradeRules,
    config: Mapping[str, Any],
    exchange: Exchange | None,
) -> Floats:
    """Return the leverage of a trade decided at each row, capped as freqtrade caps it.

    Parameters
    ----------
    strategy : IStrategy or None
        None stands for the shipped one.
    rows : DataFrame, T rows
        Of ``window``, with the strategy's columns.
    window : DataFrame
    pair : str
    rules : TradeRules
        Which sides and entries are possible.
    config : mapping
    exchange : Exchange or None

    Returns
    -------
    ndarray of float64, shape (T,)

    Raises
    ------
    MarketError
        If a strategy's own ``leverage()`` cannot be asked, or depends on the side where both are
        possible.
    """
    if is_spot(config, exchange):
        return np.ones(len(rows))
    most = most_leverage(config, exchange, pair, strategy)
    if strategy is not None and has_own_leverage(strategy):
        wanted = _asked(strategy, rows, window, pair, rules, most)
    elif strategy is not None and _method(strategy, "leverage") is IStrategy.leverage:
        wanted = np.ones(len(rows))  # what freqtrade's own method returns
    else:
        wanted = _from_column(rows)
    return np.minimum(np.maximum(wanted, 1.0), most)


def _method(strategy: IStrategy, name: str) -> Any:
    method = getattr(strategy, name)
    return getattr(method, "__func__", method)


def _from_column(rows: pd.DataFrame) -> Floats:
    if columns.LEVERAGE not in rows.columns:
        return np.ones(len(rows))
    values = rows[columns.LEVERAGE].to_numpy()
    if values.dtype == np.float32:
        # FreqAI's reduce_df_footprint; the bot trades at the number that was meant.
        known = {value: float(str(value)) for value in np.unique(values)}
        return np.array([known[value] for value in values])
    return np.asarray(values, dtype=np.float64)


class _Unknown:
    """Stands where training has nothing that a backtest has."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        raise LookupError(f"self.{self._name}.{name} is not known in training")


def _asked(
    strategy: IStrategy,
    rows: pd.DataFrame,
    window: pd.DataFrame,
    pair: str,
    rules: TradeRules,
    most: float,
) -> Floats:
    # A copy: live, the bot goes on trading with the strategy while this thread trains.
    asked = copy.copy(strategy)
    asked.dp, asked.wallets = _Unknown("dp"), _Unknown("wallets")
    if isinstance(asked, HybridStrategy):
        asked._tables = {pair: _table(rows)}
    entries, rates = _entries(rows, window, asked)
    sides = ("long", "short") if rules.can_short else ("long",)
    tag = str(rules.entry) if isinstance(asked, HybridStrategy) else None
    found = np.empty((len(sides), len(rows)))
    for number, side in enumerate(sides):
        for row, (moment, rate) in enumerate(zip(entries, rates, strict=True)):
            try:
                value = float(
                    asked.leverage(
                        pair=pair,
                        current_time=moment,
                        current_rate=rate,
                        proposed_leverage=1.0,
                        max_leverage=most,
                        side=side,
                        entry_tag=tag,
                    )
                )
            except Exception as error:  # whatever a user's method raises
                words = " ".join(str(error).split()) or type(error).__name__
                raise _refused(strategy, pair, f"cannot be asked in training ({words})") from None
            if math.isnan(value):
                raise _refused(strategy, pair, f"is nan at {moment:%Y-%m-%d %H:%M}")
            found[number, row] = value
    return _one_per_row(strategy, found, rows, pair, rules, entries)


def _one_per_row(
    strategy: IStrategy,
    found: Floats,
    rows: pd.DataFrame,
    pair: str,
    rules: TradeRules,
    entries: list[Any],
) -> Floats:
    """Return the leverage of the side that can be entered, where the sides differ."""
    if len(found) == 1:
        return np.asarray(found[0])
    long, short = found
    if rules.entry is EntryMode.ANY:
        can_long = can_short = np.ones(len(rows), dtype=np.bool_)
    else:
        can_long, can_short = (
            rows[name].to_numpy(dtype=np.bool_)
            for name in (columns.ENTRY_LONG, columns.ENTRY_SHORT)
        )
    torn = (long != short) & can_long & can_short
    if torn.any():
        moment = entries[int(np.argmax(torn))]
        raise _refused(strategy, pair, f"differs between long and short at {moment:%Y-%m-%d %H:%M}")
    return np.asarray(np.where(can_short, short, long))


def _refused(strategy: IStrategy, pair: str, problem: str) -> MarketError:
    return MarketError(
        f"{pair}: leverage() of {type(strategy).__name__} {problem}; the agent would learn another "
        f"leverage than it trades. Set column {columns.LEVERAGE!r} in "
        "feature_engineering_standard() and leave leverage() out"
    )


def _entries(
    rows: pd.DataFrame, window: pd.DataFrame, strategy: IStrategy
) -> tuple[list[Any], list[float]]:
    """Return when, and at which open, a trade decided at each row is entered."""
    dates = rows["date"]
    step = pd.Timedelta(strategy.timeframe.replace("m", "min"))
    moments = [moment.to_pydatetime() for moment in dates + step]
    following = window["open"].shift(-1).fillna(window["close"])
    return moments, following.loc[rows.index].to_numpy(dtype=np.float64).tolist()


def _table(rows: pd.DataFrame) -> DecisionTable:
    """Return what the shipped ``leverage()`` looks up, for those that call it."""
    count = len(rows)
    nothing = np.zeros(count)
    return DecisionTable(
        dates=rows["date"].dt.tz_localize(None).to_numpy(dtype="datetime64[ns]"),
        **{name: rows[name].to_numpy(dtype=np.float64) for name in ("close", "high", "low")},
        atr_pct=nothing,
        leverage=_from_column(rows),
        predicted=np.zeros(count, dtype=np.bool_),
        exit_long=nothing,
        exit_short=nothing,
    )

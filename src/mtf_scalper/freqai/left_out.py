"""Pairs of a backtest that cannot be trained: what they lack, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.history.datahandlers import get_datahandler
from freqtrade.enums import CandleType

from mtf_scalper.errors import MarketError, UntrainableError
from mtf_scalper.freqai import columns
from mtf_scalper.settings import Settings, UntrainablePairs

logger = logging.getLogger(__name__)


class LeftOut:
    """Which pairs a run goes on without, and why.

    Attributes
    ----------
    reasons : dict of str to str
        By pair, what it lacks.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def may(self, error: BaseException | None, settings: Settings) -> bool:
        """Return whether a pair with this error is left out, by ``untrainable_pairs``."""
        if settings.untrainable_pairs is UntrainablePairs.FAIL:
            return False
        if settings.untrainable_pairs is UntrainablePairs.LEAVE_OUT_DAMAGED:
            return isinstance(error, MarketError)
        return isinstance(error, UntrainableError)

    def add(self, pair: str, reason: str, pairs: Sequence[str]) -> None:
        """Note a pair and tell the log.

        Raises
        ------
        UntrainableError
            If none of ``pairs``, all of the run, is left.
        """
        self.reasons[pair] = reason
        if set(pairs) <= set(self.reasons):
            others = len(set(pairs)) - 1
            rest = f"; no pair is left, {others} more cannot be trained" if others else ""
            raise UntrainableError(f"{reason}{rest}")
        logger.warning("left out of this run: %s", reason)


def without_predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a strategy's frame as FreqAI returns it where there is no prediction at all."""
    names = [*columns.PREDICTIONS]
    names += [f"{name}_{what}" for name in columns.PREDICTIONS for what in ("mean", "std")]
    nothing = pd.DataFrame(0.0, index=frame.index, columns=names).assign(do_predict=0)
    return pd.concat([frame.drop(columns=nothing.columns, errors="ignore"), nothing], axis=1)


def pair_without_candles(config: Mapping[str, Any], pair: str) -> str | None:
    """Say why freqtrade's backtest has no candles of a pair, None where it has some.

    freqtrade itself goes on without such a pair, and FreqAI never hears of it.
    """
    kind = config.get("candle_type_def", CandleType.SPOT)
    timeframe, datadir = str(config["timeframe"]), Path(config["datadir"])
    handler = get_datahandler(datadir, config.get("dataformat_ohlcv", "feather"))
    first, last, n_candles = handler.ohlcv_data_min_max(pair, timeframe, kind)
    if not n_candles:
        return f"{pair}: no {timeframe} candles in {datadir}"
    period = TimeRange.parse_timerange(config.get("timerange"))
    if period.stopts and first.timestamp() >= period.stopts:
        return f"{pair}: its candles begin on {_day(first)}, after the end of the backtest"
    if last.timestamp() < period.startts:
        return f"{pair}: its candles end on {_day(last)}, before the backtest begins"
    return None


def check_trainable(
    candles: pd.DataFrame,
    trained: Sequence[TimeRange],
    tested: Sequence[TimeRange],
    pair: str,
    settings: Settings,
) -> None:
    """Check that every window of a backtest can be learned from, before the first one is.

    A first window that is not whole is trained on what there is, and the log says so.

    Parameters
    ----------
    candles : DataFrame
        All of the pair's, as FreqAI gets them.
    trained, tested : sequence of TimeRange
        FreqAI's windows, the first one first.
    pair : str
    settings : Settings

    Raises
    ------
    UntrainableError
        Says what the pair lacks.
    """
    dates, closes = candles["date"], candles["close"]
    first, last = dates.iloc[0], dates.iloc[-1]
    step = dates.diff().min()
    needed = 2 * (settings.window_size + 2)
    for train, test in zip(trained, tested, strict=False):
        seen = closes[(dates >= train.startdt) & (dates < train.stopdt)]
        is_tested = bool(((dates >= test.startdt) & (dates < test.stopdt)).any())
        if len(seen) < needed and first > train.startdt:
            raise UntrainableError(
                f"{_late(pair, first, train)}; begin the backtest later or download earlier candles"
            )
        # Whole windows that are too short for the network are no fault of the pair.
        is_short = len(seen) < needed and last + step < train.stopdt
        if is_short or not is_tested:
            raise UntrainableError(
                f"{pair}: its candles end on {_day(last)}, candles to {_day(test.stopdt)} are "
                "needed; end the backtest earlier or download later candles"
            )
        if seen.min() == seen.max():
            window = f"window {_day(train.startdt)} to {_day(dates[seen.index[-1]])}"
            raise UntrainableError(f"{pair}, {window}: column 'close' is constant ({seen.iloc[0]})")
    if first > trained[0].startdt:
        logger.warning("%s; it is trained on fewer", _late(pair, first, trained[0]))


def check_warm(
    error: MarketError, pair: str, first: datetime, train: TimeRange, warm_up: timedelta
) -> MarketError:
    """Return why a window cannot be learned from: where indicators are not warm yet, that.

    Parameters
    ----------
    error : MarketError
        What a check of the window's features found.
    pair : str
    first : datetime
        The pair's first candle.
    train : TimeRange
        The window.
    warm_up : timedelta
        What the strategy's ``startup_candle_count`` lasts.
    """
    if isinstance(error, UntrainableError) or first + warm_up <= train.startdt:
        return error
    return UntrainableError(
        f"{_late(pair, first, train)} and before them {_hours(warm_up)} for the indicators; begin "
        "the backtest later or download earlier candles"
    )


def _late(pair: str, first: datetime, train: TimeRange) -> str:
    days = (train.stopdt - train.startdt).days
    return (
        f"{pair}: its candles begin on {_day(first)}, {days} days before {_day(train.stopdt)} "
        "are needed"
    )


def _hours(span: timedelta) -> str:
    return f"{span / timedelta(hours=1):.0f} hours"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"

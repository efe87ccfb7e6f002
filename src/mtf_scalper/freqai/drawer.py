"""FreqAI's memory of a running bot, with all dates in one form.

freqtrade 2026.9 reads candles from feather and parquet files with dates in milliseconds and the
time zone ``ZoneInfo("UTC")``; those that it fetches are in microseconds, in ``timezone.utc``.
pandas 3.1 joins two time zone objects to a column of Python objects, however equal they are, and
merges it with no other. FreqAI joins the two at the first new candle, so that no training after it
would succeed.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.freqai.data_drawer import FreqaiDataDrawer
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy

from mtf_scalper.freqai.histories import complete, include_own_pair, without_duplicates

_DATES = pd.DatetimeTZDtype("us", UTC)  # what freqtrade makes of fetched candles


def in_one_form(frame: pd.DataFrame, column: str = "date") -> pd.DataFrame:
    """Return a frame whose dates are microseconds in ``datetime.timezone.utc``.

    Parameters
    ----------
    frame : DataFrame
        Its dates are datetimes of any unit and time zone (UTC where there is none), or such as
        Python objects; not changed.
    column : str
        Where the dates are.

    Returns
    -------
    DataFrame
        ``frame`` itself where there is nothing to do.
    """
    if column not in frame.columns:
        return frame
    dates = frame[column]
    # Two time zone objects of one name count as equal to pandas' types, not to its joins.
    if dates.dtype == _DATES and dates.dt.tz is UTC:
        return frame
    return frame.assign(
        **{column: pd.to_datetime(dates, utc=True).dt.tz_convert(UTC).astype(_DATES)}
    )


class Drawer(FreqaiDataDrawer):
    """FreqAI's own, whose candles and predictions can be joined with those that come."""

    _known: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def taking_over(cls, plain: FreqaiDataDrawer) -> Drawer:
        """Return one that goes on with what FreqAI's constructor has just read from disk."""
        drawer = cls.__new__(cls)
        drawer.__dict__.update(plain.__dict__)
        # The predictions of the bot's last life, which another version may have written.
        for pair, predictions in drawer.historic_predictions.items():
            drawer.historic_predictions[pair] = in_one_form(predictions, "date_pred")
        return drawer

    def load_all_pair_histories(self, timerange: TimeRange, dk: FreqaiDataKitchen) -> None:
        """Read the candles of all pairs from disk."""
        include_own_pair(dk)
        super().load_all_pair_histories(timerange, dk)
        self._unify()

    def update_historic_data(self, strategy: IStrategy, dk: FreqaiDataKitchen) -> None:
        """Append the candles that have closed since."""
        with self.history_lock:
            timeframes = self.freqai_info["feature_parameters"]["include_timeframes"]
            self._known = complete(self.historic_data, self._known, strategy, dk, timeframes)
        self._unify()
        super().update_historic_data(strategy, dk)
        self._unify()

    def get_base_and_corr_dataframes(
        self, timerange: TimeRange, pair: str, dk: FreqaiDataKitchen
    ) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Return what a training is made of; it runs while another thread appends candles."""
        self._unify()
        corr, base = super().get_base_and_corr_dataframes(timerange, pair, dk)
        return corr, base

    def attach_return_values_to_return_dataframe(
        self, pair: str, dataframe: pd.DataFrame
    ) -> pd.DataFrame:
        """Join a strategy's frame with what was predicted; FreqAI refuses a candle that has two."""
        self.model_return_values[pair] = without_duplicates(self.model_return_values[pair], pair)
        joined: pd.DataFrame = super().attach_return_values_to_return_dataframe(pair, dataframe)
        return joined

    def _unify(self) -> None:
        with self.history_lock:
            for frames in self.historic_data.values():
                for timeframe, candles in frames.items():
                    frames[timeframe] = in_one_form(candles)

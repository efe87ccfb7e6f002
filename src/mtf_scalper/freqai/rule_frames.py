"""What the classic rule needs of freqtrade on any timeframe: its candles, and what is drawn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from freqtrade.data.dataprovider import DataProvider

from mtf_scalper.freqai import columns
from mtf_scalper.market.candles import resample_candles, with_earlier_candles

logger = logging.getLogger(__name__)


def included_timeframes(config: Mapping[str, Any]) -> list[str] | None:
    """Return FreqAI's ``include_timeframes``, None where the configuration has none."""
    parameters = (config.get("freqai") or {}).get("feature_parameters") or {}
    included = parameters.get("include_timeframes")
    return None if included is None else [str(each) for each in included]


def log_added(timeframes: Sequence[str], included: Sequence[str] | None) -> None:
    """Say which timeframes the rule looks at that the configuration does not name."""
    added = [] if included is None else [each for each in timeframes[1:] if each not in included]
    if added:
        logger.warning(
            "freqai.feature_parameters.include_timeframes: %s has fewer than two timeframes above "
            "the base %r; the classic rule looks at %s as well",
            included,
            timeframes[0],
            " and ".join(added),
        )


def longer_candles(
    provider: DataProvider | None,
    frame: pd.DataFrame,
    pair: str,
    timeframes: Sequence[str],
    included: Sequence[str] | None,
) -> dict[str, pd.DataFrame]:
    """Return the candles of the rule's longer timeframes.

    They are made of the base's. Before them stand those that freqtrade has loaded for FreqAI, as
    many as of the base: the base's first candles span too few of them for ADX to settle.

    Parameters
    ----------
    provider : DataProvider or None
        The strategy's.
    frame : DataFrame
        Base candles.
    pair : str
    timeframes : sequence of str
        Of ``entry_timeframes``.
    included : sequence of str or None
        FreqAI's ``include_timeframes``.
    """
    base, *longer = timeframes
    higher = {each: resample_candles(frame, each, base) for each in longer}
    for timeframe in longer:
        if provider is not None and timeframe in (included or ()):
            earlier = provider.get_pair_dataframe(pair, timeframe)
            higher[timeframe] = with_earlier_candles(higher[timeframe], earlier, timeframe)
    return higher


def plots(timeframes: Sequence[str]) -> dict[str, Any]:
    """Return what freqtrade draws: the base's averages, the agent, ADX of every timeframe."""
    base = timeframes[0]
    return {
        "main_plot": {f"ema_{period}_{base}": {} for period in (9, 21, 200)},
        "subplots": {
            "agent": {
                columns.CONFIDENCE: {"color": "gray"},
                "agent_exit_long": {"color": "orange"},
                "agent_exit_short": {"color": "purple"},
            },
            "ADX": {f"adx_14_{timeframe}": {} for timeframe in timeframes},
        },
    }

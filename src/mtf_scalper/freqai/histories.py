"""Candles of pairs that FreqAI would stumble over in a running bot.

FreqAI (freqtrade 2026.9) appends new candles to those of all pairs of the configured list, whenever
one pair is analysed. A pair of that list without stored candles, or whose stored candles end before
those of the exchange begin, stops the analysis of all; a pair that left the list with an open trade
has none to append to, and is never analysed again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy

from mtf_scalper.errors import MarketError

logger = logging.getLogger(__name__)

Histories = dict[str, dict[str, pd.DataFrame]]


def include_own_pair(dk: FreqaiDataKitchen) -> None:
    """Count the pair that is analysed among all pairs, whether it is in the list or not."""
    if dk.pair not in dk.all_pairs:
        dk.all_pairs.append(dk.pair)


def complete(
    histories: Histories,
    known: frozenset[tuple[str, str]],
    strategy: IStrategy,
    dk: FreqaiDataKitchen,
    timeframes: Sequence[str],
) -> frozenset[tuple[str, str]]:
    """Let new candles be appended to those of every pair that has any.

    Parameters
    ----------
    histories : dict
        FreqAI's candles by pair and timeframe; what is missing is put in.
    known : frozenset of (pair, timeframe)
        Those that were looked at before: candles have been appended since.
    strategy : IStrategy
        Its data provider has what the exchange has given.
    dk : FreqaiDataKitchen
        A pair without any candles is taken out of its ``all_pairs``.
    timeframes : sequence of str

    Returns
    -------
    frozenset of (pair, timeframe)
        ``known``, with those that are complete now.

    Raises
    ------
    MarketError
        If the pair that is analysed has no candles at all.
    """
    if dk.pair not in dk.all_pairs and all(pair != dk.pair for pair, _ in known):
        logger.warning(
            "%s: is not in exchange.pair_whitelist; it is analysed while it has an open trade, "
            "with the model that it has; to enter it again put it back",
            dk.pair,
        )
    include_own_pair(dk)
    done = set(known)
    for pair in list(dk.all_pairs):
        frames = histories.setdefault(pair, {})
        for timeframe in timeframes:
            if (pair, timeframe) in done:
                continue
            told = strategy.dp.get_pair_dataframe(pair, timeframe)
            if _begins_anew(frames.get(timeframe), told):
                _tell(pair, timeframe, frames.get(timeframe), told)
                frames[timeframe] = told
            if len(frames.get(timeframe, ())):
                done.add((pair, timeframe))
        lacking = [each for each in timeframes if (pair, each) not in done]
        if lacking and pair == dk.pair:
            raise MarketError(
                f"{pair}: neither the disk nor the exchange has candles of {', '.join(lacking)}; "
                "take the pair out of the pair list, or look why the exchange gives none"
            )
        if lacking:
            dk.all_pairs.remove(pair)
    return frozenset(done)


def _begins_anew(stored: pd.DataFrame | None, told: pd.DataFrame) -> bool:
    """Return whether the exchange's candles cannot be appended to the stored ones."""
    if told.empty:
        return False
    return stored is None or stored.empty or stored["date"].iloc[-1] < told["date"].iloc[0]


def _tell(pair: str, timeframe: str, stored: pd.DataFrame | None, told: pd.DataFrame) -> None:
    has = "there are none" if stored is None or stored.empty else "they end too early"
    logger.warning(
        "%s: stored candles of %s cannot be gone on from, %s: trainings have the %d candles from "
        "%s on alone; for more, run `freqtrade download-data` and start the bot again",
        pair,
        timeframe,
        has,
        len(told),
        f"{told['date'].iloc[0]:%Y-%m-%d %H:%M}",
    )


def without_duplicates(kept: pd.DataFrame, pair: str) -> pd.DataFrame:
    """Return predictions with one row a candle; where there were two, nobody knows which holds."""
    twice = kept["date_pred"].duplicated(keep=False)
    if not twice.any():
        return kept
    logger.warning(
        "%s: %d candles have more than one prediction, the first that of %s: they count as none",
        pair,
        int(kept.loc[twice, "date_pred"].nunique()),
        f"{kept.loc[twice, 'date_pred'].iloc[0]:%Y-%m-%d %H:%M}",
    )
    once = kept.assign(do_predict=kept["do_predict"].where(~twice, 0))
    return once[~once["date_pred"].duplicated(keep="last")].reset_index(drop=True)

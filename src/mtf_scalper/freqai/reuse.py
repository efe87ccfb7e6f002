"""Keeps FreqAI from reusing models and predictions made from other candles or other features.

FreqAI finds them by identifier, pair and date alone. Every training notes a digest of its candles
beside its model, and every prediction of its own; a backtest that finds such notes compares them
with the candles that it has now. All that features and environments are made from counts: candles
of every timeframe, of correlated pairs, mark prices and funding rates. The names of a model's
features stand in FreqAI's metadata beside it, in the network's order. Settings and code are
compared by ``config.check_identifier``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType
from pandas import DataFrame, Timestamp

from mtf_scalper.errors import MarketError, SettingsError
from mtf_scalper.market.names import feature_difference
from mtf_scalper.records.events import EVENTS_FILE, EventLog, read_events
from mtf_scalper.records.manifest import candle_digest

_TRAINED, _PREDICTED = "candles", "predicted_candles"
_MADE = {_TRAINED: "a model", _PREDICTED: "predictions"}


@dataclass(frozen=True)
class _Note:
    """The candles of one training or prediction: period, and digests by what they are."""

    pair: str
    first: Timestamp
    last: Timestamp
    digests: Mapping[str, Any]

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> _Note | None:
        """Return the note of an event; None of one that is damaged, as of one that is torn."""
        pair, digests = event.get("pair"), event.get("digests", {})
        try:
            first, last = Timestamp(event["first"]), Timestamp(event["last"])
        except (KeyError, TypeError, ValueError):
            return None
        has_zones = first.tzinfo is not None and last.tzinfo is not None
        if not isinstance(pair, str) or not isinstance(digests, Mapping) or not has_zones:
            return None
        return cls(pair, first, last, digests)

    def changed(self, frames: Mapping[str, DataFrame]) -> str | None:
        """Return which candles of the period are others now, None if none are."""
        candles = next(iter(frames.values()))
        if self.first < candles["date"].iloc[0] or self.last > candles["date"].iloc[-1]:
            return None
        for name, digest in self.digests.items():
            if name in frames and _digest(frames[name], self.first, self.last) != digest:
                return name
        return None


def source_frames(
    config: Mapping[str, Any], provider: DataProvider, pair: str, candles: DataFrame
) -> dict[str, DataFrame]:
    """Return all that a pair's features and environments are made from, the pair's candles first.

    Parameters
    ----------
    config : mapping
        freqtrade's.
    provider : DataProvider
        Of a backtest: it reads every file once.
    pair : str
    candles : DataFrame
        The pair's own, of the strategy's timeframe.

    Returns
    -------
    dict of str to DataFrame
        By what it is: ``"5m"``, ``"1h"``, ``"1h mark"``, ``"ETH/USDT:USDT 5m"``.
    """
    base = str(config["timeframe"])
    frames = {base: candles}
    wanted = config["freqai"].get("feature_parameters", {})
    timeframes = [str(each) for each in wanted.get("include_timeframes", [])]
    for other in (pair, *wanted.get("include_corr_pairlist", [])):
        for timeframe in timeframes:
            if (other, timeframe) != (pair, base):
                name = timeframe if other == pair else f"{other} {timeframe}"
                frames[name] = provider.get_pair_dataframe(other, timeframe)
    exchange = provider._exchange  # freqtrade offers no public way to it
    if exchange is not None and exchange.trading_mode == "futures":
        for option, kind in (
            ("mark_ohlcv_timeframe", CandleType.MARK),
            ("funding_fee_timeframe", CandleType.FUNDING_RATE),
        ):
            timeframe = str(exchange.get_option(option))
            found = provider.get_pair_dataframe(pair, timeframe, kind)
            frames[f"{timeframe} {kind}"] = found
    return frames


def note_candles(events: EventLog, frames: Mapping[str, DataFrame]) -> None:
    """Write the digests of a training window's candles to the window's events.

    Parameters
    ----------
    events : EventLog
    frames : mapping of str to DataFrame
        From ``source_frames``; the first one is the window, of the others its period counts.
    """
    _note(events, _TRAINED, frames)


def note_predicted(events: EventLog, frames: Mapping[str, DataFrame]) -> None:
    """Write the digests of the candles that a window's predictions were made from."""
    _note(events, _PREDICTED, frames)


def check_same_candles(models_folder: Path, pair: str, frames: Mapping[str, DataFrame]) -> None:
    """Compare the candles that models and predictions were made from with those of this run.

    Parameters
    ----------
    models_folder : Path
        The identifier's folder.
    pair : str
    frames : mapping of str to DataFrame
        All candles of this run; windows that reach beyond them are left out, FreqAI has no use
        for them in this run either.

    Raises
    ------
    SettingsError
        Names the identifier, the pair, the window and the candles.
    """
    coin = pair.split("/")[0]
    for path in sorted(models_folder.glob(f"sub-train-{coin}_*/{EVENTS_FILE}")):
        for event, made in _MADE.items():
            notes = [note for note in map(_Note.of, read_events(path, event)) if note is not None]
            notes = [note for note in notes if note.pair == pair]
            if not notes:
                continue
            changed = notes[-1].changed(frames)
            if changed is not None:
                last = notes[-1].last
                raise SettingsError(
                    f"freqai.identifier: {models_folder.name!r} holds {made} of {pair} to "
                    f"{last:%Y-%m-%d} made from other candles ({changed}); choose a new "
                    "identifier or delete its folder under user_data/models"
                )


def _note(events: EventLog, event: str, frames: Mapping[str, DataFrame]) -> None:
    window = next(iter(frames.values()))
    first, last = window["date"].iloc[0], window["date"].iloc[-1]
    digests = {name: _digest(frame, first, last) for name, frame in frames.items()}
    events.write(event, first=first.isoformat(), last=last.isoformat(), digests=digests)


def _digest(frame: DataFrame, first: Timestamp, last: Timestamp) -> str:
    dates = frame["date"]
    return candle_digest(frame[(dates >= first) & (dates <= last)])


def check_features(trained: Sequence[str] | None, given: Sequence[str], pair: str) -> None:
    """Compare the names and the order of the features with those that a model was trained on.

    Parameters
    ----------
    trained, given : sequence of str
        Features of the training, None where they are not known, and those of this run.
    pair : str

    Raises
    ------
    MarketError
        One line that names the pair and the first feature that is missing, unknown or moved.
    """
    if trained is not None and list(given) == list(trained):
        return
    if trained is None:
        problem = "the features that the model was trained on are not known"
    else:
        problem = feature_difference(trained, given)
    raise MarketError(
        f"{pair}: {problem}; restore the strategy's features, or train under a new identifier"
    )

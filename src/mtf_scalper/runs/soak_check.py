"""What a bot decided beside what a backtest with the same weights decides on the same candles.

freqtrade's own backtester loads the candles and its strategy analyses them whole. In FreqAI's place
stands what loads the models that the bot has left, and predicts each candle with the one that the
bot had there. Then the strategy is asked what the bot's was asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.strategy import IStrategy

from mtf_scalper.freqai.decision_log import (
    EXITS,
    SIGNALS,
    answer_again,
    decision_of,
    is_late,
    read_decisions,
)
from mtf_scalper.freqai.model import MtfScalperRLModel
from mtf_scalper.simulator.types import ExitReason

_TOLERANCE = 1e-9


@dataclass
class Agreement:
    """How far the decisions of a bot and of a backtest agree.

    Attributes
    ----------
    candles : int
        Candles that the bot decided with a prediction, all pairs together.
    missed : list of str
        Candles between the first and the last of a pair that it decided without one, or not at
        all.
    asked : dict of str to int
        How often leverage, stake and exit were asked.
    late : int
        How often they were asked between the close of a candle and its analysis; such answers are
        made on an older candle and not compared, but none of them may be the agent's exit.
    unequal : list of str
        One line for each decision that differs.
    largest_difference : float
        Largest difference of a chance of leaving.
    """

    candles: int = 0
    missed: list[str] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    late: int = 0
    unequal: list[str] = field(default_factory=list)
    largest_difference: float = 0.0

    @property
    def share(self) -> float:
        """Part of the decisions that are equal; 0 where nothing was decided."""
        total = self.candles + sum(self.asked.values())
        return 1.0 - len(self.unequal) / total if total else 0.0


class SavedModels:
    """Stands where the strategy expects FreqAI's model, and predicts with models on disk.

    Parameters
    ----------
    config : mapping
        freqtrade's, with the bot's identifier.
    used : mapping of str to mapping
        By pair: folder name of the model, by the candle that it predicted.
    """

    def __init__(
        self, config: Mapping[str, Any], used: Mapping[str, Mapping[pd.Timestamp, str]]
    ) -> None:
        self._config = config
        self._used = used
        self._model = MtfScalperRLModel(config=config)
        self._model.live = False
        self.decisions = self._model.decisions

    def start(
        self, dataframe: pd.DataFrame, metadata: Mapping[str, Any], strategy: IStrategy
    ) -> pd.DataFrame:
        """Return the frame with predictions, as FreqAI's method of this name does."""
        pair, model = str(metadata["pair"]), self._model
        model.data_provider = strategy.dp
        model.dd.set_pair_dict_info({"pair": pair})
        kitchen = FreqaiDataKitchen(self._config, False, pair)
        frame = kitchen.use_strategy_to_populate_indicators(
            strategy, prediction_dataframe=dataframe, pair=pair
        )
        frame = kitchen.remove_special_chars_from_feature_names(frame)
        used = frame["date"].map(self._used.get(pair, {}))
        predicted = pd.DataFrame(index=frame.index)
        for name in used.dropna().unique():
            mine = self._predicted(pair, str(name), frame, kitchen)
            predicted = predicted.reindex(columns=mine.columns, fill_value=0.0)
            predicted.loc[used == name] = mine.loc[used == name]
        known = kitchen.remove_features_from_df(frame)
        others = known.drop(columns=predicted.columns, errors="ignore")
        whole: pd.DataFrame = pd.concat([others, predicted], axis=1)
        return whole

    def _predicted(
        self, pair: str, name: str, frame: pd.DataFrame, kitchen: FreqaiDataKitchen
    ) -> pd.DataFrame:
        drawer = self._model.dd
        coin, stamp = name.removeprefix("sub-train-").rsplit("_", 1)
        kitchen.set_new_model_names(pair, int(stamp))
        drawer.pair_dict[pair]["model_filename"] = f"cb_{coin.lower()}_{stamp}"
        for memory in (drawer.meta_data_dictionary, drawer.model_dictionary):
            memory.pop(pair, None)
        self._model.model = drawer.load_data(pair, kitchen)
        values, valid = self._model.predict(frame, kitchen)
        valid_rows = np.asarray(valid, dtype=np.float64)
        predicted: pd.DataFrame = values.set_index(frame.index).assign(do_predict=valid_rows)
        return predicted


def check_decisions(
    config: dict[str, Any], log: Path, predictions: Sequence[Mapping[str, Any]]
) -> Agreement:
    """Compare the decisions of a bot with those of freqtrade's backtester.

    Parameters
    ----------
    config : dict
        freqtrade's, loaded for a backtest of the period, with the bot's identifier.
    log : Path
        What ``log_decisions`` wrote.
    predictions : sequence of mapping
        The predictions of the bot's record: pair, window and date of each.
    """
    used: dict[str, dict[pd.Timestamp, str]] = defaultdict(dict)
    for each in predictions:
        used[str(each["pair"])][pd.Timestamp(each["date"])] = str(each["window"])
    decisions = list(read_decisions(log))
    backtesting = Backtesting(config)
    try:
        strategy = backtesting.strategylist[0]
        models = SavedModels(config, used)

        def load() -> None:
            strategy.freqai, strategy.freqai_info = models, config["freqai"]

        strategy.load_freqAI_model = load
        backtesting._set_strategy(strategy)
        data, _ = backtesting.load_bt_data()
        frames = strategy.advise_all_indicators(data)
        frames = {
            pair: strategy.ft_advise_signals(frame.copy(), {"pair": pair}).set_index(
                "date", drop=False
            )
            for pair, frame in frames.items()
        }
        return compared(strategy, frames, decisions)
    finally:
        backtesting.exchange.close()
        Backtesting.cleanup()


def compared(
    strategy: IStrategy, frames: Mapping[str, pd.DataFrame], decisions: list[dict[str, Any]]
) -> Agreement:
    """Compare decisions with those of a strategy that has analysed the frames, by date."""
    found = Agreement()
    for line in _candle_lines(
        found, frames, [each for each in decisions if each["kind"] == "candle"]
    ):
        found.unequal.append(line)
    for each in decisions:
        if each["kind"] == "candle":
            continue
        if is_late(each, strategy.timeframe):
            found.late += 1
            if each["answer"] == ExitReason.AGENT:
                found.unequal.append(
                    f"{each['pair']} {each['time']}: left by the agent, who had not seen the candle"
                )
            continue
        found.asked[each["kind"]] += 1
        answer = answer_again(strategy, each)
        if not _same(answer, each["answer"]):
            found.unequal.append(
                f"{each['pair']} {each['time']}: {each['kind']} {each['answer']}, in the backtest "
                f"{answer}"
            )
    return found


def _candle_lines(
    found: Agreement, frames: Mapping[str, pd.DataFrame], candles: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Count candles, and yield a line for each that the backtest decides otherwise."""
    by_pair: dict[str, dict[pd.Timestamp, Mapping[str, Any]]] = defaultdict(dict)
    for each in candles:
        by_pair[each["pair"]][pd.Timestamp(each["date"])] = each
    for pair, decided in by_pair.items():
        dates = sorted(date for date, each in decided.items() if each["predicted"])
        if not dates:
            continue
        frame = frames[pair]
        for date in frame.index[(frame.index >= dates[0]) & (frame.index <= dates[-1])]:
            live = decided.get(date)
            if live is None or not live["predicted"]:
                found.missed.append(f"{pair} {date:%Y-%m-%d %H:%M}")
                continue
            found.candles += 1
            tested = decision_of(frame.loc[date])
            off = max(abs(live[name] - tested[name]) for name in EXITS)
            found.largest_difference = max(found.largest_difference, off)
            names = [name for name in (*SIGNALS, "predicted") if live[name] != tested[name]]
            names += [name for name in EXITS if (live[name] > 0.5) != (tested[name] > 0.5)]
            if names:
                told = ", ".join(f"{name} {live[name]} and {tested[name]}" for name in names)
                yield f"{pair} {date:%Y-%m-%d %H:%M}: {told} in the backtest"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - float(other)) <= _TOLERANCE * max(1.0, abs(one))
    return bool((one or None) == (other or None))

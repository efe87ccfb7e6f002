"""What a strategy decided, written down while it trades, and asked of another one afterwards.

A line of the log is one decision and all that it was asked with. The strategy of a backtest, which
has the same weights and whole frames of candles, is asked the same later: see ``answers``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from freqtrade.exchange import timeframe_to_prev_date, timeframe_to_seconds
from freqtrade.strategy import IStrategy

from mtf_scalper.freqai.columns import LEVERAGE

SIGNALS = ("enter_long", "enter_short")
EXITS = ("agent_exit_long", "agent_exit_short")
_TRADE = (
    *("id", "pair", "is_short", "leverage", "open_rate", "open_date_utc", "date_entry_fill_utc"),
    *("fee_open", "fee_close", "stake_amount", "enter_tag"),
)
_ASKED = ("current_rate", "current_profit", "side", "proposed_leverage", "max_leverage")
_STAKES = ("proposed_stake", "min_stake", "max_stake", "leverage")
_DATES = ("open_date_utc", "date_entry_fill_utc")


def log_decisions(strategy: IStrategy, file: Path) -> None:
    """Let a strategy of a running bot write down its decisions from now on.

    Its methods are replaced on the instance: its class stays what freqtrade has loaded.

    Parameters
    ----------
    strategy : IStrategy
    file : Path
        One JSON object per line: ``kind`` is ``candle`` (signals, chances of leaving, leverage, the
        real seconds that the pair's analysis took, and whether a training ran beside it),
        ``leverage``, ``stake`` or ``exit``. The latter have ``candle``, the newest one that the
        strategy had analysed.
    """
    log = _Log(strategy, file)
    for name in ("populate_indicators", "populate_exit_trend", "leverage"):
        setattr(strategy, name, getattr(log, name)(getattr(strategy, name)))
    for name in ("custom_stake_amount", "custom_exit"):
        setattr(strategy, name, getattr(log, name)(getattr(strategy, name)))


class _Log:
    """Wraps the methods of one strategy."""

    def __init__(self, strategy: IStrategy, file: Path) -> None:
        self._strategy = strategy
        self._file = file
        self._began = 0.0
        self._is_beside_training = False
        self._asked: dict[Any, datetime] = {}
        self._analysed: dict[str, str] = {}

    def populate_indicators(self, method: Callable[..., pd.DataFrame]) -> Callable[..., Any]:
        def wrapped(frame: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
            self._began = time.perf_counter()
            self._is_beside_training = self._is_training()
            return method(frame, metadata)

        return wrapped

    def populate_exit_trend(self, method: Callable[..., pd.DataFrame]) -> Callable[..., Any]:
        def wrapped(frame: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
            result = method(frame, metadata)
            row = decision_of(result.iloc[-1])
            if threading.current_thread() is threading.main_thread():
                self._analysed[metadata["pair"]] = row["date"]
            seconds = time.perf_counter() - self._began
            beside = self._is_beside_training or self._is_training()
            self._write("candle", pair=metadata["pair"], seconds=seconds, training=beside, **row)
            return result

        return wrapped

    def leverage(self, method: Callable[..., float]) -> Callable[..., float]:
        return self._answered("leverage", method, _ASKED)

    def custom_stake_amount(self, method: Callable[..., float]) -> Callable[..., float]:
        return self._answered("stake", method, (*_STAKES, "current_rate", "side"))

    def _answered(
        self, kind: str, method: Callable[..., float], names: tuple[str, ...]
    ) -> Callable[..., float]:
        def wrapped(**arguments: Any) -> float:
            answer = method(**arguments)
            if threading.current_thread() is not threading.main_thread():
                return answer  # FreqAI's thread asks for the leverage of a training's candles
            told = {name: arguments.get(name) for name in names}
            total = 0.0 if self._strategy.wallets is None else _total(self._strategy)
            self._write(
                kind,
                pair=arguments["pair"],
                time=arguments["current_time"].isoformat(),
                arguments=told,
                total=total,
                answer=answer,
            )
            return answer

        return wrapped

    def custom_exit(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Write the first answer of each candle, and every one that leaves."""

        def wrapped(**arguments: Any) -> Any:
            answer = method(**arguments)
            trade = arguments["trade"]
            moment = arguments["current_time"]
            candle = timeframe_to_prev_date(self._strategy.timeframe, moment)
            if answer or self._asked.get(trade.id) != candle:
                self._asked[trade.id] = candle
                facts: dict[str, Any] = {name: getattr(trade, name, None) for name in _TRADE}
                facts |= {name: facts[name].isoformat() for name in _DATES if facts[name]}
                self._write(
                    "exit",
                    pair=arguments["pair"],
                    time=moment.isoformat(),
                    trade=facts,
                    arguments={name: arguments.get(name) for name in _ASKED[:2]},
                    answer=answer,
                )
            return answer

        return wrapped

    def _is_training(self) -> bool:
        return bool(getattr(self._strategy.freqai, "is_training", False))

    def _write(self, kind: str, **facts: Any) -> None:
        if kind != "candle":
            facts["candle"] = self._analysed.get(facts["pair"])
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **facts}) + "\n")


def decision_of(row: pd.Series) -> dict[str, Any]:
    """Return what was decided at one row of a strategy's frame."""
    numbers = [*EXITS, LEVERAGE]
    return {
        "date": row["date"].isoformat(),
        "predicted": bool(row["do_predict"] == 1) and bool(sum(row[name] for name in EXITS) > 0.0),
        **{name: int(row[name]) for name in SIGNALS},
        **{name: float(row[name]) for name in numbers},
    }


def read_decisions(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the decisions of a log; a torn last line is left out."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def is_late(decision: Mapping[str, Any], timeframe: str) -> bool:
    """Return whether a newer candle had closed than the newest that was decided on.

    A backtest knows no such moment: there a candle is analysed as soon as it has closed.
    """
    newest = timeframe_to_prev_date(timeframe, datetime.fromisoformat(decision["time"]))
    step = timedelta(seconds=timeframe_to_seconds(timeframe))
    candle = decision["candle"]
    return candle is None or datetime.fromisoformat(candle) + step < newest


def answer_again(strategy: IStrategy, decision: Mapping[str, Any]) -> Any:
    """Ask a strategy what another one was asked: leverage, stake or exit.

    Parameters
    ----------
    strategy : IStrategy
        It has analysed the candles.
    decision : mapping
        As ``read_decisions`` has it, of any kind but ``candle``.
    """
    common = {
        "pair": decision["pair"],
        "current_time": datetime.fromisoformat(decision["time"]),
        **decision["arguments"],
    }
    if decision["kind"] == "exit":
        facts = dict(decision["trade"])
        facts |= {name: datetime.fromisoformat(facts[name]) for name in _DATES if facts[name]}
        return strategy.custom_exit(trade=SimpleNamespace(**facts), **common)
    if decision["kind"] == "leverage":
        return strategy.leverage(entry_tag=None, **common)
    strategy.wallets = SimpleNamespace(get_total_stake_amount=lambda: decision["total"])
    return strategy.custom_stake_amount(entry_tag=None, **common)


def _total(strategy: IStrategy) -> float:
    return float(strategy.wallets.get_total_stake_amount())

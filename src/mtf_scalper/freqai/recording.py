"""The record of a freqtrade program that trains or trades with the model.

``freqtrade backtesting`` and ``freqtrade trade`` leave a run record of their own; a program that
was started by one of this package's runs writes into that run's (``MTF_SCALPER_RUN`` names the
folder, ``off`` stands for none). Whatever else uses the model leaves nothing: hyperopt, the
analyses, the web server, a call from Python.

A bot goes on trading whatever becomes of its record: where one cannot be written, the log says so
once.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.persistence import LocalTrade, Trade

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.evaluation.judge import Judged
from mtf_scalper.evaluation.judge_into import (
    JUDGED_EVENT,
    judge_into,
    verdict_checks,
    verdict_sentence,
)
from mtf_scalper.evaluation.left_out_pairs import LEFT_OUT, left_out_note
from mtf_scalper.evaluation.trades import as_row, from_freqtrade
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.lifecycle import KINDS, Fate, kind_of_program
from mtf_scalper.kept_files import KeptFilesError, read_list
from mtf_scalper.lifetimes import end_with_parent
from mtf_scalper.market.market import Market
from mtf_scalper.records import files
from mtf_scalper.records.events import WEIGHTS
from mtf_scalper.records.files import RecordError
from mtf_scalper.records.manifest import datadir_digests
from mtf_scalper.records.reader import PROBABILITIES, Run
from mtf_scalper.records.sampler import ProcessSampler
from mtf_scalper.records.writer import RUN_OFF, RUN_VARIABLE, RunRecord
from mtf_scalper.settings import Settings

logger = logging.getLogger(__name__)

_CANDLE = ("open", "high", "low", "close", "volume")
_SAMPLE_SECONDS = {"backtest": 1.0}
_SLOW_SAMPLE_SECONDS = 10.0  # of a bot that runs for months


class ProgramRecord:
    """What the model and the strategy tell of; silent where there is no record.

    Parameters
    ----------
    record : RunRecord or None
    kind : str
        ``"backtest"``, ``"dry-run"`` or ``"live"``.
    is_own : bool
        Whether this program began the record and so samples itself and ends it.
    config : mapping
        freqtrade's.
    """

    _current: ProgramRecord | None = None

    def __init__(
        self,
        record: RunRecord | None = None,
        kind: str = "backtest",
        *,
        is_own: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._record = record
        self._kind = kind
        self._is_own = is_own
        self._config = config or {}
        self._began = datetime.now(UTC)
        self._pid = os.getpid()
        self._sampler: ProcessSampler | None = None
        self._fate = Fate()
        self._failure: str | None = None
        self._profits: dict[int, float] = {}
        self._may_have_closed = False
        self._open_phases: dict[str, dict[str, Any]] = {}
        self._settings = Settings()
        self._markets: dict[str, Market] = {}
        self._not_judged: str | None = None
        self._pairs: Sequence[str] = ()
        self._left_out: dict[str, str] = {}
        self._weights: dict[tuple[str, str], int] = {}

    @classmethod
    def begin(
        cls, config: Mapping[str, Any], settings: Settings, provider: DataProvider
    ) -> ProgramRecord:
        """Begin the record of this program, or join the one that it is told of."""
        if cls._current is not None:  # of the strategy before, where several are backtested
            cls._current.end()
        cls._current = None
        kind = KINDS.get(provider.runmode)
        told = os.environ.get(RUN_VARIABLE)
        is_asked = bool(told) or kind_of_program(provider.runmode) is not None
        if kind is None or told == RUN_OFF or not is_asked:
            return cls()
        try:
            pairs = provider.current_whitelist()
            record = RunRecord(Path(told)) if told else _begin(config, settings, pairs, kind)
            found = cls(record, kind, is_own=not told, config=config)
            found._settings, found._pairs = settings, pairs
            found._start(settings)
        except (OSError, RecordError) as error:
            logger.warning("this run leaves no record: %s", error)
            return cls()
        cls._current = found
        return found

    @property
    def event_files(self) -> tuple[Path, ...]:
        """Files that events of trainings and predictions go to besides their own."""
        return () if self._record is None else (self._record.folder / files.EVENTS,)

    def windows(
        self, pair: str, names: Sequence[str], trained: Sequence[TimeRange], tested: Sequence[Any]
    ) -> None:
        """Note the windows of a backtest before the first one is trained."""
        for name, train, test in zip(names, trained, tested, strict=False):
            self.event(
                "window",
                pair=pair,
                window=name,
                train_from=train.startdt.isoformat(),
                train_to=train.stopdt.isoformat(),
                test_to=test.stopdt.isoformat(),
            )

    def event(self, event: str, **facts: Any) -> None:
        """Write an event."""
        with self._writing() as record:
            if record is not None:
                record.events().write(event, **facts)

    def phase(self, name: str | None, pair: str | None = None) -> None:
        """Note that a phase of the main program begins, and the one before it ends."""
        for open_name, facts in list(self._open_phases.items()):
            if open_name != name:
                del self._open_phases[open_name]
                self.event("phase", **facts, state="ended")
        if name is not None and name not in self._open_phases:
            facts = {"name": name, **({} if pair is None else {"pair": pair})}
            self._open_phases[name] = facts
            self.event("phase", **facts, state="began")

    def candles(self, pair: str, candles: pd.DataFrame, since: datetime) -> None:
        """Write the candles that a backtest trades."""
        names = ["date", "open", "high", "low", "close", "volume"]
        with self._writing() as record:
            if record is not None:
                record.write_candles(pair, candles.loc[candles["date"] >= since, names])

    def traded(self, pair: str, build: Callable[[], Market]) -> None:
        """Keep what a backtest trades, so that it can be judged at its end.

        Parameters
        ----------
        pair : str
        build : callable
            Returns the market; where it cannot, the log says why when the backtest ends.
        """
        if self._record is None or self._kind != "backtest":
            return
        try:
            self._markets[pair] = build()
        except MtfScalperError as error:
            self._not_judged = str(error)

    def predictions(
        self,
        pair: str,
        window: str,
        candles: pd.DataFrame,
        predicted: pd.DataFrame,
        *,
        is_live: bool,
    ) -> None:
        """Write the predictions of a window, or live the latest candle and those of it.

        Parameters
        ----------
        pair, window : str
        candles : DataFrame, shape (T, ...)
            With ``date``, live with prices and volume as well.
        predicted : DataFrame, shape (T, ...)
            With the model's columns.
        is_live : bool
        """
        table = pd.DataFrame({"date": candles["date"].to_numpy()})
        table["date"] = pd.to_datetime(table["date"], utc=True)
        for ours, name in zip(PROBABILITIES, columns.PROBABILITIES, strict=True):
            table[ours] = predicted[name].to_numpy(dtype=np.float32)
        table["confidence"] = predicted[columns.CONFIDENCE].to_numpy(dtype=np.float32)
        with self._writing() as record:
            if record is None:
                return
            if is_live:
                candle = candles[list(_CANDLE)].iloc[-1].astype(float)
                latest = {**table.iloc[-1], **candle}
                record.append_predictions([{"pair": pair, "window": window, **latest}])
            elif not record.has_predictions(pair, window):
                record.write_predictions(pair, table, window)

    def weights(
        self,
        pair: str,
        window: str,
        digest: Callable[[], str],
        model: object,
        policy: str | None = None,
    ) -> None:
        """Note which weights predict a window, or live from now on, where they are others.

        Parameters
        ----------
        pair, window : str
        digest : callable
            Returns the SHA-256 of the weights.
        model : object
            What has them.
        policy : str, optional
            Name of the frozen policy.
        """
        if self._record is None or self._weights.get((pair, window)) == id(model):
            return
        self._weights[pair, window] = id(model)
        self.event(WEIGHTS, pair=pair, window=window, digest=digest(), policy=policy)

    def reused(self, pair: str, folder: Path) -> None:
        """Note the weights that have made a window's predictions in an earlier run."""
        if self._record is None or (pair, folder.name) in self._weights:
            return
        try:
            digest = read_list(folder).get("weights")
        except KeptFilesError:
            return
        if digest is not None:
            self.event(WEIGHTS, pair=pair, window=folder.name, digest=digest, policy=None)

    def order_filled(self) -> None:
        """Note that a trade may be about to close."""
        self._may_have_closed = True

    def loop_started(self) -> None:
        """Write the trades that have closed since the loop before."""
        if self._record is None:
            return
        if self._kind == "backtest" and "backtest" not in self._open_phases:
            self.phase("backtest")
        if self._may_have_closed:
            self._may_have_closed = False
            self.trades()

    def trades(self) -> None:
        """Write the trades that have closed and are not written yet."""
        with self._writing() as record:
            if record is None:
                return
            fresh = [trade for trade in self._closed() if trade.id not in self._profits]
            record.append_trades(_row(trade, self._settings.random_state) for trade in fresh)
            self._profits |= {trade.id: float(trade.close_profit or 0.0) for trade in fresh}

    def left_out(self, pair: str, reason: str) -> None:
        """Note that the run goes on without a pair, and what the pair lacks."""
        self._left_out[pair] = reason
        self.event(LEFT_OUT, pair=pair, reason=reason)

    def failed(self, error: str) -> None:
        """Note why the program is about to end."""
        self._failure = error

    def end(self) -> None:
        """Write what is missing; stop sampling and end the record, if it is this program's own."""
        if os.getpid() != self._pid:
            return
        atexit.unregister(self.end)
        try:
            self.trades()
            self.phase(None)
            self._end_record()
            if self._sampler is not None:
                self._sampler.__exit__(None, None, None)
        except Exception:  # the program is ending, and has other things to clean up
            logger.exception("the record of this run could not be ended")
        self._fate.forget()
        self._record = None

    def _end_record(self) -> None:
        with self._writing() as record:
            if record is None or record.has_ended:
                return
            problem = self._failure or self._fate.problem(self._kind)
            verdict = None if problem else self._judged(record)
            if not self._is_own:
                return
            if problem:
                record.fail(problem)
            else:
                note = left_out_note(self._left_out, self._pairs)
                record.finish(f"{verdict or self._verdict()}{note}", self._results())

    def _judged(self, record: RunRecord) -> str | None:
        """Set a backtest beside the baselines; return the verdict, None where that cannot be."""
        if self._not_judged is None and not self._markets:
            return None
        reason: object = self._not_judged
        if reason is None:
            try:
                trades = [from_freqtrade(trade) for trade in self._closed()]
                with record.phase("judging"):
                    judged = judge_into(record, trades, self._markets, self._settings)
                checks, verdict = verdict_checks(judged), verdict_sentence(judged)
                if self._is_own:  # a validation has checks of its own
                    record.write_json("checks", checks)
                self.event(JUDGED_EVENT, verdict=verdict, checks=checks)
                level = logging.INFO if isinstance(judged, Judged) else logging.WARNING
                note = left_out_note(self._left_out, self._pairs)
                logger.log(level, "%s%s", verdict, note)
                logger.info("more of it: mtf-scalper report %s", record.run_id)
                return verdict
            except Exception as error:  # whatever it was, the backtest itself has succeeded
                reason = error
        self.event(JUDGED_EVENT, error=str(reason))
        logger.warning("this backtest is not set beside the baselines: %s", reason)
        return None

    def _start(self, settings: Settings) -> None:
        assert self._record is not None
        # A damaged manifest is an error; of an own record it has just been written.
        starter = None if self._is_own else Run.open(self._record.folder).manifest.get("process")
        atexit.register(self.end)
        self._fate.watch()
        if not self._is_own:
            self._record.write_settings(settings)
            if starter:
                end_with_parent(starter)
            else:
                logger.warning(
                    "%s: names no process, so this program goes on if the one that started it ends",
                    self._record.folder / files.MANIFEST,
                )
            return
        self._sampler = ProcessSampler(
            os.getpid(),
            interval_seconds=_SAMPLE_SECONDS.get(self._kind, _SLOW_SAMPLE_SECONDS),
            on_sample=self._sample,
            keeps=False,
        )
        self._sampler.__enter__()

    def _sample(self, sample: Any) -> None:
        with self._writing() as record:
            if record is not None:
                record.append_sample(sample)

    @contextmanager
    def _writing(self) -> Iterator[RunRecord | None]:
        """Yield the record; where it cannot be written, it is given up and trading goes on."""
        try:
            yield self._record
        except (OSError, RecordError) as error:
            logger.warning("the record of this run ends here: %s", error)
            self._record = None

    def _closed(self) -> list[Any]:
        """Return the trades that this program has closed."""
        if not Trade.use_db:
            return list(LocalTrade.bt_trades)
        return list(Trade.get_trades_proxy(is_open=False, close_date=self._began))

    def _verdict(self) -> str:
        if not self._profits:
            return "no trades"
        mean = float(np.mean(list(self._profits.values())))
        return f"{len(self._profits)} trades, average profit {mean:+.3%} after fees"

    def _results(self) -> dict[str, Path]:
        """Return where freqtrade has put its own result."""
        folder = self._config.get("exportdirectory")
        found = sorted(Path(folder).glob("backtest-result-*.zip")) if folder else []
        fresh = [path for path in found if path.stat().st_mtime >= self._began.timestamp()]
        return {"freqtrade": fresh[-1]} if fresh and self._kind == "backtest" else {}


def _begin(
    config: Mapping[str, Any], settings: Settings, pairs: Sequence[str], kind: str
) -> RunRecord:
    is_backtest = kind == "backtest"
    timerange = TimeRange.parse_timerange(config.get("timerange"))
    until = pd.Timestamp(timerange.stopdt) if timerange.stopdt is not None else None
    datadir = Path(config["datadir"])
    digest = {}
    if is_backtest:
        digest = datadir_digests(datadir, pairs, timeframe=str(config["timeframe"]), until=until)
    return RunRecord.begin(
        Path(config["user_data_dir"]) / "runs",
        kind,
        settings=settings,
        pairs=pairs,
        seeds=range(settings.random_state, settings.random_state + settings.n_seeds),
        timerange=config.get("timerange") if is_backtest else None,
        datadir=datadir if is_backtest else None,
        data_digest=digest,
        strategy=config.get("strategy"),
        identifier=config["freqai"]["identifier"],
    )


def _row(trade: Any, seed: int) -> dict[str, Any]:
    closed = from_freqtrade(trade)
    profit = closed.profit_ratio
    log_return = float(np.log1p(profit)) if profit > -1.0 else None
    return as_row(closed, window=None, seed=seed, log_return=log_return)

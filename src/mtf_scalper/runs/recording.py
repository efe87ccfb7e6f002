"""The record of a backtest that this package runs: how it begins, and what is judged of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mtf_scalper.market.market import Market
from mtf_scalper.market.synthetic import utc_timestamp
from mtf_scalper.monitoring.verdicts import Check, Verdict
from mtf_scalper.records.manifest import datadir_digests
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.parity import offline_arguments
from mtf_scalper.runs.program import BacktestOutcome, BacktestRequest, merged
from mtf_scalper.runs.verdict import PairVerdict, judge_trades
from mtf_scalper.settings import Settings, TradeRules

__all__ = ["MarketsOf", "begin_record", "judge_backtest", "verdict_checks", "write_verdicts"]

MarketsOf = Callable[[Mapping[str, Any]], tuple[dict[str, Market], Settings]]
"""From arguments of freqtrade's command line to what a backtest with them trades, by pair."""


def begin_record(request: BacktestRequest, kind: str) -> tuple[RunRecord, BacktestRequest]:
    """Begin the record of a backtest, and put the backtest into its folder.

    Parameters
    ----------
    request : BacktestRequest
        Its folder is replaced by one beside it.
    kind : str
        ``"demo"`` and the like.

    Raises
    ------
    SettingsError
        If FreqAI's section of the configuration has an unknown or invalid key.
    """
    shipped = request.project / "configs" / "config_rl_hybrid.json"
    config = merged(json.loads(shipped.read_text(encoding="utf-8")), request.overrides)
    settings = _settings(config["freqai"])
    pairs = list(config["exchange"]["pair_whitelist"])
    record = RunRecord.begin(
        request.folder.parent,
        kind,
        settings=settings,
        pairs=pairs,
        seeds=range(settings.random_state, settings.random_state + settings.n_seeds),
        timerange=request.timerange,
        datadir=request.datadir,
        data_digest=datadir_digests(
            request.datadir,
            pairs,
            timeframe=str(config["timeframe"]),
            until=utc_timestamp(request.timerange.partition("-")[2]),
        ),
    )
    return record, replace(request, folder=record.folder)


def _settings(freqai: Mapping[str, Any]) -> Settings:
    """Return the settings that FreqAI's section asks for; the strategy's rules are not known."""
    split = freqai.get("data_split_parameters", {})
    seed = {"random_state": split["random_state"]} if "random_state" in split else {}
    return Settings.from_freqai(
        freqai.get("rl_config", {}),
        {**seed, **freqai.get("model_training_parameters", {})},
        window_size=freqai.get("conv_width", 1),
        rules=TradeRules(),
    )


def judge_backtest(
    request: BacktestRequest, outcome: BacktestOutcome, markets_of: MarketsOf
) -> tuple[PairVerdict, ...]:
    """Play a backtest's trades again on the markets that they were made on."""
    shipped = request.project / "configs" / "config_rl_hybrid.json"
    with offline_arguments(
        (shipped, request.folder / "overrides.json"),
        request.timerange,
        datadir=request.datadir,
        train_cycles=None,
        folder=request.folder / "verdict",
    ) as arguments:
        markets, settings = markets_of(arguments)
    return judge_trades(outcome.strategy["trades"], markets, settings)


def write_verdicts(record: RunRecord, verdicts: Sequence[PairVerdict]) -> None:
    """Write equity, figures and random exits of a judged backtest."""
    lines = []
    for each in verdicts:
        for series in each.equity.columns[1:]:
            line = each.equity[["date", series]].rename(columns={series: "log_return"})
            lines.append(line.assign(pair=each.name, series=series))
    if lines:
        table = pd.concat(lines, ignore_index=True)
        seed = pd.Series(pd.NA, index=table.index, dtype="Int64")
        record.write_table("equity", table.assign(seed=seed))
    record.write_json("figures", [_figures(each) for each in verdicts])
    record.write_json("random_exits", {each.name: each.draws for each in verdicts})


def verdict_checks(verdicts: Sequence[PairVerdict]) -> tuple[Check, ...]:
    """Return whether each pair's replay agrees with its backtest, and is a trading policy."""
    checks = []
    for each in verdicts:
        if each.report is None:  # of all pairs together
            continue
        for name, measured, expected, problem in (
            ("simulator agrees", f"{each.n_trades} trades", "the same trades", each.difference),
            ("is a policy", each.degenerate or "not degenerate", "not degenerate", each.degenerate),
        ):
            verdict = Verdict.FAILED if problem else Verdict.PASSED
            checks.append(Check(f"{each.name}: {name}", measured, expected, verdict, problem or ""))
    return tuple(checks)


def _figures(verdict: PairVerdict) -> dict[str, Any]:
    figures: dict[str, Any] = {} if verdict.report is None else verdict.report.as_dict()
    figures.pop("seed", None)  # of the draws, and no training's
    draws = verdict.draws
    low, median, high = np.quantile(draws, (0.05, 0.5, 0.95)) if len(draws) else (None,) * 3
    return {
        **figures,
        "pair": verdict.name,
        "n_trades": verdict.n_trades,
        "log_return": verdict.log_return,
        "oracle": verdict.oracle,
        "oracle_share": verdict.oracle_share,
        "buy_and_hold": verdict.buy_and_hold,
        "classic_exits": verdict.classic_exits,
        "n_draws": len(draws),
        "random_median": median,
        "random_low": low,
        "random_high": high,
        "random_rank": verdict.random_rank,
        "degenerate": verdict.degenerate,
        "difference": verdict.difference,
    }

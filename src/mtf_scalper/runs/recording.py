"""The record of a backtest that this package runs: how it begins, and what is judged of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtf_scalper.market.market import Market
from mtf_scalper.market.synthetic import utc_timestamp
from mtf_scalper.monitoring.verdicts import Check
from mtf_scalper.records.manifest import datadir_digests
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.judgment import Judged, NotJudged, write_judged
from mtf_scalper.runs.left_out import left_out_of
from mtf_scalper.runs.parity import offline_arguments
from mtf_scalper.runs.program import BacktestOutcome, BacktestRequest, merged
from mtf_scalper.runs.variants import earlier_variants
from mtf_scalper.runs.verdict import degenerate_pairs, judge_trades
from mtf_scalper.settings import Settings, TradeRules

__all__ = ["MarketsOf", "begin_record", "judge_backtest", "judge_into", "verdict_checks"]

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
    request: BacktestRequest, outcome: BacktestOutcome, markets_of: MarketsOf, record: RunRecord
) -> tuple[Judged | NotJudged, dict[str, str]]:
    """Play a backtest's trades again on the markets that they were made on, and record all of it.

    Returns
    -------
    judged : Judged or NotJudged
    differences : dict of str to str
        By pair, how its replay differs from the backtest.
    """
    shipped = request.project / "configs" / "config_rl_hybrid.json"
    run = Run.open(record.folder)
    left_out = left_out_of(run)
    kept = [pair for pair in run.manifest.get("pairs", []) if pair not in left_out]
    with offline_arguments(
        (shipped, request.folder / "overrides.json"),
        request.timerange,
        datadir=request.datadir,
        pairs=kept if left_out else (),
        train_cycles=None,
        folder=request.folder / "verdict",
    ) as arguments:
        markets, settings = markets_of(arguments)
    return judge_into(record, outcome.strategy["trades"], markets, settings)


def judge_into(
    record: RunRecord,
    trades: Sequence[Mapping[str, Any]],
    markets: Mapping[str, Market],
    settings: Settings,
) -> tuple[Judged | NotJudged, dict[str, str]]:
    """Judge trades beside the baselines and all variants tried before, and record all of it.

    Trades that are not judged leave no equity, figures or statistics in the record: those of the
    replay would be the figures of other trades.

    Parameters
    ----------
    record : RunRecord
        Of the backtest; variants are looked for beside it.
    trades, markets, settings
        As ``judge_trades`` takes and returns them.
    """
    run = Run.open(record.folder)
    judged, differences = judge_trades(
        trades,
        markets,
        settings,
        others=lambda variant: earlier_variants(run, variant, record.folder.parent),
    )
    if isinstance(judged, Judged):
        write_judged(record, judged)
    return judged, differences


def verdict_checks(judged: Judged | NotJudged, differences: Mapping[str, str]) -> tuple[Check, ...]:
    """Return whether each pair's replay agrees with its backtest, and is a trading policy."""
    if isinstance(judged, NotJudged):
        return tuple(
            _check(pair, "simulator agrees", "replayed", "the same trades", differences.get(pair))
            for pair in judged.pairs
        )
    checks = []
    for pair, why in degenerate_pairs(judged).items():
        n_trades = f"{judged.by_pair[pair].days.n_trades.sum():.0f} trades"
        found = differences.get(pair)
        checks.append(_check(pair, "simulator agrees", n_trades, "the same trades", found))
        policy = why or "not degenerate"
        checks.append(_check(pair, "is a policy", policy, "not degenerate", why))
    return tuple(checks)


def _check(pair: str, name: str, measured: str, expected: str, problem: str | None) -> Check:
    return Check.of(f"{pair}: {name}", measured, expected, problem or "")

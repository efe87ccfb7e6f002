"""The record of a backtest that this package runs: how it begins, and what was judged of it."""

from __future__ import annotations

import json
from dataclasses import replace

from mtf_scalper.evaluation.judge_into import JUDGED_EVENT
from mtf_scalper.evaluation.left_out_pairs import left_out_note, left_out_of
from mtf_scalper.freqai.config import read_settings
from mtf_scalper.records.manifest import datadir_digests
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.runs.program import BacktestRequest, RunError, merged
from mtf_scalper.settings import TradeRules
from mtf_scalper.worlds.synthetic import utc_timestamp


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
    settings = read_settings(config, TradeRules())  # the strategy's are not known yet
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


def judgment_in(run: Run) -> tuple[str, list[dict[str, str]], list[str]]:
    """Return what the program that traded says of its trades.

    Returns
    -------
    verdict : str
        With the pairs that are not in it.
    checks : list of dict
    left_out : list of str
        A line for each pair that was left out.

    Raises
    ------
    RunError
        If the trades could not be judged: says why.
    """
    said = run.events(JUDGED_EVENT)
    if not said or "error" in said[-1]:
        reason = said[-1]["error"] if said else "the program ended without a word"
        raise RunError(f"the backtest is not set beside the baselines: {reason}")
    left_out = left_out_of(run)
    note = left_out_note(left_out, run.manifest.get("pairs", []))
    lines = [f"left out: {reason}" for reason in left_out.values()]
    return f"{said[-1]['verdict']}{note}", said[-1]["checks"], lines

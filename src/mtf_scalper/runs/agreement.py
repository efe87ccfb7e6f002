"""The same windows through the real freqtrade program: whether its trades agree, one for one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtf_scalper.errors import SettingsError
from mtf_scalper.evaluation.judge import NotJudged
from mtf_scalper.evaluation.trades import from_freqtrade, matched, simulated
from mtf_scalper.runs.evaluation_plan import EvaluationPlan
from mtf_scalper.runs.program import BacktestRequest, merged
from mtf_scalper.walk_forward.walk import Walk


@dataclass(frozen=True)
class Agreement:
    """Trades of one pair and seed on both sides.

    Attributes
    ----------
    pair : str
    seed : int
    n_program, n_python, n_equal : int
        Trades of freqtrade's backtest, of the Python API, and those that are equal.
    difference : str or None
        The first difference in words.
    """

    pair: str
    seed: int
    n_program: int
    n_python: int
    n_equal: int
    difference: str | None

    @property
    def line(self) -> str:
        """All of it in a line."""
        said = (
            f"{self.pair}, seed {self.seed}: {self.n_equal} trades agree of {self.n_program} in "
            f"freqtrade and {self.n_python} through the Python API"
        )
        return said if self.difference is None else f"{said}; {self.difference}"


def program_request(
    plan: EvaluationPlan,
    project: Path,
    folder: Path,
    pairs: Sequence[str],
    *,
    seed: int,
    identifier: str | None = None,
) -> BacktestRequest:
    """Return the backtest that trains what a plan without embargo trains with one seed.

    Parameters
    ----------
    plan : EvaluationPlan
        Of recorded candles.
    project, folder : Path
        See ``BacktestRequest``.
    pairs : sequence of str
    seed : int
    identifier : str, optional
        FreqAI's, for the models; the folder's name by default.

    Raises
    ------
    SettingsError
        If a configuration is no JSON.
    """
    assert plan.datadir is not None
    overrides: dict[str, Any] = {}
    for path in plan.configs:
        overrides = merged(overrides, _read(path))
    # Sums over several threads are made in another order now and then.
    fixed = {"random_state": seed, "cpu_count": 1, "progress_bar": False}
    ours = {
        "exchange": {"pair_whitelist": list(pairs)},
        "max_open_trades": len(pairs),
        "freqai": {
            "train_period_days": plan.train_days,
            "backtest_period_days": plan.test_days,
            "rl_config": fixed,
        },
    }
    return BacktestRequest(
        project=project,
        folder=folder,
        datadir=plan.datadir.resolve(),
        timerange=plan.timerange,
        overrides=merged(overrides, ours),
        name=identifier,
    )


def compare_trades(walk: Walk, trades: Sequence[Mapping[str, Any]]) -> Agreement:
    """Compare a walk's trades with those of freqtrade's result.

    Parameters
    ----------
    walk : Walk
    trades : sequence of mapping
        All trades as freqtrade writes them; those of other pairs are left out.
    """
    theirs = [from_freqtrade(each) for each in trades if each["pair"] == walk.pair]
    ours = simulated(walk.run.trades, walk.market)
    together = matched(ours, theirs)
    unequal = [each for each in together if not each.is_equal]
    return Agreement(
        pair=walk.pair,
        seed=walk.seed,
        n_program=len(theirs),
        n_python=len(ours),
        n_equal=len(together) - len(unequal),
        difference=unequal[0].words("the Python API", "freqtrade") if unequal else None,
    )


def not_judged(agreements: Sequence[Agreement]) -> NotJudged | None:
    """Return why nothing is judged where the real program made other trades, else None."""
    differences = {
        f"{each.pair}, seed {each.seed}": each.difference
        for each in agreements
        if each.difference is not None
    }
    return NotJudged(differences) if differences else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path}: is no JSON: {error}") from None
    return content

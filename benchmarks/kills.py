"""A hundred kills of the real bot and of a backtest, and what each start after them found.

Run: ``python benchmarks/kills.py``, about half an hour. ``freqtrade trade`` (dry run, live replay
exchange at 60 times the speed of time, a small network) is killed by SIGKILL while it trains,
saves, predicts, trades and starts, and started again in the same folder with the same database.
Then ``freqtrade backtesting`` is killed in the same ways until it ends, and compared with one that
was left alone. Programs are forked from a process that has imported their libraries.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from killed_bot import KilledBot, Ready, killed_bot, wait_for_descendants
from killed_disk import Kill, Phase
from report import HERE, Measured, Requirement, Workload, run, table
from rich.console import Console
from typer.testing import CliRunner

from mtf_scalper.cli import app
from mtf_scalper.freqai.window_predictions import PREDICTIONS
from mtf_scalper.kept_files import LIST, check_files
from mtf_scalper.runs import program
from mtf_scalper.runs.program import BacktestRequest, BacktestRun, RunError, merged, run_backtest
from mtf_scalper.runs.soak import SoakPlan
from mtf_scalper.worlds.datadir import ensure_datadir
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec

sys.path.append(str(HERE.parent / "tests"))
from ready_python import serving  # a fork of what a program imports before it begins

DOCUMENT = "reliability.md"
N_KILLS, N_STARTING = 18, 8
"""Aimed at each of the four phases; at the start."""
LEAST_HITS = 20
MOST_TRIES = 2
"""A phase that is missed is aimed at again, as often as that for each hit."""
N_WINDOWS = 5
MARKET = SyntheticSpec(seed=7, volatility=0.004)
PERIOD = ("2024-01-01", "2024-01-20")
BEGIN = datetime(2024, 1, 11, tzinfo=UTC)
SPEED = 60.0
AIMS = (Phase.TRAINING, Phase.SAVING, Phase.PREDICTING, Phase.TRADING)
SMALL: dict[str, Any] = {
    "ignore_buying_expired_candle_after": 240,  # enter however late a busy machine is
    "freqai": {
        "train_period_days": 1,
        "live_retrain_hours": 0.2,
        "expiration_hours": 24,
        "conv_width": 4,
        "activate_tensorboard": False,
        "data_split_parameters": {"test_size": 0.01},
        "rl_config": {
            "entry": "any",
            "train_cycles": 8,
            "patience": 8,
            "evidence": 0.0,
            "cpu_count": 1,
            "net_arch": [16],
            "validation_share": 0.0,
            "progress_bar": False,
        },
    },
}


def measure(workload: Workload, repeats: int) -> Measured:
    """Kill and start again; return what was found."""
    is_whole = workload == Workload()
    with tempfile.TemporaryDirectory() as folder, serving() as ready:
        data, project = Path(folder) / "data", linked_project(Path(folder))
        ensure_datadir(MARKET, data, *PERIOD)
        plan = bot_plan(project, data)
        with killed_bot(plan, ready, seed=repeats) as bot:
            if is_whole:
                kill_often(bot, N_KILLS, LEAST_HITS, N_STARTING)
            else:
                kill_often(bot)
            last = bot.last_start()
        listed = records_listed(plan.bot)
        backtest = kill_backtest(project, data, ready, seed=repeats) if is_whole else {"kills": 0}
    return measured([*bot.kills, last], listed, backtest, LEAST_HITS if is_whole else 1)


def linked_project(folder: Path) -> Path:
    """Return a project whose parts are this one's, and whose runs are its own."""
    project = folder / "project"
    for part in ("configs", "user_data/strategies", "user_data/freqaimodels"):
        (project / part).parent.mkdir(parents=True, exist_ok=True)
        (project / part).symlink_to(HERE.parent / part, target_is_directory=True)
    return project


def bot_plan(project: Path, data: Path, overrides: Mapping[str, Any] | None = None) -> SoakPlan:
    """Return what to run."""
    folder = project / "user_data" / "runs" / "killed"
    folder.mkdir(parents=True)
    return SoakPlan(
        project=project,
        folder=folder.resolve(),
        datadir=data,
        last=datetime.fromisoformat(f"{PERIOD[1]}T00:00+00:00"),
        begin=BEGIN,
        days=1.0,
        speed=SPEED,
        overrides=merged(SMALL, overrides or {}),
    )


def kill_often(bot: KilledBot, n_aimed: int = 1, n_hits: int = 1, n_starting: int = 1) -> None:
    """Aim at every phase so often, and at those that were missed again, within bounds."""
    console = Console(stderr=True)
    aimed: Counter[Phase] = Counter()
    hits: Counter[Phase] = Counter()
    most = MOST_TRIES * (n_hits + 1)
    while True:
        open_ = [
            aim
            for aim in AIMS
            if aimed[aim] < n_aimed or (hits[aim] < n_hits and aimed[aim] < most)
        ]
        if aimed[Phase.STARTING] < n_starting * (aimed.total() + 1) / (4 * n_aimed + n_starting):
            open_ = [Phase.STARTING]
        if not open_:
            return
        aim = min(open_, key=lambda each: aimed[each])
        kill = bot.kill_in(aim)
        aimed[aim] += 1
        hits.update(kill.hit)
        told = f"{kill.number}: {aim}, hit {', '.join(kill.hit) or 'none'}; {kill.seconds:.1f} s"
        console.print(" ".join([told, *kill.faults]), markup=False, highlight=False)


def records_listed(user_data: Path) -> int:
    """Return how many runs ``runs list`` shows as killed."""
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["runs", "list", "--folder", str(user_data / "runs")]
    )
    if shown.exit_code:
        raise RuntimeError(f"runs list ended with {shown.exit_code}: {shown.output}")
    return shown.output.count(" killed ")


def kill_backtest(project: Path, data: Path, ready: Ready, seed: int) -> dict[str, Any]:
    """Kill a backtest in every phase of every window, let it end, and compare it."""
    request = BacktestRequest(
        project=project,
        folder=project / "user_data" / "runs" / "alone",
        datadir=data,
        timerange="20240111-20240116",
        overrides=merged(
            SMALL,
            {"freqai": {"backtest_period_days": 1, "rl_config": {"entry": "always"}}},
        ),
    )
    watched = program.watched_command
    program.watched_command = lambda command: list(ready(watched(command)))
    try:
        return compared(request, seed)
    finally:
        program.watched_command = watched


def compared(request: BacktestRequest, seed: int) -> dict[str, Any]:
    """Return how a backtest that was killed differs from one that was not."""
    alone = run_backtest(request)
    killed = replace(request, folder=request.folder.with_name("killed_backtest"))
    chance = random.Random(seed)
    hits: Counter[Phase] = Counter()
    aims = [*(AIMS[:3] * N_WINDOWS), *([Phase.TRADING] * N_WINDOWS)]
    for aim in aims:
        try:
            run_backtest(killed, KillBacktest(aim, chance.random(), hits))
        except RunError as error:
            if "exit code -9" not in str(error):
                raise
    end = run_backtest(killed)
    folders = sorted(killed.models.glob("sub-train-*"))
    weights = [check_files(folder)["weights"] for folder in folders]
    expected = [
        check_files(folder)["weights"] for folder in sorted(request.models.glob("sub-train-*"))
    ]
    return {
        "kills": sum(hits.values()),
        "hits": dict(hits),
        "trades": len(alone.strategy["trades"]),
        "other_trades": int(alone.strategy["trades"] != end.strategy["trades"]),
        "other_weights": sum(one != two for one, two in zip(weights, expected, strict=True)),
    }


class KillBacktest:
    """Kills a backtest in one phase, so much later than it begins."""

    def __init__(self, aim: Phase, share: float, hits: Counter[Phase]) -> None:
        self._aim, self._share, self._hits = aim, share, hits
        self._known: set[Path] | None = None

    def __call__(self, run: BacktestRun) -> None:
        """Wait for the phase and kill, unless the program ends before."""
        if self._known is None:
            self._known = self._seen(run)
        while run.process.poll() is None:
            if self._seen(run) - self._known:
                time.sleep(self._share * {Phase.SAVING: 0.06}.get(self._aim, 0.3))
                self._hits[self._aim] += run.process.poll() is None
                run.process.kill()
                run.process.wait()
                wait_for_descendants()
            time.sleep(0.001)

    def _seen(self, run: BacktestRun) -> set[Path]:
        """Return what begins the phase."""
        models = run.request.models
        if self._aim is Phase.TRAINING:
            return {folder for folder in models.glob("sub-train-*") if _has_events(folder)}
        if self._aim is Phase.SAVING:
            return set(models.glob("sub-train-*/*_model.zip"))
        if self._aim is Phase.PREDICTING:
            return set(models.glob(f"sub-train-*/{LIST}"))
        is_trading = "Running backtesting for" in run.request.log.read_text(errors="replace")
        return {models / PREDICTIONS} if is_trading else set()


def _has_events(folder: Path) -> bool:
    return any(folder.glob("run_events.jsonl"))


def measured(kills: list[Kill], listed: int, backtest: dict[str, Any], least_hits: int) -> Measured:
    """Return the table, and what has to be."""
    killed = kills[:-1]  # the last start was not killed
    rows = []
    for phase in Phase:
        those = [kill for kill in killed if phase in kill.hit]
        rows.append(
            [
                phase.value,
                str(sum(kill.aim is phase for kill in killed)),
                str(len(those)),
                str(sum(bool(kill.half) for kill in those)),
                str(sum(kill.lost for kill in those)),
                str(backtest.get("hits", {}).get(phase, 0)),
            ]
        )
    header = ["phase", "aimed at", "hit", "with half files", "trainings lost", "in a backtest"]
    positions = sum(kill.positions for kill in kills if kill.seconds)
    met = sum(kill.asked for kill in kills if kill.seconds)
    at_once = Counter(reason for kill in kills for reason in kill.left_at_once)
    summary = [
        ["kills of the bot", str(len(killed))],
        ["open positions that starts found", str(positions)],
        ["of them the strategy was asked about in the first loop", str(met)],
        [
            "left by the end of the first loop",
            f"{sum(at_once.values())}: {', '.join(f'{n} {why}' for why, n in at_once.items())}",
        ],
        ["lines about damaged files", str(sum(len(kill.told) for kill in kills))],
        [
            "records that `runs list` shows as killed; a bot killed as it starts has none",
            str(listed),
        ],
        ["kills of the backtest", str(backtest["kills"])],
    ]
    return Measured(
        results={
            "kills": [kill.as_row() for kill in kills],
            "backtest": backtest,
            "left_at_once": dict(at_once),
        },
        tables=[table(header, rows), table(["what", "found"], summary)],
        requirements=[
            *(
                Requirement(
                    f"kills that hit {phase.value}",
                    sum(phase in kill.hit for kill in killed),
                    at_least=least_hits,
                )
                for phase in AIMS
            ),
            Requirement("faults", sum(len(kill.faults) for kill in kills), at_most=0),
            Requirement("trainings lost by one kill", max(kill.lost for kill in kills), at_most=1),
            *(
                [
                    Requirement(
                        "differences of a killed backtest from one left alone",
                        backtest["other_trades"] + backtest["other_weights"],
                        at_most=0,
                    )
                ]
                if "other_trades" in backtest
                else []
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(run("kills", __doc__, measure, repeats=1, document=DOCUMENT))

"""Commands that learn: demo, validate, parity, evaluate, train, tune."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mtf_scalper.cli.options import (
    EXIT_CODES,
    ConfigFiles,
    Jobs,
    OnRay,
    Pairs,
    RayAddress,
    RealDatadir,
    path_checked_by,
    with_walk_forward,
)
from mtf_scalper.paths import (
    check_file,
    check_file_to_write,
    check_folder,
    check_folder_to_write,
    user_data,
)

commands = typer.Typer()

DEFAULT_CONFIG = Path("configs", "config_rl_hybrid.json")


class ParityPolicy(StrEnum):
    """Whose predictions both sides of the comparison trade on."""

    LEARNED = "learned"
    RANDOM = "random"
    ALWAYS_ENTER = "always-enter"


@commands.command(epilog=EXIT_CODES)
def demo(
    datadir: RealDatadir = None,
    timerange: Annotated[
        str | None,
        typer.Option(metavar="YYYYMMDD-YYYYMMDD", help="Days to backtest, as freqtrade has it."),
    ] = None,
) -> None:
    """Train a PPO agent and backtest it with the real freqtrade program, offline."""
    from mtf_scalper.runs.demo import run_demo

    raise typer.Exit(run_demo(datadir, timerange))


@commands.command(epilog=EXIT_CODES)
def validate(
    full: Annotated[
        bool, typer.Option("--full", help="Train all 30 cycles instead of a short run.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            callback=path_checked_by(check_folder_to_write),
            show_default="the records in user_data/runs",
            help="Folder for the samples (CSV) and the verdicts (JSON).",
        ),
    ] = None,
    datadir: RealDatadir = None,
) -> None:
    """Train and backtest a short range, watch the processes, and check what was used."""
    from mtf_scalper.runs.validation import run_validation

    raise typer.Exit(run_validation(full, output, datadir))


@commands.command(
    epilog=f"{EXIT_CODES} Trades that differ, and no trades at all, are a failure; the last line "
    "of the output says which."
)
def parity(
    timerange: Annotated[str, typer.Option(metavar="YYYYMMDD-YYYYMMDD", help="Days to backtest.")],
    config: Annotated[
        list[Path],
        typer.Option(
            callback=path_checked_by(check_file),
            metavar="FILE",
            help="freqtrade configuration; repeat it to lay others over the first.",
        ),
    ] = [DEFAULT_CONFIG],  # noqa: B006 - typer copies it
    datadir: RealDatadir = None,
    policy: Annotated[
        ParityPolicy,
        typer.Option(
            help="learned: FreqAI trains and predicts. random: seeded random probabilities. "
            "always-enter: enters wherever it is allowed and never leaves by itself."
        ),
    ] = ParityPolicy.LEARNED,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PAIR",
            help="Instead of the configuration's; repeat it for several pairs.",
        ),
    ] = None,
    train_cycles: Annotated[
        int, typer.Option(min=1, help="Passes over the candles of each window, if learned.")
    ] = 2,
) -> None:
    """Check that the simulator trades as freqtrade's own backtester does, trade by trade."""
    from rich.console import Console

    from mtf_scalper.runs.parity_run import offline_arguments, run_parity

    with offline_arguments(
        config, timerange, datadir=datadir, pairs=pairs or (), train_cycles=train_cycles
    ) as arguments:
        raise typer.Exit(run_parity(arguments, policy.value, Console()))


@commands.command(
    epilog=f"{EXIT_CODES} With --freqtrade trades that differ are a failure. No evidence of an "
    "edge is the normal, correct answer on most data and no failure."
)
@with_walk_forward
def evaluate(
    timerange: Annotated[
        str, typer.Option(metavar="YYYYMMDD-YYYYMMDD", help="Days to trade out of sample.")
    ],
    *,
    walk_forward: dict[str, Any],
    freqtrade: Annotated[
        bool,
        typer.Option(
            "--freqtrade", help="Backtest with the real program too; its trades have to agree."
        ),
    ] = False,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers", help="Ridge regression and LightGBM on the same windows, as baselines too."
        ),
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with an evaluation that was cut off; all other options as they were.",
        ),
    ] = None,
) -> None:
    """Train and trade window after window; say whether there is evidence of an edge."""
    from rich.console import Console

    from mtf_scalper.records.lookup import find_run
    from mtf_scalper.runs.evaluation import run_evaluation
    from mtf_scalper.runs.evaluation_plan import plan_evaluation
    from mtf_scalper.runs.project import find_project

    project = find_project()
    resumed = None if resume is None else find_run(resume, user_data(project) / "runs")
    plan = plan_evaluation(
        project, timerange=timerange, with_program=freqtrade, with_peers=peers, **walk_forward
    )
    raise typer.Exit(run_evaluation(plan, project, Console(), resumed))


@commands.command(epilog=f"{EXIT_CODES} A model that cannot be trained is a failure.")
def train(
    timerange: Annotated[
        str, typer.Option(metavar="YYYYMMDD-YYYYMMDD", help="Days of the backtest that follows.")
    ],
    pairs: Pairs = None,
    datadir: Annotated[
        Path | None,
        typer.Option(
            callback=path_checked_by(check_folder),
            show_default="user_data/data/binance",
            help="freqtrade data directory.",
        ),
    ] = None,
    config: ConfigFiles = [],  # noqa: B006 - typer copies it
    jobs: Jobs = None,
    ray: OnRay = False,
    ray_address: RayAddress = None,
) -> None:
    """Train FreqAI's models of all windows, so that a backtest of the same days trains nothing."""
    from rich.console import Console

    from mtf_scalper.runs.model_training import plan_training, run_training
    from mtf_scalper.runs.project import find_project

    plan = plan_training(
        find_project(),
        timerange=timerange,
        datadir=datadir,
        pairs=pairs or (),
        configs=config,
        jobs=jobs,
        on_ray=ray or ray_address is not None,
        ray_address=ray_address,
    )
    raise typer.Exit(run_training(plan, Console()))


@commands.command(
    epilog=f"{EXIT_CODES} That nothing was found is the normal, correct answer on most data and "
    "no failure."
)
@with_walk_forward
def tune(
    timerange: Annotated[
        str,
        typer.Option(
            metavar="YYYYMMDD-YYYYMMDD", help="Days to search on; the last part is locked away."
        ),
    ],
    *,
    trials: Annotated[
        int, typer.Option(min=1, help="That the study is to have, earlier ones included.")
    ] = 30,
    study: Annotated[
        str, typer.Option(metavar="NAME", help="To go on with, or a new one.")
    ] = "tune",
    final: Annotated[
        bool,
        typer.Option("--final", help="Look at the locked part, once, and say what was found."),
    ] = False,
    locked: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the days that is locked away.")
    ] = 0.25,
    space: Annotated[
        Path | None,
        typer.Option(
            callback=path_checked_by(check_file),
            metavar="FILE",
            show_default="see docs/tuning.md",
            help="Search space (TOML).",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default="a file in user_data/studies",
            help="Database of the study, as Optuna has it.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            callback=path_checked_by(check_file_to_write),
            show_default="best.json in user_data/studies/NAME",
            help="File for the configuration of the best trial.",
        ),
    ] = None,
    walk_forward: dict[str, Any],
) -> None:
    """Search for settings by walk-forward; keep the last days locked away until the end."""
    from rich.console import Console

    from mtf_scalper.runs.project import find_project
    from mtf_scalper.runs.tuning import run_final, run_search
    from mtf_scalper.runs.tuning_plan import plan_tuning

    if final and output is not None:
        raise typer.BadParameter("--final writes no configuration; leave --output out")
    project = find_project()
    plan = plan_tuning(
        project,
        timerange=timerange,
        name=study,
        n_trials=trials,
        storage=storage,
        space=space,
        locked=locked,
        **walk_forward,
    )
    if final:
        raise typer.Exit(run_final(plan, project, Console()))
    raise typer.Exit(run_search(plan, project, Console(), output))

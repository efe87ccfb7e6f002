"""The command line: parses, calls and prints.

What a command needs is imported when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from mtf_scalper._version import __version__
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.paths import (
    check_file,
    check_file_to_write,
    check_folder,
    check_folder_if_there,
    check_folder_to_write,
    printable,
    problem_with_files,
    user_data,
)
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

_EXIT_CODES = (
    "Exit codes: 0 success; 1 the run or one of its checks failed, the last line on stderr says "
    "why; 2 the command line was not understood; 130 interrupted with Ctrl-C."
)

PathCheck = Callable[[Path, str], None]


def _path_checked_by(check: PathCheck) -> Callable[[typer.Context, typer.CallbackParam, Any], Any]:
    """Return a callback that checks what the user gave; defaults are checked where they are used.

    typer's own checks end with exit code 2 and a page about the usage, which was understood.
    """

    def callback(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP"):
            given = value if isinstance(value, (list, tuple)) else [value]
            for path in given:
                check(path, max(parameter.opts, key=len))
        return value

    return callback


SYNTHETIC_DATADIR = user_data() / "data" / "synthetic"

RealDatadir = Annotated[
    Path | None,
    typer.Option(
        "--datadir",
        callback=_path_checked_by(check_folder),
        help="freqtrade data directory to use instead of a synthetic market.",
    ),
]
ConfigFiles = Annotated[
    list[Path],
    typer.Option(
        callback=_path_checked_by(check_file),
        metavar="FILE",
        help="freqtrade configuration laid over the shipped one; repeat it for several.",
    ),
]

Pairs = Annotated[
    list[str] | None,
    typer.Option(metavar="PAIR", help="Instead of the configuration's; repeat it for several."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings per window, averaged.")]
Planted = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="Planted market instead of candles: linear, none, fast ..."),
]
Signal = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Synthetic market of this signal strength."),
]
MarketSeed = Annotated[int, typer.Option(min=0, help="Of the planted or synthetic market.")]
TrainDays = Annotated[int, typer.Option(min=1, help="Days of each training.")]
TestDays = Annotated[int, typer.Option(min=1, help="Days traded after each training.")]
EmbargoCandles = Annotated[
    int | None,
    typer.Option(
        min=0,
        show_default="as many as the longest trade lasts",
        help="Candles between training and test.",
    ),
]

LiveFrom = Annotated[
    datetime | None,
    typer.Option(
        "--from",
        formats=["%Y%m%d", "%Y-%m-%d", "%Y-%m-%dT%H:%M"],
        metavar="YYYYMMDD",
        show_default=False,
        help="With --live: what the clock shows at first, UTC.",
    ),
]
LiveSpeed = Annotated[
    float,
    typer.Option(min=0.1, max=1000.0, help="Seconds of the running clock per second."),
]

OnRay = Annotated[
    bool,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Trainings run on Ray: on this machine's CPUs, each on one, or on the cluster at an "
        "address (auto, or HOST:PORT).",
    ),
]
RayAddress = Annotated[str | None, typer.Option(hidden=True)]
"""What ``with_address`` makes of the address behind ``--ray``."""

DEFAULT_CONFIG = Path("configs", "config_rl_hybrid.json")


class ParityPolicy(StrEnum):
    """Whose predictions both sides of the comparison trade on."""

    LEARNED = "learned"
    RANDOM = "random"
    ALWAYS_ENTER = "always-enter"


app = typer.Typer(
    name="mtf-scalper",
    help="Reinforcement learning for freqtrade. New here: `init` writes what freqtrade loads, "
    "`doctor` says what is missing, `demo` trains and backtests offline.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


runs_app = typer.Typer(
    help="What runs left behind: list them, show one, compare two.", no_args_is_help=True
)
app.add_typer(runs_app, name="runs")

RunsFolder = Annotated[
    Path,
    typer.Option(
        "--folder",
        callback=_path_checked_by(check_folder_if_there),
        help="Folder that holds the runs.",
    ),
]
RUNS = user_data() / "runs"
RUN_HELP = "A run's id, the beginning of it, its folder, `latest`, or `latest-demo` and the like."


def with_address(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which ``--ray ADDRESS`` is ``--ray-address ADDRESS``.

    typer knows no option whose value may be left out; no command with ``--ray`` has other words.
    """
    found = list(arguments)
    for place, (name, value) in enumerate(pairwise(found)):
        if name == "--ray" and not value.startswith("-"):
            found[place] = "--ray-address"
    return [each.replace("--ray=", "--ray-address=", 1) for each in found]


def main() -> None:
    """Run the command line; every error that this package raises ends as one line on stderr.

    So does whatever a file or folder refuses: one that cannot be written, a disk that is full.
    """
    try:
        app(with_address(sys.argv[1:]))
    except MtfScalperError as error:
        sys.exit(f"mtf-scalper: error: {printable(str(error))}")
    except OSError as error:
        problem = problem_with_files(error)
        if problem is None:
            raise
        _leave_output_alone()
        sys.exit(f"mtf-scalper: error: {problem}")
    except MemoryError as error:
        sys.exit(f"mtf-scalper: error: there is not enough memory: {' '.join(str(error).split())}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mtf_scalper"):
            raise
        sys.exit(
            f"mtf-scalper: error: {error.name} is not installed; install it with: "
            'python -m pip install "mtf-scalper[freqtrade]"'
        )


def _leave_output_alone() -> None:
    """Drop what stdout did not take: Python would try again at its end, and say so at length."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version  # handled by its callback


@app.command(epilog=_EXIT_CODES)
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


@app.command(epilog=_EXIT_CODES)
def validate(
    full: Annotated[
        bool, typer.Option("--full", help="Train all 30 cycles instead of a short run.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            callback=_path_checked_by(check_folder_to_write),
            show_default="the records in user_data/runs",
            help="Folder for the samples (CSV) and the verdicts (JSON).",
        ),
    ] = None,
    datadir: RealDatadir = None,
) -> None:
    """Train and backtest a short range, watch the processes, and check what was used."""
    from mtf_scalper.runs.validation import run_validation

    raise typer.Exit(run_validation(full, output, datadir))


@app.command(
    epilog=f"{_EXIT_CODES} Trades that differ, and no trades at all, are a failure; the last line "
    "of the output says which."
)
def parity(
    timerange: Annotated[str, typer.Option(metavar="YYYYMMDD-YYYYMMDD", help="Days to backtest.")],
    config: Annotated[
        list[Path],
        typer.Option(
            callback=_path_checked_by(check_file),
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


@app.command(
    epilog=f"{_EXIT_CODES} With --freqtrade trades that differ are a failure. No evidence of an "
    "edge is the normal, correct answer on most data and no failure."
)
def evaluate(
    timerange: Annotated[
        str, typer.Option(metavar="YYYYMMDD-YYYYMMDD", help="Days to trade out of sample.")
    ],
    pairs: Pairs = None,
    seeds: Seeds = 1,
    datadir: RealDatadir = None,
    config: ConfigFiles = [],  # noqa: B006 - typer copies it
    freqtrade: Annotated[
        bool,
        typer.Option(
            "--freqtrade", help="Backtest with the real program too; its trades have to agree."
        ),
    ] = False,
    planted: Planted = None,
    signal: Signal = None,
    market_seed: MarketSeed = 0,
    train_days: TrainDays = 30,
    test_days: TestDays = 7,
    embargo_candles: EmbargoCandles = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, show_default="one per CPU", help="Trainings at a time."),
    ] = None,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers", help="Ridge regression and LightGBM on the same windows, as baselines too."
        ),
    ] = False,
    ray: OnRay = False,
    ray_address: RayAddress = None,
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
        project,
        timerange=timerange,
        pairs=pairs or (),
        n_seeds=seeds,
        datadir=datadir,
        configs=config,
        with_program=freqtrade,
        planted=planted,
        signal=signal,
        market_seed=market_seed,
        train_days=train_days,
        test_days=test_days,
        embargo_candles=embargo_candles,
        jobs=jobs,
        with_peers=peers,
        on_ray=ray or ray_address is not None,
        ray_address=ray_address,
    )
    raise typer.Exit(run_evaluation(plan, project, Console(), resumed))


@app.command(epilog=f"{_EXIT_CODES} A model that cannot be trained is a failure.")
def train(
    timerange: Annotated[
        str, typer.Option(metavar="YYYYMMDD-YYYYMMDD", help="Days of the backtest that follows.")
    ],
    pairs: Pairs = None,
    datadir: Annotated[
        Path | None,
        typer.Option(
            callback=_path_checked_by(check_folder),
            show_default="user_data/data/binance",
            help="freqtrade data directory.",
        ),
    ] = None,
    config: ConfigFiles = [],  # noqa: B006 - typer copies it
    jobs: Annotated[
        int | None,
        typer.Option(min=1, show_default="one per CPU", help="Trainings at a time."),
    ] = None,
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


@app.command(
    epilog=f"{_EXIT_CODES} That nothing was found is the normal, correct answer on most data and "
    "no failure."
)
def tune(
    timerange: Annotated[
        str,
        typer.Option(
            metavar="YYYYMMDD-YYYYMMDD", help="Days to search on; the last part is locked away."
        ),
    ],
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
            callback=_path_checked_by(check_file),
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
            callback=_path_checked_by(check_file_to_write),
            show_default="best.json in user_data/studies/NAME",
            help="File for the configuration of the best trial.",
        ),
    ] = None,
    pairs: Pairs = None,
    seeds: Seeds = 1,
    datadir: RealDatadir = None,
    config: ConfigFiles = [],  # noqa: B006 - typer copies it
    planted: Planted = None,
    signal: Signal = None,
    market_seed: MarketSeed = 0,
    train_days: TrainDays = 30,
    test_days: TestDays = 7,
    embargo_candles: EmbargoCandles = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, show_default="one per CPU", help="Trainings at a time."),
    ] = None,
    ray: OnRay = False,
    ray_address: RayAddress = None,
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
        pairs=pairs or (),
        n_seeds=seeds,
        datadir=datadir,
        configs=config,
        planted=planted,
        signal=signal,
        market_seed=market_seed,
        train_days=train_days,
        test_days=test_days,
        embargo_candles=embargo_candles,
        jobs=jobs,
        on_ray=ray or ray_address is not None,
        ray_address=ray_address,
    )
    if final:
        raise typer.Exit(run_final(plan, project, Console()))
    raise typer.Exit(run_search(plan, project, Console(), output))


@app.command(epilog=_EXIT_CODES)
def synth(
    datadir: Annotated[
        Path,
        typer.Option(
            callback=_path_checked_by(check_folder_to_write),
            help="freqtrade data directory to write.",
        ),
    ] = SYNTHETIC_DATADIR,
    start: Annotated[
        datetime,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="YYYY-MM-DD",
            show_default="2024-08-01",
            help="First day, UTC.",
        ),
    ] = datetime(2024, 8, 1),
    end: Annotated[
        datetime,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="YYYY-MM-DD",
            show_default="2024-11-02",
            help="Day after the last, UTC.",
        ),
    ] = datetime(2024, 11, 2),
    pair: Annotated[
        list[str], typer.Option(metavar="PAIR", help="Repeat it for several pairs.")
    ] = [each.pair for each in SyntheticSpec.pairs],  # noqa: B006 - typer copies it
    seed: Annotated[
        int, typer.Option(min=0, help="Another seed, another market.")
    ] = SyntheticSpec.seed,
    signal_strength: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Expected return per candle of a trend, in units of volatility; at 0 there is "
            "nothing to predict.",
        ),
    ] = SyntheticSpec.signal_strength,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Write even if this market is already there.")
    ] = False,
) -> None:
    """Write a synthetic market: 5m, 15m and 1h candles, 1h mark candles and funding rates."""
    from mtf_scalper.worlds.datadir import ensure_datadir, write_datadir

    spec = SyntheticSpec(
        pairs=tuple(map(pair_spec, pair)), seed=seed, signal_strength=signal_strength
    )
    if rewrite:
        write_datadir(spec, datadir, start, end)
    is_new = rewrite or ensure_datadir(spec, datadir, start, end)
    state = "wrote" if is_new else "already there:"
    typer.echo(
        f"{state} {', '.join(pair)}, {start:%Y-%m-%d} to {end:%Y-%m-%d}, in {datadir.as_posix()}"
    )


@app.command(epilog=f"{_EXIT_CODES} Ending the server with Ctrl-C is a success.")
def exchange(
    datadir: Annotated[
        Path,
        typer.Option(
            callback=_path_checked_by(check_folder), help="freqtrade data directory to serve."
        ),
    ] = SYNTHETIC_DATADIR,
    host: Annotated[str, typer.Option(help="127.0.0.1, ::1 or localhost.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="As in configs/offline.json; 0 takes a free port."),
    ] = 8099,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="The clock runs; start freqtrade with: mtf-scalper freqtrade trade ..."
        ),
    ] = False,
    begin: LiveFrom = None,
    speed: LiveSpeed = 1.0,
    spread: Annotated[
        float,
        typer.Option(min=0.0, max=0.1, help="Of bid and ask, as a part of the price."),
    ] = 0.0,
    fault: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="What goes wrong, to test a bot."),
    ] = None,
    fault_symbol: Annotated[
        str | None,
        typer.Option(metavar="SYMBOL", show_default="all", help="As Binance has it: BTCUSDT."),
    ] = None,
    fault_from: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y%m%d", "%Y-%m-%dT%H:%M"],
            metavar="YYYY-MM-DDTHH:MM",
            show_default="the beginning",
            help="By the exchange's clock, UTC.",
        ),
    ] = None,
    fault_minutes: Annotated[
        float | None, typer.Option(min=0.0, show_default="without end", help="How long, with from.")
    ] = None,
) -> None:
    """Answer Binance's public calls, futures and spot, from recorded candles, on loopback only."""
    from mtf_scalper.clock import RunningClock
    from mtf_scalper.exchange.faults import FaultPlan
    from mtf_scalper.exchange.server import serve

    if live != (begin is not None):
        raise typer.BadParameter("--live and --from belong together")
    clock = None if begin is None else RunningClock.starting_at(begin.replace(tzinfo=UTC), speed)

    def announce(url: str) -> None:
        running = "" if clock is None else f", live from {begin:%Y-%m-%d} at {speed:g} times"
        typer.echo(f"replay exchange of {datadir.as_posix()} at {url}{running}; Ctrl-C ends it")

    plan = None
    if fault is not None:
        since = None if fault_from is None else fault_from.replace(tzinfo=UTC)
        plan = FaultPlan.named(fault, fault_symbol, since, fault_minutes)
    serve(datadir, host, port, now=clock, spread=spread, fault=plan, on_listening=announce)


@app.command(
    "freqtrade",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog=f"{_EXIT_CODES} All that follows is freqtrade's own command line.",
)
def clocked_freqtrade(
    context: typer.Context,
    url: Annotated[
        str, typer.Option("--exchange", help="Of `mtf-scalper exchange --live`.")
    ] = "http://127.0.0.1:8099",
) -> None:
    """Run the unmodified freqtrade by the clock of a live replay exchange."""
    from mtf_scalper.runs.clocked import run_freqtrade

    run_freqtrade(url, context.args)


@app.command(
    epilog=f"{_EXIT_CODES} Decisions that differ, candles without one, no training and errors in "
    "the bot's log are a failure."
)
def soak(
    days: Annotated[float, typer.Option(min=0.01, help="Days of the bot's clock.")] = 2.0,
    speed: LiveSpeed = 60.0,
    begin: Annotated[
        datetime,
        typer.Option(
            "--from",
            formats=["%Y%m%d"],
            metavar="YYYYMMDD",
            show_default="20241001",
            help="First day, UTC.",
        ),
    ] = datetime(2024, 10, 1),
    retrain_hours: Annotated[
        float, typer.Option(min=0.1, help="Hours of the bot's clock between trainings.")
    ] = 6.0,
    datadir: RealDatadir = None,
    config: ConfigFiles = [],  # noqa: B006 - typer copies it
) -> None:
    """Let the real bot (dry run) train and trade on history, faster than time; tell how it did."""
    from rich.console import Console

    from mtf_scalper.runs.program import merged
    from mtf_scalper.runs.project import find_project
    from mtf_scalper.runs.soak_report import load_files, plan_soak, run_soak

    retraining = {"freqai": {"live_retrain_hours": retrain_hours}}
    plan, record = plan_soak(
        find_project(),
        days=days,
        speed=speed,
        begin=begin,
        datadir=datadir,
        overrides=merged(retraining, load_files(config)),
    )
    raise typer.Exit(1 if run_soak(plan, record, Console()).failed else 0)


@app.command(epilog=_EXIT_CODES)
def init(
    show_diff: Annotated[
        bool, typer.Option("--diff", help="Write nothing; show how what is here differs.")
    ] = False,
) -> None:
    """Write the configurations and the two files that freqtrade loads, here; replace nothing.

    Here is the folder in which freqtrade runs, with its user_data in it or empty, or a user
    directory itself.
    """
    from mtf_scalper.shipped import differences, write_missing

    for line in differences(Path()) if show_diff else write_missing(Path()):
        typer.echo(line)


@app.command(epilog=_EXIT_CODES)
def doctor(
    datadir: Annotated[
        Path | None,
        typer.Option(
            callback=_path_checked_by(check_folder_if_there),
            help="freqtrade data directory that has to hold candles. Default: look into "
            "user_data/data/binance.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show versions, cores, threads and data; say what is missing or would be slow, and why."""
    from mtf_scalper.checks.doctor import examine, format_report
    from mtf_scalper.shipped import is_set_up

    report = examine(datadir)
    typer.echo(json.dumps(report.as_dict(), indent=2) if as_json else format_report(report))
    if not as_json:
        typer.echo(f"next: mtf-scalper {'demo' if is_set_up(Path()) else 'init'}")
    raise typer.Exit(report.exit_code)


@app.command(epilog=_EXIT_CODES)
def freeze(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name of the policy.")],
    window: Annotated[
        str | None,
        typer.Option(
            metavar="YYYYMMDD",
            show_default="the newest of each pair",
            help="Take the window that trades this day.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, show_default="the first", help="Of an evaluation with several seeds."),
    ] = None,
    folder: RunsFolder = RUNS,
) -> None:
    """Keep the policies that a run was judged by, so that backtests and bots trade by them."""
    from mtf_scalper.records.lookup import find_run
    from mtf_scalper.runs.freezing import freeze_run

    found = find_run(run, folder)
    for line in freeze_run(found, name, found.folder.parent.parent, window=window, seed=seed):
        typer.echo(line)


@app.command(epilog=_EXIT_CODES)
def trust(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", callback=_path_checked_by(check_file), help="A pickle."),
    ],
    userdir: Annotated[
        Path | None,
        typer.Option(
            callback=_path_checked_by(check_folder),
            show_default="that of the file's models folder, or user_data",
            help="freqtrade's user directory, whose programs may read the file from now on.",
        ),
    ] = None,
) -> None:
    """Show what a pickle is, running nothing of it, and let programs of this project read it.

    FreqAI keeps a bot's history and some pipelines as pickles, which run what stands in them when
    they are read. Those that were written elsewhere are refused until you trust them.
    """
    from mtf_scalper.kept_files import file_digest
    from mtf_scalper.trusted import TrustedFiles, described

    for line in described(file):
        typer.echo(line)
    whole = file.resolve()
    above = [each.parent for each in whole.parents if each.name == "models"]
    trusted = TrustedFiles(userdir or (above[0] if above else user_data()))
    trusted.add(file_digest(file), whole, "mtf-scalper trust")
    typer.echo(f"trusted from now on, by {trusted.folder}; delete its file there to undo it")


@runs_app.command("list", epilog=_EXIT_CODES)
def list_runs(folder: RunsFolder = RUNS) -> None:
    """List all runs, newest first; an id is made of kind, day and time (UTC)."""
    from mtf_scalper.records.reader import runs_in
    from mtf_scalper.records.terminal import runs_lines

    runs = runs_in(folder)
    lines = runs_lines(runs) if runs else [f"there are no runs in {folder.as_posix()}"]
    typer.echo("\n".join(lines))


@runs_app.command("show", epilog=_EXIT_CODES)
def show_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)] = "latest",
    folder: RunsFolder = RUNS,
) -> None:
    """Show what a run was, how it stands, its figures and checks, and where its files lie."""
    from rich.console import Console

    from mtf_scalper.records.lookup import find_run
    from mtf_scalper.records.terminal import summary

    console = Console()
    for table in summary(find_run(run, folder)):
        console.print(table)


@runs_app.command("compare", epilog=_EXIT_CODES)
def compare_runs(
    one: Annotated[str, typer.Argument(metavar="A", help=RUN_HELP)],
    other: Annotated[str, typer.Argument(metavar="B", help=RUN_HELP)],
    folder: RunsFolder = RUNS,
) -> None:
    """Show which settings and candles differ between two runs, and their figures side by side."""
    from rich.console import Console

    from mtf_scalper.records.lookup import find_run
    from mtf_scalper.records.terminal import comparison

    console = Console()
    for table in comparison(find_run(one, folder), find_run(other, folder)):
        console.print(table)


@app.command(epilog=_EXIT_CODES)
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)] = "latest",
    output: Annotated[
        Path | None,
        typer.Option(
            callback=_path_checked_by(check_file_to_write),
            help="File to write; report.html in the run's folder if not.",
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    folder: RunsFolder = RUNS,
) -> None:
    """Write the page of a run: one HTML file with its verdict, plots, figures and settings."""
    from mtf_scalper.page.render import write_page
    from mtf_scalper.records.lookup import find_run

    path = write_page(find_run(run, folder).folder, output)
    typer.echo(path)
    if open_it:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


@app.command(epilog=f"{_EXIT_CODES} Ending the server with Ctrl-C is a success.")
def watch(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)] = "latest",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8098,
    folder: RunsFolder = RUNS,
) -> None:
    """Serve the page of a run on loopback, updating while it trains and backtests."""
    from mtf_scalper.page.live import watch as serve_page
    from mtf_scalper.records.lookup import find_run

    def announce(url: str) -> None:
        typer.echo(f"open {url} in a browser; Ctrl-C ends it")

    serve_page(lambda: find_run(run, folder), port, on_listening=announce)

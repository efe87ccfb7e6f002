"""Options that several commands have, and the checks of paths that the user gave."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mtf_scalper.paths import check_file, check_folder, check_folder_if_there, user_data

EXIT_CODES = (
    "Exit codes: 0 success; 1 the run or one of its checks failed, the last line on stderr says "
    "why; 2 the command line was not understood; 130 interrupted with Ctrl-C or SIGTERM."
)

PathCheck = Callable[[Path, str], None]


def path_checked_by(check: PathCheck) -> Callable[[typer.Context, typer.CallbackParam, Any], Any]:
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


RealDatadir = Annotated[
    Path | None,
    typer.Option(
        "--datadir",
        callback=path_checked_by(check_folder),
        help="freqtrade data directory to use instead of a synthetic market.",
    ),
]
ConfigFiles = Annotated[
    list[Path],
    typer.Option(
        callback=path_checked_by(check_file),
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

Jobs = Annotated[
    int | None,
    typer.Option(min=1, show_default="one per CPU", help="Trainings at a time."),
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


def _walk_forward(
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
    jobs: Jobs = None,
    ray: OnRay = False,
    ray_address: RayAddress = None,
) -> dict[str, Any]:
    return {
        "pairs": pairs or (),
        "n_seeds": seeds,
        "datadir": datadir,
        "configs": config,
        "planted": planted,
        "signal": signal,
        "market_seed": market_seed,
        "train_days": train_days,
        "test_days": test_days,
        "embargo_candles": embargo_candles,
        "jobs": jobs,
        "on_ray": ray or ray_address is not None,
        "ray_address": ray_address,
    }


def with_walk_forward(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of walk-forward in place of its parameter ``walk_forward``.

    Its function gets them there as ``plan_evaluation`` takes them.
    """
    shared = inspect.signature(_walk_forward, eval_str=True).parameters

    @functools.wraps(command)
    def called(**given: Any) -> None:
        options = {name: given.pop(name) for name in shared}
        command(**given, walk_forward=_walk_forward(**options))

    own = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for name, each in own.parameters.items():
        parameters += shared.values() if name == "walk_forward" else [each]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return called


RunsFolder = Annotated[
    Path,
    typer.Option(
        "--folder",
        callback=path_checked_by(check_folder_if_there),
        help="Folder that holds the runs.",
    ),
]
RUNS = user_data() / "runs"
RUN_HELP = "A run's id, the beginning of it, its folder, `latest`, or `latest-demo` and the like."

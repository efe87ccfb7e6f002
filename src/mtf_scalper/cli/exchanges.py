"""Commands around the replay exchange: synth, exchange, freqtrade, soak."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mtf_scalper.cli.options import EXIT_CODES, ConfigFiles, RealDatadir, path_checked_by
from mtf_scalper.paths import check_folder, check_folder_to_write, user_data
from mtf_scalper.worlds.synthetic_spec import SyntheticSpec, pair_spec

commands = typer.Typer()

SYNTHETIC_DATADIR = user_data() / "data" / "synthetic"

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


@commands.command(epilog=EXIT_CODES)
def synth(
    datadir: Annotated[
        Path,
        typer.Option(
            callback=path_checked_by(check_folder_to_write),
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


@commands.command(epilog=f"{EXIT_CODES} Ending the server with Ctrl-C is a success.")
def exchange(
    datadir: Annotated[
        Path,
        typer.Option(
            callback=path_checked_by(check_folder), help="freqtrade data directory to serve."
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


@commands.command(
    "freqtrade",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog=f"{EXIT_CODES} All that follows is freqtrade's own command line.",
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


@commands.command(
    epilog=f"{EXIT_CODES} Decisions that differ, candles without one, no training and errors in "
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

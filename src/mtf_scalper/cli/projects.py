"""Commands for what lies in a project: init, doctor, freeze, trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mtf_scalper.cli.options import EXIT_CODES, RUN_HELP, RUNS, RunsFolder, path_checked_by
from mtf_scalper.paths import check_file, check_folder, check_folder_if_there, user_data

commands = typer.Typer()


@commands.command(epilog=EXIT_CODES)
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


@commands.command(epilog=EXIT_CODES)
def doctor(
    datadir: Annotated[
        Path | None,
        typer.Option(
            callback=path_checked_by(check_folder_if_there),
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


@commands.command(epilog=EXIT_CODES)
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


@commands.command(epilog=EXIT_CODES)
def trust(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", callback=path_checked_by(check_file), help="A pickle."),
    ],
    userdir: Annotated[
        Path | None,
        typer.Option(
            callback=path_checked_by(check_folder),
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

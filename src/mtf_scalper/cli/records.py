"""Commands that show what runs left: runs, report, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtf_scalper.cli.options import EXIT_CODES, RUN_HELP, RUNS, RunsFolder, path_checked_by
from mtf_scalper.paths import check_file_to_write

commands = typer.Typer()

runs_app = typer.Typer(
    help="What runs left behind: list them, show one, compare two.", no_args_is_help=True
)
commands.add_typer(runs_app, name="runs")


@runs_app.command("list", epilog=EXIT_CODES)
def list_runs(folder: RunsFolder = RUNS) -> None:
    """List all runs, newest first; an id is made of kind, day and time (UTC)."""
    from mtf_scalper.records.reader import runs_in
    from mtf_scalper.records.terminal import runs_lines

    runs = runs_in(folder)
    lines = runs_lines(runs) if runs else [f"there are no runs in {folder.as_posix()}"]
    typer.echo("\n".join(lines))


@runs_app.command("show", epilog=EXIT_CODES)
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


@runs_app.command("compare", epilog=EXIT_CODES)
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


@commands.command(epilog=EXIT_CODES)
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)] = "latest",
    output: Annotated[
        Path | None,
        typer.Option(
            callback=path_checked_by(check_file_to_write),
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


@commands.command(epilog=f"{EXIT_CODES} Ending the server with Ctrl-C is a success.")
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

"""The command line as a program: its commands, its errors, its end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from mtf_scalper._version import __version__
from mtf_scalper.cli import exchanges, learning, projects, records
from mtf_scalper.cli.options import EXIT_CODES
from mtf_scalper.errors import MtfScalperError
from mtf_scalper.paths import printable, problem_with_files

app = typer.Typer(
    name="mtf-scalper",
    help="Reinforcement learning for freqtrade. New here: `init` writes what freqtrade loads, "
    "`doctor` says what is missing, `demo` trains and backtests offline.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


for each in (learning, exchanges, projects, records):  # as --help lists them
    app.add_typer(each.commands)


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
    SIGTERM, by which systems end a program, is taken for Ctrl-C: nothing temporary is left.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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

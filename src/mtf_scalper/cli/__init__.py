"""The command line: parses, calls and prints.

What a command needs is imported when it runs, so that ``--help`` answers at once.
"""

from mtf_scalper.cli.program import app, main, with_address

__all__ = ["app", "main", "with_address"]

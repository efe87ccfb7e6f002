"""Train and backtest a short range, watch the processes, and check what was in force.

The same as ``mtf-scalper validate``; ``python validate_monitoring.py --help`` lists the options.
"""

import sys

try:
    from mtf_scalper.cli import main
except ModuleNotFoundError as error:
    sys.exit(
        f"validate_monitoring.py: this Python has no module {error.name!r}; run `make install`, "
        "then start it with the Python of .venv (README.md says how without make)"
    )

if __name__ == "__main__":
    sys.argv.insert(1, "validate")
    main()

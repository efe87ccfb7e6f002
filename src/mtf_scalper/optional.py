"""Libraries of the package's extras, imported where they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from mtf_scalper.errors import MtfScalperError


def library(name: str, extra: str = "evidence") -> Any:
    """Return a module of an extra: of statistics and supervised peers, or another one.

    They take seconds to import, and training and trading need none of them.

    Raises
    ------
    MtfScalperError
        If it is not installed: says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
            raise
        raise MtfScalperError(
            f"{error.name} is not installed; install it with: "
            f'python -m pip install "mtf-scalper[{extra}]"'
        ) from None

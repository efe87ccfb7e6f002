"""What supervised peers are called, and whether a policy is above them, in words.

Apart from the peers themselves, so that who only reads a record imports nothing that trades.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

TITLES: Final[Mapping[str, str]] = MappingProxyType({"ridge": "ridge", "lightgbm": "LightGBM"})
"""What peers are called in a record, on a page and in tables."""


def beside_peers(figures: Mapping[str, Any]) -> str:
    """Say whether a policy is above each peer; empty where none was asked for.

    It is above or below one where the 95% interval of the difference says so.

    Parameters
    ----------
    figures : mapping
        A row of ``figures.json``.
    """
    told = []
    for name, title in TITLES.items():
        found = figures.get(f"excess_over_{name}")
        if found is None or found["value"] is None:
            continue
        low, high = found["low"], found["high"]
        if low is None or high is None:
            told.append(f"{found['value']:+.3f} beside {title}, in too few days to tell")
            continue
        words = "above" if low > 0.0 else "below" if high < 0.0 else "neither above nor below"
        told.append(f"{words} {title} ({found['value']:+.3f}, 95% from {low:+.3f} to {high:+.3f})")
    return f"the policy is {'; '.join(told)}" if told else ""

"""The licences of all that is installed here, against the list of those that may be.

``python tools/licences.py`` asks pip-licenses (the extra ``audit``) and prints what it found by
licence. It fails on a licence that is not on the list, on none at all, and where nothing was found:
whoever adds a package looks at its licence once, and adds a line here with the reason.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

ALLOWED: Final = frozenset(
    {
        # permissive, as SPDX names them
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause"),
        *("BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-CMU", "NCSA", "PSF-2.0", "Zlib"),
        # and as older packages do
        *("3-Clause BSD License", "Apache 2.0", "Apache License 2.0", "Apache Software License"),
        *("BSD License", "ISC License (ISCL)", "MIT License", "Simplified BSD"),
        *("Python Software Foundation License", "The Unlicense (Unlicense)", "Unlicense"),
        # of single files, or of a library that is linked and not changed
        *("MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)", "LGPL-3.0-only"),
        # this package's own, and freqtrade's
        *("GPL-3.0-or-later", "GNU General Public License v3 (GPLv3)"),
    }
)
BY_HAND: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TA-Lib": "BSD 2-Clause in its file LICENSE; its metadata name none",
        "nvidia-nccl-cu12": "proprietary, free to use; xgboost asks for it on Linux, unused",
    }
)
"""Packages whose metadata do not say it, or that are here for a reason; found by reading."""


def parts(licence: str) -> list[str]:
    """Return the single licences of an expression: all of them have to be allowed.

    >>> parts("MPL-2.0 AND (Apache-2.0 OR MIT)")
    ['MPL-2.0', 'Apache-2.0', 'MIT']
    """
    if licence in ALLOWED:
        return [licence]
    bare = re.sub(r"[()](?![A-Z ]*\))", " ", licence)
    return [part.strip() for part in re.split(r"\bAND\b|\bOR\b|;", bare) if part.strip()]


def problems(packages: Iterable[Mapping[str, str]]) -> list[str]:
    """Return a line for each package whose licence is unknown or not allowed.

    Parameters
    ----------
    packages : iterable of mapping
        ``Name``, ``Version`` and ``License``, as pip-licenses writes them.
    """
    found = []
    for package in packages:
        name, licence = package["Name"], package["License"]
        wrong = [part for part in parts(licence) if part not in ALLOWED] or (
            [] if licence.strip() else ["no licence"]
        )
        if wrong and name not in BY_HAND:
            found.append(f"{name} {package['Version']}: {', '.join(wrong)}"[:200])
    return found


def installed() -> list[dict[str, str]]:
    """Return all packages of this interpreter, as pip-licenses tells them."""
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        sys.exit(f"licences: pip-licenses failed: {last}; pip install -e '.[audit]'")
    packages: list[dict[str, str]] = json.loads(done.stdout)
    return packages


def main() -> None:
    """Print the licences and what is wrong; exit with 1 where something is."""
    packages = installed()
    counted: dict[str, int] = {}
    for package in packages:
        for part in parts(package["License"]):
            counted[part] = counted.get(part, 0) + 1
    for licence, number in sorted(counted.items(), key=lambda each: -each[1]):
        print(f"{number:4}  {licence[:100]}")
    wrong = problems(packages)
    for line in wrong:
        print(f"not allowed: {line}", file=sys.stderr)
    print(f"{len(packages)} packages, {len(wrong)} not allowed, {len(BY_HAND)} known by hand")
    sys.exit(1 if wrong or not packages else 0)


if __name__ == "__main__":
    main()

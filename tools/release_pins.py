"""``requirements-release.txt``: what a release runs on, by the digests of its files.

``make release-pins`` runs it. pip-compile (the extra ``audit``) resolves ``pyproject.toml`` with
``constraints.txt``; neither an index nor a folder is named, so that everybody uses their own. torch
is left out: its build is chosen before (see ``docs/install.md``), and each has digests of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
OUTPUT: Final = ROOT / "requirements-release.txt"
HEAD: Final = "# What a release runs on beside torch, by digests; see tools/release_pins.py.\n"
_COMMAND: Final = (
    *(sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes"),
    *("--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links", "--no-emit-options"),
    *("--no-header", "--no-annotate", "--strip-extras", "--allow-unsafe"),
    *("--extra", "freqtrade", "--extra", "evidence", "-c", "constraints.txt"),
)


def cleaned(text: str) -> str:
    """Return the entries of a compiled file that have digests, torch left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = re.split(r"\n(?=\S)", "\n".join(lines))
    kept = [
        entry.rstrip()
        for entry in entries
        if "--hash=sha256:" in entry and not entry.startswith(("torch==", "-"))
    ]
    return HEAD + "\n".join(kept) + "\n"


def main() -> None:
    """Write the file anew."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "compiled.txt"
        subprocess.run([*_COMMAND, "-o", str(found), "pyproject.toml"], cwd=ROOT, check=True)
        OUTPUT.write_text(cleaned(found.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

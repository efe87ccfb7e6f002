"""Show that a rewrite moved nothing: digests of what the programs make of fixed seeds.

    python tools/digests.py keep before.json      # before the change
    python tools/digests.py compare before.json   # after it; exit code 1 where a part differs

The demo, ``parity`` with each of its policies, two evaluations and the README's Python program run
in a temporary project that holds nothing else. What is digested are numbers and words as the files
of a record, the models and the output hold them, to the last bit, whatever the compression or the
order of keys; left out is only what differs between two runs of the same build: times, paths,
process ids. Bits depend on the kind of processor, so both files have to be of one machine. It takes
three minutes.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(sys.executable).with_name("mtf-scalper")
TABLES = ("trades", "candles", "predictions", "equity", "daily")
DOCUMENTS = ("figures", "random_exits", "importance", "statistics", "checks")
LEFT_OUT = re.compile(r"run_id|seconds|began|ended|path|folder")
"""Keys of documents whose values are of one run."""
README_TAIL = """
result.policy.save("policy.zip")
print(run.trades, best.trades, repr(run.log_return), repr(best.log_return))
"""

Digests = dict[str, str]


def main() -> int:
    """Keep the digests, or compare them with kept ones."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("keep", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--part", choices=PARTS, action="append", help="only these; repeatable")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="digests-") as folder:
        project = project_in(Path(folder))
        made: Digests = {}
        for part in chosen.part or PARTS:
            print(part, flush=True)
            made.update({f"{part} {name}": each for name, each in PARTS[part](project).items()})
    if chosen.action == "keep":
        chosen.file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        print(f"{len(made)} digests kept in {chosen.file}")
        return 0
    kept: Digests = json.loads(chosen.file.read_text(encoding="utf-8"))
    if chosen.part:
        kept = {name: each for name, each in kept.items() if name.split()[0] in chosen.part}
    differing = sorted(name for name in kept | made if kept.get(name) != made.get(name))
    for name in differing:
        words = (
            "is missing now" if name not in made else "is new" if name not in kept else "differs"
        )
        print(f"{name} {words}")
        if name.endswith(" output") and words == "differs":
            print(
                *difflib.unified_diff(kept[name].split("\n"), made[name].split("\n"), n=0), sep="\n"
            )
    print(f"{len(kept | made) - len(differing)} of {len(kept | made)} digests are equal")
    return 1 if differing else 0


def project_in(folder: Path) -> Path:
    """Return a project with the shipped configurations and faces, and no runs."""
    for name in ("configs", "user_data/strategies", "user_data/freqaimodels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def demo(project: Path) -> Digests:
    """Return the digests of the demo's record, output and models."""
    printed = printed_by(project, "demo")
    record = newest_record(project, "demo")
    models = {
        f"weights {path.parent.name}": weights_of(path.read_bytes())
        for path in sorted((project / "user_data" / "models" / record.name).glob("*/*_model.zip"))
    }
    # The parts that name the run, and the time it took, stand below the verdict; the last column
    # of the table is the speed.
    words = printed.partition("whole run")[0].partition("training one agent")[2]
    words = re.sub(r"│ +[\d,]+ │$", "│", words, flags=re.MULTILINE)
    return {**record_of(record), **models, "output": without_paths(verdict_onwards(words))}


def parity(project: Path, policy: str) -> Digests:
    """Return the digest of what ``parity`` prints."""
    printed = printed_by(project, "parity", "--timerange", "20241001-20241015", "--policy", policy)
    return {"output": without_paths(printed)}


def evaluate(project: Path, *options: str) -> Digests:
    """Return the digests of an evaluation's record."""
    printed_by(project, "evaluate", *options)
    return record_of(newest_record(project, "evaluate"))


def readme(project: Path) -> Digests:
    """Return the digests of the README's Python program: what it prints, trades and weights."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert found is not None, "README.md has no Python program"
    printed = run_in(project, [sys.executable, "-c", found[1] + README_TAIL])
    return {
        "output": printed,
        "weights": weights_of((project / "policy.zip").read_bytes()),
    }


PARTS: dict[str, Callable[[Path], Digests]] = {
    "readme": readme,
    "parity-random": lambda project: parity(project, "random"),
    "parity-always-enter": lambda project: parity(project, "always-enter"),
    "parity-learned": lambda project: parity(project, "learned"),
    "evaluate-planted": lambda project: evaluate(
        project, "--timerange", "20241001-20241015", "--planted", "linear"
    ),
    "evaluate-candles": lambda project: evaluate(
        project, "--timerange", "20241001-20241015", "--datadir", "user_data/data/synthetic"
    ),
    "demo": demo,
}


def printed_by(project: Path, *arguments: str) -> str:
    """Return what a command of the program prints."""
    return run_in(project, [str(PROGRAM), *arguments])


def run_in(project: Path, command: list[str]) -> str:
    """Return what a command prints in the project; end with its last line if it fails."""
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def newest_record(project: Path, kind: str) -> Path:
    """Return the folder of the newest record of a kind."""
    folders = (project / "user_data" / "runs").glob(f"{kind}-*")
    return max(folders, key=lambda folder: folder.stat().st_mtime)


def record_of(folder: Path) -> Digests:
    """Return the digests of a record's tables, documents and verdict."""
    made = {}
    for path in sorted(folder.iterdir()):
        kind = re.split(r"[-.]", path.name)[0]
        if path.suffix == ".feather" and kind in TABLES:
            made[path.name] = digest_of(*table_of(pd.read_feather(path)))
        elif path.suffix == ".jsonl" and kind in TABLES:
            made[path.name] = digest_of(path.read_text(encoding="utf-8"))
        elif path.suffix == ".json" and kind in DOCUMENTS:
            document = plain(json.loads(path.read_text(encoding="utf-8")))
            made[path.name] = digest_of(json.dumps(document, sort_keys=True))
    outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    return {**made, "verdict": digest_of(outcome["verdict"])}


def table_of(table: pd.DataFrame) -> Iterator[str | bytes]:
    """Yield a table's columns: name, dtype and content to the last bit."""
    for name in table.columns:
        column = table[name]
        yield f"{name} {column.dtype}"
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            column = column.dt.tz_convert(None)
        # Integers with gaps become objects, whose bytes are addresses.
        values = column.to_numpy()
        exact = values.dtype.kind in "biufM"
        yield values.tobytes() if exact else json.dumps(list(map(str, column)))


def plain(value: Any) -> Any:
    """Return a document without what is of one run only."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if not LEFT_OUT.search(key)}
    return list(map(plain, value)) if isinstance(value, list) else value


def weights_of(checkpoint: bytes) -> str:
    """Return the digest of a checkpoint's weights: names, dtypes, shapes and values."""
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    parts: list[str | bytes] = []
    for name, tensor in sorted(weights.items()):
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        parts.append(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest_of(*parts)


def verdict_onwards(text: str) -> str:
    """Return the demo's output from the table of trades on, without bars and their times."""
    return text[text.index("trades") :] if "trades" in text else text


def without_paths(text: str) -> str:
    """Return a text without the folders and times of one run."""
    text = re.sub(r"\S*(?:parity|digests)-\S+", "", text)
    return re.sub(r"\b\d+(?:\.\d+)? s\b", "", text)


def digest_of(*parts: str | bytes) -> str:
    """Return the digest of texts and bytes, in their order."""
    made = hashlib.sha256()
    for part in parts:
        made.update(part.encode() if isinstance(part, str) else part)
        made.update(b"\0")
    return made.hexdigest()


if __name__ == "__main__":
    sys.exit(main())

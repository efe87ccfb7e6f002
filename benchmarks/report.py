"""What every benchmark needs: the work to do, repeats, the machine, requirements and the output.

A benchmark is a function of a ``Workload`` and a number of repeats that returns ``Measured``;
``run`` is its command line. It prints the tables, writes ``results/<name>.json``, and puts the same
tables between the benchmark's markers in ``docs/performance.md``. Every run leaves a record in
``user_data/runs`` besides, of kind ``benchmark-<name>``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mtf_scalper.market.market import Market
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.records.check import Check
from mtf_scalper.records.manifest import git, machine_facts, version_of
from mtf_scalper.records.sampler import ProcessSampler
from mtf_scalper.records.writer import RunRecord
from mtf_scalper.settings import EntryMode, Settings, TradeRules

DOCUMENT = "performance.md"
HERE = Path(__file__).resolve().parent
_SAMPLE_SECONDS = 5.0
_PACKAGES = ("torch", "stable-baselines3", "numba", "numpy", "gymnasium", "freqtrade", "sbx-rl")


class ParityError(Exception):
    """Two sides that are to be compared did not do the same work."""


@dataclass(frozen=True)
class Workload:
    """Sizes of the work that all sides do; the defaults are the reference recipe.

    30 days of 5m candles less 15% for validation, as FreqAI hands them over. The fields that begin
    with ``before`` are the recipe of freqtrade's users before: one environment, smaller network.
    """

    n_candles: int = 7344
    n_features: int = 40
    window: int = 10
    n_envs: int = 8
    n_steps: int = 4096
    batch_size: int = 256
    n_epochs: int = 10
    net_arch: tuple[int, ...] = (512, 512, 256)
    before_n_steps: int = 2048
    before_batch_size: int = 64
    before_net_arch: tuple[int, ...] = (256, 256, 128)
    threads: int = 2

    @property
    def steps(self) -> int:
        """Environment steps of a training: one rollout of all environments together."""
        return self.n_envs * self.n_steps

    def settings(self, entry: EntryMode, **changes: Any) -> Settings:
        """Return settings whose training on ``n_candles`` is one rollout and its update."""
        values: dict[str, Any] = {
            "advantage": "gae",
            "train_cycles": max(1, self.steps // self.n_candles),
            "n_envs": self.n_envs,
            "n_steps": self.n_steps,
            "batch_size": self.batch_size,
            "n_epochs": self.n_epochs,
            "net_arch": self.net_arch,
            "window_size": self.window,
            "cpu_count": self.threads,
            "device": "cpu",
            "rules": shipped_rules(entry),
        }
        return Settings(**{**values, **changes})

    def market(self) -> Market:
        """Return the market that all sides train on."""
        return benchmark_market(n_candles=self.n_candles, n_features=self.n_features)


QUICK = Workload(
    n_candles=120,
    n_features=3,
    window=4,
    n_envs=2,
    n_steps=64,
    batch_size=32,
    n_epochs=2,
    net_arch=(16, 8),
    before_n_steps=32,
    before_batch_size=16,
    before_net_arch=(8, 8),
)
"""Sizes that only show that a benchmark runs."""


def shipped_rules(entry: EntryMode) -> TradeRules:
    """Return the rules of a trade as the shipped strategy sets them."""
    return TradeRules(
        entry=entry,
        stoploss=-0.10,
        minimal_roi={0: 0.04, 30: 0.02, 60: 0.01},
        max_trade_duration_candles=48,
        emergency_loss=-0.03,
        break_even_trigger=0.015,
        break_even_floor=0.001,
    )


def benchmark_market(seed: int = 1, *, n_candles: int, n_features: int) -> Market:
    """Return a random walk with random features and entry signals on 8% of the candles."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.0015, n_candles)))
    opened = np.concatenate([[100.0], close[:-1]])
    high = np.maximum(opened, close) * (1.0 + rng.exponential(0.0004, n_candles))
    low = np.minimum(opened, close) * (1.0 - rng.exponential(0.0004, n_candles))
    signals = rng.random((2, n_candles)) < 0.04
    return Market(
        features=rng.normal(0.0, 0.5, (n_candles, n_features)).astype(np.float32),
        ohlc=np.column_stack([opened, high, low, close]),
        entry_long=signals[0],
        entry_short=signals[1] & ~signals[0],
        pair="benchmark",
    )


@dataclass(frozen=True)
class Requirement:
    """A bound that was set before anything was measured, and what was measured."""

    what: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the measured value keeps the bound; NaN keeps none."""
        if self.at_least is not None:
            return self.measured >= self.at_least
        return self.at_most is not None and self.measured <= self.at_most

    def row(self) -> list[str]:
        """Return the requirement as a row of a table."""
        is_least = self.at_least is not None
        bound = self.at_least if is_least else self.at_most
        wanted = f"{'at least' if is_least else 'at most'} {bound:g} {self.unit}".rstrip()
        measured = f"{number(self.measured)} {self.unit}".rstrip()
        return [self.what, wanted, measured, "met" if self.met else "not met"]


@dataclass(frozen=True)
class Measured:
    """What a benchmark found.

    Attributes
    ----------
    results : dict
        Goes to the JSON file as it is.
    tables : list of str
        Markdown, for the terminal and the document.
    requirements : list of Requirement
    figures : dict of str to str
        SVG images by file name.
    """

    results: dict[str, Any]
    tables: list[str]
    requirements: list[Requirement] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)


Measure = Callable[[Workload, int], Measured]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of the repeats."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def number(value: float) -> str:
    """Return a number with about three digits."""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def with_spread(values: Sequence[float]) -> str:
    """Return median and, of several repeats, lowest and highest."""
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))} to {number(max(values))})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned in the terminal too."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    about = machine_facts()
    threading = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMBA_NUM", "XLA_")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": about["processor"],
        "cpus": available_cpus(),
        "cores": psutil.cpu_count(logical=False),
        "platform": about["system"],
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in _PACKAGES},
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(threading)},
        "commit": commit(),
    }


def in_fresh_process(
    function: str, *arguments: Any, environment: dict[str, str] | None = None
) -> Any:
    """Call ``"module:function"`` of this folder in a new interpreter; return what it returns.

    Arguments and result go through JSON. What the function prints is ignored.
    """
    module, name = function.split(":")
    code = (
        "import importlib, json, sys; sys.path.insert(0, sys.argv[1]); "
        "print(json.dumps(getattr(importlib.import_module(sys.argv[2]), sys.argv[3])"
        "(*json.loads(sys.argv[4]))))"
    )
    command = [sys.executable, "-c", code, str(HERE), module, name, json.dumps(arguments)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    return json.loads(done.stdout.splitlines()[-1])


def write(
    name: str, measured: Measured, repeats: int, project: Path, document: str = DOCUMENT
) -> Path:
    """Write results, figures and the benchmark's section of the document; return the results."""
    about = machine()
    path = project / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    requirements = [asdict(each) | {"met": each.met} for each in measured.requirements]
    whole = {"machine": about, "repeats": repeats, "requirements": requirements, **measured.results}
    path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    images = project / "docs" / "images"
    for file_name, image in measured.figures.items():
        images.mkdir(parents=True, exist_ok=True)
        (images / file_name).write_text(image, "utf-8")
    footer = (
        f"{about['date']}, {about['cpu']}, {about['cpus']} CPUs, commit {about['commit']}; "
        f"median (lowest to highest) of {repeats}."
    )
    _replace_section(project / "docs" / document, name, [*_sections(measured), footer])
    return path


def run(
    name: str,
    description: str | None,
    measure: Measure,
    *,
    repeats: int = 3,
    document: str = DOCUMENT,
) -> int:
    """Measure, print and write; return 0, or 1 where parity failed and nothing was measured.

    ``repeats`` is the default of ``--repeats``; ``document`` is the file of ``docs/`` with the
    markers.
    """
    parser = argparse.ArgumentParser(description=(description or name).splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes; the files go to a temporary folder"
    )
    arguments = parser.parse_args()
    project = quick_project(document) if arguments.quick else HERE.parent
    workload = QUICK if arguments.quick else Workload()
    try:
        with recorded(name, project, {**asdict(workload), "repeats": arguments.repeats}) as record:
            measured = measure(workload, arguments.repeats)
            path = write(name, measured, arguments.repeats, project, document)
            finish(record, measured, path)
    except ParityError as error:
        print(f"{name}: no parity, so nothing was measured: {error}", file=sys.stderr)
        return 1
    show(name, measured, path)
    return 0


@contextmanager
def recorded(name: str, project: Path, settings: Mapping[str, Any]) -> Iterator[RunRecord]:
    """Begin the record of a benchmark; what it takes of the machine is sampled seldom.

    Every sample takes some milliseconds of a core, from both sides of a comparison alike.
    """
    runs = project / "user_data" / "runs"
    with RunRecord.begin(runs, f"benchmark-{name}", settings=settings) as record:
        sampler = ProcessSampler(
            os.getpid(),
            interval_seconds=_SAMPLE_SECONDS,
            on_sample=record.append_sample,
            keeps=False,
        )
        with sampler:
            yield record


def finish(record: RunRecord, measured: Measured, path: Path) -> None:
    """Put the results and the requirements into the record of a benchmark, and end it."""
    record.write_json("results", json.loads(path.read_text("utf-8")))
    checks = []
    for each in measured.requirements:
        _, wanted, found, _ = each.row()
        checks.append(Check.of(each.what, found, wanted, "" if each.met else "not met").as_dict())
    record.write_json("checks", checks)
    met = sum(each.met for each in measured.requirements)
    verdict = f"{met} of {len(checks)} requirements met" if checks else None
    record.finish(verdict, {"results": path})


def quick_project(document: str) -> Path:
    """Return a temporary folder that takes the place of the project in a quick run."""
    project = Path(tempfile.mkdtemp(prefix="benchmark-"))
    (project / "docs").mkdir()
    shutil.copy(HERE.parent / "docs" / document, project / "docs")
    return project


def show(name: str, measured: Measured, path: Path) -> None:
    """Print what was measured."""
    print(f"\n{name}\n\n" + "\n\n".join(_sections(measured)) + f"\n\nwritten to {path}", flush=True)


def _sections(measured: Measured) -> list[str]:
    if not measured.requirements:
        return measured.tables
    rows = [each.row() for each in measured.requirements]
    return [*measured.tables, table(["requirement", "required", "measured", "verdict"], rows)]


def _replace_section(document: Path, name: str, blocks: list[str]) -> None:
    text = document.read_text("utf-8")
    pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{document.name} has no markers of {name!r}")
    body = "\n\n".join(blocks)
    text = pattern.sub(lambda found: f"{found[1]}\n{body}\n\n{found[2]}", text)
    document.write_text(text, "utf-8")


def commit() -> str:
    """Return the commit, with ``-dirty`` where code differs: results of this run do not count."""
    commit = git("rev-parse", "--short", "HEAD", folder=HERE.parent)
    code = ("src", ":(glob)benchmarks/*.py", "pyproject.toml", "constraints.txt")
    is_dirty = bool(commit and git("status", "--porcelain", "--", *code, folder=HERE.parent))
    return (commit or "unknown") + ("-dirty" if is_dirty else "")

"""What the package promises as a whole: its API, its layers, and files that work anywhere."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mtf_scalper

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "mtf_scalper"


def tracked_files() -> list[Path]:
    """Return the files of the repository that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is no list of the project's files")
    listed = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in files if path.is_file()]


# Built from pieces, so that this file does not find itself.
_FOLDERS = "|".join(("home", "opt", "private", "root", "tmp", "Users", "work"))
_HOSTS = ("pypi" + ".org", "python" + "hosted", "download.py" + "torch", "ana" + "conda.org")
_MACHINE_SPECIFIC = re.compile(
    rf"(?<![\w.:])/(?:{_FOLDERS})/[\w.]|[A-Z]:\\+Users\\|" + "|".join(map(re.escape, _HOSTS))
)


def machine_specific(text: str) -> bool:
    """Whether ``text`` names an absolute folder of one machine, or a package registry."""
    return _MACHINE_SPECIFIC.search(text) is not None


def test_the_api_is_pinned() -> None:
    assert mtf_scalper.__all__ == [
        "Market",
        "Policy",
        "Report",
        "RewardState",
        "Settings",
        "Simulation",
        "TradeRules",
        "TrainResult",
        "__version__",
        "evaluate",
        "oracle",
        "reward",
        "simulate",
        "train",
    ]


@pytest.mark.parametrize("name", mtf_scalper.__all__)
def test_every_name_of_the_api_is_there(name: str) -> None:
    assert getattr(mtf_scalper, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = mtf_scalper.no_such_name


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import mtf_scalper, sys\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'pydantic', 'freqtrade'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_imports_point_down_only_and_freqtrade_stays_in_its_layer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "Contracts: 3 kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    "parts",
    [
        ("/ho", "me/someone/candles"),
        ('"/tm', 'p/model.zip"'),
        ("cd /wo", "rk/main"),
        ("C:", "\\Users\\someone"),
        ("--index-url https://py", "pi.org/simple"),
    ],
)
def test_places_on_one_machine_are_recognised(parts: tuple[str, str]) -> None:
    assert machine_specific("".join(parts))


@pytest.mark.parametrize(
    "text", ["../shared/work/x", "user_data/tmp/x", "http://host:1/home/x", "/usr/bin/env bash"]
)
def test_other_paths_are_not(text: str) -> None:
    assert not machine_specific(text)


def test_no_file_names_a_place_on_one_machine_or_a_registry() -> None:
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # no text
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(lines, start=1)
            if machine_specific(line)
        ]
    assert found == []


def test_every_pin_fits_the_ranges_of_the_package() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    assert pins["torch"] == "2.13.0"
    wanted = [Requirement(text) for text in metadata.requires("mtf-scalper") or []]
    assert len(wanted) > 15
    for requirement in wanted:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])

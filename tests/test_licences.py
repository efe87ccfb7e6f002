"""The list of licences: what is on it passes, whatever is not known fails."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "licences.py"
RELEASE = ROOT / "requirements-release.txt"


@pytest.fixture(scope="module")
def licences() -> Any:
    spec = importlib.util.spec_from_file_location("licences", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of(licence: str, name: str = "thing") -> list[dict[str, str]]:
    return [{"Name": name, "Version": "1", "License": licence}]


@pytest.mark.parametrize(
    "licence",
    [
        *("MIT", "MIT License", "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0"),
        *("MPL-2.0 AND (Apache-2.0 OR MIT)", "Apache Software License; MIT License"),
        *("GNU General Public License v3 (GPLv3)", "Mozilla Public License 2.0 (MPL 2.0)"),
        "BSD-2-Clause AND Apache-2.0 WITH LLVM-exception",
    ],
)
def test_what_is_on_the_list_passes(licence: str, licences: Any) -> None:
    assert licences.problems(of(licence)) == []


@pytest.mark.parametrize(
    "licence",
    ["UNKNOWN", "", " ", "AGPL-3.0-only", "MIT AND Proprietary", "MIT; Other/Proprietary", "MITx"],
)
def test_what_is_not_known_fails_and_is_named(licence: str, licences: Any) -> None:
    (line,) = licences.problems(of(licence))
    assert line.startswith("thing 1: ")
    assert licences.problems(of(licence, "TA-Lib")) == []


@pytest.mark.skipif(not RELEASE.is_file(), reason="no checkout")
def test_a_release_is_installed_by_digests_of_pinned_versions_and_names_no_index() -> None:
    text = RELEASE.read_text(encoding="utf-8")
    for word in (
        "--index-url",
        "--extra-index-url",
        "--find-links",
        "--trusted-host",
        "file:",
        "@",
    ):
        assert word not in text, word
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, flags=re.MULTILINE))
    entries = re.split(r"\n(?=[\w.-]+==)", text)[1:]
    with_digest = [entry for entry in entries if "--hash=sha256:" in entry]
    assert len(pinned) == len(with_digest) > 100
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    known = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", constraints, flags=re.MULTILINE))
    named = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in known.items()}
    for name, version in pinned.items():
        assert named.get(re.sub(r"[-_.]+", "-", name).lower(), version) == version, name

"""Files that something of the user's own is made of, by what they say and what is there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mtf_scalper.own_code import OwnCode, own_code

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return what writes files into a folder; modules loaded from there are forgotten again."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def to(folder: str = "", **sources: str) -> Path:
        for name, source in sources.items():
            path = tmp_path / folder / f"{name.replace('__of__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return tmp_path / folder / f"{next(iter(sources))}.py"

    yield to
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(found: OwnCode) -> set[str]:
    return set(found.digests)


def test_a_file_that_imports_nothing_of_the_users_own_stands_alone(write: Write) -> None:
    path = write(one="import json\nimport numpy as np\nfrom mtf_scalper import Market\n")
    assert own_code(path) == OwnCode({}, ())


@pytest.mark.parametrize(
    "source",
    [
        "import oc_helper",
        "import oc_helper as other",
        "from oc_helper import value",
        "from oc_helper import *",
        "def later():\n    import oc_helper",
        "try:\n    import oc_helper\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('oc_helper')",
        "__import__('oc_helper')",
    ],
)
def test_a_module_beside_it_counts_wherever_it_is_imported(write: Write, source: str) -> None:
    path = write(oc_one=f"{source}\n", oc_helper="value = 1\n", oc_other="never imported\n")
    before = own_code(path)
    assert names(before) == {"oc_helper.py"}
    write(oc_helper="value = 2\n")
    assert own_code(path).digests != before.digests
    write(oc_helper="value = 1\r\n")  # as another editor ends its lines
    assert own_code(path).digests == before.digests


def test_packages_count_with_all_that_lead_to_the_module_and_what_it_imports(write: Write) -> None:
    path = write(oc_one="from oc_pack.inner.deep import value\nfrom oc_pack import side\n")
    write("oc_pack", __init__="", side="from . import third\nfrom .inner import deep\n", third="")
    write("oc_pack/inner", __init__="", deep="from ..fourth import value\n")
    write("oc_pack", fourth="value = 1\n", fifth="value = 2\n")
    assert names(own_code(path)) == {
        f"oc_pack/{name}.py"
        for name in ("__init__", "side", "third", "inner/__init__", "inner/deep", "fourth")
    }


def test_folders_without_an_init_are_packages_too(write: Write) -> None:
    path = write(oc_one="import oc_space.part\n")
    write("oc_space", part="value = 1\n")
    assert names(own_code(path)) == {"oc_space/part.py"}


def test_modules_that_import_each_other_are_found_once(write: Write) -> None:
    path = write(oc_one="import oc_two\n", oc_two="import oc_three\n", oc_three="import oc_one\n")
    assert names(own_code(path)) == {"oc_two.py", "oc_three.py"}


def test_what_is_elsewhere_on_pythons_path_goes_by_its_modules_name(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(oc_one="import oc_shared.part\n")
    other = write("elsewhere/oc_shared", __init__="", part="value = 1\n").parents[1]
    monkeypatch.syspath_prepend(str(other))
    found = own_code(path)
    # The folder lies under the first file's here, and is found by its path from there.
    assert names(found) == {"elsewhere/oc_shared/__init__.py", "elsewhere/oc_shared/part.py"}
    moved = write("strategies", oc_first="import oc_shared.part\n")
    assert names(own_code(moved)) == {"oc_shared", "oc_shared.part"}


LOADED = """
import importlib, importlib.util, sys
from pathlib import Path

name = "oc_" + "computed"
chosen = importlib.import_module(name).value
spec = importlib.util.spec_from_file_location("oc_by_path", Path(__file__).parent / "oc_by_path.py")
by_path = importlib.util.module_from_spec(spec)
spec.loader.exec_module(by_path)
table = {"rule": [by_path.rule]}
del by_path
"""


def test_what_was_loaded_by_a_name_made_at_run_time_is_found_by_what_is_there(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(oc_one=LOADED, oc_computed="def value():\n    pass\n")
    write(oc_by_path="def rule():\n    pass\n")
    monkeypatch.syspath_prepend(str(path.parent))
    import oc_one  # type: ignore[import-not-found]

    found = own_code(path, objects=(oc_one,))
    assert names(found) == {"oc_computed.py", "oc_by_path.py"}
    # Without it there is nothing but the source, which does not say: that is told.
    unread = own_code(write("copy", oc_one=LOADED.replace("oc_", "ocx_")))
    assert names(unread) == set()
    assert unread.unseen == (
        "oc_one.py, line 6: a module named at run time",
        "oc_one.py, line 7: a module named at run time",
    )


def test_base_classes_decorators_and_methods_of_others_lead_to_their_files(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(oc_one="from oc_two import Two\nclass One(Two):\n    pass\n")
    write(oc_two="from oc_three import Three\nclass Two(Three):\n    pass\n")
    write(oc_three="from oc_four import marked\nclass Three:\n    @marked\n    def f(self): ...\n")
    write(
        oc_four="import functools\ndef marked(f):\n    return functools.wraps(f)(lambda s: f(s))\n"
    )
    monkeypatch.syspath_prepend(str(path.parent))
    import oc_one

    # Without a first file: it is what is there alone that leads on.
    found = own_code(None, objects=(oc_one.One,))
    assert names(found) == {"oc_one", "oc_two", "oc_three", "oc_four"}


def test_a_package_installed_from_a_folder_is_the_users_own(tmp_path: Path) -> None:
    """What an index served is not, though both lie among the installed packages."""
    script = """
import importlib.metadata, sys
from pathlib import Path
from mtf_scalper import own_code
folder = Path(sys.argv[1])
own_code._site_folders = lambda: (folder,)
sys.path.append(str(folder))
path = Path(sys.argv[2])
path.write_text("import oc_mine, oc_theirs, oc_loose")
print(sorted(own_code.own_code(path).digests))
"""
    site = tmp_path / "site"
    for name, url in (("oc_mine", '{"dir_info": {}, "url": "file:///a"}'), ("oc_theirs", None)):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text("value = 1\n", encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{name}.py,,\n{name}-1.0.dist-info/METADATA,,\n")
        if url is not None:
            (info / "direct_url.json").write_text(url)
    (site / "oc_loose.py").write_text("value = 1\n")
    command = [sys.executable, "-c", script, str(site), str(tmp_path / "first" / "one.py")]
    (tmp_path / "first").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "['oc_loose', 'oc_mine']\n", done.stderr

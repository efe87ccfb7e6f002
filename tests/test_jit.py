"""What was compiled before is used only while no file that went into it has changed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mtf_scalper
from mtf_scalper.jit import COMPILED_FOLDERS

SOURCES = Path(mtf_scalper.__file__).parent
PLAIN = {
    "simulator/exits.py": (),
    "simulator/rewards.py": (),
    "simulator/observation.py": ("age_limit", "n_extras", "n_state_inputs", "position_state"),
}
"""Files whose functions ``jit.compiled`` takes, and those of them that it never has to compile."""
HITS = """
import numpy as np
from mtf_scalper.simulator import kernels
print(kernels._roi_rate(1, 100.0, 0.02, 0.001, 1.0, 0.0))
print(kernels._profit_ratio(1, 100.0, 101.0, 0.0, 1.0, 0.0))
print(sum(kernels._profit_ratio.stats.cache_hits.values()))
"""


def test_an_edit_of_a_constant_or_a_callee_in_another_file_is_compiled(tmp_path: Path) -> None:
    """numba 0.68 looks at the function's own file alone, and would use the old constant."""
    package = tmp_path / "mtf_scalper"
    shutil.copytree(SOURCES, package, ignore=shutil.ignore_patterns("__pycache__"))
    helper = package / "simulator" / "invented.py"
    helper.write_text("FACTOR = 1.0\n", encoding="utf-8")
    exits = package / "simulator" / "exits.py"
    source = exits.read_text(encoding="utf-8")
    source = source.replace("return floor(value * 1e8 + 0.5) / 1e8", "return FACTOR * value")
    known = "from mtf_scalper.settings import TradeRules\n"
    source = source.replace(known, known + "from mtf_scalper.simulator.invented import FACTOR\n")
    assert source.count("FACTOR") == 2
    exits.write_text(source, encoding="utf-8")
    first = _run(tmp_path)
    again = _run(tmp_path)
    assert again[:2] == first[:2]
    assert (int(first[2]), int(again[2])) == (0, 1)
    helper.write_text("FACTOR = 3.0\n", encoding="utf-8")
    changed = _run(tmp_path)
    assert float(changed[1]) == 3.0 * float(first[1])
    assert changed[0] == first[0]


def _run(folder: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HITS], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_compiled_functions_are_short_to_call_and_take_nothing_from_other_folders() -> None:
    """Those of modules with compiled code use names of the compiled folders, and 8 parameters."""
    seen = set[str]()
    for path in SOURCES.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        plain = PLAIN.get(path.relative_to(SOURCES).as_posix())
        if "@njit" not in source and plain is None:
            continue
        assert path.parent.name in COMPILED_FOLDERS, path
        tree = ast.parse(source)
        elsewhere = {
            alias.asname or alias.name: node.module
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mtf_scalper")
            for alias in node.names
            if node.module.split(".")[1] not in COMPILED_FOLDERS
        }
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            if _is_compiled(function) or (plain is not None and function.name not in plain):
                seen.add(function.name)
                body = ast.Module(function.body, [])
                used = {node.id for node in ast.walk(body) if isinstance(node, ast.Name)}
                assert not used & elsewhere.keys(), (path, function.name)
                assert len(function.args.args) <= 8, (path, function.name)
    assert {"step", "loss_gradients", "profit_ratio", "exit_quality", "in_units"} <= seen


def _is_compiled(function: ast.FunctionDef) -> bool:
    return any("njit" in ast.unparse(decorator) for decorator in function.decorator_list)

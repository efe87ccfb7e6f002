"""Which of the model's columns a user's strategy reads, and whether they mean what it assumes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import freqtrade

import mtf_scalper
from mtf_scalper.freqai import columns
from mtf_scalper.freqai.actions import describe_codes
from mtf_scalper.settings import Fills, Settings

_FOREIGN = tuple(
    Path(str(module.__file__)).parent for module in (mtf_scalper, freqtrade) if module.__file__
)
_TEMPLATES = _FOREIGN[1] / "templates"
_NOT_READING = ("set_freqai_targets", "feature_engineering_", "plot_config")
"""Where columns are named without being read."""
_ADDED = ("_mean", "_std")
"""What FreqAI appends to the name of a predicted column."""


@dataclass
class Reads:
    """What a strategy's source reads.

    Attributes
    ----------
    names : set of str
        Columns that begin with ``&``.
    codes : dict of str to set of int
        Numbers that a column is compared with, by column.
    asks_the_agent : bool
        Whether the strategy is this package's, or asks its model in ``custom_exit`` as that does.
    """

    names: set[str] = field(default_factory=set)
    codes: dict[str, set[int]] = field(default_factory=dict)
    asks_the_agent: bool = False


def columns_read(strategy: Any) -> Reads:
    """Return what the source of a strategy and of its user's base classes reads.

    Whole files are looked at, so that names in constants and functions of the file count as well;
    the files of freqtrade and of this package are left out.
    """
    reads = Reads()
    for path in _files(strategy):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in _reading(tree):
            if _is_column(node):
                reads.names.add(node.value)  # type: ignore[attr-defined]
            elif isinstance(node, ast.Compare):
                _note_codes(node, reads)
            elif isinstance(node, ast.Attribute) and node.attr == "decisions":
                reads.asks_the_agent = True
    reads.asks_the_agent |= any(
        cls.__module__.startswith("mtf_scalper.") for cls in type(strategy).__mro__
    )
    return reads


def sets_classic_entries(strategy: Any) -> bool:
    """Return whether a strategy names the columns of a classic rule; true where it has no source.

    ``custom`` rules of an inherited package strategy count as well.
    """
    if any(cls.__module__.startswith("mtf_scalper.") for cls in type(strategy).__mro__):
        return True
    paths = _files(strategy)
    words = (columns.ENTRY_LONG, columns.ENTRY_SHORT, "ENTRY_LONG", "ENTRY_SHORT")
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return not texts or any(word in text for text in texts for word in words)


def column_warnings(strategy: Any, settings: Settings) -> list[str]:
    """Return one line for every column that cannot mean what the strategy's source assumes."""
    reads, name = columns_read(strategy), type(strategy).__name__
    known = {*columns.PREDICTIONS}
    warnings = []
    for column in sorted(reads.names):
        predicted = _without_ending(column, known)
        if predicted not in known:
            warnings.append(
                f"{name} reads {column!r}, which no agent predicts: it holds the action's code, "
                f"as with freqtrade's own learner; read {columns.ACTION!r} (docs/columns.md)"
            )
    for column, codes in sorted(reads.codes.items()):
        names = describe_codes(settings)
        never = sorted(codes - set(names))
        if column in (columns.ACTION, *columns.BY_POSITION) and never:
            listed = ", ".join(f"{code} {word}" for code, word in names.items())
            warnings.append(
                f"{name} compares {column!r} with {', '.join(map(str, never))}, which an "
                f"environment of {settings.n_actions} actions does not have: {listed}"
            )
    warnings += _of_exits(reads, settings, name)
    shares = [each for each in sorted(reads.names) if each in columns.PROBABILITIES]
    if shares:
        warnings.append(
            f"{name} reads {shares[0]!r}: a share among all actions, of which an agent never "
            f"compares those of different positions; read {', '.join(columns.BY_POSITION)}, or "
            "compare within one position (docs/columns.md)"
        )
    return warnings


def _of_exits(reads: Reads, settings: Settings, name: str) -> list[str]:
    """Return what is to be said of a strategy that leaves trades by columns."""
    if settings.fills is Fills.FREQTRADE_ENV or reads.asks_the_agent:
        return []
    by_action = sorted(reads.codes.get(columns.ACTION, set()) & {2, 4})
    by_position = reads.names & {*columns.BY_POSITION[1:]}
    warnings = []
    if by_action:
        warnings.append(
            f"{name} takes exits from {columns.ACTION!r}, one action for all positions: an exit "
            "stands there only where an agent without a position would not enter; "
            f"{columns.BY_POSITION[1]!r} and {columns.BY_POSITION[2]!r} have all of them"
        )
    if settings.add_state_info and (by_action or by_position):
        warnings.append(
            f"{name} takes exits from columns, but with freqai.rl_config.add_state_info they "
            "depend on the trade: the columns show a trade one candle old without profit; set it "
            "to false, or ask the agent in custom_exit as the package's HybridStrategy does"
        )
    return warnings


def _files(strategy: Any) -> list[Path]:
    """Return the source files of a strategy that are its user's."""
    found: dict[Path, None] = {}
    for number, cls in enumerate(type(strategy).__mro__):
        path = getattr(strategy, "__file__", None) if number == 0 else None
        try:
            path = path or inspect.getsourcefile(cls)
        except (OSError, TypeError):  # of a class that stands in no file
            continue
        if path is None or not Path(path).is_file() or Path(path).suffix != ".py":
            continue
        if cls.__module__.split(".")[0] in ("builtins", "abc", "types"):
            continue
        file = Path(path).resolve()
        is_theirs = any(file.is_relative_to(folder) for folder in _FOREIGN)
        if not is_theirs or file.is_relative_to(_TEMPLATES):
            found[file] = None
    return list(found)


def _reading(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those of functions and assignments that only name columns."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and child.name.startswith(_NOT_READING):
            continue
        if isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            if any(isinstance(each, ast.Name) and each.id == "plot_config" for each in targets):
                continue
        yield child
        yield from _reading(child)


def _is_column(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("&")
        and " " not in node.value
    )


def _note_codes(node: ast.Compare, reads: Reads) -> None:
    """Note ``frame["&-action"] == 3``; ``!=`` and orders say nothing of a code."""
    if not isinstance(node.left, ast.Subscript) or not isinstance(node.ops[0], ast.Eq):
        return
    column, number = node.left.slice, node.comparators[0]
    if not _is_column(column) or not isinstance(number, ast.Constant):
        return
    if isinstance(number.value, int | float) and not isinstance(number.value, bool):
        name = column.value  # type: ignore[attr-defined]
        reads.codes.setdefault(name, set()).add(int(number.value))


def _without_ending(column: str, known: set[str]) -> str:
    for ending in _ADDED:
        if column.removesuffix(ending) in known:
            return column.removesuffix(ending)
    return column

"""Which files of the user's own a strategy, a model or a reward is made of.

A model depends on the helper module that makes its features as much as on the strategy's file. Two
ways lead to such files, and both are followed: what the source says (every ``import``, wherever it
stands, of modules beside the file, in packages, and of packages in turn) and what is there once it
has been loaded (base classes, functions and modules that a name of the file stands for, however
they got there).

The user's own is every file outside of Python, this package, freqtrade and what was installed from
an index; a package that was installed from a folder is the user's own, and so is a file that was
put among the installed ones by hand. Not seen are files that are only read, libraries that an
extension module is linked to, and modules whose name is made at run time and that no name of the
file stands for; ``OwnCode.unseen`` tells the places.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
_NOT_OWN = {"mtf_scalper", "freqtrade"}
_NO_TYPE_OF_THE_USERS = {*_NOT_OWN, *sys.stdlib_module_names}
_IMPORTERS = ("import_module", "__import__", "run_module")
_LOADERS = ("spec_from_file_location", "SourceFileLoader", "run_path")
_DEEPEST = 3  # containers within containers of a module's names
_LONGEST = 1000


@dataclass(frozen=True)
class OwnCode:
    """What was found.

    Attributes
    ----------
    digests : mapping of str to str
        By file, the first one left out: its path from the first one's folder, or the name of its
        module where it lies elsewhere. 16 hexadecimal digits.
    unseen : tuple of str
        Where something is loaded that cannot be known, one text each.
    """

    digests: Mapping[str, str]
    unseen: tuple[str, ...]


def own_code(path: Path | None, package: str = "", *, objects: Iterable[Any] = ()) -> OwnCode:
    """Find the files of the user's own that a file is made of, beside itself.

    Parameters
    ----------
    path : Path or None
        The first file; None where there is none.
    package : str
        Name of the package that it belongs to, for relative imports.
    objects : iterable
        Classes, functions and modules that were loaded from it.
    """
    walk = _Walk(() if path is None else (str(path.resolve().parent),))
    if path is not None and path.is_file():
        walk.file(path.resolve(), package)
    for each in objects:
        walk.thing(each)
    first = None if path is None else path.resolve()
    digests: dict[str, str] = {}
    for found, name in sorted(walk.files.items()):
        if found == first:
            continue
        shown = name
        if first is not None and found.is_relative_to(first.parent):
            shown = found.relative_to(first.parent).as_posix()
        digest = file_digest(found)
        if shown in digests:  # of two folders
            digest = hashlib.sha256((digests[shown] + digest).encode()).hexdigest()[:16]
        digests[shown] = digest
    return OwnCode(digests, tuple(sorted(walk.unseen)))


def file_digest(path: Path) -> str:
    """Return 16 hexadecimal digits that change with the file, but for the ends of its lines."""
    text = path.read_bytes()
    if path.suffix == ".py":
        text = text.replace(b"\r\n", b"\n")
    return hashlib.sha256(text).hexdigest()[:16]


class _Walk:
    """Files found so far, by path with the name of their module.

    ``roots`` are folders that were on Python's path while the first file was loaded.
    """

    def __init__(self, roots: tuple[str, ...]) -> None:
        self._roots = roots
        self.files: dict[Path, str] = {}
        self.unseen: set[str] = set()
        self._modules: set[tuple[str, Path]] = set()
        self._things: set[int] = set()

    def file(self, path: Path, package: str, name: str = "") -> None:
        """Take a file of the user's own, and all that it imports."""
        if path in self.files or not _is_own(path):
            return
        self.files[path] = name or path.name
        if path.name.endswith(tuple(EXTENSION_SUFFIXES)):
            self.unseen.add(f"{path.name} is compiled: libraries that it is linked to")
        if path.suffix != ".py":
            return
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return  # nor can Python load it
        for node in ast.walk(tree):
            for wanted in self._wanted(node, path, package):
                self.module(wanted, path.parent)

    def _wanted(self, node: ast.AST, path: Path, package: str) -> Iterator[str]:
        """Yield the names of modules that a piece of source imports; some may be none."""
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call):
            called = node.func
            name = getattr(called, "attr", getattr(called, "id", ""))
            if name in _IMPORTERS:
                text = _text(node.args[0] if node.args else None)
                if text is not None:
                    level = len(text) - len(text.lstrip("."))
                    yield _absolute(text[level:], level, package)
                    return
            elif name in _LOADERS:
                given = [_text(each) for each in node.args]
                there = [Path(text) for text in given if text and text.endswith(".py")]
                for each in there:
                    if each.is_file():
                        self.file(each.resolve(), "")
                if there:
                    return
            else:
                return
            self.unseen.add(f"{path.name}, line {node.lineno}: a module named at run time")

    def module(self, name: str, beside: Path) -> None:
        """Take a module, and the packages that it lies in, where they are the user's own."""
        if not name or name.partition(".")[0] in _NOT_OWN or (name, beside) in self._modules:
            return
        self._modules.add((name, beside))
        parts = name.split(".")
        places: list[str] | None = [str(beside), *self._roots, *sys.path]
        for end in range(1, len(parts) + 1):
            dotted = ".".join(parts[:end])
            loaded = sys.modules.get(dotted)
            spec = None if places is None else _spec_of(dotted, places)
            origin = getattr(loaded, "__file__", None) or (spec.origin if spec else None)
            places = _places_in(loaded, spec)
            if origin is not None and Path(origin).is_file():
                path = Path(origin).resolve()
                if not _is_own(path):
                    return
                self.file(path, dotted if places is not None else dotted.rpartition(".")[0], dotted)
                if loaded is not None:
                    self.names(vars(loaded))
            if places is None:
                return

    def thing(self, value: Any, depth: int = 0) -> None:
        """Take the files that a loaded object comes from."""
        if isinstance(value, ModuleType):
            origin = getattr(value, "__file__", None)
            if origin and value.__name__.partition(".")[0] not in _NOT_OWN:
                self._loaded(Path(origin), value.__package__ or "", value.__name__, vars(value))
        elif isinstance(value, type):
            for cls in value.__mro__:
                self._class(cls)
        elif isinstance(value, dict | list | tuple | set | frozenset):
            if depth < _DEEPEST and len(value) <= _LONGEST:
                for each in value.values() if isinstance(value, dict) else value:
                    self.thing(each, depth + 1)
        elif (function := _function_in(value)) is not None:
            self._function(function)
        elif type(value).__module__.partition(".")[0] not in _NO_TYPE_OF_THE_USERS:
            self._class(type(value))

    def names(self, namespace: Mapping[str, Any]) -> None:
        """Take what the names of a module stand for."""
        if id(namespace) in self._things:
            return
        self._things.add(id(namespace))
        for name, value in list(namespace.items()):
            if not (name.startswith("__") and name.endswith("__")):
                self.thing(value)

    def _class(self, cls: type) -> None:
        if cls.__module__.partition(".")[0] in _NOT_OWN or id(cls) in self._things:
            return
        self._things.add(id(cls))
        # freqtrade notes the file at the class, and keeps the module out of sys.modules.
        module = sys.modules.get(cls.__module__)
        origin = cls.__dict__.get("__file__") or getattr(module, "__file__", None)
        if isinstance(origin, str) and Path(origin).is_file():
            if not _is_own(Path(origin).resolve()):
                return
            package = getattr(module, "__package__", None) or ""
            self._loaded(Path(origin), package, cls.__module__, vars(module) if module else {})
        for member in list(vars(cls).values()):
            function = _function_in(member)
            if function is not None:
                self._function(function)

    def _function(self, function: FunctionType) -> None:
        """Take a function, and those that its decorators stand around."""
        while id(function) not in self._things:
            self._things.add(id(function))
            names, module = function.__globals__, str(function.__module__ or "")
            if module.partition(".")[0] not in _NOT_OWN:
                package = str(names.get("__package__") or "")
                self._loaded(Path(function.__code__.co_filename), package, module, names)
            inner = function.__dict__.get("__wrapped__")
            if not isinstance(inner, FunctionType):
                return
            function = inner

    def _loaded(self, path: Path, package: str, name: str, names: Mapping[str, Any]) -> None:
        if not path.is_file():
            return
        path = path.resolve()
        if _is_own(path):
            self.file(path, package, name)
            self.names(names)


def _function_in(value: Any) -> FunctionType | None:
    """Return the plain function that an object is, holds or was compiled from; None without one."""
    for _ in range(_DEEPEST):
        if isinstance(value, FunctionType):
            return value
        names = ("__func__", "fget", "func", "py_func", "__wrapped__")
        try:
            value = next(
                inner for name in names if (inner := getattr(value, name, None)) is not None
            )
        except Exception:  # whatever an object of somebody else's does when it is asked
            return None
    return None


def _text(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _absolute(name: str, level: int, package: str) -> str:
    """Return the full name of a relative import; empty where it leads out of the package."""
    if not level:
        return name
    parts = package.split(".") if package else []
    if level - 1 >= len(parts):
        return ""
    base = parts[: len(parts) - (level - 1)]
    return ".".join([*base, *([name] if name else [])])


def _spec_of(name: str, places: list[str]) -> ModuleSpec | None:
    try:
        found = PathFinder.find_spec(name, places)
        if found is None and "." not in name:  # of a package installed for editing, say
            found = importlib.util.find_spec(name)
    except Exception:  # a finder of somebody else's
        return None
    return found


def _places_in(loaded: ModuleType | None, spec: ModuleSpec | None) -> list[str] | None:
    """Return where the modules of a package lie, None for a module that is no package."""
    found = getattr(loaded, "__path__", None)
    if found is None and spec is not None:
        found = spec.submodule_search_locations
    return None if found is None else list(found)


@functools.cache
def _is_own(path: Path) -> bool:
    if path.is_relative_to(_PACKAGE):
        return False
    for folder in _site_folders():
        if path.is_relative_to(folder):
            return _is_the_users(path.relative_to(folder).parts[0].partition(".")[0])
    return not any(path.is_relative_to(folder) for folder in _python_folders())


@functools.cache
def _site_folders() -> tuple[Path, ...]:
    named = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return tuple({Path(each).resolve() for each in (*named, *site.getsitepackages())})


@functools.cache
def _python_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib")
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in names})


@functools.cache
def _is_the_users(name: str) -> bool:
    """Return whether an installed package is the user's own, or a file put there by hand."""
    if name in _installed_from_folders():
        return True
    plain = name.lower().replace("_", "-")
    return plain not in _installed() and name not in importlib.metadata.packages_distributions()


@functools.cache
def _installed() -> frozenset[str]:
    """Return the names of everything installed, as most packages are called as well."""
    found = (each.metadata["Name"] for each in importlib.metadata.distributions())
    return frozenset(name.lower().replace("_", "-") for name in found if name)


@functools.cache
def _installed_from_folders() -> frozenset[str]:
    """Return the packages that were installed from a folder, and not from an index."""
    found: set[str] = set()
    for each in importlib.metadata.distributions():
        text = each.read_text("direct_url.json")
        if text and "dir_info" in json.loads(text):
            found |= {path.parts[0].partition(".")[0] for path in each.files or ()}
    return frozenset(found)

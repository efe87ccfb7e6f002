"""Rewards of the user's own: marked by a decorator, found by name, checked at every step.

A setting names such a reward as ``"file.py:function"`` or ``"package.module:function"``. The name
goes to environment processes and into stored settings. The source is executed anew whenever it has
changed, so that an edit counts in the next run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.own_code import own_code
from mtf_scalper.settings import RewardName, Settings
from mtf_scalper.simulator.rewards import REWARDS, Parameters, Reward, RewardState

LARGEST_REWARD = float(np.finfo(np.float32).max)
"""Rewards are learned from in single precision."""

AnyReward = TypeVar("AnyReward", bound=Callable[..., float])


def reward(function: AnyReward) -> AnyReward:
    """Mark a plain function ``(state: RewardState, parameters: Parameters) -> float`` as a reward.

    The function itself is returned. It may use numbers, ``math``, NumPy, ``Action`` and ``Side``,
    constants and helper functions of its module, and the rewards in ``simulator.rewards``.

    Raises
    ------
    SettingsError
        If it is no plain function of two arguments.
    """
    if not inspect.isfunction(function):
        raise SettingsError(
            f"reward: @reward goes above a plain function, not {type(function).__name__}; "
            "what it marks is compiled by itself"
        )
    if len(inspect.signature(function).parameters) != 2:
        raise SettingsError(
            f"reward: {_described(function)} needs two arguments: (state, parameters)"
        )
    function.reward_name = functools.partial(_name_of, function)  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class UserReward:
    """A user's reward in plain Python, whose every result is checked.

    Attributes
    ----------
    function : callable
        As the user wrote it.
    """

    function: Callable[[RewardState, Parameters], float]

    def __call__(self, state: RewardState, parameters: Parameters) -> float:
        """Return the reward.

        Raises
        ------
        SettingsError
            If the function raises, or returns anything but a finite number; with the state.
        """
        try:
            value = float(self.function(state, parameters))
        except Exception as error:
            raise self.failed(f"{type(error).__name__}: {error}", state, error) from error
        if not abs(value) <= LARGEST_REWARD:
            raise self.failed(f"it returned {value}, which is no finite 32-bit number", state)
        return value

    def failed(
        self, reason: str, state: RewardState, error: Exception | None = None
    ) -> SettingsError:
        """Return the error to raise where the function failed on ``state``."""
        line = _line_in(Path(self.function.__code__.co_filename), error) if error else None
        return SettingsError(f"reward: {self.described(line)}: {reason}; state: {state}")

    def described(self, line: int | None = None, path: Path | None = None) -> str:
        """Return the function's name, and file and line, by default those of its definition."""
        return _described(self.function, line, path)


def reward_of(name: RewardName | str) -> Reward:
    """Return the reward that a setting names; see ``load_reward``."""
    return REWARDS[name] if isinstance(name, RewardName) else load_reward(name)


def load_reward(name: str) -> UserReward:
    """Find a user's reward.

    Parameters
    ----------
    name : str
        ``"file.py:function"``, relative to the working directory, or
        ``"package.module:function"``.

    Raises
    ------
    SettingsError
        One line that names the file or function that is missing, or the line at which the file
        failed.
    """
    path, package = _source_of(name)
    _Loading.refuse_within(path)
    main = sys.modules["__main__"]
    if _is_file_of(main, path):  # to execute it again would run the program again
        module: ModuleType = main
    else:
        module = _execute(path, package, _digest(path))
    return UserReward(_function_of(module, path, name.rpartition(":")[2]))


def check_loads_in_a_process(name: str) -> None:
    """Find out here what would end an environment process, which loads the reward for itself.

    Raises
    ------
    SettingsError
        As ``load_reward``; also if the reward stands in the program that is running, and that
        would run again.
    """
    path, package = _source_of(name)
    _Loading.refuse_within(path)
    _execute(path, package, _digest(path))


def with_absolute_path(name: RewardName | str) -> RewardName | str:
    """Return a name that means the same in a process with another working directory."""
    if isinstance(name, RewardName) or not _is_path(name):
        return name
    return f"{_source_of(name)[0]}:{name.rpartition(':')[2]}"


def reward_digest(settings: Settings) -> str | None:
    """Return a digest of what a user's reward is made of, None for a known reward.

    Models trained with one version of a reward are not those of another, though both have the
    same settings. Its source file counts, and every file of the user's own that it imports.
    """
    if isinstance(settings.reward, RewardName):
        return None
    digest, imported = _digest(_source_of(settings.reward)[0]), reward_code(settings)
    if not imported:
        return digest
    whole = digest + "".join(f"{name} {each}" for name, each in sorted(imported.items()))
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def reward_code(settings: Settings) -> dict[str, str]:
    """Return the digests of the files that a user's reward imports, by name; see ``own_code``."""
    if isinstance(settings.reward, RewardName):
        return {}
    path, package = _source_of(settings.reward)
    try:
        loaded = [load_reward(settings.reward).function]
    except MtfScalperError:  # who trains with it is told; what it imports can be read all the same
        loaded = []
    return dict(own_code(path, package, objects=loaded).digests)


def _is_path(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _source_of(name: str) -> tuple[Path, str]:
    """Return the absolute path of the source file and the package it belongs to."""
    place = name.rpartition(":")[0]
    if _is_path(name):
        path = Path(place).resolve()
        if not path.is_file():
            raise SettingsError(
                f"reward: no file {place!r}, of {name!r}; relative to the folder {Path.cwd()}"
            )
        return path, ""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(place)
    except Exception as error:  # the packages above it are executed
        raise SettingsError(
            f"reward: no module {place!r}, of {name!r}: {type(error).__name__}: {error}"
        ) from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SettingsError(
            f"reward: no module {place!r}, of {name!r}; is it installed? "
            "A file is named 'file.py:function'"
        )
    return Path(spec.origin).resolve(), place.rpartition(".")[0]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@functools.lru_cache(maxsize=32)
def _execute(path: Path, package: str, digest: str) -> ModuleType:
    """Execute a source file as a module of its own.

    Python's own import would keep what it has read once. ``digest`` makes an edited file another
    one.
    """
    linecache.checkcache(str(path))
    module = ModuleType(f"_mtf_scalper_reward_{path.stem}_{digest}")
    module.__file__ = str(path)
    module.__package__ = package
    sys.modules[module.__name__] = module  # dataclasses of the file look for themselves there
    try:
        with _Loading(path):
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except MtfScalperError:
        del sys.modules[module.__name__]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise SettingsError(
            f"reward: {_shown(path)}, line {_line_in(path, error)}: "
            f"{type(error).__name__}: {getattr(error, 'msg', error)}"
        ) from error
    return module


class _Loading:
    """Notes that a file is being executed for its reward."""

    _paths: list[Path] = []  # noqa: RUF012 - one list for all

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._paths.append(self._path)

    def __exit__(self, *_: object) -> None:
        self._paths.remove(self._path)

    @classmethod
    def refuse_within(cls, path: Path) -> None:
        """Raise if the file asks for its own reward: it is a program, and would go on for ever."""
        if path in cls._paths:
            raise SettingsError(
                f"reward: {_shown(path)} runs when it is loaded for its reward; put what it runs "
                "under `if __name__ == '__main__':`, or the reward into a file of its own"
            )


def _function_of(module: ModuleType, path: Path, name: str) -> Callable[..., float]:
    function = getattr(module, name, None)
    if function is None:
        marked = [key for key, value in vars(module).items() if hasattr(value, "reward_name")]
        there = f"under @reward it has: {', '.join(marked)}" if marked else "nor any under @reward"
        raise SettingsError(f"reward: {_shown(path)} has no function {name!r}; {there}")
    if not hasattr(function, "reward_name"):
        raise SettingsError(
            f"reward: {name!r} in {_shown(path)} is not decorated; write @reward "
            "(from mtf_scalper import reward) above it"
        )
    return function  # type: ignore[no-any-return]


def _name_of(function: Callable[..., float]) -> str:
    """Return the name under which ``load_reward`` finds a function."""
    if not function.__qualname__.isidentifier():
        raise SettingsError(
            f"reward: {_described(function)} is defined inside another function or class, where "
            "no other process finds it; move it to the top level of its file"
        )
    module = function.__module__ or ""
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name if spec is not None else ""
    # Relative imports need the package; else the file says more, and is found without sys.path.
    if "." in module and PathFinder.find_spec(module.partition(".")[0]) is not None:
        return f"{module}:{function.__name__}"
    path = Path(function.__code__.co_filename)
    if not path.is_file() or not path.suffix == ".py":
        raise SettingsError(
            f"reward: {function.__name__!r} was not defined in a file, where other processes find "
            f"it; save it and name it 'file.py:{function.__name__}'"
        )
    return f"{path.resolve()}:{function.__name__}"


def _is_file_of(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _described(
    function: Callable[..., Any], line: int | None = None, path: Path | None = None
) -> str:
    code = function.__code__
    shown = _shown(path or Path(code.co_filename))
    return f"{function.__name__!r} ({shown}, line {line or code.co_firstlineno})"


def _shown(path: Path) -> str:
    """Return a path as a user would write it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _line_in(path: Path, error: BaseException) -> int | None:
    """Return the last line of ``path`` that led to ``error``."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None

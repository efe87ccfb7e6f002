"""``njit``: numba's, with a cache on disk where one can be kept, and without one where none can.

numba decides where a function's cache lies when the function is decorated, and raises where neither
the package nor the user's home can be written (numba 0.68, ``CacheImpl.__init__``: "no locator
available"), as in a read-only container. A disk that fills up later raises from the call that
compiles. Neither is a reason not to compute: the function is compiled without a cache then, which
takes seconds in every process, and the log says so once.

numba takes what was compiled for up to date while the function's own file is unchanged, whatever
has changed in the files whose functions and constants went into it (numba 0.68,
``IndexDataCacheFile``). Here it is up to date while none of the compiled folders has changed.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, overload

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache

logger = logging.getLogger(__name__)

COMPILED_FOLDERS = ("ppo", "rollouts", "simulator")
"""Below this one; compiled code takes functions and constants from these alone."""

_F = TypeVar("_F", bound=Callable[..., Any])


@overload
def njit(function: _F) -> _F: ...


@overload
def njit(function: None = None, **options: Any) -> Callable[[_F], _F]: ...


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function as ``numba.njit`` does; takes its options.

    Parameters
    ----------
    function : callable, optional
        Without it a decorator is returned.
    **options
        ``cache=True`` keeps what was compiled on disk, if that is possible.
    """
    if function is None:
        return functools.partial(njit, **options)
    wants_cache = options.pop("cache", False)
    dispatcher = numba.njit(**options)(function)
    # numba has a switch that turns all compilation off, and returns the function as it is.
    if wants_cache and hasattr(dispatcher, "enable_caching"):
        # What ``enable_caching`` sets, with a cache that may fail.
        dispatcher._cache = _cache_of(function)
    return dispatcher


def compiled(module: Any, *names: str, inlined: tuple[str, ...] = ()) -> tuple[Any, ...]:
    """Return functions of a module in plain Python, compiled; what they call is compiled as well.

    Parameters
    ----------
    module : module
        Its own functions call each other by name.
    names : str
        Which are returned, in this order.
    inlined : tuple of str
        Those that are to become part of whatever calls them.
    """
    # In compiled code ``math.floor`` makes an integer, on a way that costs more than the rounding.
    scope = {**vars(module), "floor": np.floor}
    for name, function in vars(module).items():
        if isinstance(function, FunctionType) and function.__module__ == module.__name__:
            copy = FunctionType(function.__code__, scope, name, function.__defaults__)
            scope[name] = njit(cache=True, error_model="numpy", forceinline=name in inlined)(copy)
    return tuple(scope[name] for name in names)


class _CacheThatMayFail(FunctionCache):
    """A cache whose folder may vanish, fill up or hold a damaged file: it is left alone then."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        own = self._impl.locator.get_source_stamp()
        # What ``Cache.__init__`` does, with another stamp.
        self._cache_file = IndexDataCacheFile(  # type: ignore[no-untyped-call]
            self._cache_path, self._impl.filename_base, (own, _compiled_code())
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled before, None if nothing can be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # a damaged file raises whatever its bytes happen to mean
            self._give_up(error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if it can be kept."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:  # the index is read here as well
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.disable()  # type: ignore[no-untyped-call]
        _say_once(f"in {self.cache_path}: {error or type(error).__name__}")


def _cache_of(function: Callable[..., Any]) -> Any:
    try:
        return _CacheThatMayFail(function)
    except (RuntimeError, OSError):
        _say_once("for neither the package's folder nor the user's cache can be written")
        return NullCache()


@functools.cache
def _compiled_code() -> str:
    """Return a digest of all files in the compiled folders."""
    digest = hashlib.sha256()
    for folder in COMPILED_FOLDERS:
        for path in sorted((Path(__file__).parent / folder).glob("*.py")):
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _say_once(reason: str) -> None:
    """Log the first reason; all functions share it."""
    if not _SAID:
        _SAID.append(reason)
        logger.warning(
            "no cache of compiled functions %s; every process compiles them anew, which takes some "
            "seconds: set NUMBA_CACHE_DIR to a folder that can be written",
            reason,
        )


_SAID: list[str] = []

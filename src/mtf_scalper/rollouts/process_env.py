"""One process per environment: stable-baselines3's, made to report deaths and to leave nothing.

The workers import this module and nothing beyond the reference environment.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from mtf_scalper.errors import MemoryLackError, SettingsError, WorkerDiedError
from mtf_scalper.lifetimes import end_with_parent_process
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.reference import ReferenceEnv

_PIPE_ERRORS = (EOFError, BrokenPipeError, ConnectionError)
_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class EnvFactory:
    """Builds one environment; a class of the package, so that every start method can pickle it."""

    market: Market
    settings: Settings
    first_row: int

    def __call__(self) -> ReferenceEnv:
        """Return a new environment."""
        return ReferenceEnv(self.market, self.settings, first_row=self.first_row)


@dataclass(frozen=True)
class _InWorker:
    """Builds an environment in a process of its own, which ends with the one that started it.

    A worker that waits hears of that end, because its pipe closes; one that steps does not, nor
    does one that is still loading.
    """

    make: EnvFactory

    def __call__(self) -> ReferenceEnv:
        end_with_parent_process()
        try:
            with MemoryLackError.named("an environment process", "choose fewer n_envs"):
                return self.make()
        except MemoryLackError as error:
            sys.exit(str(error))  # one line; whoever started it tells the pair


class ProcessVecEnv(SubprocVecEnv):
    """stable-baselines3's process environments that report a dead worker and leave nothing behind.

    Parameters
    ----------
    env_fns : sequence of callables
        One per process; picklable by reference.
    start_method : str or None
        ``"forkserver"`` where the platform has it, else ``"spawn"``, when None.
    label : str
        Named in errors, as a rule the pair.
    """

    def __init__(
        self, env_fns: list[EnvFactory], start_method: str | None = None, *, label: str = ""
    ) -> None:
        methods = mp.get_all_start_methods()
        method = start_method or ("forkserver" if "forkserver" in methods else "spawn")
        if method not in methods:
            raise SettingsError(
                f"start_method: {method!r} does not exist here; valid: {', '.join(methods)}"
            )
        self.label = label
        self.processes: list[Any] = []
        self.remotes: tuple[Any, ...] = ()
        HelperProcesses.own_those_not_running()
        try:
            with without_main_module():
                workers: list[Callable[[], Any]] = [_InWorker(make) for make in env_fns]
                super().__init__(workers, start_method=method)
        except _PIPE_ERRORS:
            error = self._worker_died("before it was ready")
            self.close()
            raise error from None
        except BaseException:
            self.close()
            raise

    def reset(self) -> VecEnvObs:
        """Reset all environments."""
        with self._reporting_dead_workers():
            return super().reset()

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Send one action to each environment."""
        with self._reporting_dead_workers():
            super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Collect the results of the step."""
        with self._reporting_dead_workers():
            return super().step_wait()

    def close(self) -> None:
        """End every worker, by force if it does not listen, and the processes that served them."""
        if getattr(self, "closed", False) and not self.processes:
            return
        self.closed = True
        for remote in self.remotes:
            with contextlib.suppress(*_PIPE_ERRORS, OSError):
                remote.send(("close", None))
        deadline = time.monotonic() + _JOIN_SECONDS
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            with contextlib.suppress(ValueError):  # waited for by someone else already
                process.close()
        for remote in self.remotes:
            remote.close()
        self.processes = []
        HelperProcesses.stop()

    @contextlib.contextmanager
    def _reporting_dead_workers(self) -> Iterator[None]:
        try:
            yield
        except _PIPE_ERRORS:
            raise self._worker_died("during training") from None

    def _worker_died(self, when: str) -> WorkerDiedError:
        for rank, process in enumerate(self.processes):
            process.join(0.2)
            if process.exitcode is not None:
                return WorkerDiedError(
                    f"{self.label}: environment process {rank} (pid {process.pid}) ended {when} "
                    f"with exit code {process.exitcode}; the training was stopped"
                )
        return WorkerDiedError(f"{self.label}: an environment process closed its pipe {when}")


class HelperProcesses:
    """Python's fork server and resource tracker, ended with the workers they were started for.

    They would otherwise live as long as the program, the fork server with all that it has
    imported. Python offers no public way to end them; where these private ones are missing, they
    end with the program. Every process of this program shares the two: they are ended only when
    no other process is left, for they wait for the last one.
    """

    _owned: ClassVar[list[Any]] = []

    @classmethod
    def own_those_not_running(cls) -> None:
        """Take on the helpers that the next process will start; call before starting it."""
        cls._owned += [
            helper
            for helper, pid in (
                (getattr(forkserver, "_forkserver", None), "_forkserver_pid"),
                (getattr(resource_tracker, "_resource_tracker", None), "_pid"),
            )
            if helper is not None
            and getattr(helper, pid, None) is None
            and helper not in cls._owned
        ]
        # One import of stable-baselines3 and torch in the server instead of one per worker; the
        # workers then share those pages.
        if "forkserver" in mp.get_all_start_methods():
            mp.set_forkserver_preload([__name__])

    @classmethod
    def stop(cls) -> None:
        """End the helpers of this program's last process."""
        if mp.active_children():
            return
        while cls._owned:
            stop = getattr(cls._owned.pop(0), "_stop", None)
            if stop is not None:
                stop()


@contextlib.contextmanager
def without_main_module() -> Iterator[None]:
    """Start processes without importing the caller's ``__main__`` into them.

    The workers need this package only. Without this every worker would import the program that
    was started (all of freqtrade, say), and a script without a main guard would start itself
    again in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main

"""Tasks on Ray: this machine's cores as a cluster of one, or a cluster that is there already.

The one module that imports Ray. Ray's own retries are off: they take no notice of why a task
failed, and nobody would hear of them. A task counts as one of ``Engine``'s attempts whether it
raised, its process was killed, its machine was lost or had no memory left.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import psutil

from mtf_scalper.engines.tasks import (
    ATTEMPTS,
    Call,
    Ended,
    TaskError,
    Work,
    attempt,
    may_go_well,
)
from mtf_scalper.errors import MtfScalperError, SettingsError
from mtf_scalper.ppo.compute import available_cpus
from mtf_scalper.progress import only_errors
from mtf_scalper.records.manifest import engine_digest, version_facts

_TOKEN: Final = "RAY_AUTH_TOKEN"
_WORD: Final = secrets.token_hex(32)
"""Of all clusters of this program: Ray reads it once, and else leaves one in the user's home."""
_STARTS: Final = 3
TASK_PROCESS: Final = "ray::_task"
"""What Ray calls a process that does a task now."""
_LOOK_SECONDS: Final = 2.0
_PLACE: Final = re.compile(r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_REACH_SECONDS: Final = 10.0
_START_SECONDS: Final = "120"  # on a machine that is busy with other things
_THREADS: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class RayCluster:
    """A cluster of Ray.

    Parameters
    ----------
    address : str, optional
        Of a cluster that this machine is one of: ``auto``, or ``host:port``. Without one a cluster
        of this machine's cores is started, and ended afterwards.
    jobs : int, optional
        Of a cluster of this machine: tasks at a time. As many as there are CPUs by default.
    threads : int
        CPUs and threads of a task.

    Raises
    ------
    SettingsError
        If the address is of another form, or one of Ray's client, from outside of a cluster.
    """

    def __init__(
        self, address: str | None = None, *, jobs: int | None = None, threads: int = 1
    ) -> None:
        if address is not None and "://" in address:
            raise SettingsError(
                f"--ray: {address!r} is that of a client from outside; run the command on a "
                "machine of the cluster, with auto or HOST:PORT"
            )
        if address not in (None, "auto") and not _PLACE.fullmatch(str(address)):
            raise SettingsError(f"--ray: {address!r} is no address; give auto, or HOST:PORT")
        self._address = address
        self._jobs = jobs or max(1, available_cpus() // threads)
        self._threads = threads
        self._leaving = contextlib.ExitStack()
        self._ray: Any = None
        self._looked, self._room, self._alive = 0.0, 0, 0

    @property
    def threads(self) -> int:
        """Threads that a task may use: the CPUs that Ray gives it."""
        return self._threads

    @property
    def nodes(self) -> int:
        """Machines that are alive."""
        self._look()
        return self._alive

    def __enter__(self) -> Self:
        """Start the cluster, or join it; one whose machines have other code is refused.

        Raises
        ------
        MtfScalperError
            If Ray is not installed, there is no cluster, or it runs another engine.
        """
        # When Python starts: what is loaded before a task begins has its threads by then.
        variables = dict.fromkeys(_THREADS, str(self._threads))
        options: dict[str, Any] = {"address": self._address}
        # Nobody is told of the use; on machines without accelerators none is hidden.
        own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        with contextlib.ExitStack() as stack:
            if self._address is None:
                folder = tempfile.TemporaryDirectory(
                    prefix="mtf-ray-", dir=_short_folder(), ignore_cleanup_errors=True
                )
                options = {
                    "address": "local",
                    "num_cpus": self._jobs * self._threads,
                    "include_dashboard": False,
                    "_temp_dir": stack.enter_context(folder),
                }
                stack.callback(_end_processes, folder.name)
                # Nobody else may use it: Ray asks for the word where there is one.
                own |= {_TOKEN: _WORD, "RAY_gcs_server_port_wait_time_s": _START_SECONDS}
                variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
                variables["TMPDIR"] = folder.name  # of workers, which are killed in the end
            stack.enter_context(_environment(own))
            self._ray = _library()
            _reach(self._address)
            stack.enter_context(only_errors("ray"))
            stack.callback(self._ray.shutdown)
            with _own_sigterm():
                self._start({**options, "runtime_env": {"env_vars": variables}})
            self._listen_to_nothing()
            self._check_nodes()
            self._leaving = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End a cluster of this machine, or leave that of others; unfinished tasks end as well."""
        self._leaving.close()

    def share(self, value: Any) -> Any:
        """Return a reference into the object store, which every machine fetches once."""
        return self._ray.put(value)

    def prepare(self, work: Work, *arguments: Any) -> None:
        """Do this once on every machine, on all at the same time."""
        references = list(self._on_each_node(_task, work, *arguments))
        if references:
            self._ray.wait(references, num_returns=len(references))

    def run(self, work: Work, calls: Iterable[Call]) -> Iterator[Ended]:
        """Yield the end of every attempt; see ``Engine``."""
        ray = self._ray
        remote = self._remote(_task)
        running: dict[Any, tuple[int, int, Call]] = {}
        again: list[tuple[int, int, Call]] = []
        numbered = enumerate(calls)
        try:
            while True:
                self._look()
                while len(running) < self._room:
                    number, tries, call = again.pop() if again else _next(numbered)
                    if number < 0:
                        break
                    running[remote.remote(work, *call)] = number, tries + 1, call
                if not running:
                    return
                first, _ = ray.wait(list(running), timeout=_LOOK_SECONDS)
                done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
                for reference in {*first, *done}:
                    number, tries, call = running.pop(reference)
                    ended = self._ended(reference)
                    is_last = tries >= ATTEMPTS or not may_go_well(ended)
                    if not is_last:
                        again.append((number, tries, call))
                    yield replace(ended, number=number, attempt=tries, is_last=is_last)
        finally:
            for reference in running:
                with contextlib.suppress(Exception):  # the cluster itself may be gone
                    ray.cancel(reference, force=True)

    def _start(self, options: Mapping[str, Any]) -> None:
        """Start the cluster, or join it.

        A busy machine may need more than the half minute that Ray 2.60 gives a start of its own.
        """
        folder = options.get("_temp_dir")
        for number in range(_STARTS if folder else 1, 0, -1):
            try:
                self._ray.init(
                    **options,
                    configure_logging=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except Exception as error:  # Ray raises whatever it met, of no type of its own
                self._ray.shutdown()
                if folder:
                    _end_processes(folder)
                if number > 1:
                    continue
                said = str(error).strip().partition("\n")[0]
                if isinstance(error, ConnectionError) and self._address == "auto":
                    said = "start one with: ray start --head"
                here = self._address in (None, "auto")
                where = "on this machine" if here else f"at {self._address}"
                raise SettingsError(f"--ray: no cluster {where}: {said}") from None
            return

    def _listen_to_nothing(self) -> None:
        """Keep Ray from printing on stdout what is told as a failed attempt.

        Ray 2.60 has no option for it.
        """
        worker = importlib.import_module("ray._private.worker").global_worker
        with contextlib.suppress(AttributeError):
            worker.threads_stopped.set()
            worker.gcs_error_subscriber.close()

    def _remote(self, function: Any, **options: Any) -> Any:
        options = {"num_cpus": self._threads, "max_retries": 0, **options}
        return self._ray.remote(**options)(function)

    def _ended(self, reference: Any) -> Ended:
        errors = self._ray.exceptions
        try:
            found: Ended = self._ray.get(reference)
        except errors.OutOfMemoryError:
            said = "its machine had no memory left"
        except errors.NodeDiedError:
            said = "its machine was lost"
        except errors.WorkerCrashedError:
            said = "its process was killed"
        except errors.RayError as error:
            said = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        else:
            return found
        return Ended(0, error=TaskError(said))

    def _look(self) -> None:
        """Ask now and then what machines there are, and how many tasks are to be under way."""
        now = time.monotonic()
        if self._room and now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        nodes = self._nodes()
        cpus = sum(int(node["Resources"]["CPU"]) for node in nodes)
        # One waits for each that runs, so that no CPU does; an autoscaler sees that more is wanted.
        self._room, self._alive = 2 * max(1, cpus // self._threads), len(nodes)

    def _nodes(self) -> list[dict[str, Any]]:
        """Return the machines that could run a task."""
        return [
            node
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= self._threads
        ]

    def _on_each_node(self, function: Any, *arguments: Any) -> dict[Any, str]:
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        found = {}
        for node in self._nodes():
            here = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # Whatever else the machine does: nothing waits for a CPU that is free.
            remote = self._remote(function, scheduling_strategy=here, num_cpus=0)
            found[remote.remote(*arguments)] = node["NodeManagerHostname"]
        return found

    def _check_nodes(self) -> None:
        """Refuse machines that would compute something else, or that have not got this package."""
        ours = _facts()
        for reference, host in self._on_each_node(_facts).items():
            try:
                theirs = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                said = str(error).strip().splitlines()[-1]
                raise SettingsError(f"--ray: {host} cannot run mtf-scalper: {said}") from None
            for name, value in ours.items():
                if theirs[name] != value:
                    raise SettingsError(
                        f"--ray: {host} has {name} {theirs[name]}, and this machine {value}; "
                        "install the same on all machines of the cluster"
                    )


def _library() -> Any:
    """Return Ray.

    Raises
    ------
    MtfScalperError
        If it is not installed: says what to install.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MtfScalperError(
            'ray is not installed; install it with: python -m pip install "mtf-scalper[cluster]"'
        ) from None


def _short_folder() -> str | None:
    """Return where temporary files go: not the run's own folder, whose path would be too long.

    Ray's sockets lie 75 letters below, and a socket's path has 107 at most.
    """
    is_long = os.name != "nt" and len(tempfile.gettempdir()) > 31
    return "/tmp" if is_long and os.path.isdir("/tmp") else None


def _end_processes(folder: str) -> None:
    """End what Ray leaves running where a cluster of this machine did not come up (Ray 2.60)."""
    left = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(folder in part for part in process.cmdline()):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=10.0)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this program, which what it starts has as well, and set them back."""
    # The mode is Ray's own, which it sets where it finds a word.
    before = {name: os.environ.get(name) for name in (*values, "RAY_AUTH_MODE")}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Give SIGTERM back to who had it: Ray 2.60 takes it, and ends the program with a stack."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _reach(address: str | None) -> None:
    """Refuse an address at which nobody listens; Ray 2.60 would try it for more than ten minutes.

    Raises
    ------
    SettingsError
    """
    if address in (None, "auto"):
        return
    host, _, port = str(address).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"--ray: no cluster at {address}: {reason}") from None


def _next(numbered: Iterator[tuple[int, Call]]) -> tuple[int, int, Call]:
    number, call = next(numbered, (-1, ()))
    return number, 0, call


def _facts() -> dict[str, str | None]:
    return {**version_facts(), "engine": engine_digest()}


def _task(work: Work, *arguments: Any) -> Ended:
    """Do a task in a worker of Ray, with as many threads as it was given CPUs."""
    ray = _library()
    context = ray.get_runtime_context()
    ended = attempt(work, *arguments)
    return replace(ended, node=f"{ended.node} {context.get_node_id()[:8]}")

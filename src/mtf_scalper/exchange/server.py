"""The replay exchange as a server on loopback: blocking for the command line, or in a thread."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from mtf_scalper.clock import RunningClock
from mtf_scalper.exchange.api_errors import ServerError
from mtf_scalper.exchange.app import create_app
from mtf_scalper.exchange.faults import FaultPlan
from mtf_scalper.exchange.offline_config import DEFAULT_PORT
from mtf_scalper.exchange.slow_clients import (
    MOST_CONNECTIONS,
    MOST_HEADER_BYTES,
    TimedProtocol,
)
from mtf_scalper.exchange.store import stores_in

# The names map to addresses here, so that no hosts file can turn "localhost" into another one.
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0


def serve(
    datadir: Path | str,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    now: datetime | RunningClock | None = None,
    spread: float = 0.0,
    fault: FaultPlan | None = None,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve a freqtrade data directory until Ctrl-C.

    Parameters
    ----------
    datadir
        The exchange's folder, the one that holds ``futures/`` or spot candles.
    host
        ``127.0.0.1``, ``::1`` or ``localhost``; nothing else is served.
    port
        TCP port; 0 takes a free one.
    now, spread, fault
        As ``create_app`` has them.
    on_listening
        Called once with the base URL as soon as connections are accepted.

    Raises
    ------
    DataDirectoryError
        The directory has no usable candles.
    ServerError
        The host is not loopback, or the port is in use.
    """
    try:
        with closing(_listen(host, port)) as listener:
            server = _server(create_app(stores_in(datadir), now, spread, fault))
            if on_listening is not None:
                on_listening(_base_url(listener))
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        # While serving, uvicorn shuts down first and then repeats the signal that told it to.
        return


@contextmanager
def running_exchange(
    datadir: Path | str,
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    now: datetime | RunningClock | None = None,
    spread: float = 0.0,
    fault: FaultPlan | None = None,
) -> Iterator[str]:
    """Serve a freqtrade data directory from a thread of this process; yields the base URL.

    On leaving the context, by whatever way, open connections are dropped, the thread has ended and
    the port is free. The thread cannot keep the interpreter alive.

    Parameters
    ----------
    datadir
        The exchange's folder, the one that holds ``futures/`` or spot candles.
    port
        TCP port; 0 takes a free one.
    host
        ``127.0.0.1``, ``::1`` or ``localhost``; nothing else is served.
    now, spread, fault
        As ``create_app`` has them.

    Raises
    ------
    DataDirectoryError
        The directory has no usable candles.
    ServerError
        The host is not loopback, the port is in use, or the server did not start or stop.
    """
    with closing(_listen(host, port)) as listener:
        server = _server(create_app(stores_in(datadir), now, spread, fault))
        thread = threading.Thread(
            target=server.run,
            kwargs={"sockets": [listener]},
            name=f"replay-exchange-{listener.getsockname()[1]}",
            daemon=True,
        )
        thread.start()
        try:
            _await_start(server, thread)
            yield _base_url(listener)
        finally:
            _stop(server, thread)


class _Server(uvicorn.Server):
    """uvicorn's server, which also tells when it accepts requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


def _server(app: FastAPI) -> _Server:
    # Logging stays as the caller has set it up; nothing is imported for protocols not spoken here.
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        limit_concurrency=MOST_CONNECTIONS,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    return _Server(config)


def _listen(host: str, port: int) -> socket.socket:
    address = _LOOPBACK.get(host)
    if address is None:
        raise ServerError(
            f"host {host!r} is not loopback; the replay exchange listens only on "
            f"{', '.join(sorted(_LOOPBACK))}"
        )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's algorithm off; without, an answer to a
    # kept connection waits 40 ms for the client's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            # There SO_REUSEADDR would let two servers share a port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(256)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ServerError(
            f"cannot listen on {address} port {port} ({error}); choose another port"
        ) from error
    return listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _await_start(server: _Server, thread: threading.Thread) -> None:
    step_s, waited_s = 0.1, 0.0
    while not server.accepting.wait(step_s):
        waited_s += step_s
        if not thread.is_alive() or waited_s >= _START_TIMEOUT_S:
            raise ServerError("the replay exchange did not start; its log tells why")


def _stop(server: _Server, thread: threading.Thread) -> None:
    server.should_exit = True
    thread.join(_STOP_TIMEOUT_S)
    if thread.is_alive():
        server.force_exit = True
        thread.join(_STOP_TIMEOUT_S)
    if thread.is_alive():
        raise ServerError(f"the thread {thread.name} did not stop")

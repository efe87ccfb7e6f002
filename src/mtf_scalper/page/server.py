"""A small server for one person's browser: loopback, GET only, and bounded in all that it takes.

It is the standard library's, because the page has to be served where nothing else is installed
(uvicorn and starlette come with freqtrade alone), and because what has to be bounded is little: a
connection carries one request, whose head is read here, within one time limit for all of it and up
to one size; so many are served at a time and in a second; and all sockets are known, so that the
end waits for nobody.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from mtf_scalper.errors import MtfScalperError

MAX_CONNECTIONS: Final = 16
"""At a time: a browser opens up to six, and the page asks once every two seconds."""
MAX_HEAD_BYTES: Final = 16_384
READ_SECONDS: Final = 5.0
"""For a whole request, however slowly its bytes come."""
WRITE_SECONDS: Final = 30.0
REQUESTS_PER_SECOND: Final = 20.0
BURST: Final = 60.0
MAX_FIELDS: Final = 64
_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Reply:
    """What is answered: text, its media type, and the policy that a browser obeys with it."""

    text: str
    kind: str = "text/plain"
    policy: str = _NOTHING


Answer = Callable[[Mapping[str, str]], Reply]
"""From the query to the reply."""


class Rate:
    """So many a second, and so many at once after a pause (a token bucket)."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._seen = burst, time.monotonic()
        self._lock = threading.Lock()

    def takes(self) -> bool:
        """Whether one more is within the rate."""
        with self._lock:
            now = time.monotonic()
            left = min(self._burst, self._left + (now - self._seen) * self._per_second)
            self._seen, self._left = now, left - 1.0 if left >= 1.0 else left
            return left >= 1.0


class PageServer(ThreadingHTTPServer):
    """Answers ``GET`` of a few paths; its threads cannot outlive it.

    Parameters
    ----------
    answers : mapping of str to callable
        By path; another path is not found.
    host : str
        An address of loopback.
    port : int
        0 takes a free one.
    """

    # Two servers on one port would answer in turn, where the system allows that; on Windows
    # reusing the address means no more than that.
    allow_reuse_port = False
    allow_reuse_address = os.name != "nt"
    daemon_threads = False
    block_on_close = True

    def __init__(self, answers: Mapping[str, Answer], host: str, port: int) -> None:
        self.answers = answers
        self.host = host
        self.rate = Rate(REQUESTS_PER_SECOND, BURST)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection from a thread of its own, or close it where there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)
            self._free.release()

    def server_close(self) -> None:
        """End: whoever is still sending or reading is cut off, and no thread is left."""
        with self._lock:
            for request in self._open:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone away, all of anything else."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer

    def handle(self) -> None:
        """Answer one request, and close."""
        self.close_connection = True
        head = self._head()
        if head is None:
            return
        self.connection.settimeout(WRITE_SECONDS)
        self.rfile = io.BytesIO(head)
        self.handle_one_request()

    def _head(self) -> bytes | None:
        """Return the request up to its empty line; None of one that came to nothing."""
        until = time.monotonic() + READ_SECONDS
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            left = until - time.monotonic()
            if left <= 0.0 or len(head) > MAX_HEAD_BYTES:
                return None
            self.connection.settimeout(left)
            more = self.connection.recv(4096)
            if not more:
                return None
            head += more
        return head

    def do_GET(self) -> None:
        """Answer."""
        if not self._is_addressed_here():
            self._send(HTTPStatus.FORBIDDEN, Reply("only 127.0.0.1 and localhost are served\n"))
            return
        if not self.server.rate.takes():
            self._send(HTTPStatus.TOO_MANY_REQUESTS, Reply("too many requests; ask again later\n"))
            return
        try:
            target = urlsplit(self.path)
            query = dict(parse_qsl(target.query, max_num_fields=MAX_FIELDS))
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, Reply("the address cannot be read\n"))
            return
        # An address that begins with anything but a path is one of a proxy's.
        answer = self.server.answers.get(target.path) if self.path.startswith("/") else None
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, Reply("there is nothing but the page\n"))
            return
        try:
            self._send(HTTPStatus.OK, answer(query))
        except MtfScalperError as error:  # a record that cannot be read now may be so again
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, Reply(f"{error}\n"))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no GET, or no request at all, in plain text and with the usual headers."""
        del message, explain  # they repeat what was sent
        self._send(HTTPStatus(code), Reply(f"{HTTPStatus(code).phrase.lower()}\n"))

    def _is_addressed_here(self) -> bool:
        """Whether the browser was told this machine: not a name that somebody bent to point here.

        Such a name (DNS rebinding) would let its page read this one.
        """
        port = self.server.server_port
        names = self.headers.get_all("Host") or []
        return len(names) == 1 and names[0] in {
            f"{name}:{port}" for name in (self.server.host, "localhost")
        }

    def _send(self, status: HTTPStatus, reply: Reply) -> None:
        content = reply.text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{reply.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Content-Security-Policy", reply.policy)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Return what the server calls itself: no versions."""
        return "mtf-scalper"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the terminal is for what goes wrong."""

"""HTTP connections that have to get on: a request that is not over in time loses its connection.

uvicorn 0.52 ends a connection that idles after an answer, and waits for ever for the rest of a
request, or for the first byte of one.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0
"""From the connection, or the first byte of a later request, to the end of the answer."""
MOST_HEADER_BYTES = 16_384
MOST_CONNECTIONS = 256


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with a deadline for every request."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        if self.deadline is None:
            self._expect()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Leave it to uvicorn how long the connection may idle."""
        self._drop_deadline()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._drop_deadline()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self.deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _drop_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

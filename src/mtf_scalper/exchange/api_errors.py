"""Errors of the replay exchange: those its user meets, and those its HTTP clients get."""

from __future__ import annotations

from mtf_scalper.errors import MtfScalperError


class DataDirectoryError(MtfScalperError):
    """A data directory cannot be served: names the file and what is wrong with it."""


class ServerError(MtfScalperError):
    """The server cannot listen where it was asked to, or did not start or stop."""


class ApiError(Exception):
    """A refused request, with the code and message of Binance's error body.

    Parameters
    ----------
    code
        Binance's error code, negative.
    message
        The text of ``msg``.
    status
        HTTP status.
    """

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status

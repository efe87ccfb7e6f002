"""Python programs that find their libraries imported: each is forked from a process that has them.

A freqtrade program spends twelve seconds on imports and a few on what a test asks of it. What is
forked runs ``python -m module`` as Python does, with directory, environment, input and outputs of
its own, and ends with its own exit code; but it is no child of the process that waits for it,
signals do not reach it, and what a library reads from the environment as it is loaded is that of
the server. Tests of such things start Python itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["ReadyPython", "serving"]

ReadyPython = Callable[[Sequence[str]], list[str]]

LIBRARIES = (
    *("freqtrade.main", "freqtrade.commands", "freqtrade.optimize.backtesting"),
    *("mtf_scalper.freqai.model", "mtf_scalper.freqai.strategy", "mtf_scalper.cli"),
    *("mtf_scalper.runs.evaluation", "mtf_scalper.page.build", "torch._dynamo"),
)
CAN_FORK = sys.platform == "linux"
LENGTH = struct.Struct("!i")


@contextlib.contextmanager
def serving() -> Iterator[ReadyPython]:
    """Yield what turns ``python -m module ...`` into a command that does the same, sooner.

    The server is started with the first command. Where there is no fork, commands stay as they are.
    """
    server: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ready-") as folder:
        address = str(Path(folder) / "server")

        def ready(command: Sequence[str]) -> list[str]:
            python, *arguments = command
            if not CAN_FORK or python != sys.executable or arguments[0] != "-m":
                raise ValueError(f"not python -m module: {command}")
            if not server:
                server.append(start_server(address))
            return [python, "-I", "-S", __file__, address, *arguments[1:]]

        try:
            yield ready if CAN_FORK else list
        finally:
            for each in server:
                each.terminate()
                each.communicate()


def start_server(address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", __file__, address]
    # Consoles of the libraries take their width as they are loaded.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "4000"}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


def ask(address: str, arguments: Sequence[str]) -> int:
    """Have the server run a module with this process's directory, environment and outputs."""
    with socket.socket(socket.AF_UNIX) as connection:
        for _ in range(600):  # a server that has just been started listens soon
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection.connect(address)
                break
            time.sleep(0.1)
        asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        content = json.dumps(asked).encode()
        socket.send_fds(connection, [LENGTH.pack(len(content))], [0, 1, 2])
        connection.sendall(content)
        (code,) = LENGTH.unpack(received(connection, LENGTH.size))
    return int(code)


def received(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = connection.recv(size - len(content))
        if not part:
            raise EOFError
        content += part
    return content


def serve(address: str) -> list[str]:
    """Fork a process for every program that is asked for; return in each, with its arguments."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        del sys.path[0]  # the folder of this file
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        while True:
            readable, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in readable:  # whoever started the server is gone
                sys.exit()
            connection, _ = listening.accept()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if os.fork() == 0:
                break
            connection.close()
    return attended(connection)


def attended(connection: socket.socket) -> list[str]:
    """Run the program in a child, tell its exit code, and end it where nobody waits any more."""
    size, outputs, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    asked = json.loads(received(connection, LENGTH.unpack(size)[0]))
    child = os.fork()
    if child:
        ended = os.pidfd_open(child)
        readable, _, _ = select.select([connection, ended], [], [])
        if ended not in readable:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(OSError):
            connection.sendall(LENGTH.pack(code))
        os._exit(0)
    connection.close()
    for number, descriptor in enumerate(outputs):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    return list(asked["arguments"])


def run(arguments: Sequence[str]) -> None:
    """Run a module as ``python -m`` does."""
    sys.argv = list(arguments)
    sys.path.insert(0, os.getcwd())
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        os._exit(ask(sys.argv[1], sys.argv[2:]) & 0xFF)
    run(serve(sys.argv[1]))

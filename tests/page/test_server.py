"""The server of a watched page, over real sockets: bounded, and open to its own page alone."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mtf_scalper.page import server as page_server
from mtf_scalper.page.live import running_watch
from mtf_scalper.page.server import MAX_CONNECTIONS, MAX_HEAD_BYTES, PageServer, Rate, Reply
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Return host and port of a server whose pages are one line, and that waits half a second."""
    monkeypatch.setattr(page_server, "READ_SECONDS", 0.5)
    answers = {"/": lambda query: Reply(f"page {sorted(query)}"), "/big": lambda _: Reply(BIG)}
    server = PageServer(answers, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield "127.0.0.1", server.server_port
    server.shutdown()
    began = time.monotonic()
    server.server_close()
    thread.join()
    assert time.monotonic() - began < 2.0, "nobody is waited for"


BIG = "x" * 50_000_000


def asked(address: tuple[str, int], request: bytes, seconds: float = 20.0) -> bytes:
    """Return all that comes back on a connection that sends these bytes."""
    with socket.create_connection(address, seconds) as connection:
        try:
            connection.sendall(request)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)


def get(address: tuple[str, int], path: str = "/", more: str = "", method: str = "GET") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n{more}\r\n"
    return asked(address, head.encode("latin-1"))


def test_every_answer_says_what_a_browser_may_do(quick: Any) -> None:
    for path, status in (("/", b"200"), ("/other", b"404")):
        answer = get(quick, path)
        assert answer.split()[1] == status
        assert b"Content-Security-Policy: default-src 'none'" in answer
        assert b"frame-ancestors 'none'" in answer
        assert b"nosniff" in answer
        assert b"Server: mtf-scalper\r\n" in answer
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "get"):
        answer = get(quick, method=method)
        assert answer.split()[1] == b"501", method
        assert b"Content-Security-Policy" in answer


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/..%2f..%2fmanifest"),
        *("/manifest.json", "/%00", "/\x00", "/events.jsonl", "http://127.0.0.1/etc", "*", "C:/"),
        *("/\\..\\..", "/news/../..", "file:///etc/passwd", "/%", "/[", "http://["),
    ],
)
def test_no_path_leads_anywhere(path: str, quick: Any) -> None:
    assert get(quick, path).split()[1] in (b"404", b"400")


def test_a_host_must_be_named_once_and_be_loopback(quick: Any) -> None:
    port = quick[1]
    for hosts in (
        *((), ("",), ("evil.example",), (f"evil.example:{port}",), ("127.0.0.1",)),
        *((f"127.0.0.1:{port}", "evil.example"), (f"127.0.0.1:{port}",) * 2),
    ):
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        answer = asked(quick, f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
        assert answer.split()[1] == b"403", hosts


def test_requests_without_end_are_cut_off(quick: Any) -> None:
    head = f"GET / HTTP/1.1\r\nHost: {quick[0]}:{quick[1]}\r\n"
    assert asked(quick, b"x" * (4 * MAX_HEAD_BYTES)) == b""
    assert asked(quick, (head + "A: " + "x" * 4 * MAX_HEAD_BYTES).encode()) == b""
    many = head + "".join(f"X-{number}: 1\r\n" for number in range(500)) + "\r\n"
    assert asked(quick, many.encode()).split()[1] == b"431"
    fields = "&".join(f"a{number}=1" for number in range(500))
    assert get(quick, f"/?{fields}").split()[1] == b"400"
    assert get(quick).split()[1] == b"200"


@pytest.mark.parametrize(
    "garbage",
    [b"\r\n\r\n", b"\x00\xff" * 99 + b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"],
)
def test_garbage_is_refused_without_a_word_on_the_terminal(
    garbage: bytes, quick: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    asked(quick, garbage)
    assert get(quick).split()[1] == b"200"
    assert capfd.readouterr() == ("", "")


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(quick: Any) -> None:
    with socket.create_connection(quick) as slow:
        began = time.monotonic()
        with suppress(OSError):  # a reset or a broken pipe, as the system has it
            while time.monotonic() - began < 10.0:
                slow.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - began < 5.0


def test_more_connections_than_a_browser_opens_are_closed(quick: Any) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(quick))
        time.sleep(0.2)
        with socket.create_connection(quick, 5.0) as one_more:
            assert one_more.recv(1) == b""
    time.sleep(0.2)
    assert get(quick).split()[1] == b"200"


def test_a_reader_that_reads_nothing_and_a_closed_tab_hold_nobody(
    quick: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    request = f"GET /big HTTP/1.1\r\nHost: {quick[0]}:{quick[1]}\r\n\r\n".encode()
    for _ in range(3):
        with socket.create_connection(quick) as tab:
            tab.sendall(request)
            tab.recv(10)
    reader = socket.create_connection(quick)
    reader.sendall(request)
    assert get(quick).split()[1] == b"200"
    # The fixture's end is not held by the one who does not read.
    assert capfd.readouterr() == ("", "")
    reader.detach()


def test_more_requests_a_second_than_a_page_needs_are_refused(quick: Any) -> None:
    found = [get(quick).split()[1] for _ in range(120)]
    assert set(found) == {b"200", b"429"}
    rate = Rate(1.0, 2.0)
    assert [rate.takes() for _ in range(3)] == [True, True, False]


HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
WATCH = f"{HEARS}; from mtf_scalper.cli import main; main()"


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals on Windows")
def test_ctrl_c_in_a_terminal_ends_it_whatever_clients_do(tmp_path: Path) -> None:
    import pty

    record = RunRecord.begin(tmp_path, "demo")
    record.events().write("phase", name="odd\x1b[2J", state="began")
    command = ["-c", WATCH, "watch", record.run_id, "--port", "0", "--folder", str(tmp_path)]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, *command])
    said = b""
    try:
        while b"Ctrl-C ends it" not in said:
            said += os.read(terminal, 4096)
        port = int(re.search(rb"127\.0\.0\.1:(\d+)", said).group(1))  # type: ignore[union-attr]
        address = ("127.0.0.1", port)
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(address)) for _ in range(5)]
            for client in clients:
                client.sendall(b"GET / HT")
            tab = stack.enter_context(socket.create_connection(address))
            tab.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            tab.recv(10)
            tab.close()
            time.sleep(0.5)
            os.write(terminal, b"\x03")  # as the key does
            began = time.monotonic()
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                for client in clients[:1]:
                    with suppress(OSError):
                        client.sendall(b"x")
                time.sleep(0.1)
                assert time.monotonic() - began < 20.0
            child = 0
            with suppress(OSError):  # the terminal of a program that has ended
                said += os.read(terminal, 65536)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(terminal)
    assert b"Traceback" not in said
    assert b"\x1b[2J" not in said


HOSTILE = (
    "</script><script>window.hit=1</script>/USDT",
    '"><img src=x onerror="window.hit=1">/USDT',
    "<svg onload='window.hit=1'>/USDT",
    "<a href='javascript:window.hit=1'>%{x}</a>{{7*7}}/USDT",
    "'; window.hit=1; //\u202e\x1b[2J/USDT",
)


def test_hostile_names_are_texts_on_the_page(browser: Any, tmp_path: Path) -> None:
    import pandas as pd

    from mtf_scalper.records.reader import PROBABILITIES

    record = RunRecord.begin(tmp_path, "demo", pairs=HOSTILE, timerange=HOSTILE[0])
    dates = pd.date_range("2024-10-01", periods=50, freq="5min", tz="UTC")
    prices = dict.fromkeys(("open", "high", "low", "close"), 100.0)
    words = {"side": "long", "series": "agent", "open_date": dates[1], "close_date": dates[5]}
    rates = {"open_rate": 1.0, "close_rate": 1.1, "leverage": 1.0, "profit_ratio": 0.1}
    for pair in HOSTILE:
        record.write_candles(pair, pd.DataFrame({"date": dates, **prices, "volume": 1.0}))
        made = pd.DataFrame({"date": dates, **dict.fromkeys(PROBABILITIES, 0.2)})
        record.write_predictions(pair, made)
        record.append_trades(
            [{"pair": pair, **words, **rates, "exit_reason": pair, "enter_tag": pair}]
        )
        record.events(pair=pair).write("training_started")
        record.events(pair=pair).write("update", steps=1, oracle_share=0.1)
        record.events().write("phase", name=pair, state="began")
    equity = {"seed": 1, "series": HOSTILE[1], "log_return": 0.1}
    tables = [pd.DataFrame({"date": dates, "pair": pair, **equity}) for pair in HOSTILE]
    record.write_table("equity", pd.concat(tables))
    record.write_json(
        "importance", {pair: {"median": 0.1, "low": 0, "high": 1} for pair in HOSTILE}
    )
    record.write_json("figures", [{"pair": pair, "log_return": 0.1} for pair in HOSTILE])
    record.write_json("random_exits", {pair: [0.1, 0.2] for pair in HOSTILE})
    record.finish(HOSTILE[0], {HOSTILE[1]: HOSTILE[2]})
    with running_watch(lambda: Run.open(record.folder)) as address:
        context = browser.new_context()
        page = context.new_page()
        asked_for: list[str] = []
        page.on("request", lambda request: asked_for.append(request.url))
        page.goto(address)
        page.wait_for_selector("html[data-asked]", timeout=120_000)
        page.wait_for_selector("#candles-plot.js-plotly-plot", timeout=120_000)
        names = page.evaluate(
            "[...document.querySelectorAll('#candles-plot-choice option')].length"
        )
        assert names == len(HOSTILE)
        assert page.evaluate("window.hit === undefined")
        links = "[...document.querySelectorAll('.plot a')].map((each) => each.outerHTML)"
        assert [each for each in page.evaluate(links) if "javascript" in each] == []
        assert (
            page.evaluate("document.querySelectorAll('main img[src=x], svg[onload]').length") == 0
        )
        origin = urlsplit(address).netloc
        outside = [url for url in asked_for if urlsplit(url).netloc != origin]
        assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []
        # Nor would any script run that got in after all.
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit=1\">')"
        )
        time.sleep(0.5)
        assert page.evaluate("window.hit === undefined")
        context.close()

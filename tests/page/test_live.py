"""The live page: what is served to whom, and a browser that watches a training."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from mtf_scalper.errors import MtfScalperError
from mtf_scalper.page.build import SECTIONS
from mtf_scalper.page.live import _READS, LivePage, running_watch, watch
from mtf_scalper.records.lookup import find_run
from mtf_scalper.records.reader import Run
from mtf_scalper.records.writer import RunRecord

PAIR = "BTC/USDT:USDT"
# A training that takes a few seconds, recorded as every run is; the file "go" lets it begin.
TRAINING = """
import os, sys, time
from pathlib import Path
import numpy as np
import pandas as pd
from mtf_scalper import Settings, simulate, train
from mtf_scalper.worlds.planted import planted_market
from mtf_scalper.records.sampler import ProcessSampler
from mtf_scalper.records.writer import RunRecord

root = Path(sys.argv[1])
with RunRecord.begin(root, "training", pairs=["BTC/USDT:USDT"], seeds=[1]) as record:
    while not (root / "go").exists():
        time.sleep(0.05)
    market, later = (planted_market("linear", seed, 3000, n_features=10).market for seed in (1, 2))
    seen = 0
    with ProcessSampler(os.getpid(), interval_seconds=0.2) as sampler:
        def note(progress):
            global seen
            for sample in sampler.samples[seen:]:
                record.append_sample(sample)
                seen += 1
            time.sleep(0.1)
        settings = Settings(net_arch=(32,), batch_size=64, window_size=2, cpu_count=1,
                            train_cycles=25, patience=25)
        result = train(market, settings, later, on_progress=note,
                       events=record.events(pair="BTC/USDT:USDT", window="w1", seed=1))
    run = simulate(result.policy, later)
    dates = pd.date_range("2024-10-01", periods=len(later), freq="5min", tz="UTC")
    prices = pd.DataFrame(later.ohlc, columns=["open", "high", "low", "close"])
    record.write_candles("BTC/USDT:USDT", prices.assign(date=dates, volume=1.0))
    record.append_trades([
        {"series": "agent", "pair": "BTC/USDT:USDT", "side": trade.side.name.lower(),
         "open_date": dates[trade.open_row], "close_date": dates[trade.close_row],
         "open_rate": trade.open_rate, "close_rate": trade.close_rate, "leverage": 1.0,
         "profit_ratio": trade.profit_ratio, "exit_reason": str(trade.exit_reason)}
        for trade in run.trades])
    equity = pd.DataFrame({"date": dates, "pair": "BTC/USDT:USDT", "seed": 1, "series": "agent",
                           "log_return": np.log(run.equity)})
    record.write_table("equity", equity)
    record.finish(f"{len(run.trades)} trades, log return {run.log_return:+.4f}")
"""


def get(address: str, path: str, host: str | None = None, method: str = "GET") -> Any:
    """Return status and body of an answer to a request with the Host header given."""
    target = urlsplit(address)
    connection = http.client.HTTPConnection(target.hostname, target.port, timeout=60)
    try:
        connection.request(method, path, headers={"Host": host or target.netloc})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


SHOWN = [name for name in SECTIONS if name != "search"]


@pytest.fixture(scope="module")
def address(recorded: Any) -> Iterator[str]:
    with running_watch(lambda: Run.open(recorded.folder)) as found:
        yield found


def test_the_page_and_its_news_are_served_and_nothing_else(address: str, recorded: Any) -> None:
    status, html = get(address, "/")
    assert status == 200
    assert "connect-src &#39;self&#39;" in html
    status, text = get(address, "/news")
    assert status == 200
    assert set(json.loads(text)["html"]) == {"head", *SHOWN}
    for path in ("/manifest.json", "/report.html", "/../manifest.json", "/news/", "/%2e%2e"):
        assert get(address, path)[0] == 404, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert get(address, "/", method=method)[0] == 501, method


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "127.0.0.1.nip.io"]
)
def test_names_that_are_not_loopback_are_refused(host: str, address: str) -> None:
    port = str(urlsplit(address).port)
    for path in ("/", "/news"):
        status, text = get(address, path, host=host.format(port=port))
        assert status == 403
        assert "only 127.0.0.1" in text
    assert get(address, "/", host=f"localhost:{port}")[0] == 200


def test_only_loopback_is_listened_on(address: str) -> None:
    port = urlsplit(address).port
    listening = [
        each.laddr.ip
        for each in psutil.Process().net_connections()
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    ]
    assert listening == ["127.0.0.1"]


def test_known_parts_are_not_sent_again(recorded: Any) -> None:
    page = LivePage(lambda: Run.open(recorded.folder))
    first = page.news({})
    again = page.news(first["digests"])
    assert again["html"] == {}
    assert again["plots"] == {}
    assert again["digests"] == first["digests"]
    old = {**first["digests"], "equity": "of before"}
    assert set(page.news(old)["html"]) == {"equity"}
    assert set(page.news(old)["plots"]) == {"equity-plot"}


def test_a_section_is_made_again_only_where_its_files_changed(bare: Any, monkeypatch: Any) -> None:
    made: list[str] = []

    def counting(name: str, make: Any) -> Any:
        def wrapped(run: Run) -> Any:
            made.append(name)
            return make(run)

        return wrapped

    counted = {name: counting(name, make) for name, make in SECTIONS.items()}
    monkeypatch.setattr("mtf_scalper.page.live.SECTIONS", counted)
    page = LivePage(lambda: Run.open(bare.folder))
    page.news({})
    assert made == SHOWN
    made.clear()
    page.news({})
    assert made == []
    bare.events(pair=PAIR).write("training_started", total_steps=10)
    page.news({})
    assert made == ["equity", "learning", "machine", "tasks", "manifest"]
    made.clear()
    bare.finish()
    page.news({})
    assert made == ["machine", "manifest"]


def test_the_files_of_every_section_are_known() -> None:
    assert list(_READS) == list(SECTIONS)


def test_a_damaged_record_is_an_answer_and_no_end(bare: Any) -> None:
    with running_watch(lambda: Run.open(bare.folder)) as address:
        (bare.folder / "figures.json").write_text("{")
        status, text = get(address, "/news")
        assert status == 503
        assert "figures.json is damaged" in text
        assert text.count("\n") == 1
        (bare.folder / "figures.json").write_text("[]")
        assert get(address, "/news")[0] == 200


def test_no_thread_and_no_port_are_left(recorded: Any) -> None:
    before = set(threading.enumerate())
    with running_watch(lambda: Run.open(recorded.folder)) as address:
        get(address, "/news")
    assert set(threading.enumerate()) == before
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed ones may linger
        free.bind(("127.0.0.1", urlsplit(address).port or 0))


def test_a_port_in_use_is_one_line(recorded: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MtfScalperError, match=rf"port {port} \(.*\); choose another --port"):
            watch(lambda: Run.open(recorded.folder), port)


def test_a_run_that_is_not_there_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(MtfScalperError, match="there are no runs"):
        watch(lambda: find_run("latest", tmp_path), 0)


@contextmanager
def program(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run Python with the arguments given; it has ended when the context is left."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# A shell's background jobs, and so tests that run in one, are started deaf to Ctrl-C.
HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
CALL = f"{HEARS}; from mtf_scalper.cli import main; main()"
WATCH = ("-c", CALL, "watch", "latest", "--port", "0")


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is another signal on Windows")
def test_ctrl_c_ends_it_as_a_success(recorded: Any, tmp_path: Path) -> None:
    with program(*WATCH, "--folder", str(recorded.folder.parent), cwd=tmp_path) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = said.split()[1]
        assert get(address, "/")[0] == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0
        assert errors == ""
    with pytest.raises(ConnectionRefusedError):
        get(address, "/")


def test_a_browser_watches_a_training_from_its_start_to_its_verdict(
    browser: Any, tmp_path: Path
) -> None:
    threads = set(threading.enumerate())
    with (
        program("-c", TRAINING, str(tmp_path), cwd=tmp_path) as training,
        running_watch(lambda: find_run("latest", tmp_path)) as address,
    ):
        await_file(tmp_path, "*/manifest.json", training)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(address)
        page.wait_for_selector("html[data-state=drawn]", timeout=60_000)
        page.evaluate("window.untouched = true")
        assert "no training has begun" in page.text_content("#verdict")
        (tmp_path / "go").touch()
        page.wait_for_selector("#learning-plot.js-plotly-plot", timeout=60_000)
        page.wait_for_selector("#machine-plot.js-plotly-plot", timeout=60_000)
        await_true(lambda: "steps/s" in observed(page)["verdict"])  # after the first pass
        first = observed(page)
        assert 0.0 < first["progress"] < 1.0
        # What a person has done to the page stays done.
        page.evaluate("Plotly.relayout('machine-plot', {'xaxis.range': [0, 1.5]})")
        page.click("#training-table thead th:nth-child(3) button")
        await_true(lambda: observed(page)["updates"] > first["updates"] + 4)
        second = observed(page)
        assert second["progress"] > first["progress"]
        assert second["samples"] > first["samples"]
        assert second["verdict"] != first["verdict"]
        assert second["machine range"] == [0, 1.5]
        assert second["sorted"] == "ascending"
        assert training.wait(timeout=120) == 0, training.communicate()[1]
        page.wait_for_selector(".status-finished", timeout=60_000)
        page.wait_for_selector("#candles-plot.js-plotly-plot", timeout=60_000)
        page.wait_for_selector("#equity-plot.js-plotly-plot", timeout=60_000)
        run = find_run("latest", tmp_path)
        assert page.text_content("#verdict") == run.verdict
        last = observed(page)
        assert last["progress"] is None
        assert last["updates"] == len(run.history())
        assert last["machine range"] == [0, 1.5]
        assert page.evaluate("window.untouched")  # it was never loaded again
        assert errors == []
        context.close()
    assert set(threading.enumerate()) == threads
    assert not psutil.pid_exists(training.pid)


def test_latest_goes_on_to_the_next_run(browser: Any, bare: Any, tmp_path: Path) -> None:
    runs = [bare.folder]
    with running_watch(lambda: Run.open(runs[-1])) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("html[data-asked]", timeout=60_000)
        assert "Demo" in page.text_content("h1")
        runs.append(RunRecord.begin(tmp_path / "next", "backtest").folder)
        page.wait_for_selector("h1:has-text('Backtest')", timeout=60_000)
        context.close()


TRADE = {
    **{"series": "agent", "pair": PAIR, "side": "long", "seed": 1, "window": "w1"},
    **{"open_date": "2024-10-01 00:05", "close_date": "2024-10-01 01:00", "leverage": 1.0},
    **{"open_rate": 100.0, "close_rate": 101.0, "profit_ratio": 0.01, "log_return": 0.00995},
    **{"exit_reason": "roi", "enter_tag": "long"},
}


def test_a_server_that_ends_is_told_and_the_page_stays(browser: Any, bare: Any) -> None:
    bare.append_trades([TRADE])
    context = browser.new_context()
    page = context.new_page()
    with running_watch(lambda: Run.open(bare.folder)) as address:
        page.goto(address)
        page.wait_for_selector("html[data-asked]", timeout=60_000)
    page.wait_for_selector("#live-state:has-text('No news')", timeout=60_000)
    assert page.is_visible("#exits-table")
    context.close()


def observed(page: Any) -> dict[str, Any]:
    return page.evaluate(
        """() => {
          const plot = (name) => document.getElementById(name);
          const cores = plot("machine-plot").data.find((t) => t.name === "cores used by the run");
          const progress = document.getElementById("progress");
          return {
            verdict: document.getElementById("verdict").textContent,
            progress: progress ? progress.value : null,
            updates: plot("learning-plot").data[0].x.length,
            samples: cores.x.length,
            "machine range": plot("machine-plot")._fullLayout.xaxis.range,
            sorted: document.querySelector("#training-table th:nth-child(3)").ariaSort,
          };
        }"""
    )


def await_true(is_true: Callable[[], bool]) -> None:
    # Not the browser's own waiting: it evaluates texts, which the page's policy forbids.
    until = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.1)


def await_file(root: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    def is_there() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return bool(list(root.glob(pattern)))

    await_true(is_there)

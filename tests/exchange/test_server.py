"""Where the server listens, and that nothing of it is left."""

import signal
import socket
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from mtf_scalper.exchange import ServerError, running_exchange, serve


def port_of(url: str) -> int:
    port = httpx.URL(url).port
    assert port is not None
    return port


def replay_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("replay-exchange")]


def assert_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.settimeout(2)
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.0.1", "example.com"])
def test_anything_but_loopback_is_refused(datadir: Path, host: str) -> None:
    with pytest.raises(ServerError, match="is not loopback"):
        serve(datadir, host=host, port=0)
    with pytest.raises(ServerError, match="is not loopback"), running_exchange(datadir, host=host):
        pass


def test_localhost_is_the_ipv4_loopback(datadir: Path) -> None:
    with running_exchange(datadir, host="localhost") as url:
        assert url.startswith("http://127.0.0.1:")


def test_ipv6_loopback_is_served(datadir: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    with running_exchange(datadir, host="::1") as url:
        assert httpx.get(f"{url}/fapi/v1/ping", trust_env=False).json() == {}


def test_thread_and_port_are_gone_after_the_context(datadir: Path) -> None:
    before = replay_threads()
    # The client keeps its connection open while the server stops.
    with httpx.Client(trust_env=False) as client:
        with running_exchange(datadir) as url:
            assert client.get(f"{url}/fapi/v1/ping").status_code == 200
            assert len(replay_threads()) == len(before) + 1
        assert replay_threads() == before
        assert_port_is_free(port_of(url))
    with running_exchange(datadir, port=port_of(url)) as again:
        assert again == url


def test_an_error_in_the_context_stops_the_server_too(datadir: Path) -> None:
    before, urls = replay_threads(), []

    def fail() -> None:
        with running_exchange(datadir) as url:
            urls.append(url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert replay_threads() == before
    assert_port_is_free(port_of(urls[0]))


def test_two_servers_at_once(datadir: Path) -> None:
    now = datetime.fromisoformat("2024-01-05T00:00:00+00:00")
    with running_exchange(datadir) as first, running_exchange(datadir, now=now) as second:
        times = [
            httpx.get(f"{url}/fapi/v1/time", trust_env=False).json()["serverTime"]
            for url in (first, second)
        ]
    assert times[0] - times[1] == 6 * 86_400_000
    assert times[1] == now.timestamp() * 1000


def test_a_port_in_use_is_named(datadir: Path) -> None:
    with running_exchange(datadir) as url:
        port = port_of(url)
        refused = pytest.raises(ServerError, match=f"port {port} .*choose another port")
        with refused, running_exchange(datadir, port=port):
            pass


def test_a_clock_without_time_zone_is_refused(datadir: Path) -> None:
    with (
        pytest.raises(ValueError, match="has no time zone"),
        running_exchange(datadir, now=datetime(2024, 1, 5)),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="a child gets no Ctrl-C of its own there")
def test_serve_ends_cleanly_on_ctrl_c(datadir: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    code = (
        f"import sys; sys.path[:0] = [{str(source)!r}]; from mtf_scalper.exchange import serve; "
        "serve(sys.argv[1], port=0, on_listening=lambda url: print(url, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(datadir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            url = child.stdout.readline().strip()
            assert httpx.get(f"{url}/fapi/v1/ping", trust_env=False).json() == {}
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=20)
        finally:
            child.kill()
    assert (child.returncode, errors) == (0, "")
    assert_port_is_free(port_of(url))

"""What a client may ask in a minute of a clock that runs."""

from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from mtf_scalper import clock as clocks
from mtf_scalper.clock import RunningClock
from mtf_scalper.exchange import running_exchange
from mtf_scalper.exchange.api_errors import ApiError
from mtf_scalper.exchange.weights import USED_WEIGHT, Weights, weight_of


@pytest.mark.parametrize(
    ("path", "parameters", "weight"),
    [
        ("/fapi/v1/klines", {"limit": "99"}, 1),
        ("/fapi/v1/klines", {"limit": "499"}, 2),
        ("/fapi/v1/klines", {}, 5),
        ("/api/v3/klines", {"limit": "1500"}, 10),
        ("/fapi/v1/klines", {"limit": "99999999"}, 5),
        ("/fapi/v1/depth", {"limit": "20"}, 2),
        ("/fapi/v1/depth", {"limit": "1000"}, 20),
        ("/fapi/v1/ticker/24hr", {}, 40),
        ("/fapi/v1/ticker/24hr", {"symbol": "BTCUSDT"}, 1),
        ("/fapi/v1/exchangeInfo", {}, 1),
    ],
)
def test_weights_are_those_that_binance_documents(
    path: str, parameters: dict[str, str], weight: int
) -> None:
    assert weight_of(path, parameters) == weight


def test_a_minute_ends_by_the_exchanges_clock() -> None:
    weights, info = Weights(), "/fapi/v1/ticker/24hr"
    used = [weights.take(59_999, info, {}) for _ in range(60)]
    assert used == list(range(40, 2401, 40))
    with pytest.raises(ApiError) as refused:
        weights.take(59_999, info, {})
    assert (refused.value.code, refused.value.status) == (-1003, 429)
    assert weights.take(60_000, info, {}) == 40


def test_answers_tell_what_was_used_and_only_a_running_clock_has_a_limit(
    datadir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2024, 1, 4, 10, 42, tzinfo=UTC)
    monkeypatch.setattr(clocks, "machine_time_ns", lambda: 1_700_000_000_000_000_000)
    with running_exchange(datadir, now=RunningClock.starting_at(now, 60.0)) as url:
        answers = [httpx.get(f"{url}/fapi/v1/ticker/24hr", trust_env=False) for _ in range(61)]
    assert answers[1].headers[USED_WEIGHT] == "80"
    assert [answer.status_code for answer in answers] == [200] * 60 + [429]
    assert answers[-1].json()["code"] == -1003
    with running_exchange(datadir, now=now) as url:
        answers = [httpx.get(f"{url}/fapi/v1/ticker/24hr", trust_env=False) for _ in range(61)]
    assert {answer.status_code for answer in answers} == {200}

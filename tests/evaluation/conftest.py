from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.playback import Simulation, play
from mtf_scalper.simulator.prepared import prepare

Trade = Callable[[Market, Settings, Callable[[int, int, int], int]], Simulation]


@pytest.fixture(scope="session")
def trade_by() -> Trade:
    """Return a trader by ``decide(row, side, age)``, whose entries without a position are known."""

    def trade(
        market: Market, settings: Settings, decide: Callable[[int, int, int], int]
    ) -> Simulation:
        said = settings.for_market(market)

        def choose(row: int, states: np.ndarray, _extras: np.ndarray) -> np.ndarray:
            side = int(states["side"][0])
            age = row + 1 - int(states["open_row"][0]) if side else 0
            return np.array([decide(row, side, age)])

        (run,) = play(prepare(market, said), choose)
        entries = np.zeros(len(market), dtype=np.int64)
        for row in range(settings.window_size - 1, len(market) - 1):
            entries[row] = decide(row, 0, 0)
        return Simulation(run.trades, run.equity, run.actions, entries)

    return trade

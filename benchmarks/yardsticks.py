"""What the defaults make of toy markets that everybody can judge (``worlds/yardsticks.py``).

Run: ``python benchmarks/yardsticks.py``, some minutes on two quiet cores; ``--seeds`` names others
than 1 to 5. Each policy is learned with the defaults and trades candles of another seed. Leaked
futures are set beside the optimum in hindsight, the other two beside who holds the side of the
signal without its noise, at the same fees.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtf_scalper.evaluation.baselines import buy_and_hold
from mtf_scalper.ppo.policy import simulate
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.oracle import oracle
from mtf_scalper.simulator.playback import Simulation, play_decided
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import Action, Side
from mtf_scalper.training import train
from mtf_scalper.worlds.yardsticks import Yardstick, leaked_market, sine_market, slopes_market

HELD_OUT = 1000
"""Added to the seed of the candles that are learned on, this is that of those traded."""
N_TRADED = 3000
MADE_BY = {"sine": sine_market, "slopes and sines": slopes_market}
SIZES = (("leaked futures", 5000), ("leaked futures", 2000), ("sine", 3000))
SIZES += (("slopes and sines", 3000),)


def known(yardstick: Yardstick, settings: Settings) -> Simulation:
    """Return what who knows the signal earns: the side of its next move, without the noise."""
    decisions = np.zeros((len(yardstick.market), 3), dtype=np.int8)
    up, down = yardstick.sides > 0, yardstick.sides < 0
    decisions[up, Side.FLAT + 1], decisions[down, Side.FLAT + 1] = (
        Action.LONG_ENTER,
        Action.SHORT_ENTER,
    )
    decisions[down, Side.LONG + 1] = Action.LONG_EXIT
    decisions[up, Side.SHORT + 1] = Action.SHORT_EXIT
    return play_decided(prepare(yardstick.market, settings), decisions[None])[0]


def learned(name: str, n_candles: int, seed: int) -> dict[str, Any]:
    """Learn a yardstick with the defaults; return what that earns on other candles.

    Returns
    -------
    dict
        ``log_return``, ``reference`` (the optimum, or who knows the signal), ``share`` of it,
        ``hold`` (buy and hold) and ``n_trades``.
    """
    settings = Settings(random_state=seed, cpu_count=1)
    if name == "leaked futures":
        market, tested = leaked_market(seed, n_candles), leaked_market(seed + HELD_OUT, N_TRADED)
        best = oracle(tested, settings)
    else:
        market = MADE_BY[name](seed, n_candles).market
        other = MADE_BY[name](seed + HELD_OUT, N_TRADED)
        tested, best = other.market, known(other, settings)
    run = simulate(train(market, settings).policy, tested)
    return {
        "log_return": run.log_return,
        "reference": best.log_return,
        "share": run.log_return / best.log_return,
        "hold": buy_and_hold(tested, settings).log_return,
        "n_trades": len(run.trades),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3, 4, 5))
    given = parser.parse_args(arguments)
    for name, n_candles in SIZES:
        found = [learned(name, n_candles, seed) for seed in given.seeds]
        shares = [each["share"] for each in found]
        print(f"{name}, {n_candles:,} candles: {min(shares):.3f} to {max(shares):.3f} of the ref.")
        for seed, each in zip(given.seeds, found, strict=True):
            values = ", ".join(f"{key} {value:.3f}" for key, value in each.items())
            print(f"  seed {seed}: {values}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

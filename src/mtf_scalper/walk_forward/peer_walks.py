"""Supervised peers in a walk-forward: what they need, and how they trade all windows' tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtf_scalper.errors import SettingsError
from mtf_scalper.evaluation.peer_words import TITLES
from mtf_scalper.market.stored import RecordedPair
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.playback import Simulation, play_decided
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.walk_forward.learned_window import n_choosing
from mtf_scalper.walk_forward.walk import Walk
from mtf_scalper.walk_forward.windows import Window


def check_held_back(
    recordeds: Mapping[str, RecordedPair], windows: Sequence[Window], settings: Settings
) -> None:
    """Check that peers can choose their thresholds in every window.

    Raises
    ------
    SettingsError
        If a window holds back too few candles: names the pair and the window.
    """
    least = settings.window_size + 2
    for pair, recorded in recordeds.items():
        for window in windows:
            n_held = n_choosing(recorded, window, settings)
            if n_held < least:
                raise SettingsError(
                    f"--peers: {pair}: peers choose their thresholds on held-back candles, and the "
                    f"window from {window.train_from:%Y-%m-%d} has {n_held} of them, {least} are "
                    "needed; raise validation_share or --train-days"
                )


def walk_peers(walk: Walk) -> dict[str, Simulation]:
    """Return what each peer makes of the candles of a walk, by its title.

    The peers of all windows take turns at one account, as the policies do: the same candles, rules
    and costs, nothing closed at the end of a window, no entries where no policy has a prediction.

    Parameters
    ----------
    walk : Walk

    Returns
    -------
    dict of str to Simulation
        Empty where no peers have learned.
    """
    prepared = prepare(walk.market, walk.settings)
    first = walk.learned[0].first_row
    found = {}
    for name in walk.learned[0].peers:
        decisions = np.zeros((len(walk.market), 3), dtype=np.int8)
        for part in walk.learned:
            start, decided = part.first_row - first, part.peers[name]
            decisions[start : start + len(decided)] = decided
        found[TITLES[name]] = play_decided(prepared, decisions[None])[0]
    return found

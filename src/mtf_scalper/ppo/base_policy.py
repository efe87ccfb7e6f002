"""Where a policy of forecasts starts: thresholds that would have earned most, as logits.

To hold a position for as long as a forecast says so, and to pay no more fees than that is worth,
takes two thresholds. A network that starts from nothing has to find them among all that the noise
of a month seems to say, and often finds something else. So the network is a *residual*: its logits
are added to those of a base policy that trades a forecast by thresholds (Silver et al. 2018,
*Residual policy learning*, https://arxiv.org/abs/1812.06298). What it learns from exact advantages
is what thresholds do not know: several forecasts at once, the rules' exits, the state of a trade.

The thresholds are those that earn most on the training candles, by forecasts out of folds. What
they earn on candles that are held back has no part in the choice; these judge them as they judge
all that is learned. Where none earn more than doing nothing, or than leaving all exits to the
rules, the base policy keeps its position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from mtf_scalper.jit import njit
from mtf_scalper.market.market import Market
from mtf_scalper.settings import Settings
from mtf_scalper.simulator.by_threshold import ACTIONS_BY_SIDE, decide_by_threshold
from mtf_scalper.simulator.playback import play_decided
from mtf_scalper.simulator.prepared import PreparedMarket, prepare
from mtf_scalper.simulator.types import N_ACTIONS, Action

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

STEEPNESS: Final = 3.0
"""By how much a logit changes with one unit of a forecast."""
QUANTILES: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Shares of the forecasts below the size at which a position is entered."""
SHARES: Final = (-math.inf, -1.0, -0.7, -0.4, -0.2, 0.0, 0.2, 0.5)
"""Where it is left, as a share of that size; the first one never."""


class Thresholds(NamedTuple):
    """A forecast and where it is traded.

    Attributes
    ----------
    mix : ndarray of float64, shape (2 D,)
        Weights of the forecasts.
    enter, leave : float
        See ``decide_by_threshold``.
    """

    mix: Doubles
    enter: float
    leave: float


def choose_thresholds(
    markets: Sequence[Market], forecasts: Sequence[Floats], settings: Settings
) -> Thresholds | None:
    """Return the thresholds that earn most on markets, None where none earn anything.

    For each horizon the mean of the two kinds of forecasts is tried, or the one that is used. The
    best of many thresholds is in part a lucky one; so each counts as the mean of itself and its
    neighbours.

    Parameters
    ----------
    markets : sequence of Market
    forecasts : sequence of ndarray of float32, shape (T, 2 D)
        Out of folds, 0 where there is no full window.
    settings : Settings
        The rules, and the window.
    """
    first = settings.window_size - 1
    prepared = [prepare(market, settings) for market in markets]
    known = [each[first:].astype(np.float64) for each in forecasts]
    used = np.any([each.any(axis=0) for each in known], axis=0)
    nothing = [np.zeros(len(each)) for each in known]
    best, most = None, _earned(nothing, [(math.inf, -math.inf)], prepared)[0]
    for mix in _mixes(used):
        # Weighted sums row by row: a product of matrices would go by the threads.
        mixed = [np.asarray((each * mix).sum(axis=1)) for each in known]
        values = np.abs(np.concatenate(mixed))
        sizes = [float(np.quantile(values, quantile)) for quantile in QUANTILES]
        grid = [(size, share * size) for size in sizes for share in SHARES]
        earned = _with_neighbours(_earned(mixed, grid, prepared).reshape(len(sizes), -1)).ravel()
        place = int(np.argmax(earned))
        if earned[place] > most:
            best, most = Thresholds(mix, *grid[place]), earned[place]
    return best


def _mixes(used: NDArray[np.bool_]) -> Iterator[Doubles]:
    """Yield the weights of each horizon's mean over the forecasts that are used."""
    n_horizons = len(used) // 2
    for horizon in range(n_horizons):
        mix = np.zeros(len(used))
        mix[[horizon, horizon + n_horizons]] = used[[horizon, horizon + n_horizons]]
        if mix.any():
            yield mix / mix.sum()


def _earned(
    forecasts: Sequence[Doubles],
    thresholds: Sequence[tuple[float, float]],
    prepared: Sequence[PreparedMarket],
) -> Doubles:
    """Return the log return of each pair (enter, leave), shape (N,)."""
    earned = np.zeros(len(thresholds))
    for market, forecast in zip(prepared, forecasts, strict=True):
        # Few trade at a time, for the memory's sake.
        for start in range(0, len(thresholds), len(SHARES)):
            tables = [
                decide_by_threshold(market.first_row, forecast, *each)
                for each in thresholds[start : start + len(SHARES)]
            ]
            runs = play_decided(market, np.stack(tables))
            earned[start : start + len(runs)] += [run.log_return for run in runs]
    return earned


def _with_neighbours(earned: Doubles) -> Doubles:
    """Return means over 3 by 3 neighbours, shape (sizes, shares); who never leaves has no share."""
    means = np.empty_like(earned)
    for own in (slice(0, 1), slice(1, None)):
        wide = np.pad(earned[:, own], 1, mode="edge")
        means[:, own] = sliding_window_view(wide, (3, 3)).mean(axis=(2, 3))
    return means


def base_of(thresholds: Thresholds | None, n_forecasts: int, keep_bias: float) -> Floats:
    """Return the base policy's logits as a linear function of forecasts and 1.

    Parameters
    ----------
    thresholds : Thresholds or None
    n_forecasts : int
        2 D.
    keep_bias : float
        By how much the logit of keeping the position is the larger where no threshold decides.

    Returns
    -------
    ndarray of float32, shape (2 D + 1, 5)
    """
    base = np.zeros((n_forecasts + 1, N_ACTIONS))
    base[-1] = -keep_bias
    base[-1, Action.NEUTRAL] = 0.0
    if thresholds is not None:
        for _, sign, enters, leaves in ACTIONS_BY_SIDE:
            _put(base[:, enters], sign * thresholds.mix, -thresholds.enter)
            _put(base[:, leaves], -sign * thresholds.mix, thresholds.leave)
    return base.astype(np.float32)


def _put(column: Doubles, mix: Doubles, constant: float) -> None:
    if math.isfinite(constant):
        column[:-1] = STEEPNESS * mix
        column[-1] = STEEPNESS * constant


@njit(cache=True, nogil=True)
def base_logits(forecasts: Floats, base: Floats) -> Floats:
    """Return the base policy's logits, row by row in a fixed order.

    Parameters
    ----------
    forecasts : ndarray of float32, shape (N, 2 D)
    base : ndarray of float32, shape (2 D + 1, 5)

    Returns
    -------
    ndarray of float32, shape (N, 5)
    """
    n_rows, n_forecasts = forecasts.shape
    n_actions = base.shape[1]
    logits = np.empty((n_rows, n_actions), dtype=np.float32)
    for row in range(n_rows):
        for action in range(n_actions):
            total = base[n_forecasts, action]
            for index in range(n_forecasts):
                total += forecasts[row, index] * base[index, action]
            logits[row, action] = total
    return logits


class BasePolicy(nn.Module):
    """Adds a fixed linear function of forecasts to a network's logits; before ``take`` nothing.

    Parameters
    ----------
    n_forecasts : int
        2 D.
    """

    weights: Tensor

    def __init__(self, n_forecasts: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(n_forecasts + 1, N_ACTIONS))

    def take(self, weights: Floats) -> None:
        """Go by ``base_of``'s numbers from now on."""
        self.weights.copy_(torch.from_numpy(weights))

    def forward(self, forecasts: Tensor) -> Tensor:
        """Return logits (N, 5) for forecasts of shape (N, 2 D)."""
        values = forecasts.detach().cpu().contiguous().numpy()
        logits = base_logits(values, self.weights.cpu().numpy())
        return torch.from_numpy(logits).to(forecasts.device)

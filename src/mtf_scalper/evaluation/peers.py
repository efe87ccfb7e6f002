"""What supervised learning makes of the same candles: ridge regression and LightGBM, by thresholds.

Who does not take a reinforcement learner forecasts and trades by a threshold. Peers see the same
windows and features in the same units, are fitted on the same candles, choose their thresholds on
the same held-back ones, and trade through the same kernels with the same fees and rules.

- *Where the agent may enter or decline* (`any`, `classic`) they forecast the sum of the next
  returns, each a tenth less than the one before. A long is entered where the forecast exceeds
  ``enter`` and left where it falls below ``leave``; a short at the negatives.
- *Where a rule enters* (`always`) they take every entry and regress what leaving is worth: the
  exact value of leaving less that of staying under the rules' exits alone, per candle and side. A
  trade is left where the forecast exceeds a threshold, or never.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.evaluation.peer_words import TITLES
from mtf_scalper.market.market import Market
from mtf_scalper.optional import library
from mtf_scalper.settings import EntryMode, Settings
from mtf_scalper.simulator.by_side import SideTable, evaluate_by_side
from mtf_scalper.simulator.by_threshold import decide_by_threshold
from mtf_scalper.simulator.chains import FLAT_ACTIONS, chains_of
from mtf_scalper.simulator.playback import Simulation, play_decided
from mtf_scalper.simulator.prepared import prepare
from mtf_scalper.simulator.types import Action, Side

Floats = NDArray[np.float64]
Decisions = NDArray[np.int8]

DECAY: Final = 0.9
PURGE: Final = 30
"""Candles between a fold and what is fitted for it when a penalty is chosen."""
N_FOLDS: Final = 5
PENALTIES: Final = 10.0 ** np.arange(-1.0, 6.1, 1.0)
ENTER_QUANTILES: Final = (*np.arange(0.3, 0.95, 0.08).tolist(), 0.97, 0.99)
"""Shares of the held-back forecasts below the size at which a position is entered."""
LEAVE_SHARES: Final = (-1.0, -0.7, -0.4, -0.2, 0.0, 0.2, 0.5)
"""Where it is left, as a share of that size."""
LEAVE_QUANTILES: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
"""The same where a rule enters; at 1 no held-back trade is left."""
BOOSTING: Final = MappingProxyType(
    {
        "n_estimators": 200,
        "learning_rate": 0.05,
        "num_leaves": 15,
        "min_child_samples": 50,
        "subsample": 0.7,
        "subsample_freq": 1,
        "colsample_bytree": 0.3,
        "reg_lambda": 10.0,
        "n_jobs": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
)

Predict = Callable[[NDArray[np.float32]], Floats]
Fit = Callable[[NDArray[np.float32], Floats, Floats, int], Predict]


def peer_runs(
    seen: Market,
    choosing: Market,
    tested: Market,
    settings: Settings,
    names: Sequence[str] = tuple(TITLES),
) -> dict[str, Simulation]:
    """Return what each peer makes of the tested candles, by name.

    Parameters, errors: those of ``peer_decisions``.
    """
    prepared = prepare(tested, settings)
    decided = peer_decisions(seen, choosing, tested, settings, names)
    return {name: play_decided(prepared, each[None])[0] for name, each in decided.items()}


def peer_decisions(
    seen: Market,
    choosing: Market,
    tested: Market,
    settings: Settings,
    names: Sequence[str] = tuple(TITLES),
) -> dict[str, Decisions]:
    """Return what each peer decides at every tested candle, by name.

    Parameters
    ----------
    seen : Market
        What they are fitted on.
    choosing : Market
        Held-back candles after these, which choose the thresholds.
    tested : Market
        Later candles of the same features.
    settings : Settings
        Window, rules, and the seed of the trees.
    names : sequence of str
        Of the peers that are wanted.

    Returns
    -------
    dict of str to ndarray of int8, shape (T, 3)
        Actions by row and ``side + 1``, as ``play_decided`` takes them: 0 before the first full
        window, and where an action is not valid the first valid one takes its place.

    Raises
    ------
    MarketError
        If the features differ in number.
    MtfScalperError
        If scikit-learn or LightGBM is not installed.
    """
    for market in (choosing, tested):
        if market.n_features != seen.n_features:
            raise MarketError(
                f"{market.pair}: {market.n_features} features, the peers are fitted on "
                f"{seen.n_features} of {seen.pair}"
            )
    units = _Units(seen, settings.window_size)
    is_entered = prepare(seen, settings).rules.entry is EntryMode.ALWAYS
    decide = _by_worth_of_leaving if is_entered else _by_forecast
    markets = (seen, choosing, tested)
    return {name: decide(PEERS[name], units, markets, settings) for name in names}


def check_installed() -> None:
    """Import what the peers need.

    Raises
    ------
    MtfScalperError
        If a library is not installed: names it, and what to install.
    """
    for name in ("sklearn.linear_model", "threadpoolctl", "lightgbm"):
        library(name)


def _by_forecast(
    fit: Fit, units: _Units, markets: tuple[Market, Market, Market], settings: Settings
) -> Decisions:
    seen, choosing, tested = markets
    first = settings.window_size - 1
    # What follows the last two rows is not known.
    target = returns_ahead(seen)[first:-2]
    weights = np.ones(len(target))
    predict = fit(units(seen)[:-2], target, weights, settings.random_state)
    held = predict(units(choosing))
    sizes = np.quantile(np.abs(held), ENTER_QUANTILES)
    grid = [(size, share * size) for size in sizes for share in LEAVE_SHARES]
    tables = np.stack([decide_by_threshold(first, held, *each) for each in grid])
    runs = play_decided(prepare(choosing, settings), tables)
    best = grid[int(np.argmax([run.log_return for run in runs]))]
    return decide_by_threshold(first, predict(units(tested)), *best)


def _by_worth_of_leaving(
    fit: Fit, units: _Units, markets: tuple[Market, Market, Market], settings: Settings
) -> Decisions:
    seen, choosing, tested = markets
    first = settings.window_size - 1
    worth, weights = worth_of_leaving(seen, settings)
    windows, held_windows, later_windows = (units(market) for market in markets)
    held, later = np.full((2, len(choosing)), -np.inf), np.full((2, len(tested)), -np.inf)
    for side in range(2):
        rows = np.flatnonzero(weights[side, first:] > 0.0)
        if len(rows) < 2:
            continue
        given = (windows[rows], worth[side, first:][rows], weights[side, first:][rows])
        predict = fit(*given, settings.random_state)
        held[side, first:] = predict(held_windows)
        later[side, first:] = predict(later_windows)
    known = held[np.isfinite(held)]
    thresholds = np.quantile(known, LEAVE_QUANTILES) if len(known) else np.array([np.inf])
    thresholds[-1] = np.inf  # never
    tables = np.stack([_by_worth(held, each) for each in thresholds])
    runs = play_decided(prepare(choosing, settings), tables)
    best = float(thresholds[int(np.argmax([run.log_return for run in runs]))])
    return _by_worth(later, best)


def _by_worth(worth: Floats, threshold: float) -> Decisions:
    """Return what is decided, shape (T, 3): the rule's entries are taken without being asked."""
    decisions = np.zeros((worth.shape[1], 3), dtype=np.int8)
    decisions[worth[0] > threshold, Side.LONG + 1] = Action.LONG_EXIT
    decisions[worth[1] > threshold, Side.SHORT + 1] = Action.SHORT_EXIT
    return decisions


def returns_ahead(market: Market) -> Floats:
    """Return ``sum_k DECAY^k log(open[t+2+k] / open[t+1+k])`` up to the end, shape (T,)."""
    steps = np.append(np.diff(np.log(market.ohlc[:, 0])), 0.0)
    found, ahead = np.zeros(len(steps)), 0.0
    for row in range(len(steps) - 2, -1, -1):
        ahead = steps[row + 1] + DECAY * ahead
        found[row] = ahead
    return found


def worth_of_leaving(market: Market, settings: Settings) -> tuple[Floats, Floats]:
    """Return what leaving is worth more than staying, and how often one is there, shape (2, T).

    For long and short trades, under the policy that takes every entry and leaves all exits to the
    rules.
    """
    chains = chains_of(prepare(market, settings))
    flat = np.zeros((chains.n_rows, 3))
    enters = chains.flat_valid[:, 1:].any(axis=1)
    flat[:, 0] = ~enters
    flat[:, 1] = chains.flat_valid[:, 1]
    flat[:, 2] = chains.flat_valid[:, 2] & ~chains.flat_valid[:, 1]
    assert FLAT_ACTIONS[1] == Action.LONG_ENTER
    table = SideTable(flat, np.zeros((2, chains.n_rows)))
    found = evaluate_by_side(chains, table, settings.gamma)
    return found.leave_advantages - found.stay_advantages, found.occupancy


class _Units:
    """Windows of features less their mean, over their deviation, both of the fitted rows."""

    def __init__(self, seen: Market, window_size: int) -> None:
        features = seen.features.astype(np.float64)
        self._window = window_size
        self._mean, spread = features.mean(axis=0), features.std(axis=0)
        self._spread = np.where(spread > 0.0, spread, 1.0)

    def __call__(self, market: Market) -> NDArray[np.float32]:
        """Return the windows of a market, shape (T - window + 1, window * F)."""
        scaled = ((market.features - self._mean) / self._spread).astype(np.float32)
        views = sliding_window_view(scaled, self._window, axis=0).transpose(0, 2, 1)
        return np.ascontiguousarray(views).reshape(len(views), -1)


def _ridge(inputs: NDArray[np.float32], target: Floats, weights: Floats, _seed: int) -> Predict:
    """Fit scikit-learn's Ridge with the penalty that foretells contiguous folds best."""
    linear = library("sklearn.linear_model")
    with library("threadpoolctl").threadpool_limits(1):  # sums go by the number of threads
        errors = np.zeros(len(PENALTIES))
        edges = np.linspace(0, len(target), N_FOLDS + 1).astype(int)
        for start, stop in itertools.pairwise(edges.tolist()):
            near = slice(max(start - PURGE, 0), stop + PURGE)
            rows = np.delete(np.arange(len(target)), near)
            if len(rows) < 2 or start == stop:
                continue
            for index, penalty in enumerate(PENALTIES):
                model = linear.Ridge(alpha=penalty, solver="cholesky")
                model.fit(inputs[rows].astype(np.float64), target[rows], weights[rows])
                missed = model.predict(inputs[start:stop]) - target[start:stop]
                errors[index] += float((weights[start:stop] * missed**2).sum())
        model = linear.Ridge(alpha=PENALTIES[int(errors.argmin())], solver="cholesky")
        model.fit(inputs.astype(np.float64), target, weights)
    coefficients, constant = model.coef_, float(model.intercept_)

    def predict(windows: NDArray[np.float32]) -> Floats:
        # Row by row in one order, whatever the number of threads.
        return np.asarray(np.einsum("ij,j->i", windows.astype(np.float64), coefficients)) + constant

    return predict


def _boosted(inputs: NDArray[np.float32], target: Floats, weights: Floats, seed: int) -> Predict:
    """Fit LightGBM's trees."""
    lightgbm = library("lightgbm")
    size = float(target.std()) or 1.0
    model: Any = lightgbm.LGBMRegressor(**BOOSTING, random_state=seed)
    model.fit(inputs, target / size, sample_weight=weights / max(float(weights.mean()), 1e-300))
    booster = model.booster_

    def predict(windows: NDArray[np.float32]) -> Floats:
        return np.asarray(booster.predict(windows, num_threads=1), dtype=np.float64) * size

    return predict


PEERS: Final[Mapping[str, Fit]] = MappingProxyType({"ridge": _ridge, "lightgbm": _boosted})

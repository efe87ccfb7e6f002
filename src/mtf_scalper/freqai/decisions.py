"""The network at hand while trades are open: what the agent does in the position that it is in.

FreqAI's predictions are columns, one value per candle. A policy that sees its own position has no
such value for an exit: it depends on the trade. The model therefore keeps what every prediction
was made from, and the strategy asks again at the state of the actual trade.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.errors import MarketError
from mtf_scalper.ppo.policy import Policy


@dataclass(frozen=True)
class _Predicted:
    """One prediction: dates of shape (T,), features of shape (T, F), and who made it."""

    dates: NDArray[np.datetime64]
    features: NDArray[np.float32]
    policy: Policy


class Decisions:
    """Answers for a candle and a position, by pair."""

    def __init__(self) -> None:
        self._by_pair: dict[str, list[_Predicted]] = {}

    def note(
        self,
        pair: str,
        dates: NDArray[np.datetime64],
        features: NDArray[np.float32],
        policy: Policy,
        *,
        only_latest: bool,
    ) -> None:
        """Keep what a prediction was made from.

        Parameters
        ----------
        pair : str
        dates : ndarray of datetime64[ns], shape (T,)
        features : ndarray of float32, shape (T, F)
        policy : Policy
        only_latest : bool
            Forget the earlier ones, as live trading wants it.
        """
        kept = [] if only_latest else self._by_pair.get(pair, [])
        self._by_pair[pair] = [*kept, _Predicted(dates, features, policy)]

    def probabilities(
        self, pair: str, date: np.datetime64, state: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the probabilities of the five actions at the close of the candle of ``date``.

        Raises
        ------
        MarketError
            If no prediction covers the candle with a full window.
        """
        for predicted in reversed(self._by_pair.get(pair, [])):
            row = int(np.searchsorted(predicted.dates, date))
            is_covered = row < len(predicted.dates) and predicted.dates[row] == date
            if is_covered and row + 1 >= predicted.policy.window_shape[0]:
                return predicted.policy.probabilities_in(predicted.features, row, state)
        raise MarketError(
            f"{pair}: no model is at hand for the candle of "
            f"{np.datetime_as_string(date, unit='m')}, which add_state_info needs"
        )

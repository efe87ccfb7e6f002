"""The words of the simulator: actions, sides, exit reasons and the record of a trade."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Action(IntEnum):
    """freqtrade's five actions."""

    NEUTRAL = 0
    LONG_ENTER = 1
    LONG_EXIT = 2
    SHORT_ENTER = 3
    SHORT_EXIT = 4


N_ACTIONS = len(Action)


_FIVE_ACTIONS = {5: (0, 1, 2, 3, 4), 4: (0, 2, 1, 3, 1), 3: (0, 1, 2, 2, 1)}


def five_actions(n_actions: int) -> tuple[int, ...]:
    """Return which of ``n_actions`` plays the part of each of freqtrade's five.

    The five are Neutral, Long_enter, Long_exit, Short_enter and Short_exit. With 4 actions
    (Neutral, Exit, Long_enter, Short_enter) one exit serves both sides; with 3 (Neutral, Buy,
    Sell) Buy enters longs and leaves shorts, Sell the other way round.

    Examples
    --------
    >>> five_actions(4)
    (0, 2, 1, 3, 1)

    ``probabilities[:, five_actions(n)]`` spreads n columns over five.
    """
    return _FIVE_ACTIONS[n_actions]


class Side(IntEnum):
    """Position held; the value is the sign of its exposure."""

    SHORT = -1
    FLAT = 0
    LONG = 1


class ExitReason(StrEnum):
    """Why a trade ended, in the words of freqtrade's exit table."""

    AGENT = "agent_exit"
    MAX_DURATION = "max_duration"
    EMERGENCY = "emergency_loss"
    BREAK_EVEN = "break_even"
    STOP_LOSS = "stop_loss"
    TRAILING_STOP = "trailing_stop_loss"
    LIQUIDATION = "liquidation"
    ROI = "roi"
    END_OF_DATA = "force_exit"


@dataclass(frozen=True)
class Trade:
    """A closed trade.

    Attributes
    ----------
    pair : str
    side : Side
        ``LONG`` or ``SHORT``.
    open_row, close_row : int
        Rows of the candles inside which the entry and the exit were filled.
    open_rate, close_rate : float
        Prices of the fills in quote currency.
    leverage : float
    profit_ratio : float
        Profit after fees and funding as a share of the stake (freqtrade's ``profit_ratio``).
    exit_reason : ExitReason
    """

    pair: str
    side: Side
    open_row: int
    close_row: int
    open_rate: float
    close_rate: float
    leverage: float
    profit_ratio: float
    exit_reason: ExitReason

    @property
    def duration_candles(self) -> int:
        """Candles between the entry's open and the exit's."""
        return self.close_row - self.open_row

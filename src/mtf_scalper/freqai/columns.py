"""Names of the data frame columns that the strategy and the model exchange.

``docs/columns.md`` says what each of them means and what it can be traded on.
"""

from __future__ import annotations

ACTION = "&-action"
"""One action for all positions, see ``actions.position_free``; 0 where there is no full window."""
CONFIDENCE = "&-action_confidence"
"""The policy's own probability of that action; 0 where there is no full window."""
PROBABILITIES = (
    "&-prob_neutral",
    "&-prob_long_enter",
    "&-prob_long_exit",
    "&-prob_short_enter",
    "&-prob_short_exit",
)
"""The policy's probability of every action, in the actions' order and under no mask."""
BY_POSITION = ("&-action_flat", "&-action_long", "&-action_short")
"""What an agent without a position, in a long and in a short trade would do; 0 is nothing."""
PREDICTIONS = (ACTION, CONFIDENCE, *PROBABILITIES, *BY_POSITION)

ENTRY_LONG = "classic_long"
ENTRY_SHORT = "classic_short"
"""Where the strategy's classic rule proposes an entry (bool), for the training environment."""
LEVERAGE = "classic_leverage"
"""Leverage of a trade decided at this candle (optional; 1 where the column is missing)."""

ATR_PCT = "classic_atr_pct"
"""ATR14 / close of this candle, by which the strategy stakes (optional)."""

RAW_PRICES = ("%-raw_open", "%-raw_high", "%-raw_low", "%-raw_close")
"""FreqAI's raw prices; they reach the environment and never the network."""

#!/usr/bin/env bash
# freqtrade 2026.9: minimal_roi counts a trade's minutes from its order, not from its fill.
#
# Behaviour: a limit order is placed at 00:00 and filled at 00:59. minimal_roi = {0: 10%, 60: 0%} is
# meant to give a trade an hour for 10%, then take any profit. Strategy.min_roi_reached takes
# trade.open_date_utc, which stays the moment of the order after the fill: the trade leaves with 1%
# one minute after it was entered. trade.date_entry_fill_utc knows the fill.
# One would have guessed: the ladder begins when there is a position, as the age of a trade in a
# backtest does, where orders fill on their candle.
# Output seen:
#   ordered 00:00, filled 00:59
#   1% of profit is enough 0 minutes after the fill: False, 1 minute after it: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q freqtrade==2026.9 pandas==3.1.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from datetime import UTC, datetime, timedelta

from freqtrade.persistence import LocalTrade, Order
from freqtrade.strategy import IStrategy


class Ladder(IStrategy):
    minimal_roi = {0: 0.10, 60: 0.0}
    stoploss = -0.5

    def populate_indicators(self, dataframe, metadata):
        return dataframe

    populate_entry_trend = populate_exit_trend = populate_indicators


ordered = datetime(2024, 1, 1, tzinfo=UTC)
filled = ordered + timedelta(minutes=59)
trade = LocalTrade(
    pair="BTC/USDT", exchange="binance", open_date=ordered, open_rate=100.0, amount=1.0,
    stake_amount=100.0, fee_open=0.0, fee_close=0.0, is_open=True, leverage=1.0,
)
trade.orders = [
    Order(
        order_id="1", ft_pair="BTC/USDT", symbol="BTC/USDT", ft_order_side="buy", side="buy",
        order_type="limit", status="closed", ft_is_open=False, ft_amount=1.0, amount=1.0,
        filled=1.0, remaining=0.0, ft_price=100.0, price=100.0, average=100.0, cost=100.0,
        order_date=ordered, order_filled_date=filled,
    )
]
trade.recalc_trade_from_orders()
assert trade.date_entry_fill_utc == filled
print(f"ordered {trade.open_date_utc:%H:%M}, filled {trade.date_entry_fill_utc:%H:%M}")
strategy = Ladder({"runmode": None, "stake_currency": "USDT"})
at_once, later = (
    strategy.min_roi_reached(trade, 0.01, filled + timedelta(minutes=minutes))
    for minutes in (0, 1)
)
print(f"1% of profit is enough 0 minutes after the fill: {at_once}, 1 minute after it: {later}")
assert not at_once and later
PY

#!/usr/bin/env bash
# freqtrade 2026.9: a candle that the exchange corrects keeps the extremes that were told before.
#
# Behaviour: a running bot asks for the newest candles again and joins them with those it holds. Of a
# candle that is there twice clean_ohlcv_dataframe takes the first open, the last close, the highest
# high, the lowest low and the largest volume. A low of 0.5 that the exchange told by mistake stays
# after the exchange tells 99.5; every indicator that looks at lows has it until the bot is restarted.
# One would have guessed: the answer that came last replaces the one before.
# Output seen:
#   told first:   open 100.0 high 101.0 low 0.5 close 100.0 volume 10.0
#   corrected:    open 100.0 high 100.8 low 99.5 close 100.2 volume 9.0
#   what is kept: open 100.0 high 101.0 low 0.5 close 100.2 volume 10.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q freqtrade==2026.9 pandas==3.1.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import pandas as pd
from freqtrade.data.converter import clean_ohlcv_dataframe

names = ["open", "high", "low", "close", "volume"]
first, corrected = [100.0, 101.0, 0.5, 100.0, 10.0], [100.0, 100.8, 99.5, 100.2, 9.0]
table = pd.DataFrame([first, corrected], columns=names)
table.insert(0, "date", pd.Timestamp("2024-01-01 00:05", tz="UTC"))
kept = clean_ohlcv_dataframe(
    table, "5m", "BTC/USDT", fill_missing=False, drop_incomplete=False
)[names].iloc[0].tolist()
for what, candle in (("told first:", first), ("corrected:", corrected), ("what is kept:", kept)):
    print(f"{what:13}", *(f"{name} {value}" for name, value in zip(names, candle)))
assert kept == [100.0, 101.0, 0.5, 100.2, 10.0]
PY

#!/usr/bin/env bash
# TA-Lib 0.8.2: RSI and CMO of a price that stands still remember the last move for ever.
#
# Behaviour: a price that has never moved has RSI 0, as if it only fell; after one rise the RSI of a
# flat price is 100 and stays there however long nothing happens, while CMO says 0 and 100.
# MFI says 0 in both cases, though money neither came nor went.
# One would have guessed: where there is neither gain nor loss an oscillator says the middle, 50.
# A halted coin otherwise fires every "oversold" rule at its listing.
# Output seen:
#   never moved: RSI 0.0 CMO 0.0 MFI 0.0
#   flat for 500 candles after one rise: RSI 100.0 CMO 100.0 MFI 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q TA-Lib==0.8.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import talib


def last(price):
    volume = np.ones(len(price))
    return (
        talib.RSI(price, 14)[-1],
        talib.CMO(price, 14)[-1],
        talib.MFI(price, price, price, volume, 14)[-1],
    )


never = np.full(501, 5.0)
once = np.concatenate([[4.0], np.full(500, 5.0)])
for words, price in (("never moved", never), ("flat for 500 candles after one rise", once)):
    rsi, cmo, mfi = last(price)
    print(f"{words}: RSI {rsi} CMO {cmo} MFI {mfi}")
assert last(never) == (0.0, 0.0, 0.0) and last(once) == (100.0, 100.0, 0.0)
PY

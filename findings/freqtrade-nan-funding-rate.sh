#!/usr/bin/env bash
# freqtrade 2026.9: one missing funding rate cancels all funding of every trade that spans it.
#
# Behaviour: Exchange.calculate_funding_fees sums what was due while a trade was open and takes a sum
# that is not a number for zero. A single NaN in the stored rates so makes a trade of weeks free of
# funding in backtests and dry runs, without a line in the log.
# One would have guessed: the settlement that is not known counts as zero, the others are charged.
# Output seen:
#   4 settlements of 0.01: -0.04
#   the second one missing: -0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q freqtrade==2026.9 pandas==3.1.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import math

import pandas as pd
from freqtrade.exchange import Exchange

dates = pd.date_range("2024-01-01", periods=4, freq="8h", tz="UTC")
marks = pd.DataFrame({"date": dates, "open": 100.0})


def paid(rates):
    known = Exchange.combine_funding_and_mark(
        pd.DataFrame({"date": dates, "funding_rate": rates}), marks
    )
    exchange = Exchange.__new__(Exchange)  # the sum needs nothing that a connection would bring
    fees = exchange.calculate_funding_fees(known, 1.0, False, dates[0], dates[-1])
    exchange.close = lambda: None  # nothing was opened
    return fees


whole, holed = paid([1e-4] * 4), paid([1e-4, math.nan, 1e-4, 1e-4])
print(f"4 settlements of 0.01: {whole:.2f}")
print(f"the second one missing: {holed}")
assert abs(whole + 0.04) < 1e-12 and holed == 0.0
PY

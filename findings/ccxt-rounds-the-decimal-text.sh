#!/usr/bin/env bash
# ccxt 4.5.90: prices in the middle of two steps round by their decimal text, not by their value.
#
# Behaviour: decimal_to_precision rounds 0.63745 to steps of 0.0001 up to 0.6375, although the number
# in memory is a little below the middle and Python's round(), or dividing by the step and rounding,
# give 0.6374. Whoever replays trades of a bot that asks ccxt for its prices differs by a step, and
# where the price is a stop by a trade.
# One would have guessed: rounding to the nearest step is the same arithmetic everywhere.
# Output seen:
#   0.63745 in steps of 0.0001: ccxt 0.6375, round() 0.6374
#   2.675 in steps of 0.01: ccxt 2.68, round() 2.67
#   0.28675 in steps of 0.0001: ccxt 0.2868, round() 0.2868
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q ccxt==4.5.90
"$folder/venv/bin/python" - <<'PY'
from ccxt.base.decimal_to_precision import ROUND, TICK_SIZE, decimal_to_precision

seen = []
for price, step, digits in ((0.63745, 0.0001, 4), (2.675, 0.01, 2), (0.28675, 0.0001, 4)):
    text = decimal_to_precision(price, ROUND, step, TICK_SIZE)
    seen.append((text, str(round(price, digits))))
    print(f"{price} in steps of {step}: ccxt {text}, round() {round(price, digits)}")
assert seen == [("0.6375", "0.6374"), ("2.68", "2.67"), ("0.2868", "0.2868")], seen
PY

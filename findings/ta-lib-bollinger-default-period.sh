#!/usr/bin/env bash
# TA-Lib 0.7.1 and 0.8.2: talib.BBANDS(close) without a period means another thing after an update.
#
# Behaviour: the default of timeperiod is 5 up to 0.7.1 and 20 from 0.8 on, so that one and the same
# call gives other bands, about 2.2 times as wide on a random walk. No warning is given.
# One would have guessed: defaults of an indicator stay, or a call that relies on them warns.
# Output seen:
#   0.7.1: default period 5
#   0.8.2: default period 20
#   width of the same call: 0.8.2 over 0.7.1 = 2.21
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 0.7.1 0.8.2; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install -q "TA-Lib==$version" "numpy==2.4.6"
  "$folder/$version/bin/python" - "$folder/$version.txt" <<'PY'
import sys

import numpy as np
import talib

close = 100 + np.cumsum(np.random.default_rng(7).normal(size=2000))
upper, _, lower = talib.BBANDS(close)
width = np.nanmean(upper - lower)
same = [n for n in range(2, 60) if np.allclose(talib.BBANDS(close, n)[0], upper, equal_nan=True)]
print(f"{talib.__version__}: default period {same[0]}")
with open(sys.argv[1], "w") as file:
    file.write(f"{same[0]} {width}")
PY
done
python3 - "$folder/0.7.1.txt" "$folder/0.8.2.txt" <<'PY'
import sys

(old, narrow), (new, wide) = (open(path).read().split() for path in sys.argv[1:])
print(f"width of the same call: 0.8.2 over 0.7.1 = {float(wide) / float(narrow):.2f}")
assert (old, new) == ("5", "20"), "the defaults have changed"
PY

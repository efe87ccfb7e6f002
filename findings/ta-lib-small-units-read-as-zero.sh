#!/usr/bin/env bash
# TA-Lib 0.7.1 (0.8.2 is cured): MFI and STDDEV depend on the unit of volume and price.
#
# Behaviour: MFI is 0, the mark of a market that only falls, wherever the money that flowed in its
# period is less than 1 in whatever unit the data has; STDDEV (and so BBANDS and CORREL) is 0 where
# the variance is below a fixed number of about 1e-14. Both come without a word, so that coins at
# 1e-8 USDT, or volumes in BTC, look like coins that crash or stand still.
# One would have guessed: an index between 0 and 100 and a ratio to the price are free of units.
# Output seen:
#   0.7.1: MFI 42.9 at a price of 10,000 and 0.0 at 1e-6, deviation 0.00287 and 0 of the price
#   0.8.2: MFI 42.9 at a price of 10,000 and 42.9 at 1e-6, deviation 0.00287 and 0.00287 of the price
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 0.7.1 0.8.2; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install -q "TA-Lib==$version" "numpy==2.4.6"
  "$folder/$version/bin/python" - <<'PY'
import numpy as np
import talib

close = 100 * np.exp(np.cumsum(0.001 * np.random.default_rng(0).normal(size=300)))
volume = np.ones(300)


def measured(unit: float) -> tuple[float, float]:
    price = close * unit
    flow = talib.MFI(price * 1.001, price * 0.999, price, volume * 1e-3, 14)[-1]
    return flow, talib.STDDEV(price, 20)[-1] / price[-1]


(flow, share), (small_flow, small_share) = measured(1e2), measured(1e-8)
print(
    f"{talib.__version__}: MFI {flow:.1f} at a price of 10,000 and {small_flow:.1f} at 1e-6, "
    f"deviation {share:.3g} and {small_share:.3g} of the price"
)
is_old = talib.__version__ == "0.7.1"
assert (small_flow == 0.0) == is_old and (small_share == 0.0) == is_old
assert is_old or (abs(flow - small_flow) < 1e-6 and abs(share - small_share) < 1e-9)
PY
done

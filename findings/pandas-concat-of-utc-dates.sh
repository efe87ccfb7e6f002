#!/usr/bin/env bash
# pandas 3.1.1: two UTC columns that differ in unit AND in time zone object concatenate to objects.
#
# Behaviour: dates of another unit are brought to the finer one, dates of another UTC object
# (datetime.timezone.utc, and the zone "UTC" that a feather file gives back) to the first one; where
# both differ the result has dtype object, without a warning. The next merge on that column raises.
# One would have guessed: if each difference alone is bridged, both together are.
# Candles from disk (milliseconds, zone) put together with candles just fetched meet this.
# Output seen:
#   other unit: datetime64[ns, UTC]
#   other UTC object: datetime64[ms, UTC]
#   both: object
#   merging on it: ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q pandas==3.1.1
"$folder/venv/bin/python" - <<'PY'
from datetime import timezone
from zoneinfo import ZoneInfo

import pandas as pd


def dates(unit, zone, start):
    moments = pd.date_range(start, periods=3, freq="5min", tz="UTC").tz_convert(zone)
    return pd.Series(moments.as_unit(unit))


disk = dates("ms", ZoneInfo("UTC"), "2024-01-01 00:00")
seen = {}
for words, unit, zone in (
    ("other unit", "ns", ZoneInfo("UTC")),
    ("other UTC object", "ms", timezone.utc),
    ("both", "ns", timezone.utc),
):
    seen[words] = pd.concat([disk, dates(unit, zone, "2024-01-01 00:15")], ignore_index=True)
    print(f"{words}: {seen[words].dtype}")
try:
    pd.merge(seen["both"].to_frame("date"), disk.to_frame("date"), on="date")
    merged = "works"
except ValueError as error:
    merged = type(error).__name__
print(f"merging on it: {merged}")
assert [str(each.dtype) for each in seen.values()] == [
    "datetime64[ns, UTC]",
    "datetime64[ms, UTC]",
    "object",
]
assert merged == "ValueError"
PY

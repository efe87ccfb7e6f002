#!/usr/bin/env bash
# ray 2.60.0: the cause of an error that a task raises does not arrive.
#
# Behaviour: a task raises ValueError from KeyError. What ray.get raises in the driver is a ValueError
# too, and its text holds the traceback of both; but the error has no __cause__, and neither has the
# original one, which it carries in its attribute "cause". Code that looks at the cause to tell what
# happened finds None, where the same function called directly gives the KeyError.
# One would have guessed: as concurrent.futures does, the chain comes over the process boundary (there
# it is the remote traceback), or at least the carried original still has its own cause.
# Output seen:
#   called directly: the cause is KeyError('pair')
#   as a task: ValueError, __cause__ None, cause.__cause__ None, 'KeyError' in its text: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q ray==2.60.0
cd "$folder"
cat > work.py <<'PY'
import os

import ray


def work():
    try:
        {}["pair"]
    except KeyError as error:
        raise ValueError("no such setting") from error


try:
    work()
except ValueError as error:
    print(f"called directly: the cause is {error.__cause__!r}")
    assert isinstance(error.__cause__, KeyError)
here = os.getcwd()  # what Ray writes goes with the folder
ray.init(
    num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=here
)
try:
    ray.get(ray.remote(work).remote())
except ValueError as error:
    has = "KeyError" in str(error)
    inner = error.cause.__cause__
    print(
        f"as a task: ValueError, __cause__ {error.__cause__!r}, cause.__cause__ {inner!r}, "
        f"'KeyError' in its text: {has}"
    )
    assert error.__cause__ is None and inner is None and has
finally:
    ray.shutdown()
PY
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" work.py

#!/usr/bin/env bash
# ray 2.60.0: two of the processes of a local cluster live on for a minute when its program is killed.
#
# Behaviour: a program starts a cluster of its own with ray.init() and is ended by SIGKILL. gcs_server,
# raylet and the workers are gone within seconds; the dashboard agent and the runtime-env agent stay for
# about 60 s more. They have noticed by then, and report the raylet's death to a server that has gone
# too, with a timeout of 60 s that no option changes.
# One would have guessed: all processes of the cluster end within seconds, as they do on ray.shutdown().
# Output seen:
#   after 20 s: 2 of 8 processes: DashboardAgent RuntimeEnvAgent
#   after 90 s: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q ray==2.60.0 psutil==7.2.2
cd "$folder"
cat > program.py <<'PY'
import os
import time

import ray

here = os.getcwd()  # what Ray writes goes with the folder
ray.init(
    num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=here
)
ray.get(ray.remote(lambda: None).remote())
print("ready", flush=True)
time.sleep(600)
PY
cat > watch.py <<'PY'
import subprocess
import sys
import time

import psutil

program = subprocess.Popen([sys.executable, "program.py"], stdout=subprocess.PIPE, text=True)
assert program.stdout.readline() == "ready\n"
started = psutil.Process(program.pid).children(recursive=True)
names = {each.pid: each.cmdline()[0].strip() for each in started}
program.kill()
program.wait()
_, left = psutil.wait_procs(started, timeout=20)
told = sorted(names[each.pid].removeprefix("ray::") for each in left)
print(f"after 20 s: {len(left)} of {len(started)} processes: {' '.join(told)}")
assert told == ["DashboardAgent", "RuntimeEnvAgent"], told
_, left = psutil.wait_procs(left, timeout=70)
print(f"after 90 s: {len(left)}")
assert not left
PY
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" watch.py

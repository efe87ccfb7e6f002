#!/usr/bin/env bash
# stable-baselines3 2.9.2: every learn() leaves an empty folder among the temporary files.
#
# Behaviour: without a TensorBoard log and with verbose=0 learn() still configures a logger, which
# makes a folder SB3-<date>-<time> that nothing is written to and nobody removes. A bot that trains
# every hour for ten pairs leaves 240 a day.
# One would have guessed: a run that logs nothing touches no disk, or cleans up.
# Output seen:
#   3 trainings, 3 folders left, 0 files in them
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0
"$folder/venv/bin/python" -m pip install -q stable-baselines3==2.9.2 torch==2.13.0
mkdir "$folder/temporary"
TMPDIR="$folder/temporary" "$folder/venv/bin/python" - <<'PY'
import pathlib
import tempfile

from stable_baselines3 import PPO

for seed in range(3):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, n_epochs=1, seed=seed).learn(8)
left = sorted(pathlib.Path(tempfile.gettempdir()).glob("SB3-*"))
files = [path for each in left for path in each.iterdir()]
print(f"3 trainings, {len(left)} folders left, {len(files)} files in them")
assert len(left) == 3 and not files
PY

#!/usr/bin/env bash
# LightGBM 4.7.0: a booster learns the labels that its dataset has now, not those it was made with.
#
# Behaviour: two boosters are made on one Dataset, the second after Dataset.set_label with other
# labels. Trees that the first one grows from then on fit the second labels; a tree that it grew
# before fits the first ones. Nothing is raised or logged. Whoever shares the bins of one Dataset
# among several targets, which saves most of its construction, has to grow each target to its end
# before the next label is set.
# One would have guessed: a booster keeps the labels that it was made with, or refuses to go on.
# Output seen:
#   grown before: correlation with its own labels 1.00, with the other booster's 0.00
#   grown after:  correlation with its own labels 0.00, with the other booster's 1.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q lightgbm==4.7.0 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PY'
import lightgbm
import numpy as np

left, right = np.meshgrid([-1.0, 1.0], [-1.0, 1.0])
inputs = np.tile(np.column_stack([left.ravel(), right.ravel()]), (250, 1))
first, second = inputs[:, 0], inputs[:, 1]
options = {"learning_rate": 1.0, "num_leaves": 2, "num_threads": 1, "verbosity": -1}


def grown(change):
    data = lightgbm.Dataset(inputs, label=first, params=options, free_raw_data=False)
    booster = lightgbm.Booster(options, data)
    if change:
        data.set_label(second)
        lightgbm.Booster(options, data)
    booster.update()
    values = booster.predict(inputs)
    return tuple(round(abs(float(np.corrcoef(values, each)[0, 1])), 2) for each in (first, second))


before, after = grown(change=False), grown(change=True)
words = "correlation with its own labels {:.2f}, with the other booster's {:.2f}"
print("grown before:", words.format(*before))
print("grown after: ", words.format(*after))
assert before == (1.0, 0.0), before
assert after == (0.0, 1.0), after
PY

#!/usr/bin/env bash
# optuna 5.0.0: TPE is drawn to the values at which trials fail, and away from those that are pruned.
#
# Behaviour: an objective over x in [0, 1] has its optimum at 0.3 and raises above 0.5, which
# optimize(catch=...) allows. TPE does not see failed trials at all: where all of its good values lie
# on one side the other looks unexplored, and of the last 30 of 60 trials all 30 fail, with each of
# five seeds. Where the objective raises TrialPruned instead, 1 to 3 of the 30 lie there.
# One would have guessed: a value that fails again and again is tried less often, or as often as
# chance would have it.
# Output seen:
#   failed: 30 30 30 30 30 of the last 30 trials above 0.5
#   pruned: 3 1 1 2 2 of the last 30 trials above 0.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q optuna==5.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def counts(error):
    def objective(trial):
        x = trial.suggest_float("x", 0.0, 1.0)
        if x > 0.5:
            raise error("cannot be tried")
        return (x - 0.3) ** 2

    found = []
    for seed in range(5):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(objective, n_trials=60, catch=(ValueError,))
        found.append(sum(trial.params["x"] > 0.5 for trial in study.trials[-30:]))
    return found


failed, pruned = counts(ValueError), counts(optuna.TrialPruned)
print("failed:", *failed, "of the last 30 trials above 0.5")
print("pruned:", *pruned, "of the last 30 trials above 0.5")
assert min(failed) >= 20 and max(pruned) <= 10
PY

#!/usr/bin/env bash
# optuna 5.0.0: a study that is resumed with the seed it was begun with tries the same values again.
#
# Behaviour: the sampler's random state is not kept with the study. A program that is run twice, as
# one that goes on after a kill is, opens the same study with TPESampler(seed=7) and suggests the very
# values that the study holds already. Nothing is said; the trials count as new ones.
# One would have guessed: the search goes on where it ended, as load_if_exists=True promises.
# Output seen:
#   five trials: 0.076308 0.779919 0.438409 0.723465 0.97799
#   five more: 0.076308 0.779919 0.438409 0.723465 0.97799
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q optuna==5.0.0 numpy==2.4.6
cd "$folder"
cat > search.py <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(
    study_name="search",
    storage="sqlite:///study.db",
    sampler=optuna.samplers.TPESampler(seed=7),
    load_if_exists=True,
)
study.optimize(lambda trial: (trial.suggest_float("x", 0.0, 1.0) - 0.3) ** 2, n_trials=5)
print(*(round(trial.params["x"], 6) for trial in study.trials[-5:]))
PY
first=$("$folder/venv/bin/python" search.py)
second=$("$folder/venv/bin/python" search.py)
echo "five trials: $first"
echo "five more: $second"
[ "$first" = "$second" ]

#!/usr/bin/env bash
# torch 2.13.0: after torch.backends.fp32_precision was set, the precision can be set but not read.
#
# Behaviour: torch.get_float32_matmul_precision() raises once the new-style setting was used, while
# torch.set_float32_matmul_precision() goes on working, silently overrules it for matrix products on
# the CPU, and leaves torch.backends.fp32_precision saying what no longer holds. Setting "highest"
# makes the getter work again; the user's own choice is lost.
# One would have guessed: either both calls of the old style are refused or both work, so that the
# usual "remember, set, restore" is safe in a library.
# Output seen:
#   get: RuntimeError
#   set medium: root tf32, products on the CPU bf16
#   set highest: root tf32, products on the CPU ieee
#   get: highest
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import torch


def read():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError as error:
        return type(error).__name__


def state():
    return torch.backends.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


torch.backends.fp32_precision = "tf32"
seen = [read()]
print(f"get: {seen[0]}")
for precision in ("medium", "highest"):
    torch.set_float32_matmul_precision(precision)
    seen.append(state())
    print(f"set {precision}: root {seen[-1][0]}, products on the CPU {seen[-1][1]}")
seen.append(read())
print(f"get: {seen[-1]}")
assert seen == ["RuntimeError", ("tf32", "bf16"), ("tf32", "ieee"), "highest"], seen
PY

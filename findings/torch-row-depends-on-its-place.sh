#!/usr/bin/env bash
# torch 2.13.0 (CPU build, MKL): a row of a matrix product goes by its place among the other rows.
#
# Behaviour: with one thread, and the same number of rows, the same row of x gets other last bits of
# x @ w + b when it stands elsewhere in x, in layers of few units (2 to 11) whose width is no multiple
# of 4. With widths that are a multiple of 4, or more units, its place changes nothing.
# One would have guessed: shape and threads decide the order of the sums, so that a batch of a fixed
# size always gives a row the same result; filling a batch up with zeros would then make a prediction
# for one row equal to that of the same row among others, whatever the layer.
# Output seen (AVX2; which shapes are hit goes by the processor):
#   width 10: rows that change by their place: some
#   width 50: rows that change by their place: some
#   width 12: rows that change by their place: none
#   width 64: rows that change by their place: none
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import torch

torch.set_num_threads(1)
seen = {}
for width in (10, 50, 12, 64):
    changed = 0
    for units in range(2, 12):
        torch.manual_seed(width + units)
        weight, bias = torch.randn(units, width), torch.randn(units)
        rows = torch.randn(16, width)
        there = torch.addmm(bias, rows, weight.t())
        for places in (1, 5, 9):
            moved = torch.addmm(bias, rows.roll(places, 0).contiguous(), weight.t())
            changed += int((moved.roll(-places, 0) != there).any(1).sum())
    seen[width] = "some" if changed else "none"
    print(f"width {width}: rows that change by their place: {seen[width]}")
assert seen == {10: "some", 50: "some", 12: "none", 64: "none"}, seen
PY

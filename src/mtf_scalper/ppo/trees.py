"""Regression trees as plain arrays: what a policy keeps of a boosted model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtf_scalper.jit import njit

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]

_SIDES = ("left", "right")


class Trees(NamedTuple):
    """Regression trees, node after node; their leaves add up.

    Attributes
    ----------
    first_node : ndarray of int64, shape (M + 1,)
        Nodes of tree ``m`` are ``first_node[m] .. first_node[m + 1] - 1``; its root comes first.
    output : ndarray of int64, shape (M,)
        Which forecast a tree belongs to, increasing.
    column : ndarray of int64, shape (N,)
        Input that a node looks at; -1 for leaves.
    value : ndarray of float64, shape (N,)
        Its threshold, or what the leaf is worth.
    child : ndarray of int64, shape (N, 2)
        Where to go on if the input is at most the threshold, and where else.
    """

    first_node: Rows
    output: Rows
    column: Rows
    value: Doubles
    child: Rows


NO_TREES = Trees(
    np.zeros(1, dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(0),
    np.zeros((0, 2), dtype=np.int64),
)


@njit(cache=True, nogil=True)
def leaf_of(inputs: Floats, trees: Trees, tree: int) -> float:
    """Return what the leaf is worth at which a row ends in a tree."""
    node = trees.first_node[tree]
    while trees.column[node] >= 0:
        is_more = float(inputs[trees.column[node]]) > trees.value[node]
        node = trees.child[node, 1 if is_more else 0]
    return float(trees.value[node])


@njit(cache=True, nogil=True)
def add_leaves(inputs: Floats, trees: Trees, first: int, last: int, out: Doubles) -> None:
    """Add what trees ``first .. last - 1`` say of inputs (N, C) to ``out``, shape (N,)."""
    for place in range(len(inputs)):
        for tree in range(first, last):
            out[place] += leaf_of(inputs[place], trees, tree)


def trees_of(text: str, size: float, inputs: Rows) -> Trees:
    """Return the trees of a model in LightGBM's text form.

    Parameters
    ----------
    text : str
    size : float
        What leaves are multiplied by.
    inputs : ndarray of int64, shape (C,)
        Which input each column of the model is.
    """
    first, columns, values, children = [0], [], [], []
    for block in text.split("\nTree=")[1:]:
        lines = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        n_leaves = int(lines["num_leaves"])
        leaves = np.array(lines["leaf_value"].split(), dtype=np.float64) * size
        base, n_inner = first[-1], n_leaves - 1
        if n_inner:
            columns.append(inputs[np.array(lines["split_feature"].split(), dtype=np.int64)])
            values.append(np.array(lines["threshold"].split(), dtype=np.float64))
            sides = [np.array(lines[f"{each}_child"].split(), dtype=np.int64) for each in _SIDES]
            child = np.stack(sides, axis=1)
            # A leaf ``i`` stands there as ``-1 - i``; here leaves follow the inner nodes.
            children.append(base + np.where(child < 0, n_inner - 1 - child, child))
        columns.append(np.full(n_leaves, -1, dtype=np.int64))
        values.append(leaves)
        children.append(np.zeros((n_leaves, 2), dtype=np.int64))
        first.append(base + n_inner + n_leaves)
    return Trees(
        np.array(first, dtype=np.int64),
        np.zeros(len(first) - 1, dtype=np.int64),
        np.concatenate(columns),
        np.concatenate(values),
        np.concatenate(children),
    )


def mean_of(models: Sequence[Sequence[Trees]], counts: Sequence[int]) -> Trees:
    """Return the first trees of all models as one, whose sum is the mean over models."""
    nodes, outputs, columns, values, children = [np.zeros(1, dtype=np.int64)], [], [], [], []
    base = 0
    for target, count in enumerate(counts):
        for model in models:
            trees = model[target]
            n_trees = min(count, len(trees.output))
            end = trees.first_node[n_trees]
            nodes.append(base + trees.first_node[1 : n_trees + 1])
            outputs.append(np.full(n_trees, target, dtype=np.int64))
            columns.append(trees.column[:end])
            is_leaf = trees.column[:end] < 0
            values.append(np.where(is_leaf, trees.value[:end] / len(models), trees.value[:end]))
            children.append(np.where(is_leaf[:, None], 0, base + trees.child[:end]))
            base += end
    return Trees(*(np.concatenate(each) for each in (nodes, outputs, columns, values, children)))


def are_sound(trees: Trees, n_inputs: int) -> bool:
    """Tell whether every walk through trees of unknown origin ends at a leaf of theirs."""
    n_nodes, n_trees = len(trees.column), len(trees.output)
    if len(trees.first_node) != n_trees + 1 or trees.child.shape != (n_nodes, 2):
        return False
    if len(trees.value) != n_nodes or n_trees != (trees.output >= 0).sum():
        return False
    inner = np.flatnonzero(trees.column >= 0)
    ends = np.repeat(trees.first_node[1:], np.diff(trees.first_node).clip(min=0))
    if trees.first_node[0] != 0 or trees.first_node[-1] != n_nodes or len(ends) != n_nodes:
        return False
    # Children stand behind their parents, so that there is no way back.
    forward = (trees.child[inner] > inner[:, None]) & (trees.child[inner] < ends[inner, None])
    is_filled = bool((np.diff(trees.first_node) > 0).all())
    return is_filled and bool(forward.all()) and bool((trees.column < n_inputs).all())

"""The page on rounding language models, on a model small enough to check."""

import jax
import numpy as np
import pytest

from experiments.pruning.texts import Reading
from experiments.quantization.ptq_methods import METHODS, Cell, Config, _cells, rounded, show
from wlab import models, pretrained, tree

SIZES = models.LlamaConfig(2, width=16, heads=4, kv_heads=2, ffn=24, vocab=50, context=16)


@pytest.fixture(scope="module")
def reading() -> Reading:
    model = models.llama(SIZES)
    params, plan = model.init(jax.random.key(0)), pretrained.Plan(())
    network = pretrained.Network(model, SIZES, params, pretrained.NameMap(()), plan)
    rows = np.random.default_rng(0).integers(0, 50, (8, 16)).astype(np.int32)
    return Reading(network, lambda seed: rows, rows.reshape(-1), 16)


@pytest.mark.parametrize("method", METHODS)
def test_every_kernel_has_few_values_and_nothing_else_changes(reading, method):
    found = tree.leaves(rounded(reading, Cell(method, 3, 0), group=8, batch=4))
    for path, leaf in tree.leaves(reading.network.params).items():
        if method.startswith("awq") and "norm_" in path:
            continue  # it carries what the kernels behind it were multiplied with
        if not path.endswith("kernel"):
            np.testing.assert_array_equal(found[path], leaf)
            continue
        groups = np.asarray(found[path]).reshape(-1, 8, leaf.shape[1])
        values = [len(np.unique(group)) for stack in groups for group in stack.T]
        assert max(values) <= (8 if method.endswith("asymmetric") else 7)
        assert not np.array_equal(found[path], leaf)


def test_what_is_won_back_is_of_the_gap_that_rounding_leaves():
    cells = []
    for cell in _cells(Config(bits="4", sets=2)):
        plain = 2.0 if cell.bits == 32 else 3.0
        perplexity = 2.25 + 0.5 * cell.set if cell.method.startswith("gptq") else plain
        cells.append(cell._asdict() | {"perplexity": perplexity})
    lines = show({"cells": cells}).splitlines()
    assert lines[0] == "float32: 2.0000"
    (row,) = (line for line in lines if line.startswith("gptq act-order"))
    assert "2.500 (2.250 to 2.750)" in row
    assert row.split()[-1] == "50"

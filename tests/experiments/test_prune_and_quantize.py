"""The page on pruned weights in few bits, on matrices and a block small enough to check."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pruning.texts import Reading
from experiments.quantization import prune_and_quantize
from experiments.quantization.prune_and_quantize import (
    DENSE,
    HALVED,
    Cell,
    Config,
    _cells,
    compressed,
    show,
    stored_bits,
)
from wlab import models, pretrained, tree

SIZES = models.LlamaConfig(1, width=16, heads=2, kv_heads=2, ffn=16, vocab=50, context=16)


KERNELS = ("attn/q", "attn/k", "attn/v", "attn/o", "gate", "up", "down")


def one_block(params: Any, x: jax.Array) -> jax.Array:
    """Products as in a decoder's block."""
    of = params["block_0"]
    q, k, v, o, gate, up, down = (of[name]["kernel"] for name in KERNELS)
    x = x + ((x @ q) * (x @ k) + x @ v) @ o
    return x + ((x @ gate) * (x @ up)) @ down


@pytest.fixture(scope="module")
def reading() -> Reading:
    rng = np.random.default_rng(0)
    drawn = {name: jnp.asarray(rng.normal(size=(16, 16)) / 4, jnp.float32) for name in KERNELS}
    block = {name: {"kernel": kernel} for name, kernel in drawn.items()}
    params = {"block_0": block, "embed": {"embedding": jnp.ones((3, 16))}}
    model, names = models.Model(lambda key: params, one_block), pretrained.NameMap(())
    network = pretrained.Network(model, SIZES, params, names, pretrained.Plan(()))
    rows = rng.normal(size=(32, 16)).astype(np.float32)
    return Reading(network, lambda seed: rows, rows.reshape(-1), 16)


@pytest.mark.parametrize(
    ("method", "pattern"), [*((m, "2:4") for m in HALVED), ("gptq, magnitude", "50 %")]
)
def test_half_of_each_kernel_is_zero_and_the_rest_is_on_its_grid(reading, method, pattern):
    """In 2 bits a column has only one magnitude: the step."""
    bits = 32 if method == "sparsegpt" else 2
    found = tree.leaves(compressed(reading, Cell(method, pattern, bits, 0), group=16, batch=32))
    for path, leaf in tree.leaves(reading.network.params).items():
        if not path.endswith("kernel"):
            assert found[path] is leaf
            continue
        kernel = np.asarray(found[path])
        stays = kernel != 0
        assert 0.2 < stays.mean() <= 0.5
        if pattern == "2:4":
            assert stays.reshape(4, 4, 16).sum(1).max() <= 2
        magnitudes = [len(np.unique(np.abs(column[column != 0]))) for column in kernel.T]
        assert max(magnitudes) == (8 if bits == 32 else 1)


def test_gptq_behind_sparsegpt_moves_outputs_less_than_nearest(reading):
    rows = jnp.asarray(reading.calibration(0))
    expected, lost = one_block(reading.network.params, rows), {}
    for method in ("sparsegpt, nearest", "sparsegpt, gptq"):
        params = compressed(reading, Cell(method, "2:4", 2, 0), group=16, batch=32)
        lost[method] = float(jnp.linalg.norm(one_block(params, rows) - expected))
    assert lost["sparsegpt, gptq"] < 0.9 * lost["sparsegpt, nearest"]


@pytest.mark.long
@pytest.mark.parametrize("method", ["sparsegpt, gptq", "jointly"])
def test_likewise_in_a_decoder(method):
    model = models.llama(SIZES)
    params, names = model.init(jax.random.key(0)), pretrained.NameMap(())
    network = pretrained.Network(model, SIZES, params, names, pretrained.Plan(()))
    rows = np.random.default_rng(0).integers(0, 50, (8, 16)).astype(np.int32)
    decoder = Reading(network, lambda seed: rows, rows.reshape(-1), 16)
    found = tree.leaves(compressed(decoder, Cell(method, "2:4", 4, 0), group=8, batch=8))
    kernels = {path: np.asarray(leaf) for path, leaf in found.items() if "kernel" in path}
    assert len(kernels) == 7
    for kernel in kernels.values():
        assert 0.3 < (kernel != 0).mean() <= 0.5


def test_bits_are_those_of_the_closed_form():
    ones, rng = np.ones((256, 8), np.float32), np.random.default_rng(0)
    two_of_four = np.tile(np.array([1, 0, 0, 1], np.float32)[:, None], (64, 8))
    anywhere = rng.permutation(two_of_four.reshape(-1)).reshape(256, 8)

    def bits(kernel: np.ndarray, of: int) -> float:
        return stored_bits({"block_0": {"up": {"kernel": kernel}}}, of, group=128)

    assert bits(ones, 32) == 32
    assert bits(ones, 4) == 4 + 16 / 128
    assert bits(ones, 3) == bits(two_of_four, 4) == bits(anywhere, 4) == 1 + 2 + 16 / 128
    assert bits(anywhere, 32) == bits(two_of_four, 32) == 1 + 16
    assert bits(ones * (np.arange(256) % 8 == 0)[:, None], 4) == 1 + 0.5 + 16 / 128


def test_a_network_is_compressed_once_for_both_figures_and_not_again(
    monkeypatch, tmp_path, reading
):
    asked = []

    def counted(reading: Reading, cell: Cell, **options: Any) -> Any:
        asked.append(cell)
        return reading.network.params

    surprise = SimpleNamespace(perplexity=2.5)
    monkeypatch.setattr(prune_and_quantize, "stories", lambda *args, **options: reading)
    monkeypatch.setattr(prune_and_quantize, "compressed", counted)
    monkeypatch.setattr(pretrained, "perplexity", lambda *args, **options: surprise)
    results = prune_and_quantize.run(Config(sets=1, group=16), tmp_path)
    assert asked == _cells(Config(sets=1))
    assert prune_and_quantize.run(Config(sets=1, group=16), tmp_path) == results
    assert [cell["bits"] for cell in results["cells"]] == [cell.bits for cell in asked]
    assert len(asked) == len(results["cells"]) == 1 + 4 + 2 * 6
    assert (tmp_path / "sparsegpt-gptq-2of4-4-0-stored.json").exists()


def test_a_method_has_a_row_with_its_bits_and_its_perplexity():
    cell = Cell("jointly", "2:4", 4, 0)._asdict() | {"stored": 3.125, "perplexity": 6.0}
    other = cell | {"set": 1, "perplexity": 7.0}
    plain = Cell("gptq", DENSE, 3, 0)._asdict() | {"stored": 3.125, "perplexity": 6.25}
    *_, first, second = show({"cells": [plain, cell, other]}).splitlines()
    assert first.split() == ["dense", "gptq", "3", "3.125", "6.250"]
    assert second.split()[:4] == ["2:4", "jointly", "4", "3.125"]
    assert "6.500 (6.000 to 7.000)" in second

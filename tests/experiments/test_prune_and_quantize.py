"""The page on pruned weights in few bits, on matrices and a block small enough to check."""

from functools import partial
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
    PATTERNS,
    Cell,
    Config,
    _cells,
    compressed,
    rounded_rows,
    show,
    stored_bits,
)
from wlab import calibration, models, pretrained, quantization, tree
from wlab.pruning import Neighbours

SIZES = models.LlamaConfig(1, width=16, heads=2, kv_heads=2, ffn=16, vocab=50, context=16)


def kernel_and_gram(inputs: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, inputs)) @ rng.normal(size=(inputs, inputs))
    return rng.normal(size=(inputs, 5)), x.T @ x


def row_by_row(w: np.ndarray, gram: np.ndarray, pattern: Any, bits: int, group: int) -> Any:
    """SparseGPT with a grid as in its paper: each row's error goes to all later rows at once."""
    top, inputs = 2 ** (bits - 1) - 1, len(w)
    ends = [np.abs(w[i : i + group]).max(0) for i in range(0, inputs, group)]
    scale = np.repeat(np.stack(ends) / top, group, axis=0)[:inputs].astype(np.float16)
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    stays, w = w != 0, w.copy()
    size = pattern.of if isinstance(pattern, Neighbours) else inputs
    for i in range(inputs):
        if pattern is not None and i % size == 0:
            scores = (w[i : i + size] / np.diag(upper)[i : i + size, None]) ** 2
            if isinstance(pattern, Neighbours):
                stays[i : i + size] = np.argsort(np.argsort(-scores, axis=0), axis=0) < pattern.keep
            else:
                stays = scores >= np.sort(scores, axis=None)[scores.size // 2]
        step = scale[i].astype(np.float64)
        new = np.where(stays[i], np.clip(np.round(w[i] / step), -top, top) * step, 0)
        error = (w[i] - new) / upper[i, i]
        w[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
        w[i] = new
    return w


@pytest.mark.parametrize("pattern", [*PATTERNS.values(), None])
def test_rows_are_those_of_a_plain_loop(pattern):
    kernel, gram = kernel_and_gram()
    if pattern is None:
        kernel[np.abs(kernel) < 0.6] = 0
    format = prune_and_quantize._format(3, 8)
    factor = calibration.inverse_factor(jnp.asarray(gram, jnp.float32), 0.0)
    found = rounded_rows(jnp.asarray(kernel, jnp.float32), factor, format=format, pattern=pattern)
    expected = row_by_row(kernel, gram, pattern, 3, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    zeros = kernel == 0 if pattern is None else expected == 0
    assert zeros.mean() > 0.3
    assert not np.asarray(found)[zeros].any()


def test_without_zeros_it_is_gptq():
    kernel, gram = (jnp.asarray(x, jnp.float32) for x in kernel_and_gram())
    format = prune_and_quantize._format(3, 8)
    factor = calibration.inverse_factor(gram, 0.0)
    gptq = jax.jit(partial(quantization.gptq_core, format=format, groups="static"))
    q, _ = gptq(kernel, factor)
    found = rounded_rows(kernel, factor, format=format)
    np.testing.assert_allclose(found, quantization.dequantize(q), rtol=1e-6)


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

"""The page on outliers and smoothing, on a model small enough to check."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pruning.texts import Reading
from experiments.quantization import smoothquant_outliers
from experiments.quantization.smoothquant_outliers import (
    AS_IT_CAME,
    BEFORE,
    INPUTS,
    NORMS_ONLY,
    Cell,
    Config,
    _cells,
    in_eight_bits,
    planted,
    show,
)
from wlab import models, pretrained, tree
from wlab.models.layers import normal

WIDTH = 16
KERNELS = ("attn/q", "attn/k", "attn/v", "attn/o", "gate", "up", "down")


def normed(x: Any, scale: Any) -> Any:
    return x / ((x**2).mean(1, keepdims=True) + 1e-6) ** 0.5 * scale[None]


def one_block(params: Any, x: Any) -> Any:
    """A decoder's block with products for attention; in NumPy as in JAX."""
    of = params["block_0"]
    q, k, v, o = (of["attn"][name]["kernel"] for name in "qkvo")
    y = normed(x, of["norm_1"]["scale"])
    x = x + ((y @ q) * (y @ k) + y @ v) @ o
    y = normed(x, of["norm_2"]["scale"])
    hidden = (y @ of["gate"]["kernel"]) * (y @ of["up"]["kernel"])
    return x + hidden @ of["down"]["kernel"]


def reading_of(model: models.Model, params: Any, rows: np.ndarray) -> Reading:
    sizes = models.LlamaConfig(1, width=WIDTH, heads=2, kv_heads=2, ffn=16, vocab=50, context=16)
    plan = pretrained.Plan(())
    network = pretrained.Network(model, sizes, params, pretrained.NameMap(()), plan)
    return Reading(network, lambda seed: rows, rows.reshape(-1), 16)


@pytest.fixture(scope="module")
def reading() -> Reading:
    rng = np.random.default_rng(0)
    leaves = {f"block_0/{name}/kernel": rng.normal(size=(WIDTH, WIDTH)) / 4 for name in KERNELS}
    leaves |= {f"block_0/norm_{i}/scale": 1 + rng.random(WIDTH) for i in (1, 2)}
    params: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        place = params
        for part in above:
            place = place.setdefault(part, {})
        place[name] = jnp.asarray(leaf, jnp.float32)
    rows = rng.normal(size=(16, WIDTH)).astype(np.float32)
    return reading_of(models.Model(lambda key: params, one_block), params, rows)


def in_numpy(params: Any, x: np.ndarray) -> np.ndarray:
    doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    return one_block(doubled, x.astype(np.float64))


def rounded(reading: Reading, inputs: str, factor: int, alpha: str) -> pretrained.Network:
    cell, batch = Cell(inputs, factor, alpha, 0), len(reading.calibration(0))
    return in_eight_bits(reading, cell, channels=1, batch=batch)


def error(reading: Reading, found: pretrained.Network) -> float:
    """How far the outputs are from those in float32, as a part of them."""
    network, rows = reading.network, jnp.asarray(reading.calibration(0))
    outputs = jax.jit(found.model.apply)(found.params, rows)
    expected = network.model.apply(network.params, rows)
    return float(np.linalg.norm(outputs - expected) / np.linalg.norm(expected))


def test_planted_outliers_are_in_the_norms_and_leave_the_function(reading):
    before, channels = reading.network.params, [3, 7]
    after = planted(before, channels, factor=100)
    factors = np.ones(WIDTH)
    factors[channels] = 100
    old, new = tree.leaves(before), tree.leaves(after)
    for norm in ("norm_1", "norm_2"):
        scale = f"block_0/{norm}/scale"
        np.testing.assert_allclose(new[scale], old[scale] * factors, rtol=1e-6)
    for path in ("block_0/attn/o/kernel", "block_0/down/kernel"):
        assert new[path] is old[path]
    rows = reading.calibration(0)
    np.testing.assert_allclose(in_numpy(after, rows), in_numpy(before, rows), rtol=1e-4, atol=1e-5)


def test_the_paths_are_those_of_a_decoder():
    config = models.LlamaConfig(2, width=16, heads=2, kv_heads=2, ffn=16, vocab=50, context=16)
    params = jax.eval_shape(models.llama(config).init, jax.random.key(0))
    names = [path.split("/", 1)[1] for path in tree.paths(params) if path.startswith("block_1/")]
    assert sorted(names) == sorted(
        [f"{name}/kernel" for name in KERNELS] + ["norm_1/scale", "norm_2/scale"]
    )


@pytest.mark.parametrize("inputs", INPUTS[1:])
def test_outliers_break_rounded_inputs_and_smoothing_repairs_them(reading, inputs):
    network = rounded(reading, inputs, 1, BEFORE)
    level = network.params["block_0"]["attn"]["k"]["kernel"].level
    if inputs == "per tensor":
        scale = np.asarray(reading.network.params["block_0"]["norm_1"]["scale"])
        largest = np.abs(normed(reading.calibration(0), scale)).max()
        np.testing.assert_allclose(level, largest, rtol=1e-5)
    else:
        assert level is None
    without = error(reading, network)
    assert without < 0.04
    assert error(reading, rounded(reading, inputs, 100, BEFORE)) > 5 * without
    assert error(reading, rounded(reading, inputs, 100, "0.5")) < 1.5 * without


def test_norms_only_leaves_what_reads_none(reading):
    params = {}
    for alpha in (BEFORE, f"0.5{NORMS_ONLY}", "0.5"):
        params[alpha] = tree.leaves(rounded(reading, "float32", 100, alpha).params)
    before, norms, every = params.values()
    for name in ("attn/q", "attn/k", "gate"):
        assert (norms[f"block_0/{name}/kernel"] != before[f"block_0/{name}/kernel"]).any()
    for name in ("attn/o", "down"):
        path = f"block_0/{name}/kernel"
        np.testing.assert_array_equal(norms[path], before[path])
        assert (every[path] != before[path]).any()


@pytest.mark.long
@pytest.mark.parametrize("inputs", INPUTS[1:])
def test_likewise_in_a_decoder(inputs):
    rows = np.random.default_rng(0).integers(0, 50, (8, 16)).astype(np.int32)
    config = reading_of(models.Model(lambda key: {}, one_block), {}, rows).network.config
    model = models.llama(config, kernel_init=normal(0.3))
    decoder = reading_of(model, model.init(jax.random.key(0)), rows)
    without = error(decoder, rounded(decoder, inputs, 1, BEFORE))
    assert error(decoder, rounded(decoder, inputs, 100, BEFORE)) > 3 * without
    assert error(decoder, rounded(decoder, inputs, 100, "0.5")) < 1.5 * without


def test_a_kernel_whose_inputs_stay_in_float32_is_refused(reading, monkeypatch):
    """Else the page would show the weights' loss for that of the inputs."""
    asymmetric = smoothquant_outliers.int8(symmetric=False)
    monkeypatch.setattr(smoothquant_outliers, "int8", lambda: asymmetric)
    with pytest.raises(ValueError, match=r"float32.*weight_only"):
        in_eight_bits(reading, Cell("per token", 1, BEFORE, 0), channels=1, batch=4)


def test_figures_that_no_draw_changes_are_there_once():
    cells = _cells(Config(factors="1,30", alphas="0.5", seeds=2))
    assert len(cells) == len(set(cells))
    once = [cell for cell in cells if cell.factor == 1 and cell.alpha in (AS_IT_CAME, BEFORE)]
    assert [(cell.inputs, cell.seed) for cell in once] == [
        *(("float32", 0), ("float32", 0), ("per token", 0), ("per tensor", 0), ("per tensor", 1))
    ]
    assert sum(cell.factor == 30 for cell in cells) == 2 * (1 + 3 * 3)


def test_each_kind_of_inputs_has_a_table_of_factors_by_alphas():
    cells = []
    for cell in _cells(Config(factors="1,30", alphas="0.5", seeds=2)):
        perplexity = 3.0 + cell.seed * (cell.inputs == "per tensor") + 5 * (cell.alpha == BEFORE)
        cells.append(cell._asdict() | {"perplexity": perplexity})
    tables = show({"cells": cells}).split("\n\n")
    assert [table.split("  ")[0].strip() for table in tables] == [
        f"inputs {kind}" for kind in INPUTS
    ]
    assert "alpha 0.5" in tables[2]
    row = tables[2].splitlines()[-1]
    assert row.startswith("x 30")
    assert "8.500 (8.000 to 9.000)" in row and "3.500 (3.000 to 4.000)" in row

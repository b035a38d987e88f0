"""Factors and kernels of every layout, against numpy twins and what PEFT 0.21 computed.

`peft_reference.json` holds kernels, factors and gradients in PyTorch's layouts, made with
rank 2 and alpha 3.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.transfer import (
    Adapter,
    Factors,
    dora,
    embedding,
    fresh_factors,
    gaussian,
    he_uniform,
    merged_kernel,
    pissa,
    unmerged_kernel,
    with_magnitude,
)

PEFT = json.loads((Path(__file__).parent / "peft_reference.json").read_text())
torch_layout = partial(Adapter, in_axis=-1, out_axis=-2)
LINEAR = {
    "classic": torch_layout(2, alpha=3),
    "rank_stabilized": torch_layout(2, alpha=3, scaling="rank_stabilized"),
    "dora": torch_layout(2, alpha=3, magnitude=True),
}
# shape, adapter, and the same product written out for numpy
LAYOUTS = {
    "(in, out)": ((6, 4), Adapter(2), "ir,ro->io"),
    "(out, in)": ((4, 6), torch_layout(2), "ir,ro->oi"),
    "to heads": ((6, 2, 3), Adapter(2, in_axis=0, out_axis=(1, 2)), "ir,rhd->ihd"),
    "from heads": ((2, 3, 6), Adapter(2, in_axis=(0, 1), out_axis=2), "hdr,ro->hdo"),
    "stacked": ((3, 6, 4), Adapter(2, batch_axis=0), "lir,lro->lio"),
    "stacked last": (
        (6, 4, 3),
        Adapter(2, in_axis=0, out_axis=1, batch_axis=2),
        "lir,lro->iol",
    ),
    "outputs reversed": ((2, 3, 6), Adapter(2, in_axis=2, out_axis=(1, 0)), "ir,rba->abi"),
    "convolution": ((3, 2, 4, 5), Adapter(2), "hwir,ro->hwio"),
    "torch convolution": ((5, 4, 3, 2), Adapter(2, in_axis=1, out_axis=0), "hwir,ro->oihw"),
}
EACH_LAYOUT = pytest.mark.parametrize(
    ("shape", "adapter", "formula"), LAYOUTS.values(), ids=LAYOUTS
)


def drawn(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_factors(row):
    a, b = (np.asarray(row[name], np.float32) for name in "ab")
    return Factors(jnp.asarray(a.T), jnp.asarray(b.T))


def random_factors(adapter, shape):
    at = adapter.layout(shape)
    return Factors(jnp.asarray(drawn(at.a_shape, 1)), jnp.asarray(drawn(at.b_shape, 2)))


@EACH_LAYOUT
def test_the_product_has_the_kernels_own_axes(shape, adapter, formula):
    kernel, factors = jnp.asarray(drawn(shape)), random_factors(adapter, shape)
    want = np.asarray(kernel, np.float64) + np.einsum(
        formula, *(np.asarray(f, np.float64) for f in factors[:2])
    )
    np.testing.assert_allclose(merged_kernel(kernel, factors, adapter), want, rtol=1e-6, atol=1e-6)


@EACH_LAYOUT
def test_merge_then_unmerge_gives_the_base_again(shape, adapter, formula):
    kernel, factors = jnp.asarray(drawn(shape)), random_factors(adapter, shape)
    again = unmerged_kernel(merged_kernel(kernel, factors, adapter), factors, adapter)
    largest = np.abs(np.asarray(kernel)).max()
    assert largest > 0 and np.abs(again - kernel).max() <= 1e-6 * largest


@EACH_LAYOUT
def test_dora_gives_each_output_its_own_length(shape, adapter, formula):
    adapter = replace(adapter, magnitude=True)
    kernel, factors = jnp.asarray(drawn(shape)), random_factors(adapter, shape)
    factors = with_magnitude(kernel, factors, adapter)
    out = formula.split(",")[1].split("->")[0].replace("r", "")
    whole = formula.split("->")[1]
    adapted = np.asarray(kernel) + np.einsum(formula, factors.a, factors.b)
    start = np.sqrt(np.einsum(f"{whole}->{out}", adapted.astype(np.float64) ** 2))
    assert factors.m is not None
    np.testing.assert_allclose(factors.m, start, rtol=1e-6)

    m = 1 + np.abs(drawn(start.shape, 3))
    seen = np.asarray(merged_kernel(kernel, factors._replace(m=jnp.asarray(m)), adapter))
    length = np.sqrt(np.einsum(f"{whole}->{out}", seen.astype(np.float64) ** 2))
    np.testing.assert_allclose(length, m, rtol=1e-6)
    direction = np.einsum(f"{whole},{out}->{whole}", adapted, m / start)
    np.testing.assert_allclose(seen, direction, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LINEAR)
def test_merged_kernels_are_those_of_peft(name):
    row, adapter = PEFT[name], LINEAR[name]
    factors = torch_factors(row)
    if name == "dora":
        kernel = jnp.asarray(row["kernel"])
        begun = with_magnitude(kernel, factors._replace(b=jnp.zeros_like(factors.b)), adapter)
        assert begun.m is not None
        np.testing.assert_allclose(begun.m, row["start_m"], rtol=1e-6)
        factors = factors._replace(m=jnp.asarray(row["m"]))
    merged = merged_kernel(jnp.asarray(row["kernel"]), factors, adapter)
    np.testing.assert_allclose(merged, row["merged"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LINEAR)
def test_gradients_are_those_of_peft(name):
    """DoRA's only agree with the denominator held constant."""
    row, adapter = PEFT[name], LINEAR[name]
    factors = torch_factors(row)
    if name == "dora":
        factors = factors._replace(m=jnp.asarray(row["m"]))

    def loss(factors):  # the layer is applied to the identity, so its output is Wᵀ
        kernel = merged_kernel(jnp.asarray(row["kernel"]), factors, adapter)
        return jnp.sum(kernel.T * jnp.asarray(row["cotangent"]))

    got = jax.grad(loss)(factors)
    np.testing.assert_allclose(got.a.T, row["grad_a"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.b.T, row["grad_b"], rtol=1e-5, atol=1e-6)
    if factors.m is not None:
        assert got.m is not None
        np.testing.assert_allclose(got.m, row["grad_m"], rtol=1e-5, atol=1e-6)


def test_an_embedding_table_is_adapted_as_in_peft():
    row = PEFT["embedding"]
    merged = merged_kernel(jnp.asarray(row["kernel"]), torch_factors(row), Adapter(2, alpha=3))
    np.testing.assert_allclose(merged, row["merged"], rtol=1e-5, atol=1e-6)


def test_a_convolution_is_adapted_as_in_peft():
    row = PEFT["conv"]
    a = np.asarray(row["a"], np.float32).transpose(2, 3, 1, 0)  # (rank, in, h, w)
    b = np.asarray(row["b"], np.float32)[:, :, 0, 0].T
    adapter = Adapter(2, alpha=3, in_axis=1, out_axis=0)
    merged = merged_kernel(
        jnp.asarray(row["kernel"]), Factors(jnp.asarray(a), jnp.asarray(b)), adapter
    )
    np.testing.assert_allclose(merged, row["merged"], rtol=1e-5, atol=1e-6)


def test_pissa_is_that_of_peft(key):
    row = PEFT["pissa"]
    kernel, adapter = jnp.asarray(row["kernel"]), torch_layout(2, alpha=3, start=pissa)
    factors, theirs = fresh_factors(key, kernel, adapter), torch_factors(row)
    np.testing.assert_allclose(factors.a @ factors.b, theirs.a @ theirs.b, atol=1e-6)
    # Singular vectors are only given up to their sign.
    np.testing.assert_allclose(np.abs(factors.a), np.abs(theirs.a), atol=1e-6)
    residual = unmerged_kernel(kernel, factors, adapter)
    np.testing.assert_allclose(residual, row["residual"], atol=1e-6)


@EACH_LAYOUT
def test_pissa_takes_the_largest_singular_values_of_each_matrix(shape, adapter, formula, key):
    adapter = replace(adapter, alpha=3, start=pissa)
    kernel = jnp.asarray(drawn(shape))
    factors = fresh_factors(key, kernel, adapter)
    residual = unmerged_kernel(kernel, factors, adapter)
    left, right = formula.split("->")[0].split(",")
    whole, batch = formula.split("->")[1], "".join(sorted(set(left) & set(right) - {"r"}))
    order = batch + left.strip(batch).replace("r", "") + right.strip(batch).replace("r", "")
    at = adapter.layout(shape)

    def values(x):
        flat = np.einsum(f"{whole}->{order}", x).reshape(-1, at.fan_in, at.fan_out)
        return np.linalg.svd(flat.astype(np.float64), compute_uv=False)

    np.testing.assert_allclose(values(residual)[:, :-2], values(kernel)[:, 2:], atol=1e-5)
    np.testing.assert_allclose(values(residual)[:, -2:], 0, atol=1e-5)
    again = merged_kernel(residual, factors, adapter)
    largest = np.abs(np.asarray(kernel)).max()
    assert np.abs(np.asarray(again - kernel)).max() <= 2.0**-23 * largest


@pytest.mark.parametrize(
    ("start", "zero", "deviation"),
    [(he_uniform, "b", (3 * 400) ** -0.5), (gaussian, "b", 1 / 8), (embedding, "a", 1.0)],
)
def test_starts_have_the_published_deviation_and_one_zero_factor(start, zero, deviation, key):
    factors = fresh_factors(key, jnp.zeros((400, 300)), Adapter(8, start=start))
    drawn_one = factors.b if zero == "a" else factors.a
    assert not np.any(getattr(factors, zero))
    assert np.std(drawn_one) == pytest.approx(deviation, rel=0.05)
    assert abs(np.mean(drawn_one)) < 4 * deviation / np.sqrt(drawn_one.size)
    if start is he_uniform:
        assert 0.99 / 20 < np.abs(drawn_one).max() <= 1 / 20


@pytest.mark.parametrize("start", [he_uniform, gaussian, embedding])
def test_a_fresh_adapter_changes_no_bit(start, key):
    adapter = Adapter(2, alpha=3, start=start)
    kernel = jnp.asarray(drawn((6, 4)))
    factors = fresh_factors(key, kernel, adapter)
    base = unmerged_kernel(kernel, factors, adapter)
    assert np.asarray(base).tobytes() == np.asarray(kernel).tobytes()
    assert np.asarray(merged_kernel(base, factors, adapter)).tobytes() == base.tobytes()


def test_bfloat16_kernels_are_rounded_once(key):
    kernel = jnp.asarray(drawn((64, 32))).astype(jnp.bfloat16)
    adapter = Adapter(4, alpha=3, dtype=jnp.float32)
    factors = random_factors(adapter, kernel.shape)
    assert fresh_factors(key, kernel, adapter).a.dtype == jnp.float32
    assert fresh_factors(key, kernel, Adapter(4)).a.dtype == jnp.bfloat16
    want = np.asarray(kernel, np.float32) + 0.75 * (np.asarray(factors.a) @ np.asarray(factors.b))
    merged = merged_kernel(kernel, factors, adapter)
    assert merged.dtype == jnp.bfloat16
    error = np.abs(np.asarray(merged, np.float32) - want)
    assert (error <= 2.0**-8 * np.abs(want) + 1e-6).all()


@EACH_LAYOUT
def test_pissa_leaves_no_sign_to_the_library_that_decomposes(shape, adapter, formula, key):
    del formula
    adapter, kernel = replace(adapter, start=pissa), jnp.asarray(drawn(shape))
    factors, mirrored = (fresh_factors(key, w, adapter) for w in (kernel, -kernel))
    np.testing.assert_allclose(mirrored.a, factors.a, atol=1e-6)
    np.testing.assert_allclose(mirrored.b, -factors.b, atol=1e-6)


def test_pissa_of_a_bfloat16_kernel_begins_within_its_rounding(key):
    kernel = jnp.asarray(drawn((64, 32))).astype(jnp.bfloat16)
    adapter = Adapter(4, start=pissa)
    factors = fresh_factors(key, kernel, adapter)
    again = merged_kernel(unmerged_kernel(kernel, factors, adapter), factors, adapter)
    ours, theirs = (np.asarray(x, np.float32) for x in (again, kernel))
    assert np.abs(ours - theirs).max() <= 2.0**-8 * np.abs(theirs).max()


def test_an_output_without_weights_stays_zero_under_dora(key):
    adapter = dora(2)
    kernel = jnp.asarray(drawn((6, 4))).at[:, 1].set(0)
    factors = with_magnitude(kernel, fresh_factors(key, kernel, adapter), adapter)
    seen, pull = jax.vjp(partial(merged_kernel, kernel, adapter=adapter), factors)
    assert not np.any(seen[:, 1])
    (grads,) = pull(jnp.ones_like(seen))
    assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize(
    ("rank", "options", "message"),
    [
        (0, {}, "rank must be at least 1, got 0"),
        (2, {"alpha": 0.0}, "alpha must be positive and finite, got 0.0"),
        (2, {"alpha": float("nan")}, "alpha must be positive"),
    ],
)
def test_an_adapter_that_makes_no_sense_is_refused(rank, options, message):
    with pytest.raises(ValueError, match=message):
        Adapter(rank, **options)


@pytest.mark.parametrize(
    ("adapter", "shape", "message"),
    [
        (Adapter(5), (6, 4), "no more than rank 4; the adapter has rank 5"),
        (Adapter(1), (6,), r"has no axis -2 \(in_axis\)"),
        (Adapter(1, in_axis=1), (6, 4), "declared twice"),
        (Adapter(1, batch_axis=4), (6, 4), r"has no axis 4 \(batch_axis\)"),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused(adapter, shape, message, key):
    with pytest.raises(ValueError, match=message):
        fresh_factors(key, jnp.zeros(shape), adapter)


def test_dora_cannot_be_unmerged(key):
    kernel = jnp.asarray(drawn((6, 4)))
    factors = with_magnitude(kernel, fresh_factors(key, kernel, dora(2)), dora(2))
    with pytest.raises(ValueError, match="Keep the base"):
        unmerged_kernel(kernel, factors, dora(2))

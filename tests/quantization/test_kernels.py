"""The GPU kernels in Pallas' interpreter, on the CPU, against NumPy; and that they lower for a GPU.

What a GPU computes, and how fast, is measured by experiments/bench/int4_matvec.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.quantization.execution import tiles as layout
from wlab.quantization.execution.kernel_products import launch_for, tiles_product
from wlab.quantization.execution.kernels import by_dots, by_planes
from wlab.quantization.execution.launch import Launch
from wlab.quantization.execution.tiles import dense

INPUTS, OUTPUTS = 256, 16
tiles = jax.jit(layout.tiles, static_argnames=("bits", "group_size"))


def matrix(bits, group_size, inputs=INPUTS, outputs=OUTPUTS):
    """Codes, scales, and the matrix they stand for in NumPy."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (inputs, outputs)).astype(np.uint8)
    scale = rng.uniform(0.5, 1.5, (-(-inputs // group_size), outputs)).astype(np.float16)
    spread = np.repeat(scale.astype(np.float64), group_size, axis=0)[:inputs]
    return codes, scale, (codes.astype(np.float64) - 2 ** (bits - 1)) * spread


def rows(m, inputs=INPUTS):
    return np.random.default_rng(9).standard_normal((m, inputs)).astype(np.float32)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("group_size", "inputs", "outputs"),
    [(16, 128, 16), (64, 200, 20), (384, 500, 3)],
)
def test_tiles_hold_the_matrix(bits, group_size, inputs, outputs):
    codes, scale, expected = matrix(bits, group_size, inputs, outputs)
    laid = tiles(jnp.asarray(codes), jnp.asarray(scale), bits=bits, group_size=group_size)
    np.testing.assert_array_equal(jax.jit(dense)(laid), expected.astype(np.float32))


def test_a_tile_s_words_have_16_neighbouring_inputs_in_a_plane():
    codes = np.zeros((128, 16), np.uint8)
    codes[16 * 3 + 5, 2] = 9
    laid = tiles(jnp.asarray(codes), jnp.ones((1, 16)), bits=4, group_size=128)
    assert np.argwhere(laid.codes).tolist() == [[0, 2, 5]]
    assert int(laid.codes[0, 2, 5]) == 9 << 12


def test_other_groups_and_bits_are_refused():
    codes, scale = jnp.zeros((128, 16), jnp.uint8), jnp.ones((4, 16))
    with pytest.raises(ValueError, match="groups of 16, 32, 64 or 128 · n inputs, got 48"):
        tiles(codes, scale, bits=4, group_size=48)
    with pytest.raises(ValueError, match="4 or 8 bits, got 3"):
        tiles(codes, scale, bits=3, group_size=32)


@pytest.mark.parametrize(
    ("kernel", "bits", "group_size", "launch"),
    [
        (by_planes, 4, 128, Launch(16, 2, 1, in_place=True)),
        (by_planes, 4, 32, Launch(8, 1, 2)),
        (by_planes, 8, 64, Launch(16, 2, 1)),
        (by_dots, 4, 128, Launch(16, 1, 1, in_place=True)),
        (by_dots, 4, 16, Launch(16, 1, 2)),
        (by_dots, 8, 128, Launch(16, 1, 2)),
    ],
)
def test_kernels_multiply_in_the_interpreter(kernel, bits, group_size, launch):
    codes, scale, expected = matrix(bits, group_size)
    laid = tiles(jnp.asarray(codes), jnp.asarray(scale), bits=bits, group_size=group_size)
    x = rows(2)
    close(kernel(jnp.asarray(x), laid, launch, interpret=True), x @ expected)


def test_inputs_and_outputs_that_do_not_fill_a_tile_are_left_out():
    codes, scale, expected = matrix(4, 32, 200, 20)
    laid = tiles(jnp.asarray(codes), jnp.asarray(scale), bits=4, group_size=32)
    x = rows(1, 200)
    close(by_planes(jnp.asarray(x), laid, Launch(16, 1, 1), interpret=True), x @ expected)


@pytest.mark.parametrize("m", [1, 3])
def test_the_product_and_its_derivative_are_the_matrix_s(m):
    codes, scale, expected = matrix(4, 128)
    laid = tiles(jnp.asarray(codes), jnp.asarray(scale), bits=4, group_size=128)
    x = jnp.asarray(rows(m))
    product = partial(tiles_product, weight=laid, interpret=True)
    found, pushed = jax.jit(lambda x: jax.jvp(product, (x,), (2 * x,)))(x)
    close(found, x @ expected)
    close(pushed, 2 * x @ expected)


@pytest.mark.parametrize(("inputs", "outputs"), [(128, 16), (4096, 4096), (11008, 4096), (384, 48)])
@pytest.mark.parametrize("m", [1, 2, 16])
def test_launches_cut_every_matrix_without_a_remainder(inputs, outputs, m):
    given = jax.ShapeDtypeStruct((inputs, outputs), jnp.uint8)
    scale = jax.ShapeDtypeStruct((inputs // 128, outputs), jnp.float16)
    laid = jax.eval_shape(partial(layout.tiles, bits=4, group_size=128), given, scale)
    launch = launch_for(laid, m, "bfloat16")
    count, wide, _ = laid.codes.shape
    assert count % (launch.tiles * launch.splits) == 0 and wide % launch.outputs == 0
    assert launch.tiles <= launch.warps  # so that inputs need no shared memory

"""The line between two networks: its ends, its middle, and the barrier on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import merging


def _tree(*values: float) -> dict:
    return {"layer": {"kernel": jnp.array(values), "bias": jnp.float32(1.0)}}


def _height(params: dict) -> jax.Array:
    """A hill over the middle of the line from -1 to 1: 1 - x²."""
    return 1 - jnp.sum(params["layer"]["kernel"] ** 2)


def test_a_line_goes_through_what_lies_between():
    values = merging.along(_height, _tree(-1.0), _tree(1.0), points=5)
    np.testing.assert_allclose(values, 1 - np.linspace(-1, 1, 5) ** 2, atol=1e-6)


def test_the_ends_are_the_networks_themselves():
    one, other = (
        {"w": jax.random.normal(key, (7,))} for key in jax.random.split(jax.random.key(0))
    )
    values = merging.along(lambda p: p["w"][3], one, other, points=9)
    assert values[0] == one["w"][3]
    assert values[-1] == other["w"][3]


def test_a_hill_is_a_barrier_and_a_slope_is_none():
    assert merging.barrier(merging.along(_height, _tree(-1.0), _tree(1.0), points=5)) == 1
    slope = merging.along(lambda p: p["layer"]["kernel"][0], _tree(-1.0), _tree(3.0))
    assert slope.shape == (30,)
    assert merging.barrier(slope) == 2  # the higher end, above the mean of both


def test_pairs_are_measured_under_jit_and_vmap():
    starts, ends = _tree(-1.0, 0.0)["layer"]["kernel"], _tree(1.0, 0.5)["layer"]["kernel"]

    @jax.jit
    @jax.vmap
    def instability(x: jax.Array, y: jax.Array) -> jax.Array:
        return merging.barrier(merging.along(lambda p: 1 - p["w"] ** 2, {"w": x}, {"w": y}))

    np.testing.assert_allclose(instability(starts, ends), [1 - 1 / 29**2, 0.125], atol=1e-6)


def test_networks_that_differ_in_a_shape_are_refused():
    with pytest.raises(ValueError, match="differ in their leaves"):
        merging.along(_height, _tree(1.0), _tree(1.0, 2.0))
    with pytest.raises(ValueError, match="2 ends"):
        merging.along(_height, _tree(1.0), _tree(1.0), points=1)

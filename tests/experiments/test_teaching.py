"""What a teacher says, at a temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.teaching import taught_sum


def rows(seed: int) -> jax.Array:
    """Two networks' logits of five classes, around zero."""
    drawn = jax.random.normal(jax.random.key(seed), (3, 5))
    return drawn - jnp.mean(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_a_cross_entropy_that_is_least_where_both_say_the_same(temperature: float):
    own, teacher = (np.asarray(rows(seed), np.float64) / temperature for seed in (0, 1))
    said = np.exp(teacher) / np.exp(teacher).sum(axis=1, keepdims=True)
    expected = -(said * (own - np.log(np.exp(own).sum(axis=1, keepdims=True)))).sum()
    found = taught_sum(rows(0), rows(1), temperature=temperature)
    np.testing.assert_allclose(found, temperature**2 * expected, rtol=1e-5)
    slope = jax.grad(lambda x: taught_sum(x, rows(1), temperature=temperature))(rows(1))
    np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_at_a_high_temperature_its_slope_is_the_difference_of_logits_over_classes():
    # Hinton et al. 2015, equation 4.
    slope = jax.grad(lambda x: taught_sum(x, rows(1), temperature=200.0))(rows(0))
    np.testing.assert_allclose(slope, (rows(0) - rows(1)) / 5, atol=0.01)

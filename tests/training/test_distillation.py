"""What a teacher says, at a temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.training import distillation_loss


def rows(seed: int) -> jax.Array:
    """Logits of five classes, around zero."""
    drawn = jax.random.normal(jax.random.key(seed), (3, 5))
    return drawn - jnp.mean(drawn, axis=1, keepdims=True)


def summed(own: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    return jnp.sum(distillation_loss(own, teacher, temperature=temperature))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_a_cross_entropy_that_is_least_where_both_say_the_same(temperature: float):
    own, teacher = (np.asarray(rows(seed), np.float64) / temperature for seed in (0, 1))
    said = np.exp(teacher) / np.exp(teacher).sum(axis=1, keepdims=True)
    expected = -(said * (own - np.log(np.exp(own).sum(axis=1, keepdims=True)))).sum(axis=1)
    found = distillation_loss(rows(0), rows(1), temperature=temperature)
    np.testing.assert_allclose(found, temperature**2 * expected, rtol=1e-5)
    slope = jax.grad(summed)(rows(1), rows(1), temperature)
    np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_at_a_high_temperature_its_slope_is_the_difference_of_logits_over_classes():
    # Hinton et al. 2015, equation 4.
    slope = jax.grad(summed)(rows(0), rows(1), 200.0)
    np.testing.assert_allclose(slope, (rows(0) - rows(1)) / 5, atol=0.01)


def test_the_teacher_learns_nothing_and_half_precision_is_summed_in_float32():
    assert not jax.grad(summed, argnums=1)(rows(0), rows(1), 2.0).any()
    own, teacher = (rows(seed)[:, None].astype(jnp.bfloat16) for seed in (0, 1))
    found = distillation_loss(own, teacher)
    assert found.shape == (3, 1) and found.dtype == jnp.float32
    exact = distillation_loss(own.astype(jnp.float32), teacher.astype(jnp.float32))
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature: float):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        distillation_loss(rows(0), rows(1), temperature=temperature)

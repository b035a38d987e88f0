"""Variances are the published ones, within the standard error of a sample."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import initializers

IN, OUT = 400, 600
KURTOSIS = {"normal": 3.0, "uniform": 1.8, "truncated_normal": 3.0}


def assert_variance(sample, expected, *, kurtosis):
    standard_error = expected * math.sqrt((kurtosis - 1) / sample.size)
    assert abs(float(np.var(np.asarray(sample, np.float64))) - expected) < 5 * standard_error
    assert abs(float(np.mean(np.asarray(sample, np.float64)))) < 5 * math.sqrt(
        expected / sample.size
    )


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize(
    ("rule", "variance"),
    [("glorot", 2 / (IN + OUT)), ("he", 2 / IN), ("lecun", 1 / IN)],
)
def test_glorot_he_and_lecun_have_their_variance(rule, variance, kind, key):
    weights = getattr(initializers, f"{rule}_{kind}")()(key, (IN, OUT))
    assert_variance(weights, variance, kurtosis=KURTOSIS[kind])
    if kind == "uniform":
        limit = math.sqrt(3 * variance)
        assert 0.999 * limit < float(jnp.max(jnp.abs(weights))) <= limit * (1 + 1e-6)


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize(
    ("mode", "fan"),
    [("fan_in", IN), ("fan_out", OUT), ("fan_avg", 500), ("fan_geo_avg", math.sqrt(IN * OUT))],
)
def test_every_mode_and_distribution_scales_to_the_same_variance(mode, fan, distribution, key):
    init = initializers.variance_scaling(5 / 3, mode, distribution=distribution)
    assert_variance(init(key, (IN, OUT)), 25 / 9 / fan, kurtosis=KURTOSIS[distribution])


@pytest.mark.parametrize(
    ("init", "variance", "kurtosis"),
    [
        (initializers.normal(0.3), 0.09, 3.0),
        (initializers.truncated_normal(0.3), 0.09, 3.0),
        (initializers.uniform(0.3), 0.03, 1.8),
    ],
)
def test_plain_distributions_have_the_variance_they_name(init, variance, kurtosis, key):
    assert_variance(init(key, (500, 500)), variance, kurtosis=kurtosis)
    assert_variance(init(key, (500, 500), jnp.bfloat16), variance, kurtosis=kurtosis)


def test_the_truncated_normal_reaches_twice_its_uncorrected_deviation(key):
    """The correction is √(1 − 4φ(2)/(2Φ(2) − 1)), here from the error function."""
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    correction = math.sqrt(1 - 4 * density / math.erf(math.sqrt(2)))
    assert correction == pytest.approx(0.87962566103423978, rel=1e-12)
    farthest = jnp.max(jnp.abs(initializers.truncated_normal(1.0)(key, (500, 500))))
    assert 0.999 * 2 / correction < float(farthest) <= 2 / correction * (1 + 1e-6)


def test_truncated_he_agrees_with_jax(key):
    ours = initializers.variance_scaling(2**0.5, "fan_in", distribution="truncated_normal")
    theirs = jax.nn.initializers.he_normal()
    np.testing.assert_allclose(ours(key, (IN, OUT)), theirs(key, (IN, OUT)), rtol=1e-5)


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 1.0])
def test_sparse_gives_every_output_the_same_number_of_inputs(density, key):
    weights = initializers.sparse(density, std=1.0)(key, (150, 80))
    wanted = max(1, round(density * 150))
    np.testing.assert_array_equal(np.count_nonzero(weights, axis=0), np.full(80, wanted))
    alive = np.asarray(weights)[np.asarray(weights) != 0]
    assert abs(np.var(alive) - 1) < 5 * math.sqrt(2 / alive.size)


def test_sparse_chooses_other_inputs_for_other_outputs(key):
    connected = np.asarray(initializers.sparse(0.1)(key, (100, 100))) != 0
    assert len({row.tobytes() for row in connected.T}) > 90


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_sparse_refuses_a_density_outside_its_range(density):
    with pytest.raises(ValueError, match="density is the fraction kept"):
        initializers.sparse(density)


def test_residual_branches_add_up_to_unit_variance(key):
    """2L branches, each 1/√(2L) of unit variance, sum to variance one (GPT-2)."""
    num_layers = 12
    init = initializers.residual_scaled(initializers.normal(1.0), num_layers)
    keys = jax.random.split(key, 2 * num_layers)
    stream = jnp.sum(jax.vmap(lambda k: init(k, (300, 300)))(keys), axis=0)
    assert_variance(stream, 1.0, kurtosis=3.0)


def test_bad_names_and_depths_are_refused():
    with pytest.raises(ValueError, match="'fan_sum' is not one of fan_in"):
        initializers.variance_scaling(1.0, "fan_sum")
    with pytest.raises(ValueError, match="'cauchy' is not one of normal"):
        initializers.variance_scaling(1.0, "fan_in", distribution="cauchy")
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        initializers.residual_scaled(initializers.zeros, 0)

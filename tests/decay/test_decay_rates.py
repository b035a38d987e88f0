import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import Stored, decay

PARAMS = {"dense": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}}
GIVEN = Stored(PARAMS, {"dense/kernel": jnp.ones(1)})
FACTORIES = [
    decay.decoupled,
    decay.independent,
    decay.l2,
    decay.l1,
    decay.proximal_l1,
    decay.cautious,
    decay.toward,
    decay.scale_by_rules,
]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), True])
def test_a_rate_that_is_none_is_refused_naming_the_rule(factory, rate):
    with pytest.raises(ValueError, match=rf"{factory.__name__}: the rate of rule '\.\*' is"):
        factory([(".*", rate)])


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_leaf_without_a_rule_is_refused_by_init(factory):
    with pytest.raises(ValueError, match=rf"{factory.__name__}: no rule matches leaf 'dense/bias'"):
        factory([(".*kernel", 0.1)]).init(PARAMS)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_rule_without_a_leaf_is_refused_by_init(factory):
    rules = [(".*head.*", 0.1), (".*", None)]
    with pytest.raises(ValueError, match=rf"{factory.__name__}: rule '\.\*head\.\*' matches no"):
        factory(rules).init(PARAMS)


@pytest.mark.parametrize("factory", FACTORIES)
def test_update_without_weights_is_refused(factory):
    tx = factory([(".*", 0.1)])
    with pytest.raises(ValueError, match=f"{factory.__name__} needs the weights"):
        tx.update(PARAMS, tx.init(PARAMS))


@pytest.mark.parametrize("pattern", [".*", ".*kernel|.*bias"])
def test_extra_trainables_have_no_rate_unless_they_are_named(pattern):
    tx = decay.l2([(pattern, 0.5)])
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, GIVEN), tx.init(GIVEN), GIVEN)
    np.testing.assert_array_equal(updates.params["dense"]["kernel"], 0.5 * np.ones(3))
    np.testing.assert_array_equal(updates.extra["dense/kernel"], np.zeros(1))


def test_extra_trainables_decay_by_the_rule_that_names_them():
    tx = decay.l2([(r"\+/.*", 0.25), (".*", None)])
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, GIVEN), tx.init(GIVEN), GIVEN)
    np.testing.assert_array_equal(updates.extra["dense/kernel"], [0.25])
    np.testing.assert_array_equal(updates.params["dense"]["kernel"], np.zeros(3))


def test_a_rule_for_extra_trainables_that_are_not_there_is_dead():
    with pytest.raises(ValueError, match=r"l2: rule '\\\\\+/\.\*' matches no leaf"):
        decay.l2([(r"\+/.*", 0.25), (".*", None)]).init(PARAMS)


def test_rates_may_differ_along_a_vmapped_population():
    def shrunk(rate):
        tx = decay.independent([(".*kernel", rate), (".*", None)])
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
        return updates["dense"]["kernel"]

    rates = jnp.float32([0.0, 0.25, 0.5])
    np.testing.assert_array_equal(jax.vmap(shrunk)(rates), -np.outer(rates, np.ones(3)))


def test_normalized_rate_of_one_batch_pass_is_the_rate_itself():
    assert decay.normalized(0.025, batch_size=128, examples=128, epochs=1) == 0.025


def test_normalized_rate_on_imagenet32_is_a_fifth_of_that_on_cifar10():
    # Appendix D: an epoch is 24 times longer, an unscaled rate "roughly 5 times too large".
    cifar = decay.normalized(0.025, batch_size=128, examples=50_000, epochs=100)
    imagenet = decay.normalized(0.025, batch_size=128, examples=24 * 50_000, epochs=100)
    assert cifar / imagenet == pytest.approx(24**0.5)


def test_normalized_refuses_an_empty_budget():
    with pytest.raises(ValueError, match="must be positive, got 128, 0 and 1"):
        decay.normalized(0.1, batch_size=128, examples=0, epochs=1)

"""Fails where a version of JAX writes its jaxprs in another way than `compat` knows."""

import jax
import jax.numpy as jnp
import pytest

from wlab.graph.compat import called, opened, scan_counts


@jax.custom_vjp
def _twice(x):
    return 2 * x


_twice.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

CALLS = {
    "jit": jax.jit(jnp.tanh),
    "checkpoint": jax.checkpoint(lambda x: jnp.tanh(x) * x),
    "custom_jvp": jax.nn.relu,
    "custom_vjp": _twice,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_opened_with_an_operand_for_each_of_its_own(name: str):
    function = opened(jax.make_jaxpr(lambda x: CALLS[name](x) + 1)(jnp.ones(3)))
    (equation, *_) = function.jaxpr.eqns
    inner = called(equation)
    assert inner is not None
    assert len(inner.jaxpr.invars) == len(equation.invars)
    assert len(inner.jaxpr.outvars) == len(equation.outvars)
    assert len(inner.jaxpr.constvars) == len(inner.consts)


def test_other_equations_are_no_calls():
    function = opened(
        jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, y: (c + y, c), 0.0, x))(jnp.ones(3))
    )
    assert all(called(equation) is None for equation in function.jaxpr.eqns)


def test_the_operands_of_a_scan_are_told_apart():
    def run(w, table, xs):
        def turn(carry, x):
            total, count = carry
            return (total * w.sum() + x + table.sum(), count + 1), total

        return jax.lax.scan(turn, (0.0, 1), xs)

    function = opened(jax.make_jaxpr(run)(jnp.ones(3), jnp.ones(7), jnp.ones(5)))
    (scan,) = [e for e in function.jaxpr.eqns if e.primitive.name == "scan"]
    consts, carried = scan_counts(scan)
    shapes = [v.aval.shape for v in scan.invars]
    assert carried == 2
    assert set(shapes[:consts]) == {(3,), (7,)}
    assert shapes[consts + carried :] == [(5,)]

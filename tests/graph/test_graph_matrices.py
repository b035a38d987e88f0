"""Matrices of leaves: the product with what was captured is what the function computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Literal
from zoo import ZOO, net

from wlab import tree
from wlab.graph import Statistic, capture, from_matrix, products, read, to_matrix
from wlab.graph.evaluating import bound


@pytest.mark.parametrize("name", ZOO)
def test_a_matrix_goes_back_to_its_leaf(name: str):
    fn, params, inputs = net(name)
    leaves, seen = tree.leaves(params), 0
    for (path, _), use in products(read(fn, params, *inputs)).items():
        leaf = jnp.asarray(leaves[path])
        if not (use.view.is_whole and use.view.exact):
            with pytest.raises(ValueError, match="is no matrix"):
                to_matrix(use, leaf)
            continue
        matrix = to_matrix(use, leaf)
        assert matrix.shape[-2] == use.fan_in
        np.testing.assert_array_equal(from_matrix(use, matrix), leaf)
        seen += 1
    assert seen or name == "plain computed weights"


@pytest.mark.parametrize("name", ZOO)
def test_rows_times_the_matrix_are_the_products_own_results(name: str):
    """By the sum of squares of all results, which no order of rows and columns changes."""
    fn, params, inputs = net(name)
    graph, leaves = read(fn, params, *inputs), tree.leaves(params)
    plain = {
        key: use
        for key, use in products(graph).items()
        if use.view.is_whole and use.view.exact and len(use.site) == 1
    }
    if not plain:
        pytest.skip("all products are in loops or calls")
    _, found = capture(fn, Statistic(lambda x: x), where=lambda u: u in plain.values())(
        params, *inputs
    )
    for key, use in plain.items():
        (operands, expected), matrix = (
            _at(graph, use, params, inputs),
            to_matrix(use, leaves[key[0]]),
        )
        result = np.asarray(found[key].astype(np.float32) @ matrix, np.float64)
        rtol = 1e-4 if operands[0].dtype == np.float32 else 1e-2
        np.testing.assert_allclose((result**2).sum(), (expected**2).sum(), rtol=rtol)


def _at(graph, use, params, inputs):
    """The operands and the result of an equation of the function itself."""
    jaxpr, consts = graph.function
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, jax.tree.leaves((params, inputs)), strict=True)
    for equation in jaxpr.eqns[: use.site[0] + 1]:
        operands = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        values |= zip(equation.outvars, bound(equation, operands), strict=True)
    return operands, np.asarray(values[equation.outvars[0]], np.float64)

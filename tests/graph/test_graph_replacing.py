"""Products in other hands: the same by matrices, by factors and codes as by the whole weight."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import program
from test_graph_view import SHAPES, STEPS
from zoo import COMPILED, net
from zoo_plain import numbers

from wlab import tree
from wlab.graph import (
    Product,
    before,
    from_matrix,
    matmul,
    products,
    read,
    replace,
    to_matrix,
)
from wlab.graph.entries import arranged_as, entries_of, sizes_taken, taken
from wlab.graph.evaluating import Plan, evaluate
from wlab.graph.held import Held
from wlab.graph.view import of_leaf
from wlab.quantization import dequantize, int8, quantize

by_matrices = matmul(lambda x, w: jnp.einsum("...nk,...km->...nm", x, w))


def close(found: Any, expected: Any, within: float = 1e-6) -> None:
    """Leaf by leaf, beside the largest number."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=within * np.abs(b).max(), rtol=0),
        found,
        expected,
    )


@pytest.mark.parametrize("name", COMPILED)
def test_a_function_computed_in_matrices_is_the_function(name: str):
    fn, params, inputs = net(name)
    graph, met = read(fn, params, *inputs), set()
    within = 4e-3 if name == "plain control flow" else 1e-6  # of bfloat16, rounded here or there

    def operation(product: Product) -> jax.Array:
        met.add(product.use.site)
        return by_matrices(product)

    found = jax.jit(replace(graph, [(".*", operation)]))(params, *inputs)
    close(found, jax.jit(fn)(params, *inputs), within)
    assert met == {use.site for use in products(graph).values()}


@pytest.mark.parametrize(
    "name",
    ["plain scan, checkpointed", "equinox pictures", pytest.param("llama", marks=pytest.mark.long)],
)
def test_its_gradients_are_those_of_the_function(name: str):
    fn, params, inputs = net(name)
    run = replace(read(fn, params, *inputs), [(".*", by_matrices)])
    over = (0, 1) if jnp.issubdtype(inputs[0].dtype, jnp.inexact) else 0

    def gradient(f: Callable[..., Any]) -> Any:
        return jax.jit(jax.grad(lambda p, x: (f(p, x) ** 2).sum(), over))(params, *inputs)

    close(gradient(run), gradient(fn), 1e-5)


def low_rank(product: Product) -> jax.Array:
    """x W + (x A) B, of what stands in the weight's place."""
    x, (base, a, b) = product.rows, product.weight
    return product.result(x @ product.matrix(base) + (x @ a) @ b)


def convolution(w: jax.Array, x: jax.Array, **options: Any) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 2), "SAME", dimension_numbers=numbers, **options)


def layers(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


def one_by_one(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.tanh(x @ w[0]) @ w[1])


def layer(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sin(x @ w)


with_tangent = jax.custom_jvp(layer)
with_tangent.defjvp(lambda given, moved: (layer(*given), layer(*moved)))
with_derivative = jax.custom_vjp(layer)
with_derivative.defvjp(lambda w, x: (layer(w, x), (w, x)), lambda kept, g: kept)


def carried(w: jax.Array, x: jax.Array) -> jax.Array:
    turn = lambda i, c: (jnp.tanh(c[0] @ c[1].T), c[1])  # noqa: E731
    x, w = jax.lax.fori_loop(0, 2, turn, (x, w.T))
    return x @ w.T


def while_small(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda x: jnp.abs(x).max() < 9, lambda x: 3 * (x @ w), x)


def either(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: jnp.sin(x) @ w.T, x)


# A leaf's shape, the function, the input's shape, the axes of A and B, and the leaf of A B.
FACTORED = {
    "dense": ((6, 8), lambda w, x: x @ w, (3, 6), (6, 8), lambda ab: ab),
    "outputs first": ((8, 6), lambda w, x: x @ w.T, (3, 6), (6, 8), lambda ab: ab.T),
    "on the left": ((6, 8), lambda w, x: w.T @ x.T, (3, 6), (6, 8), lambda ab: ab),
    "grouped queries": (
        (6, 2, 2, 4),
        lambda w, x: jnp.einsum("btd,dghk->bgthk", x, w),
        (2, 3, 6),
        (6, 16),
        lambda ab: ab.reshape(6, 2, 2, 4),
    ),
    "heads to width": (
        (2, 3, 8),
        lambda w, x: jnp.einsum("thk,hkd->td", x, w),
        (5, 2, 3),
        (6, 8),
        lambda ab: ab.reshape(2, 3, 8),
    ),
    "experts": (
        (4, 6, 8),
        lambda w, x: jnp.einsum("ned,edf->nef", x, w),
        (3, 4, 6),
        (4, 6, 8),
        lambda ab: ab,
    ),
    "outputs in another order": (
        (6, 4, 3),
        lambda w, x: x @ w.transpose(0, 2, 1).reshape(6, 12),
        (3, 6),
        (6, 12),
        lambda ab: ab.reshape(6, 4, 3),
    ),
    "inputs in another order": (
        (2, 4, 3),
        lambda w, x: x @ w.transpose(2, 0, 1).reshape(6, 4),
        (3, 6),
        (6, 4),
        lambda ab: ab.reshape(2, 3, 4).transpose(0, 2, 1),
    ),
    "an ensemble in another order": (
        (2, 3, 4, 5),
        lambda w, x: jnp.einsum("enk,ekf->enf", x, w.transpose(1, 0, 2, 3).reshape(6, 4, 5)),
        (6, 7, 4),
        (2, 3, 4, 5),
        lambda ab: ab,
    ),
    "convolution": (
        (3, 3, 4, 6),
        convolution,
        (2, 5, 4, 4),
        (36, 6),
        lambda ab: ab.reshape(3, 3, 4, 6),
    ),
    "layers in a scan": ((3, 6, 6), layers, (2, 6), (3, 6, 6), lambda ab: ab),
    "layers one by one": ((2, 6, 6), one_by_one, (2, 6), (2, 6, 6), lambda ab: ab),
    "an open loop": ((6, 6), while_small, (2, 6), (6, 6), lambda ab: ab),
    "carried by a loop as it is": ((6, 6), carried, (2, 6), (6, 6), lambda ab: ab),
    "checkpointed": ((6, 8), jax.checkpoint(layer), (3, 6), (6, 8), lambda ab: ab),
    "with a derivative of its own": ((6, 8), with_derivative, (3, 6), (6, 8), lambda ab: ab),
    "with a tangent of its own": ((6, 8), with_tangent, (3, 6), (6, 8), lambda ab: ab),
}


@pytest.mark.parametrize("name", FACTORED)
def test_factors_beside_a_weight_are_the_weight_with_their_product(name: str):
    shape, fn, of_input, (*batch, rows, columns), leaf_of = FACTORED[name]
    w, x = numbers(shape, 1), numbers(of_input, 2)
    a, b = numbers((*batch, rows, 2), 3), numbers((*batch, 2, columns), 4)
    run = jax.jit(replace(read(fn, w, x), [("", low_rank)]))
    close(run((w, a, b), x), jax.jit(fn)(w + leaf_of(a @ b), x), 1e-5)


def test_a_branch_has_its_own_matrix_of_the_factors():
    """One branch multiplies with the weight, the other with its transpose."""
    w, a, b = numbers((6, 6), 1), numbers((6, 2), 2), numbers((2, 6), 3)

    def operation(product: Product) -> jax.Array:
        base, a, b = product.weight
        a, b = (a, b) if product.use.in_axes == (0,) else (b.T, a.T)
        return product.result(product.rows @ product.matrix(base) + product.rows @ a @ b)

    for x in (jnp.ones((2, 6)), -jnp.ones((2, 6))):
        run = replace(read(either, w, x), [("", operation)])
        close(run((w, a, b), x), either(w + a @ b, x), 1e-5)


@pytest.mark.parametrize("name", ["llama", "linen scan", "haiku convolutions"])
def test_factors_in_a_whole_network(name: str):
    fn, params, inputs = net(name)
    graph, leaves = read(fn, params, *inputs), tree.leaves(params)
    once = {path: use for (path, _), use in products(graph).items() if len(graph.of(path)) == 1}
    held, added = {}, {}
    for seed, (path, use) in enumerate(once.items()):
        *batch, rows, columns = to_matrix(use, leaves[path]).shape
        a, b = numbers((*batch, rows, 2), seed), numbers((*batch, 2, columns), seed + 1)
        held[path] = (leaves[path], a, b)
        added[path] = leaves[path] + from_matrix(use, a @ b)
    rules = [(path, low_rank) for path in once]
    run = jax.jit(replace(graph, [*rules, (".*", None)]))
    found = run(tree.replace(params, held), *inputs)
    close(found, jax.jit(fn)(tree.replace(params, added), *inputs), 1e-5)
    assert len(once) >= 3


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("order", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "CNHW")])
def test_a_convolution_is_a_product_of_patches(groups: int, order: tuple[str, str, str]):
    sizes = {"N": 2, "H": 5, "W": 4, "C": 8, "I": 8 // groups, "O": 12}
    window = {**sizes, "H": 3, "W": 2}
    x = numbers(tuple(sizes[i] for i in order[0]), 1)
    w = numbers(tuple(window[i] for i in order[1]), 2)

    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        options = {"dimension_numbers": order, "feature_group_count": groups}
        return jax.lax.conv_general_dilated(x, w, (2, 1), [(1, 0), (1, 2)], **options)

    close(replace(read(fn, w, x), [(".*", by_matrices)])(w, x), fn(w, x))


GROUPED = {
    "reversed": ((3, 3, 2, 12), lambda w: w[..., ::-1]),
    "after their outputs": ((3, 3, 2, 6, 2), lambda w: w.swapaxes(3, 4).reshape(3, 3, 2, 12)),
}


@pytest.mark.parametrize("name", GROUPED)
def test_groups_of_channels_in_another_order_than_the_leafs(name: str):
    """Rows and the matrix of a product go together; `to_matrix` of the leaf alone can't."""
    shape, arrange = GROUPED[name]
    w, x = numbers(shape, 1), numbers((2, 5, 4, 4), 2)
    fn = lambda w, x: convolution(arrange(w), x, feature_group_count=2)  # noqa: E731
    graph = read(fn, w, x)
    close(replace(graph, [("", by_matrices)])(w, x), fn(w, x))
    with pytest.raises(ValueError, match="groups of channels are in another order"):
        to_matrix(graph.uses[0], w)


@settings(deadline=None, max_examples=15)
@given(SHAPES, st.lists(st.sampled_from(STEPS), max_size=5), st.data())
def test_entries_are_arranged_as_numpy_does_and_back(shape, steps, data):
    leaf = x = np.arange(np.prod(shape)).reshape(shape)
    view = of_leaf("w", shape)
    for step in steps:
        x, there = step(data, x, view)
        if there is None:
            return
        view = there
    entries = taken(view, jnp.asarray(leaf))
    assert entries.shape == sizes_taken(view)
    np.testing.assert_array_equal(arranged_as(view, entries), x)
    np.testing.assert_array_equal(entries_of(view, jnp.asarray(x)), entries)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_random_functions_computed_in_matrices(seed: int):
    fn, params, inputs = program(seed)
    run = replace(read(fn, params, *inputs), [(".*", by_matrices)])
    close(run(params, *inputs), fn(params, *inputs))


# Of a leaf of shape (4, 6), what an input is multiplied with.
ARRANGED = {
    "transposed": lambda w: w.T,
    "backwards": lambda w: w[::-1, ::-1].T,
    "heads": lambda w: w.reshape(4, 2, 3).transpose(2, 1, 0).reshape(6, 4),
    "some rows": lambda w: w[1:3].T,
    "every other row": lambda w: w[::2].T,
    "every other row, backwards": lambda w: w[::-2].T,
    "one row": lambda w: w[2][:, None],
    "two of three": lambda w: w.reshape(4, 2, 3)[:, :, :2].reshape(4, 4).T,
    "repeated": lambda w: w[:, None].repeat(3, 1).reshape(12, 6).T,
    "cast": lambda w: w.astype(jnp.bfloat16).astype(jnp.float32).T,
}


@pytest.mark.parametrize("name", ARRANGED)
def test_another_array_goes_where_the_leaf_would(name: str):
    """As one that was read, and as one that the function can't take: of another dtype."""
    w, arrange = numbers((4, 6), 1), ARRANGED[name]
    x = numbers((3, arrange(w).shape[0]), 2)
    fn = lambda w, x: x @ arrange(w)  # noqa: E731
    graph = read(fn, w, x)
    assert not graph.uses[0].opaque
    w = jnp.round(8 * w)
    twice = replace(graph, [("", lambda product: product.apply(weight=2 * product.weight))])
    close(twice(w, x), 2 * fn(w, x))
    codes = w.astype(jnp.int8)
    close(replace(graph, [("", lambda p: p.apply(weight=p.weight))])(codes, x), fn(w, x))
    by_codes = matmul(lambda x, w: x @ w.astype(jnp.float32))
    close(replace(graph, [("", by_codes)])(codes, x), fn(w, x))


def test_packed_codes_stand_where_a_weight_was():
    """Those of a scan are cut with it, layer by layer."""
    fn, params, inputs = net("plain scan")
    graph = read(fn, params, *inputs)
    names = [f"blocks/{name}" for name in ("qkv", "o", "up", "down")]
    format = int8(group_size=8)
    leaves = tree.leaves(params)
    pack, unpack = jax.jit(jax.vmap(lambda w: quantize(w, format))), jax.jit(jax.vmap(dequantize))
    packed = {path: pack(leaves[path]) for path in names}
    plain = {path: unpack(q) for path, q in packed.items()}
    operation = matmul(lambda x, q: x @ dequantize(q))
    run = replace(graph, [("blocks/[a-z]*", operation), (".*", None)])
    found = jax.jit(run)(tree.replace(params, packed), *inputs)
    close(found, jax.jit(fn)(tree.replace(params, plain), *inputs))


def rounded(x: jax.Array) -> jax.Array:
    return jnp.round(16 * x) / 16


def test_operands_rounded_before_chosen_products_as_by_hand():
    fn, params, inputs = net("plain mlp")
    (x,) = inputs
    run = replace(read(fn, params, x), [("down/kernel", before(rounded)), (".*", None)])
    up, down = (jax.tree.map(np.asarray, params[name]) for name in ("up", "down"))
    hidden = np.maximum(np.asarray(x) @ up["kernel"] + up["bias"], 0)
    close(run(params, x), np.round(16 * hidden) / 16 @ down["kernel"])


def test_operands_rounded_before_convolutions_as_by_hand():
    params = {"one": numbers((3, 3, 4, 6), 1), "two": numbers((3, 3, 6, 5), 2)}
    x = numbers((2, 5, 4, 4), 3)

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return convolution(p["two"], jax.nn.relu(convolution(p["one"], x)))

    def by_hand(p: Any, x: jax.Array) -> jax.Array:
        return convolution(p["two"], rounded(jax.nn.relu(convolution(p["one"], rounded(x)))))

    close(replace(read(fn, params, x), [(".*", before(rounded))])(params, x), by_hand(params, x))


def test_a_weight_computed_from_leaves_keeps_its_product():
    """Masked: both leaves are in the one product, which is met once."""
    params, x = {"w": numbers((6, 8), 1), "mask": jnp.eye(6, 8)}, numbers((3, 6), 2)
    fn = lambda p, x: x @ (p["w"] * p["mask"])  # noqa: E731
    run = replace(read(fn, params, x), [(".*", before(rounded))])
    close(run(params, x), rounded(x) @ (params["w"] * params["mask"]))


def test_every_use_of_a_shared_leaf_is_met():
    fn = lambda w, x: jnp.tanh(x @ w) @ w.T  # noqa: E731
    w, x = numbers((6, 8), 1), numbers((3, 6), 2)
    twice = matmul(lambda x, w: 2 * x @ w)
    close(replace(read(fn, w, x), [("", twice)])(w, x), jnp.tanh(2 * x @ w) @ w.T * 2)


def test_a_table_is_replaced_in_its_product_alone():
    fn = lambda w, tokens: w[tokens] @ w.T  # noqa: E731
    w, tokens = numbers((7, 4), 1), jnp.arange(3)
    run = replace(read(fn, w, tokens), [("", matmul(lambda x, w: 0 * x @ w + x.sum()))])
    close(run(w, tokens), jnp.full((3, 7), w[tokens].sum()))


def test_gradients_reach_what_stands_in_a_weights_place():
    w, x = numbers((3, 6, 6), 1), numbers((2, 6), 2)
    a, b = numbers((3, 6, 2), 3), numbers((3, 2, 6), 4)
    run = replace(read(layers, w, x), [("", low_rank)])
    found = jax.grad(lambda held, x: run(held, x).sum(), (0, 1))((w, a, b), x)
    whole = lambda held, x: layers(held[0] + held[1] @ held[2], x).sum()  # noqa: E731
    close(found, jax.grad(whole, (0, 1))((w, a, b), x), 1e-5)


def test_derivatives_of_its_own_are_kept_beside_a_product():
    @jax.custom_vjp
    def straight_through(x: jax.Array) -> jax.Array:
        return jnp.round(x)

    straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
    fn = lambda w, x: straight_through(4 * (x @ w)).sum()  # noqa: E731
    w, x = numbers((6, 8), 1), numbers((3, 6), 2)
    found = jax.grad(replace(read(fn, w, x), [("", by_matrices)]))(w, x)
    close(found, np.broadcast_to(4 * x.sum(0)[:, None], (6, 8)))


def test_other_shapes_of_inputs_and_batches_by_vmap():
    fn, params, (x,) = net("plain mlp")
    run = replace(read(fn, params, x), [(".*kernel", by_matrices), (".*", None)])
    more = numbers((2, 5, 8), 6)
    close(jax.jit(run)(params, more[0]), jax.jit(fn)(params, more[0]))
    each, expected = (jax.jit(jax.vmap(f, (None, 0)))(params, more) for f in (run, fn))
    close(each, expected)


def test_a_sharded_batch_gives_what_the_batch_gives():
    fn, params, inputs = net("plain mlp")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    run = jax.jit(replace(read(fn, params, *inputs), [(".*kernel", by_matrices), (".*", None)]))
    x = numbers((4, 8), 6)
    there = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    close(run(params, there), fn(params, x))


def test_other_dtypes_of_leaves_left_alone():
    fn = lambda p, x: x @ p["w"] + p["b"].astype(x.dtype)[None]  # noqa: E731
    params, x = {"w": numbers((6, 8), 1), "b": numbers((8,), 2)}, numbers((3, 6), 3)
    run = replace(read(fn, params, x), [("w", by_matrices), (".*", None)])
    params["b"] = params["b"].astype(jnp.bfloat16)
    close(run(params, x), fn(params, x))


def test_a_result_is_cast_to_what_the_function_goes_on_with():
    fn = lambda w, x: x @ w  # noqa: E731
    w, x = jnp.ones((6, 8), jnp.bfloat16), jnp.ones((3, 6), jnp.bfloat16)
    integers = matmul(lambda x, w: x.astype(jnp.int32) @ w.astype(jnp.int32))
    found = replace(read(fn, w, x), [("", integers)])(w, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, fn(w, x))


def test_rules_that_hit_nothing():
    fn, params, inputs = net("plain mlp")
    graph = read(fn, params, *inputs)
    with pytest.raises(ValueError, match="rule 'kernel' matches no leaf"):
        replace(graph, [("kernel", by_matrices), (".*", None)])
    with pytest.raises(ValueError, match="no rule matches leaf 'down/kernel'"):
        replace(graph, [("up.*", by_matrices)])
    with pytest.raises(ValueError, match="'up/bias' is in no product"):
        replace(graph, [(".*bias", by_matrices), (".*", None)])


def test_a_product_within_an_operation_that_is_not_known():
    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.custom_linear_solve(lambda v: w @ v, x, lambda product, b: product(b))

    with pytest.raises(ValueError, match=r"'' is in no product(.|\n)*custom_linear_solve, opaque"):
        replace(read(fn, jnp.eye(4), jnp.eye(4)), [("", by_matrices)])


# Functions of a leaf that need it as it was, and what the refusal says.
NEEDED = {
    "another use": (lambda w, x: x @ w + w, "its add is left in place"),
    "returned": (lambda w, x: (x @ w, w), "its output is left in place"),
    "computed": (lambda w, x: x @ jnp.sin(w), "something computed from it"),
    "carried": (
        lambda w, x: x @ w + jax.lax.fori_loop(0, 2, lambda i, w: w + 1, w),
        "its scan is left in place",
    ),
    "out of a branch": (
        lambda w, x: x @ w + x @ jax.lax.cond(x.sum() > 0, lambda w: w.T, lambda w: w, w),
        "its cond is left in place",
    ),
    "out of a loop": (
        lambda w, x: x @ w + jax.lax.scan(lambda c, row: (c, row[::-1]), 0, w)[1],
        "its scan is left in place",
    ),
    "another axis": (
        lambda w, x: jax.lax.scan(lambda x, column: (x, x @ column), x, w.T)[1],
        "a loop runs over its axes",
    ),
    "rows of a stack": (lambda w, x: x[:, :1] @ w[0][None], "not every array there begins with"),
}


@pytest.mark.parametrize("name", NEEDED)
def test_something_else_is_refused_where_the_leaf_is_needed(name: str):
    fn, message = NEEDED[name]
    w, x = numbers((4, 4), 1), numbers((4, 4), 2)
    run = replace(read(fn, w, x), [("", lambda product: product.apply(weight=w))])
    with pytest.raises(ValueError, match=message):
        run({"codes": jnp.zeros((2, 2)), "scale": jnp.ones(())}, x)


def test_no_equation_takes_something_held_for_an_array():
    graph = read(lambda w, x: jnp.sin(w.T) @ x, jnp.eye(4), jnp.eye(4))
    with pytest.raises(ValueError, match=r"'' holds something else .* sin needs that array"):
        evaluate(graph.function, [Held({"codes": jnp.eye(2)}, ""), jnp.eye(4)], Plan({}))


LEAVING = {
    "cond": lambda w, x: x @ jax.lax.cond(x.sum() > 0, lambda w: w.T, lambda w: w, w),
    "scan": lambda w, x: x @ jax.lax.scan(lambda c, row: (c, row[::-1]), 0, w)[1],
    "while": lambda w, x: (
        x @ jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, w.T), (0, x))[1]
    ),
}


@pytest.mark.parametrize("name", LEAVING)
def test_a_leaf_that_leaves_a_loop_or_a_branch_is_no_unused_leaf(name: str):
    graph = read(LEAVING[name], numbers((4, 4), 1), numbers((4, 4), 2))
    assert [(use.primitive, use.opaque) for use in graph.uses] == [(name, True)]


def test_each_leaf_that_leaves_by_another_branch_is_told():
    fn = lambda p, x: x @ jax.lax.cond(x.sum() > 0, lambda: p["a"], lambda: p["b"].T)  # noqa: E731
    graph = read(fn, {"a": jnp.eye(4), "b": jnp.eye(4)}, jnp.eye(4))
    assert [(use.path, use.opaque) for use in graph.uses] == [("a", True), ("b", True)]


def test_a_tree_at_a_leaf_left_alone_is_refused():
    fn, params, inputs = net("plain mlp")
    run = replace(read(fn, params, *inputs), [(".*kernel", by_matrices), (".*", None)])
    with pytest.raises(ValueError, match="'up/bias', but its add is left in place"):
        run(tree.replace(params, {"up/bias": (jnp.ones(12), 1)}), *inputs)
    with pytest.raises(ValueError, match="is not the one that was read"):
        run({"up": params["up"]}, *inputs)


def test_shapes_that_do_not_fit():
    fn = lambda w, x: x @ w  # noqa: E731
    w, x = numbers((6, 8), 1), numbers((3, 6), 2)
    graph = read(fn, w, x)
    wrong = {
        r"gave shape \(3, 6\)": lambda product: product.operand,
        r"rows by outputs are \(3, 8\)": matmul(lambda x, w: x),
        r"its operand has shape \(3, 6\)": before(lambda x: x[:1]),
        r"needs an array of shape \(6, 8\), got \(8, 6\)": lambda p: p.apply(weight=w.T),
    }
    for message, operation in wrong.items():
        with pytest.raises(ValueError, match=message):
            replace(graph, [("", operation)])(w, x)
    with pytest.raises(ValueError, match="got none"):
        replace(graph, [("", before(rounded))])({"codes": w}, x)


def test_two_operations_for_one_weight_are_refused():
    params, x = {"w": numbers((6, 8), 1), "mask": jnp.eye(6, 8)}, numbers((3, 6), 2)
    graph = read(lambda p, x: x @ (p["w"] * p["mask"]), params, x)
    run = replace(graph, [("w", by_matrices), ("mask", before(rounded))])
    with pytest.raises(ValueError, match="'mask' and 'w' make one weight"):
        run(params, x)

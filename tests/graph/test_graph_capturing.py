"""Inputs of weights: by hand, against unrolled loops, and by directions that no input has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import COMPILED, net
from zoo_plain import block, numbers

from wlab import tree
from wlab.graph import Statistic, capture, read


def gram(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return jnp.einsum("...nk,...nl->...kl", x, x)


LONG = pytest.mark.long
GRAM, ROWS = Statistic(gram), Statistic(lambda x: x)
UNSEEN = 1e-6  # of the largest eigenvalue: float32 can't tell less from nothing


def columns_first(leaf: np.ndarray, use) -> np.ndarray:
    """The leaf as a matrix whose rows are its entries along the axes that are summed over."""
    stack, axes = use.view.stack, use.in_axes
    rest = [i for i in range(leaf.ndim) if i not in {*stack, *axes}]
    moved = leaf.transpose(*stack, *axes, *rest)
    shape = [leaf.shape[i] for i in stack]
    return moved.reshape(*shape, int(np.prod([leaf.shape[i] for i in axes])), -1)


def back(matrix: np.ndarray, leaf: np.ndarray, use) -> np.ndarray:
    """The leaf from such a matrix."""
    stack, axes = use.view.stack, use.in_axes
    order = [*stack, *axes, *(i for i in range(leaf.ndim) if i not in {*stack, *axes})]
    return matrix.reshape([leaf.shape[i] for i in order]).transpose(np.argsort(order))


def unseen(found: np.ndarray) -> np.ndarray:
    """The projection on the directions in which no input lies."""
    values, vectors = np.linalg.eigh(found.astype(np.float64))
    none = values < UNSEEN * values.max(-1, keepdims=True)
    vectors = vectors * none[..., None, :]
    return vectors @ np.swapaxes(vectors, -1, -2)


@pytest.mark.parametrize("name", COMPILED)
def test_a_weight_may_move_in_directions_that_no_input_has_and_in_no_others(name: str):
    """The whole network's answer is the oracle: it must not notice, and must notice a control."""
    fn, params, inputs = net(name)
    graph, leaves = read(fn, params, *inputs), tree.leaves(params)
    result, found = jax.jit(capture(fn, GRAM))(params, *inputs)
    compiled = jax.jit(fn)

    def change(path: str, leaf: np.ndarray) -> float:
        """By how much the answer moves with a leaf."""
        other = compiled(tree.replace(params, {path: jnp.asarray(leaf)}), *inputs)
        return float(np.abs(np.asarray(other) - np.asarray(result)).max())

    tried = []
    for (path, k), matrix in found.items():
        use, leaf = graph.of(path)[k], np.asarray(leaves[path])
        free = unseen(np.asarray(matrix))
        alone = len(graph.of(path)) == 1 and use.groups == 1
        if not (alone and use.view.is_whole and use.view.exact and free.any()):
            continue
        noise = np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32)
        hidden = back(free @ columns_first(noise, use), leaf, use).astype(np.float32)
        control = noise * np.linalg.norm(hidden) / np.linalg.norm(noise)
        assert change(path, leaf + hidden) < 0.02 * change(path, leaf + control), path
        tried.append(path)
    assert tried or name == "plain computed weights"  # none of those is a leaf as it is


ARRANGED = {
    "transposed": ((4, 6), lambda w: w.T),
    "heads": ((4, 2, 3), lambda w: w.reshape(4, 6).T),
    "two axes summed over, in the other order": (
        (2, 4, 3),
        lambda w: w.transpose(2, 0, 1).reshape(6, 4),
    ),
    "backwards": ((6, 4), lambda w: w[::-1]),
    "cut and put together": (
        (4, 6),
        lambda w: w.reshape(4, 3, 2).transpose(2, 1, 0).reshape(6, 4),
    ),
}


@pytest.mark.parametrize("name", ARRANGED)
def test_columns_are_in_the_order_of_the_leaf(name: str):
    shape, arrange = ARRANGED[name]
    w, x = numbers(shape, 1), numbers((3, 6), 2)
    fn = lambda w, x: x @ arrange(w)  # noqa: E731
    y, found = capture(fn, ROWS)(w, x)
    (use,) = read(fn, w, x).uses
    matrix = columns_first(np.asarray(w), use)
    np.testing.assert_allclose(
        (np.asarray(found["", 0]) @ matrix).sum(1), np.asarray(y).sum(1), rtol=1e-5
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "SAME"},
        {"padding": "VALID", "window_strides": (2, 1)},
        {"padding": [(1, 2), (0, 1)], "rhs_dilation": (2, 1)},
        {"padding": [(2, 2), (2, 2)], "lhs_dilation": (2, 2)},
    ],
)
def test_rows_of_a_convolution_are_its_patches(groups: int, options: dict):
    w, x = numbers((3, 2, 8 // groups, 12), 1), numbers((2, 6, 5, 8), 2)
    options = {"window_strides": (1, 1), **options}

    def fn(w, x):
        return jax.lax.conv_general_dilated(
            x,
            w,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            **options,
        )

    y, found = capture(fn, ROWS)(w, x)
    rows = np.asarray(found["", 0]).reshape(groups, -1, 48 // groups)
    parts = np.asarray(w).reshape(-1, groups, 12 // groups).transpose(1, 0, 2)
    expected = (rows @ parts).transpose(1, 0, 2).reshape(y.shape)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_gram_matrix_is_that_of_the_layer_before():
    fn, params, inputs = net("plain mlp")
    _, found = jax.jit(capture(fn, GRAM))(params, *inputs)
    x = np.asarray(inputs[0])
    hidden = np.maximum(x @ params["up"]["kernel"] + params["up"]["bias"][None], 0)
    np.testing.assert_allclose(found["up/kernel", 0], x.T @ x, rtol=1e-5)
    np.testing.assert_allclose(found["down/kernel", 0], hidden.T @ hidden, rtol=1e-5)


@pytest.mark.parametrize("name", ["plain scan", "plain scan, checkpointed"])
def test_layers_of_a_scan_have_the_statistics_of_layers_written_out(name: str):
    fn, params, inputs = net(name)
    _, found = jax.jit(capture(fn, GRAM))(params, *inputs)

    def written_out(p, tokens):
        x = p["embed"][tokens]
        for layer in p["blocks"]:
            x = block(layer, x)
        return x @ p["embed"].T

    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(3)]
    _, apart = jax.jit(capture(written_out, GRAM))(params | {"blocks": layers}, *inputs)
    assert len(apart) == 3 * 4 + 1
    for leaf in ("qkv", "o", "up", "down"):
        expected = jnp.stack([apart[f"blocks/{i}/{leaf}", 0] for i in range(3)])
        np.testing.assert_allclose(found[f"blocks/{leaf}", 0], expected, rtol=1e-5, atol=1e-5)


def test_a_weight_in_a_loop_has_the_sum_over_its_turns():
    def fn(w, x):
        return jax.lax.fori_loop(0, 3, lambda i, x: x @ w, x)

    _, found = capture(fn, GRAM)(jnp.eye(4) / 2, jnp.ones((2, 4)))
    np.testing.assert_allclose(np.diag(found["", 0]), 2 * (1 + 1 / 4 + 1 / 16))


def test_a_weight_in_an_open_loop_likewise():
    def fn(w, x):
        grown = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] @ w), (0, x))
        return grown[1]

    _, found = capture(fn, GRAM)(jnp.eye(4) / 2, jnp.ones((2, 4)))
    np.testing.assert_allclose(np.diag(found["", 0]), 2 * (1 + 1 / 4 + 1 / 16))


def test_ranges_are_combined_by_the_largest():
    def fn(w, x):
        return jax.lax.fori_loop(0, 3, lambda i, x: x @ w, x)

    largest = Statistic(lambda x: jnp.abs(x).max(-2), jnp.maximum, -jnp.inf)
    _, found = capture(fn, largest)(2 * jnp.eye(4), jnp.ones((2, 4)))
    np.testing.assert_array_equal(found["", 0], np.full(4, 4.0))


def test_loops_in_loops_stack_what_they_run_over_and_add_up_the_rest():
    """Three layers, each run twice, over a weight of its own and one that all share."""

    def fn(p, x):
        def layer(x, w):
            return jax.lax.fori_loop(0, 2, lambda i, x: (x @ w) @ p["all"], x), None

        return jax.lax.scan(layer, x, p["each"])[0]

    params = {"all": numbers((4, 4), 1), "each": numbers((3, 4, 4), 2)}
    x = numbers((2, 4), 3)
    _, found = capture(fn, GRAM)(params, x)
    each, shared = np.zeros((3, 4, 4)), np.zeros((4, 4))
    for i in range(3):
        for _ in range(2):
            each[i] += x.T @ x
            x = x @ params["each"][i]
            shared += x.T @ x
            x = x @ params["all"]
    np.testing.assert_allclose(found["each", 0], each, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found["all", 0], shared, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("taken", [True, False])
def test_only_the_branch_that_is_taken_sees_anything(taken: bool):
    def fn(p, x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ p["yes"], lambda x: x @ p["no"], x)

    x = jnp.ones((2, 4)) if taken else -jnp.ones((2, 4))
    _, found = jax.jit(capture(fn, GRAM))({"yes": jnp.eye(4), "no": jnp.eye(4)}, x)
    seen = {path: float(matrix.sum()) for (path, _), matrix in found.items()}
    assert seen == {"yes": 32.0 * taken, "no": 32.0 * (not taken)}


def test_two_batches_add_up_to_both():
    fn, params, _ = net("plain mlp")
    a, b = numbers((3, 8), 5), numbers((2, 8), 6)
    apart = [capture(fn, GRAM)(params, x)[1] for x in (a, b)]
    _, both = capture(fn, GRAM)(params, jnp.concatenate([a, b]))
    added = jax.tree.map(jnp.add, *apart)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), added, both)


@pytest.mark.parametrize(
    "name", ["plain scan", *(pytest.param(n, marks=LONG) for n in ("linen transformer", "resnet"))]
)
def test_gradients_go_through(name: str):
    fn, params, inputs = net(name)
    run = capture(fn, GRAM)
    found = jax.grad(lambda p: (run(p, *inputs)[0] ** 2).sum())(params)
    expected = jax.grad(lambda p: (fn(p, *inputs) ** 2).sum())(params)
    for path, leaf in tree.leaves(found).items():
        wanted = np.asarray(tree.leaves(expected)[path])
        np.testing.assert_allclose(leaf, wanted, atol=1e-5 * np.abs(wanted).max())


def test_batch_axes_of_experts_are_in_the_order_of_the_leaf():
    """An ensemble whose members the leaf holds in two axes, the product in the other order."""

    def fn(w, x):
        members = w.transpose(1, 0, 2, 3).reshape(6, 4, 5)
        return jnp.einsum("enk,ekf->enf", x, members)

    w, x = numbers((2, 3, 4, 5), 1), numbers((6, 7, 4), 2)
    _, found = capture(fn, ROWS)(w, x)
    expected = np.asarray(x).reshape(3, 2, 7, 4).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(found["", 0], expected)


def test_one_may_choose_and_must_hit():
    fn, params, inputs = net("plain mlp")
    _, found = capture(fn, GRAM, where=lambda use: use.path.startswith("up"))(params, *inputs)
    assert [*found] == [("up/kernel", 0)]
    with pytest.raises(ValueError, match="no chosen leaf is multiplied"):
        capture(fn, GRAM, where=lambda use: False)(params, *inputs)


def test_a_sharded_batch_has_the_statistics_of_the_batch():
    fn, params, inputs = net("linen transformer")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.NamedSharding(mesh, jax.P("data"))
    _, there = jax.jit(capture(fn, GRAM))(params, *(jax.device_put(x, spec) for x in inputs))
    _, here = jax.jit(capture(fn, GRAM))(params, *inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), there, here)

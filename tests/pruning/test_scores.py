"""Scores against closed forms, explicit Hessians and loops in NumPy; what has none is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from digits_network import learnt, logits, loss
from jax.flatten_util import ravel_pytree

from wlab import graph, pruning, tree
from wlab.pruning import PerOutput, prune, scores


def numbers(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def linear(params, slopes):
    return jnp.sum(slopes * params["w"])


def squared(params, x, y):
    """A loss of a network with a lookup, an integer leaf and a vector."""
    hidden = jnp.tanh(
        x @ params["up"] + params["bias"][None] + params["table"][params["row"]][None]
    )
    return jnp.mean((hidden @ params["down"] - y) ** 2)


@pytest.fixture
def params():
    return {
        "up": numbers(4, 5),
        "down": numbers(5, 3, seed=1),
        "bias": numbers(5, seed=2),
        "table": numbers(6, 5, seed=3),
        "row": jnp.int32(2),
    }


@pytest.fixture
def batches():
    return [(numbers(7, 4, seed=i), numbers(7, 3, seed=i + 9)) for i in range(3)]


def test_magnitude_is_the_size_in_the_dtype_of_the_leaf(params):
    found = scores.magnitude(params | {"up": params["up"].astype(jnp.bfloat16)})
    assert set(found) == {"up", "down", "bias", "table"}
    assert found["up"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["down"], np.abs(params["down"]))


def test_taylor_is_what_a_linear_loss_changes_by():
    w, batches = numbers(3, 4), [(numbers(3, 4, seed=i),) for i in (1, 2, 3)]
    found = scores.taylor(linear, batches)({"w": w})["w"]
    for place in np.ndindex(3, 4):
        without = {"w": w.at[place].set(0)}
        change = np.mean([linear(without, *b) - linear({"w": w}, *b) for b in batches])
        np.testing.assert_allclose(found[place], abs(change), rtol=1e-4, atol=1e-6)


def test_snip_ranks_as_its_paper_writes_it(params, batches):
    found = scores.snip(squared, batches)(params)
    gates = {path: jnp.ones(leaf.shape) for path, leaf in found.items()}

    def gated(gates):  # the connection sensitivity itself: the gradient of gates at one
        new = params | {path: params[path] * gate for path, gate in gates.items()}
        return jnp.mean(jnp.stack([squared(new, *batch) for batch in batches]))

    wanted = {path: jnp.abs(slope) for path, slope in jax.grad(gated)(gates).items()}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)


def test_grasp_is_weights_times_an_explicit_hessian_times_the_gradient(params, batches):
    flat, back = ravel_pytree({p: leaf for p, leaf in params.items() if p != "row"})

    def mean(flat):
        new = params | back(flat)
        return jnp.mean(jnp.stack([squared(new, *batch) for batch in batches]))

    gradient, hessian = map(np.asarray, (jax.grad(mean)(flat), jax.hessian(mean)(flat)))
    wanted = back(jnp.asarray(np.asarray(flat) * (hessian @ gradient)))
    found = scores.grasp(squared, batches)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, wanted)


def test_grasp_removes_what_makes_the_gradient_flow_grow():
    a = jnp.array([[1.0, 0.6], [0.6, 1.0]])
    w = jnp.array([3.0, -2.0])  # Aw = (1.8, -0.2), A²w = (1.68, 0.88)

    def quadratic(params, scale):
        return scale * params["w"] @ a @ params["w"] / 2

    found = scores.grasp(quadratic, [(jnp.float32(1),)])({"w": w})["w"]
    np.testing.assert_allclose(found, [3 * 1.68, -2 * 0.88], rtol=1e-5)

    def flow(w):
        return np.sum(np.square(np.asarray(a) @ w))

    dense = np.array([3.0, -2.0])
    less = [flow(dense * (1 - 1e-4 * np.eye(2)[i])) - flow(dense) for i in range(2)]
    np.testing.assert_allclose(less, -2e-4 * np.asarray(found), rtol=1e-3)
    assert less[1] > 0 > less[0]


def test_fisher_is_what_a_quadratic_loss_grows_by_at_its_minimum():
    w, curvature = numbers(3, 4), jnp.exp(numbers(3, 4, seed=1))
    away = 1 / jnp.sqrt(curvature)  # as far from the examples as they have information
    examples = [(jnp.stack([w + away, w - away]),), (jnp.stack([w - away, w + away]),)]

    def quadratic(params, x):
        return jnp.mean(jnp.sum(curvature[None] * (params["w"][None] - x) ** 2 / 2, axis=(1, 2)))

    found = scores.fisher(quadratic, examples)({"w": w})["w"]
    for place in np.ndindex(3, 4):
        without = {"w": w.at[place].set(0)}
        grown = quadratic(without, *examples[0]) - quadratic({"w": w}, *examples[0])
        np.testing.assert_allclose(found[place], grown, rtol=1e-3, atol=1e-4)


def test_fisher_squares_the_gradient_of_each_example(params, batches):
    rows = [(x[None], y[None]) for batch in batches for x, y in zip(*batch, strict=True)]
    slopes = [
        jax.grad(lambda w, row=row: squared(params | {"up": w}, *row))(params["up"]) for row in rows
    ]
    wanted = np.mean(np.square(np.stack(slopes)), axis=0) * np.square(params["up"]) / 2
    found = scores.fisher(squared, batches)(params)["up"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def forward(params, x):
    for name in sorted(params)[:-1]:
        x = jax.nn.relu(x @ params[name])
    return x @ params[sorted(params)[-1]]


LAYERS = {"a": numbers(6, 8), "b": numbers(8, 5, seed=1), "c": numbers(5, 3, seed=2)}
ONE = (jax.ShapeDtypeStruct((1, 6), jnp.float32),)


def test_synflow_is_the_product_of_the_layers_and_is_conserved():
    found = jax.tree.map(np.asarray, scores.synflow(forward, ONE)(LAYERS))
    a, b, c = (np.abs(np.asarray(leaf, np.float64)) for leaf in LAYERS.values())
    into, out_of = (
        [np.ones(6), np.ones(6) @ a, np.ones(6) @ a @ b],
        [b @ c @ np.ones(3), c @ np.ones(3)],
    )
    for name, layer, start, end in zip("abc", (a, b, c), into, [*out_of, np.ones(3)], strict=True):
        np.testing.assert_allclose(found[name], start[:, None] * layer * end[None], rtol=1e-5)
    np.testing.assert_allclose(found["a"].sum(0), found["b"].sum(1), rtol=1e-5)
    np.testing.assert_allclose(found["b"].sum(0), found["c"].sum(1), rtol=1e-5)


def test_synflow_in_rounds_keeps_every_layer_where_magnitude_loses_one():
    skewed = LAYERS | {"b": LAYERS["b"] * 1e-3}
    flow = scores.synflow(forward, ONE)
    kept = tree.nonzero(prune(skewed, 0.1, allocation=pruning.globally, score=flow, rounds=20))
    assert sum(kept.values()) == 10
    assert min(kept.values()) > 0
    assert tree.nonzero(prune(skewed, 0.1, allocation=pruning.globally))["b"] == 0


def test_synflow_names_a_flow_beyond_float32_and_takes_smaller_inputs():
    large = {name: leaf * 1e15 for name, leaf in LAYERS.items()}
    with pytest.raises(ValueError, match=r"the flow is inf.* smaller or larger `size`"):
        scores.synflow(forward, ONE)(large)
    found = scores.synflow(forward, ONE, size=1e-30)(large)["a"]
    usual = scores.synflow(forward, ONE)(LAYERS)["a"]
    np.testing.assert_allclose(found / np.sum(found), usual / np.sum(usual), rtol=1e-4)
    with pytest.raises(ValueError, match=r"the flow is 0\.0: a layer is empty"):
        scores.synflow(forward, ONE)(LAYERS | {"b": jnp.zeros((8, 5))})


def test_lamp_is_its_loop():
    w = numbers(3, 4)
    found = np.asarray(scores.lamp({"w": w})["w"])
    squares = np.square(np.asarray(w, np.float64))
    for place in np.ndindex(3, 4):
        wanted = squares[place] / squares[squares >= squares[place]].sum()
        np.testing.assert_allclose(found[place], wanted, rtol=1e-5)
    np.testing.assert_allclose(scores.lamp({"w": w * 1e-25})["w"], found, rtol=1e-5)
    np.testing.assert_array_equal(scores.lamp({"w": jnp.zeros((2, 2))})["w"], np.zeros((2, 2)))


def test_lamp_is_an_allocation_that_empties_no_leaf():
    params = {"large": 100 * numbers(20, 20), "small": numbers(20, 20, seed=1)}
    pruned = prune(params, 0.05, score=scores.lamp, allocation=pruning.globally)
    kept = tree.nonzero(pruned)
    assert sum(kept.values()) == 40
    assert min(kept.values()) > 10
    for name, leaf in params.items():  # in a leaf it is magnitude
        alone = prune({name: leaf}, kept[name] / 400)[name]
        np.testing.assert_array_equal(pruned[name], alone)


def test_random_depends_on_the_key_and_the_path_alone(key, params):
    found = scores.random(key)(params)
    alone = scores.random(key)({"up": params["up"]})
    np.testing.assert_array_equal(found["up"], alone["up"])
    other = scores.random(jax.random.key(1))(params)
    assert (found["up"] != other["up"]).all()
    assert not np.array_equal(found["up"], jnp.reshape(found["table"][:4], (4, 5)))


def test_wanda_ranks_as_wanda_and_leaves_lookups_out(params, batches):
    def fn(params, x):
        hidden = jnp.tanh(x @ params["up"] + params["table"][params["row"]][None])
        return hidden @ params["down"]

    inputs = [(x * jnp.array([[0.1, 1, 3, 9]]),) for x, _ in batches]
    score = scores.wanda(fn, inputs)
    assert set(score(params)) == {"up", "down"}
    rules = [("up|down", PerOutput(0.5)), (".*", None)]
    wanted = pruning.wanda(fn, params, inputs, rules)
    jax.tree.map(np.testing.assert_array_equal, prune(params, 1, rules, score=score), wanted)
    with pytest.raises(ValueError, match="the score has nothing for leaf 'table'"):
        prune(params, 0.5, score=score)


def test_wanda_has_no_score_for_a_leaf_that_is_two_matrices():
    params = {"turned": numbers(4, 4), "plain": numbers(4, 4, seed=1)}

    def fn(params, x):
        return x @ params["turned"] @ params["turned"].T @ params["plain"]

    assert set(scores.wanda(fn, [(numbers(3, 4),)])(params)) == {"plain"}


def test_wanda_speaks_the_layout_of_the_leaf():
    w, x = (
        numbers(3, 3, 2, 4),
        numbers(2, 5, 5, 2, seed=1) * jnp.array([1.0, 9.0])[None, None, None],
    )

    def convolve(params, x):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, params["w"], (1, 1), "VALID", dimension_numbers=layout
        )

    found = scores.wanda(convolve, [(x,)])({"w": w})["w"]
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(x), (3, 3), (1, 2))
    norms = np.sqrt(np.square(windows).sum((0, 1, 2)))  # channels, rows, columns
    wanted = np.abs(np.asarray(w)) * norms.transpose(1, 2, 0)[..., None]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


GRADIENTS = [scores.taylor, scores.grasp, scores.fisher]


@pytest.mark.parametrize("make", GRADIENTS)
def test_gradients_are_streamed_and_compiled_once(params, batches, make):
    traced = []

    def counted(params, *batch):
        traced.append(None)
        return squared(params, *batch)

    score = make(counted, batches)
    first = score(params)
    assert set(first) == {"up", "down", "bias", "table"}
    once = len(traced)
    score(params)
    assert len(traced) == once <= 2  # grasp takes a gradient, then a product
    parts = [make(squared, [batch])(params) for batch in batches]
    if make is scores.fisher:  # squares add up over batches; the others' gradients do
        mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *parts)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), first, mean)


@pytest.mark.parametrize("make", GRADIENTS)
def test_half_precision_is_scored_in_single(params, batches, make):
    low = {p: x if p == "row" else x.astype(jnp.bfloat16) for p, x in params.items()}
    few = [jax.tree.map(lambda x: x.astype(jnp.bfloat16), batch) for batch in batches]
    found = make(squared, few)(low)
    assert {leaf.dtype for leaf in found.values()} == {np.dtype("float32")}


def test_scores_of_weights_and_of_a_loss_run_under_jit(params, batches):
    for score in (scores.lamp, scores.taylor(squared, batches)):
        eager, traced = score(params), jax.jit(score)(params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), eager, traced
        )


@pytest.mark.parametrize(
    "make", [scores.taylor, scores.snip, scores.grasp, scores.fisher, scores.wanda]
)
def test_batches_are_a_list_of_tuples(batches, make):
    with pytest.raises(TypeError, match="must be a list of tuples"):
        make(squared, [batches[0][0]])
    with pytest.raises(ValueError, match="there is no batch"):
        make(squared, [])


def test_units_are_scored_by_any_score():
    params, x = {"a": numbers(6, 8), "c": numbers(8, 3, seed=1)}, numbers(4, 6, seed=2)
    groups = graph.groups(graph.read(forward, params, x))
    score = scores.taylor(lambda p, x: jnp.mean(forward(p, x) ** 2), [(x,)])(params)
    found = pruning.unit_scores(groups, score)
    (hidden,) = (units for units in found.values() if len(units) == 8)
    np.testing.assert_allclose(hidden, score["a"].sum(0) + score["c"].sum(1), rtol=1e-5)


@pytest.mark.long
def test_on_digits_every_score_beats_chance(key):
    params, train, test = learnt()
    few = [(train[0][i : i + 100], train[1][i : i + 100]) for i in range(0, 400, 100)]
    ranked = {
        "random": scores.random(key),
        "magnitude": scores.magnitude,
        "lamp": scores.lamp,
        "wanda": scores.wanda(logits, [batch[:1] for batch in few]),
        "taylor": scores.taylor(loss, few),
        "fisher": scores.fisher(loss, few),
    }

    @jax.jit
    def accuracy(params):
        return jnp.mean(jnp.argmax(logits(params, test[0]), axis=-1) == test[1])

    def left(score):  # 816 of 2,720 weights
        return float(accuracy(prune(params, 0.3, score=score, allocation=pruning.globally)))

    found = {name: left(score) for name, score in ranked.items()}
    assert accuracy(params) > 0.93
    assert found.pop("random") < 0.3
    assert min(found.values()) > 0.7, found
    assert max(found, key=found.get) in ("fisher", "wanda"), found

"""Functions within `shard_map`: the same uses, statistics and replacements as without it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_graph_capturing import GRAM
from test_graph_replacing import by_matrices, close
from zoo_plain import numbers

from wlab.graph import Statistic, capture, costs, groups, matmul, read, replace, to_matrix
from wlab.graph.differing import differing

P = jax.P
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit
RANGE = Statistic(lambda x: jnp.abs(x).max(-2), jnp.maximum, -jnp.inf)


def of_mesh(kind: Any = AUTO) -> jax.sharding.Mesh:
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, kind))


def same(x: jax.Array, axis: str) -> jax.Array:
    """On one device, there is nothing to add up."""
    del axis
    return x


class Case(NamedTuple):
    """A function of what it adds up over devices by, and how its parts lie.

    `fn` takes `psum`, so that without devices it is the same function.
    """

    fn: Callable[..., Callable[..., jax.Array]]
    params: Any
    specs: Any
    rows: P = P("data")


def dense(psum: Any) -> Callable[..., jax.Array]:
    def fn(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"]

    return fn


def columns(psum: Any) -> Callable[..., jax.Array]:
    """The hidden units lie on devices; what they give is added up."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return psum(jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"], "model")

    return fn


def layers(psum: Any) -> Callable[..., jax.Array]:
    """Layers of their own weights, each run twice with one that all share, checkpointed."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        @jax.checkpoint
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            return jax.lax.fori_loop(0, 2, lambda i, x: jnp.sin(x @ w) @ p["all"], x), None

        return jax.lax.scan(layer, x, p["each"])[0]

    return fn


def either(psum: Any) -> Callable[..., jax.Array]:
    def fn(p: Any, x: jax.Array) -> jax.Array:
        total = psum(x.sum(), "data")
        return jax.lax.cond(total > 0, lambda x: x @ p["yes"], lambda x: x @ p["no"], x)

    return fn


MLP = {"up": numbers((4, 6), 1), "bias": numbers((1, 6), 2), "down": numbers((6, 4), 3)}
WHOLE = {"up": P(), "bias": P(), "down": P()}
CASES = {
    "rows over devices": Case(dense, MLP, WHOLE),
    "rows over all axes": Case(dense, MLP, WHOLE, P(("data", "model"))),
    "nothing over devices": Case(dense, MLP, WHOLE, P()),
    "hidden units over devices": Case(
        columns, MLP, {"up": P(None, "model"), "bias": P(None, "model"), "down": P("model")}
    ),
    "layers": Case(
        layers,
        {"each": numbers((3, 4, 4), 1), "all": numbers((4, 4), 2)},
        {"each": P(), "all": P()},
    ),
    "branches": Case(
        either,
        {"yes": numbers((4, 4), 1), "no": numbers((4, 4), 2)},
        {"yes": P(None, None), "no": P()},
    ),
}
CUT = "hidden units over devices"
X = numbers((8, 4), 9)


def pair(name: str, kind: Any = AUTO, check: bool = True) -> tuple[Any, Any, Any, Any]:
    """The function over devices, without them, and its parameters and inputs as they lie."""
    fn, params, specs, rows = CASES[name]
    mesh = of_mesh(kind)
    out = P() if rows == P() else P(*rows)
    there = jax.shard_map(
        fn(jax.lax.psum), mesh=mesh, in_specs=(specs, rows), out_specs=out, check_vma=check
    )
    put = lambda x, spec: jax.device_put(x, jax.NamedSharding(mesh, spec))  # noqa: E731
    placed = jax.tree.map(put, params, specs)
    return there, fn(same), placed, put(X, rows)


@pytest.mark.parametrize("name", CASES)
def test_uses_are_those_of_the_function_without_devices(name: str):
    there, here, params, x = pair(name)
    for path in (graph := read(there, params, x)).paths:
        uses, expected = graph.of(path), read(here, params, X).of(path)
        assert len(uses) == len(expected) > 0
        for use, other in zip(uses, expected, strict=True):
            for what in ("primitive", "in_axes", "out_axes", "batch_axes", "fan_in", "fan_out"):
                assert getattr(use, what) == getattr(other, what), (path, what)
            assert (use.view.is_whole, use.view.exact) == (True, True)
            assert (use.view.stack, use.view.loops) == (other.view.stack, other.view.loops)
            if use.contract:
                leaf = jnp.asarray(CASES[name].params[path])
                np.testing.assert_array_equal(to_matrix(use, leaf), to_matrix(other, leaf))


LARGEST = [("rows over devices", RANGE), (CUT, RANGE)]


@pytest.mark.parametrize(("name", "statistic"), [*((name, GRAM) for name in CASES), *LARGEST])
def test_statistics_are_those_of_the_function_without_devices(name: str, statistic: Statistic):
    there, here, params, x = pair(name)
    chosen = lambda use: name != CUT or use.path == "up"  # noqa: E731
    y, found = jax.jit(capture(there, statistic, where=chosen))(params, x)
    result, expected = jax.jit(capture(here, statistic, where=chosen))(CASES[name].params, X)
    assert [*found] == [*expected]
    close((y, found), (result, expected))


@pytest.mark.parametrize(
    ("name", "kind", "check"),
    [("layers", AUTO, False), ("layers", EXPLICIT, True), (CUT, EXPLICIT, False)],
)
def test_statistics_do_not_depend_on_how_devices_are_told_of(name: str, kind: Any, check: bool):
    there, here, params, x = pair(name, kind, check)
    chosen = lambda use: name != CUT or use.path == "up"  # noqa: E731
    found = jax.jit(capture(there, GRAM, where=chosen))(params, x)
    close(found, jax.jit(capture(here, GRAM, where=chosen))(CASES[name].params, X))


def test_devices_within_loops_and_branches():
    mesh, params = of_mesh(EXPLICIT), {"each": numbers((3, 4, 4), 1), "all": numbers((4, 4), 2)}

    def layer(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w)

    def with_layers(layer: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def fn(p: Any, x: jax.Array) -> jax.Array:
            x = jax.lax.scan(lambda x, w: (layer(p["all"], layer(w, x)), None), x, p["each"])[0]
            return jax.lax.cond(x.sum() < 99, lambda x: layer(p["all"], x), lambda x: x, x)

        return fn

    specs = {"mesh": mesh, "in_specs": (P(), P("data")), "out_specs": P("data")}
    there = capture(with_layers(jax.shard_map(layer, **specs)), GRAM)
    whole, rows = (jax.NamedSharding(mesh, spec) for spec in (P(), P("data")))
    found = jax.jit(there)(jax.device_put(params, whole), jax.device_put(X, rows))
    close(found, jax.jit(capture(with_layers(layer), GRAM))(params, X), 2e-6)


@pytest.mark.parametrize("which", ["captured", "replaced"])
def test_gradients_go_through(which: str):
    there, here, params, x = pair(CUT)
    if which == "captured":
        run = lambda p, x: capture(there, RANGE, where=lambda use: use.path == "up")(p, x)[0]  # noqa: E731
    else:
        run = replace(read(there, params, x), [("bias", None), (".*", by_matrices)])

    def gradient(fn: Callable[..., jax.Array]) -> Any:
        return jax.jit(jax.grad(lambda p, x: (fn(p, x) ** 2).sum()))

    close(gradient(run)(params, x), gradient(here)(MLP, X), 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_products_in_matrices_are_those_of_the_function(name: str):
    there, here, params, x = pair(name)
    rules = [("bias", None), (".*", by_matrices)] if "bias" in params else [(".*", by_matrices)]
    found = jax.jit(replace(read(there, params, x), rules))(params, x)
    close(found, jax.jit(here)(CASES[name].params, X))


def test_factors_in_the_place_of_a_leaf_that_every_device_has():
    there, here, params, x = pair("rows over devices")
    a, b = numbers((4, 2), 5), numbers((2, 6), 6)
    low_rank = matmul(lambda x, w: (x @ w[0]) @ w[1])
    run = replace(read(there, params, x), [("up", low_rank), (".*", None)])
    expected = jax.jit(here)({**MLP, "up": a @ b}, X)
    close(jax.jit(run)({**params, "up": (a, b)}, x), expected)


def test_factors_in_the_place_of_a_leaf_that_is_cut_are_refused():
    there, _, params, x = pair(CUT)
    low_rank = matmul(lambda x, w: (x @ w[0]) @ w[1])
    run = replace(read(there, params, x), [("up", low_rank), (".*", None)])
    with pytest.raises(ValueError, match=r"'up', but `shard_map` cuts it over devices"):
        run({**params, "up": (numbers((4, 2), 5), numbers((2, 6), 6))}, x)


def test_a_leaf_that_devices_put_together_is_whole():
    """Weights lie in parts, and are whole only where they are used."""
    mesh, w, x = of_mesh(), numbers((4, 6), 1), X

    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        return x @ jax.lax.all_gather(w, "data", axis=1, tiled=True)

    there = jax.shard_map(fn, mesh=mesh, in_specs=(P(None, "data"), P("data")), out_specs=P("data"))
    (use,) = read(there, w, x).uses
    assert (use.in_axes, use.out_axes, use.view.cuts) == ((0,), (1,), ())
    y, found = jax.jit(capture(there, GRAM))(w, x)
    close((y, found["", 0]), (x @ w, x.T @ x))
    close(jax.jit(replace(read(there, w, x), [("", by_matrices)]))(w, x), x @ w)


REFUSED = {
    "inputs": (lambda w, x: jax.lax.psum(x @ w, "model"), (P("model"), P(None, "model")), P()),
    "other rows": (lambda w, x: x @ w, (P(None, "model"), P("model")), P("model")),
    "experts": (
        lambda w, x: jnp.einsum("nk,ekm->enm", x, w)[0],
        (P("model"), P("model")),
        P("model"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_no_device_has_are_refused(name: str):
    fn, specs, out = REFUSED[name]
    shape = (2, 4, 6) if name == "experts" else (4, 6)
    there = jax.shard_map(fn, mesh=of_mesh(), in_specs=specs, out_specs=out)
    with pytest.raises(ValueError, match=r"cuts axis . of '' over \('model',\)"):
        capture(there, GRAM)(numbers(shape, 1), X)


def test_a_part_that_is_no_part_of_an_axis_is_opaque():
    """Two devices have every second row each."""
    fn = lambda w, x: x @ w  # noqa: E731
    there = jax.shard_map(fn, mesh=of_mesh(), in_specs=(P("model"), P()), out_specs=P("model"))
    strided = lambda w, x: there(w.reshape(3, 2, 4).transpose(1, 0, 2).reshape(6, 4), x)  # noqa: E731
    uses = read(strided, jnp.ones((6, 4)), jnp.ones((5, 3))).uses
    assert [(use.primitive, use.opaque) for use in uses] == [("shard_map", True)]


COLLECTIVES = {
    "as they come": (lambda x: x * 2, {"data"}),
    "added": (lambda x: jax.lax.psum(x, "data"), set()),
    "added over the other": (lambda x: jax.lax.psum(x, "model"), {"data"}),
    "the mean": (lambda x: jax.lax.pmean(x, "data") + 1, set()),
    "the largest": (lambda x: jax.lax.pmax(x, ("data", "model")), set()),
    "put together": (lambda x: jax.lax.all_gather(x, "data", tiled=True), set()),
    "told to differ": (lambda x: jax.lax.pcast(x, "model", to="varying"), {"data"}),
    "by place": (lambda x: x[:, jax.lax.axis_index("model")], {"data", "model"}),
    "handed round": (lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]), {"data"}),
    "scattered": (
        lambda x: jax.lax.psum_scatter(jax.lax.psum(x, "data"), "model", tiled=True),
        {"model"},
    ),
    "by a loop": (
        lambda x: jax.lax.fori_loop(0, 3, lambda i, c: (c[1], c[0] * 2), (x * 0, x))[0],
        {"data"},
    ),
    "by how long a loop runs": (
        lambda x: jax.lax.while_loop(
            lambda c: c[0] < x.sum(), lambda c: (c[0] + 1, c[1] * 2), (0.0, jnp.ones((2, 4)))
        )[1],
        {"data"},
    ),
    "by a branch": (
        lambda x: jax.lax.cond(x.sum() > 0, lambda: jnp.ones((2, 4)), lambda: jnp.zeros((2, 4))),
        {"data"},
    ),
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_it_is_known_along_which_axes_values_differ(name: str):
    """The last equation of the body is a sine, whose operand is asked for."""
    fn, expected = COLLECTIVES[name]
    there = jax.shard_map(
        lambda x: jnp.sin(fn(x)),
        mesh=of_mesh(),
        in_specs=P("data"),
        out_specs=P(("data", "model")),
        check_vma=False,
    )
    graph = read(lambda w, x: there(x), jnp.ones(()), X)
    (mapped,) = graph.function.jaxpr.eqns
    (operand,) = differing(graph.function)[0, len(mapped.params["jaxpr"].eqns) - 1]
    assert operand == expected


def test_costs_are_those_of_the_function_without_devices():
    there, here, params, x = pair("rows over all axes")
    assert costs(read(there, params, x)) == costs(read(here, MLP, X))


def test_nothing_within_is_pruned():
    there, _, params, x = pair("rows over devices")
    found = groups(read(there, params, x))
    assert found.fixed["up", 1] == "shard_map needs it whole"
    assert not found.groups

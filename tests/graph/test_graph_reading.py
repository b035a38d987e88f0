"""What each leaf is used for, written down by hand; the same on every version of JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from zoo import ZOO, net
from zoo_plain import numbers

from wlab.graph import read

# leaf: each use as (primitive, summed over, kept, other axes by name)
Expected = dict[str, list[tuple]]
DOT, CONV, ADD, MUL = "dot_general", "conv_general_dilated", "add", "mul"
EXPECTED: dict[str, Expected] = {
    "plain mlp": {
        "up/kernel": [(DOT, (0,), (1,))],
        "up/bias": [(ADD, (), (0,))],
        "down/kernel": [(DOT, (0,), (1,))],
        "idle": [],
    },
    "plain scan": {
        "embed": [("gather", (), (1,), {"lookup": (0,)}), (DOT, (1,), (0,))],
        "blocks/norm_1": [(MUL, (), (1,), {"stack": (0,)})],
        "blocks/qkv": [(DOT, (1,), (2,), {"stack": (0,)})],
        "blocks/o": [(DOT, (1,), (2,), {"stack": (0,)})],
        "blocks/up": [(DOT, (1,), (2,), {"stack": (0,)})],
        "blocks/down": [(DOT, (1,), (2,), {"stack": (0,)})],
    },
    "plain control flow": {
        "pair": [
            (DOT, (1,), (2,), {"index": ((0, 0),)}),
            (DOT, (1,), (2,), {"index": ((0, 1),)}),
        ],
        "again": [(DOT, (0,), (1,), {"looped": True})],
        "yes": [(DOT, (0,), (1,))],
        "no": [(DOT, (1,), (0,))],
        "cast": [(DOT, (0,), (1,))],
        "carried": [("while", (), (), {"opaque": True})],
        "left": [("concatenate", (), (0, 1))],
        "rows": [(DOT, (0,), (1,), {"whole": False})],
    },
    "plain computed weights": {
        "v": [("reduce_sum", (0,), (1,), {"exact": False}), (DOT, (0,), (1,), {"exact": False})],
        "g": [(MUL, (), (0,))],
        "masked": [(DOT, (0,), (1,), {"exact": False})],
        "mask": [(DOT, (0,), (1,), {"exact": False})],
        "rounded": [(DOT, (0,), (1,), {"exact": False})],
        "base": [(DOT, (0,), (1,), {"exact": False})],
        "a": [(DOT, (1,), (0,), {"partners": ("b",)})],
        "b": [(DOT, (0,), (1,), {"partners": ("a",)})],
    },
    "plain experts": {
        "router": [(DOT, (0,), (1,))],
        "up": [(DOT, (1,), (0, 2))],
        "down": [(DOT, (0, 1), (2,))],
        "members": [(DOT, (1,), (0, 2))],
    },
    "linen mlp": {"Dense_1/kernel": [(DOT, (0,), (1,))], "Dense_0/bias": [(ADD, (), (0,))]},
    "linen transformer": {
        "Embed_0/embedding": [("gather", (), (1,), {"lookup": (0,)}), (DOT, (1,), (0,))],
        "Block_0/MultiHeadDotProductAttention_0/query/kernel": [(DOT, (0,), (1, 2))],
        "Block_0/MultiHeadDotProductAttention_0/query/bias": [(ADD, (), (0, 1))],
        "Block_0/MultiHeadDotProductAttention_0/out/kernel": [(DOT, (0, 1), (2,))],
        "Block_0/LayerNorm_0/scale": [(MUL, (), (0,))],
    },
    "linen scan": {
        "ScanTurn_0/Block_0/MultiHeadDotProductAttention_0/out/kernel": [
            (DOT, (1, 2), (3,), {"stack": (0,)})
        ],
    },
    "nnx convolutions": {
        "stem/kernel": [(CONV, (0, 1, 2), (3,), {"fans": (27, 72)})],
        "inner/kernel": [(CONV, (0, 1, 2), (3,), {"fans": (72, 72)})],
        "depthwise/kernel": [(CONV, (0, 1, 2), (3,), {"fans": (9, 9)})],
        "grouped/kernel": [(CONV, (0, 1, 2), (3,), {"fans": (18, 27)})],
        "head/kernel": [(DOT, (0,), (1,))],
    },
    "equinox mlp": {"layers/0/weight": [(DOT, (1,), (0,))]},
    "equinox pictures": {
        "conv/weight": [(CONV, (1, 2, 3), (0,), {"fans": (27, 72)})],
        "attend/query_proj/weight": [(DOT, (1,), (0,))],
    },
    "haiku convolutions": {
        "conv2_d/w": [(CONV, (0, 1, 2), (3,))],
        "linear/w": [(DOT, (0,), (1,), {"fans": (8, 4)})],
    },
    "lstm": {
        "lstm_0/input/kernel": [(DOT, (0,), (1,))],
        "lstm_0/hidden/kernel": [(DOT, (0,), (1,), {"looped": True})],
    },
}
EXPECTED["plain scan, checkpointed"] = EXPECTED["plain scan"]


def described(use) -> tuple[str, tuple, tuple, dict]:
    rest = {
        "lookup": use.lookup_axes,
        "batch": use.batch_axes,
        "stack": use.view.stack,
        "index": use.view.index,
        "looped": False in use.view.loops,
        "exact": use.view.exact,
        "whole": use.view.is_whole,
        "opaque": use.opaque,
        "partners": use.partners,
        "fans": (use.fan_in, use.fan_out),
    }
    return use.primitive, use.in_axes, use.out_axes, rest


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, leaves in EXPECTED.items() for path in leaves]
)
def test_a_leaf_has_the_uses_that_its_author_meant(name: str, path: str):
    fn, params, inputs = net(name)
    found = [described(use) for use in read(fn, params, *inputs).of(path)]
    assert len(found) == len(EXPECTED[name][path])
    for (*axes, rest), (primitive, summed, kept, *more) in zip(
        found, EXPECTED[name][path], strict=True
    ):
        assert tuple(axes) == (primitive, summed, kept)
        for key, value in (more[0] if more else {}).items():
            assert rest[key] == value, key


@pytest.mark.parametrize("name", ZOO)
def test_every_leaf_of_every_network_is_used_and_nothing_is_opaque(name: str):
    fn, params, inputs = net(name)
    graph = read(fn, params, *inputs)
    assert graph.unused == (("idle",) if name == "plain mlp" else ())
    opaque = {use.path for use in graph.uses if use.opaque}
    assert opaque == ({"carried"} if name == "plain control flow" else set())
    assert len({use.site for use in graph.uses if use.primitive in (DOT, CONV)}) >= 2


@pytest.mark.parametrize("name", ["plain scan", "linen transformer", "nnx convolutions", "resnet"])
def test_shapes_are_enough(name: str):
    fn, params, inputs = net(name)
    shapes = jax.eval_shape(lambda *all: all, params, *inputs)
    assert read(fn, *shapes).uses == read(fn, params, *inputs).uses


def test_calls_of_one_function_are_apart():
    fn, params, inputs = net("plain thrice")
    graph = read(fn, params, *inputs)
    sites = [graph.of(path)[0].site for path in "abc"]
    assert len(set(sites)) == 3
    assert len({site[-1] for site in sites}) == 1  # the same equation of the same jaxpr


def test_a_gradient_is_read_too():
    """Backward, a kernel is summed over what it keeps forward."""
    fn, params, inputs = net("plain mlp")

    def loss(params, x):
        return (fn(params, x) ** 2).sum()

    uses = read(jax.grad(loss), params, *inputs).of("down/kernel")
    assert [(use.in_axes, use.out_axes) for use in uses] == [((0,), (1,)), ((1,), (0,))]


def test_a_stack_that_vmap_runs_over_is_a_batch():
    graph = read(jax.vmap(lambda w, x: x @ w), jnp.ones((3, 4, 5)), jnp.ones((3, 2, 4)))
    (use,) = graph.uses
    assert (use.batch_axes, use.in_axes, use.out_axes) == ((0,), (1,), (2,))


def test_what_no_rule_knows_is_opaque_and_named():
    graph = read(lambda w, x: x @ jnp.sort(w, axis=0), jnp.ones((4, 4)), jnp.ones((2, 4)))
    (use,) = graph.uses
    assert use.opaque and use.primitive == "sort"
    assert "sort, opaque" in str(graph)


def test_a_leaf_that_is_handed_back_is_not_used_by_that():
    graph = read(
        lambda p, x: (x @ p["w"], p["s"].T),
        {"w": jnp.ones((4, 4)), "s": jnp.ones((2, 3))},
        jnp.ones((2, 4)),
    )
    assert graph.unused == ("s",)
    assert graph.of("s")[0].primitive == "output"


def test_an_entry_that_is_chosen_by_data_is_a_lookup():
    graph = read(
        lambda w, x, i: x @ jax.lax.dynamic_index_in_dim(w, i, keepdims=False),
        *(jnp.ones((3, 4, 5)), jnp.ones((2, 4)), 1),
    )
    (use,) = graph.uses
    assert (use.primitive, use.lookup_axes, use.out_axes) == ("dynamic_slice", (0,), (1, 2))


def test_two_hundred_layers_are_read_in_the_order_in_which_they_run():
    def deep(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return x

    graph = read(deep, [numbers((4, 4), i) for i in range(200)], numbers((2, 4)))
    assert [use.path for use in graph.uses] == [str(i) for i in range(200)]


def test_what_can_not_be_traced_and_what_is_no_leaf_are_told():
    with pytest.raises(ValueError, match="can't be traced"):
        read(lambda w, x: x @ w if float(x.sum()) else x, jnp.ones((2, 2)), jnp.ones((2, 2)))
    graph = read(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 2))}, jnp.ones((2, 2)))
    with pytest.raises(KeyError, match="'v' is no leaf; there are w"):
        graph.of("v")


def test_a_report_has_a_row_a_use():
    fn, params, inputs = net("plain scan")
    rows = read(fn, params, *inputs).table().records()
    assert rows[2] == {
        "leaf": "blocks/qkv",
        "use": DOT,
        "in": (1,),
        "out": (2,),
        "batch": None,
        "lookup": None,
        "stack": (0,),
        "fan in": 16,
        "fan out": 48,
    }


def test_parameters_that_are_no_arrays_are_named_with_the_remedy():
    model = eqx.nn.MLP(3, 2, 4, depth=1, key=jax.random.key(0))
    x = jnp.ones(3)
    with pytest.raises(TypeError, match=r"'activation' .* no array but a .*eqx\.partition"):
        read(lambda model, x: model(x), model, x)
    arrays, rest = eqx.partition(model, eqx.is_array)
    found = read(lambda arrays, x: eqx.combine(arrays, rest)(x), arrays, x)
    assert found.of("layers/0/weight")[0].primitive == DOT

"""Functions cut into stages: they show what the whole function would, and run nothing twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import COMPILED, net

from wlab import models, tree
from wlab.graph import (
    Statistic,
    begun,
    capture,
    products,
    read,
    read_uncalled,
    run_segment,
    segments,
)
from wlab.models import LlamaConfig

SUMS = Statistic(lambda x: jnp.sum(x.astype(jnp.float32) ** 2, axis=-2))
DECODER = models.llama(LlamaConfig(4, width=16, heads=4, kv_heads=2, ffn=24, vocab=50, context=8))
BLOCKS = [f"block_{i}/" for i in range(4)]


def staged(graph, paths):
    """The uses of each stage."""
    return [{k: use for k, use in products(graph).items() if k[0] in stage} for stage in paths]


def operands(graph, segment, params, kept):
    leaves = list(tree.leaves(params).values())
    consts = [graph.function.consts[i] for i in segment.consts]
    return [leaves[i] for i in segment.leaves], consts, kept


def seen(graph, params, inputs, paths):
    """What each stage sees, where the leaves of a stage are halved once it is over."""
    kept, told = None, []
    for stage, segment in zip(paths, segments(graph, staged(graph, paths)), strict=True):
        kept = begun(graph, segment, jax.tree.leaves(inputs)) if kept is None else kept
        run = jax.jit(lambda *xs, segment=segment: run_segment(graph, segment, SUMS, xs))
        kept, found = run(*operands(graph, segment, params, kept))
        told.append(found)
        params = halved(params, stage)
    return told


def halved(params, paths):
    leaves = tree.leaves(params)
    return tree.replace(params, {path: leaves[path] / 2 for path in paths})


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", COMPILED)
def test_a_stage_sees_what_the_whole_function_shows(name: str, backwards: bool):
    fn, params, inputs = net(name)
    paths = list(dict.fromkeys(path for path, _ in products(read(fn, params, *inputs))))
    third = -(-len(paths) // 3)
    stages = [paths[i : i + third] for i in range(0, len(paths), third)]
    stages = stages[::-1] if backwards else stages
    found = seen(read_uncalled(fn, params, *inputs), params, inputs, stages)
    for stage, of_stage in zip(stages, found, strict=True):
        _, whole = jax.jit(capture(fn, SUMS, where=lambda use, stage=stage: use.path in stage))(
            params, *inputs
        )
        assert {path for path, _ in of_stage} == set(stage)
        for key, one in of_stage.items():
            np.testing.assert_allclose(one, whole[key], rtol=1e-4, atol=1e-6, err_msg=str(key))
        params = halved(params, stage)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_decoder_keeps_its_hidden_states_and_runs_a_block_twice(compiled: bool):
    fn = jax.jit(jax.jit(DECODER.apply)) if compiled else DECODER.apply
    params, tokens = DECODER.init(jax.random.key(0)), jnp.ones((2, 8), jnp.int32)
    graph = read_uncalled(fn, params, tokens)
    kernels = [p for p in tree.paths(params) if p.startswith("block_") and p.endswith("kernel")]
    stages = [[p for p in kernels if p.startswith(block)] for block in BLOCKS]
    cut = segments(graph, staged(graph, stages))
    assert [[v.aval.shape for v in one.takes] for one in cut] == [[(2, 8)], *[[(2, 8, 16)]] * 3]
    assert [len(one.gives) for one in cut] == [1, 1, 1, 0]
    products_of = [i for i, e in enumerate(graph.function.jaxpr.eqns) if "dot" in e.primitive.name]
    times = [sum(i in one.equations for one in cut) for i in products_of]
    within = 9  # seven matrices and two products of attention
    # To be looked at, and once changed; of the last block the end is not asked for, nor the head.
    assert times == [2] * 3 * within + [1] * within + [0]


def test_what_leaves_alone_decide_is_not_kept():
    def fn(params, x):
        table = jnp.exp(params["table"])  # no input has a say in it
        y = jnp.tanh(x @ params["a"] + table)
        return (y @ params["b"] + table) @ params["c"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones((4, 2))}
    params["table"] = jnp.ones((100, 4))
    graph = read_uncalled(fn, params, jnp.ones((100, 3)))
    cut = segments(graph, staged(graph, [["a"], ["b"], ["c"]]))
    assert [[v.aval.shape for v in one.takes] for one in cut] == [
        [(100, 3)],
        [(100, 3)],
        [(100, 4)],
    ]


def test_a_product_is_kept_and_what_is_cheap_is_computed_again():
    def fn(params, x):
        y = x @ params["a"]
        normed = y / jnp.sqrt((y**2).mean())
        return (normed @ params["b"] + y) @ params["c"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones((4, 2))}
    graph = read_uncalled(fn, params, jnp.ones((5, 3)))
    *_, last = segments(graph, staged(graph, [["a"], ["b"], ["c"]]))
    assert [v.aval.shape for v in last.takes] == [(5, 4)]
    names = [graph.function.jaxpr.eqns[i].primitive.name for i in last.equations]
    assert names.count("dot_general") == 2 and "sqrt" in names


def test_what_a_leaf_that_changes_along_decides_is_computed_again():
    def fn(params, x):
        y = jnp.tanh(x @ params["a"])
        return ((y * params["gain"]) @ params["b"]) @ params["c"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones((4, 2))}
    params["gain"] = jnp.ones((1, 4))
    graph = read_uncalled(fn, params, jnp.ones((5, 3)))
    stages = staged(graph, [["b"], ["c"]])
    names = [e.primitive.name for e in graph.function.jaxpr.eqns]
    made = {
        v: name for e, name in zip(graph.function.jaxpr.eqns, names, strict=True) for v in e.outvars
    }
    for along, kept in [((), "mul"), ([["gain"], []], "tanh"), ([["gain"], ["a"]], None)]:
        _, last = segments(graph, stages, along)
        assert [made.get(v) for v in last.takes] == [kept]

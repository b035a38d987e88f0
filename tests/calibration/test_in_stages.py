"""Weights changed stage by stage: as if the whole function were looked at anew each time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import graph, models, tree
from wlab.calibration import collect, gram
from wlab.calibration.in_stages import in_stages
from wlab.models import LlamaConfig

DECODER = models.llama(LlamaConfig(4, width=16, heads=4, kv_heads=2, ffn=24, vocab=50, context=8))
TOKENS = [(jax.random.randint(jax.random.key(i), (2 + i % 2, 8), 0, 50),) for i in range(3)]


def stages_of(params):
    kernels = [p for p in tree.paths(params) if p.startswith("block_") and p.endswith("kernel")]
    return {f"block_{i}": [p for p in kernels if p.startswith(f"block_{i}/")] for i in range(4)}


def halved(params, stage, seen):
    del stage
    leaves = tree.leaves(params)
    return tree.replace(params, {path: leaves[path] / 2 for path in seen})


def in_order(fn, params, batches, stages):
    """What each stage sees, and the tree after the last."""
    told, reports = {}, []

    def change(params, stage, seen):
        told[stage] = seen
        return halved(params, stage, seen)

    read = graph.read_uncalled(fn, params, *batches[0])
    end = in_stages(read, params, batches, gram(), stages, change, lambda *at: reports.append(at))
    assert reports == [(stage, i + 1) for stage in stages for i in range(len(batches))]
    return told, end


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_a_stage_sees_what_the_changed_network_shows(order: tuple[int, ...]):
    params = DECODER.init(jax.random.key(1))
    stages = stages_of(params)
    stages = {f"block_{i}": stages[f"block_{i}"] for i in order}
    told, end = in_order(DECODER.apply, params, TOKENS, stages)
    for stage, paths in stages.items():
        expected = collect(
            *(DECODER.apply, params, TOKENS, gram()),
            where=lambda use, paths=paths: use.path in paths,
        )
        assert list(told[stage]) == paths
        for path in paths:
            assert int(told[stage][path].rows) == int(expected[path].rows) == 7 * 8
            products = expected[path].products
            np.testing.assert_allclose(told[stage][path].products, products, rtol=1e-4, atol=1e-4)
        params = halved(params, stage, paths)
    jax.tree.map(np.testing.assert_array_equal, end, params)


def test_leaves_that_change_along_are_seen_changed():
    """A norm before a block moves with it: what it gives is not kept."""
    params = DECODER.init(jax.random.key(1))
    stages = stages_of(params)
    norms = {s: [f"{s}/norm_1/scale", f"{s}/norm_2/scale"] for s in stages}
    assert {path for paths in norms.values() for path in paths} <= {*tree.paths(params)}
    told = {}

    def change(params, stage, seen):
        told[stage] = seen
        return halved(params, stage, [*seen, *norms[stage]])

    read = graph.read_uncalled(DECODER.apply, params, *TOKENS[0])
    in_stages(read, params, TOKENS, gram(), stages, change, lambda *at: None, along=norms)
    for stage, paths in stages.items():
        expected = collect(
            *(DECODER.apply, params, TOKENS, gram()),
            where=lambda use, paths=paths: use.path in paths,
        )
        for path in paths:
            products = expected[path].products
            np.testing.assert_allclose(told[stage][path].products, products, rtol=1e-4, atol=1e-4)
        params = halved(params, stage, [*paths, *norms[stage]])


@pytest.mark.parametrize(("hold", "stages_held"), [(True, 3), (False, 1)])
def test_changed_leaves_are_held_while_they_are_needed(hold: bool, stages_held: int):
    stages = {str(i): [f"{i}/up", f"{i}/down"] for i in range(4)}
    params = {name: {"up": jnp.ones((3, 5)), "down": jnp.ones((5, 3))} for name in stages}

    def network(params, x):
        for name in stages:
            x = (x @ params[name]["up"]) @ params[name]["down"]
        return x

    batches, most = [(jnp.ones((2, 3)),), (jnp.ones((2, 3)),)], 0
    others = jax.live_arrays()  # held, so that no new one gets the id of one that is gone
    known = {id(x) for x in others}

    def report(stage, done):
        nonlocal most
        new = [x for x in jax.live_arrays() if id(x) not in known]
        most = max(most, sum(x.shape in {(3, 5), (5, 3)} for x in new))

    read = graph.read_uncalled(network, params, *batches[0])
    end = in_stages(read, params, batches, gram(), stages, halved, report, hold=hold)
    assert most == 2 * stages_held
    leaves = zip(*map(jax.tree.leaves, (end, params)), strict=True)
    assert all(new is old for new, old in leaves) != hold


def test_blocks_that_run_alike_are_compiled_once(caplog):
    params = DECODER.init(jax.random.key(1))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        in_order(DECODER.apply, params, TOKENS[:1], stages_of(params))
    compiled = [r for r in caplog.records if "Finished XLA compilation" in r.message]
    assert sum("_measured" in r.message for r in compiled) == 3  # the first, the last, and others


def test_callbacks_are_not_taken_for_each_other():
    def times(factor, x):
        return jax.pure_callback(lambda x: factor * x, jax.typeof(x), x, vmap_method="sequential")

    def network(params, x):
        for i in range(1, 5):
            x = times(np.float32(i), x @ params[f"w{i}"])
        return x

    params = {f"w{i}": jnp.eye(2) for i in range(1, 5)}
    stages = {path: [path] for path in params}
    told, _ = in_order(network, params, [(jnp.ones((1, 2)),)], stages)
    # In front of each, what the callbacks before it made of 1 with halved matrices.
    for i, factor in enumerate([1, 1 / 2, 2 / 4, 6 / 8], 1):
        np.testing.assert_allclose(told[f"w{i}"][f"w{i}"].products, np.full((2, 2), factor**2))


def test_numbers_that_are_not_finite_are_refused():
    params = {"a": jnp.ones((2, 2)), "b": jnp.full((2, 2), jnp.inf)}

    def network(params, x):
        return (x @ params["b"]) @ params["a"]

    with pytest.raises(ValueError, match="inputs of 'a' hold NaN or infinity"):
        in_order(network, params, [(jnp.ones((1, 2)),)], {"one": ["b"], "two": ["a"]})


def test_sharded_batches_are_added_up_in_every_stage():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.NamedSharding(mesh, jax.P("data"))
    params, even = DECODER.init(jax.random.key(1)), TOKENS[::2]  # two rows each
    here, _ = in_order(DECODER.apply, params, even, stages_of(params))
    spread = [(jax.device_put(tokens, spec),) for (tokens,) in even]
    there, _ = in_order(DECODER.apply, params, spread, stages_of(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), here, there)

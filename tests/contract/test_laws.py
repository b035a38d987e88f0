"""The laws of a single transform, a row of the table each."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frameworks import FRAMEWORKS
from laws import check_zeros
from optimizers import OPTIMIZERS
from placements import PLACEMENTS
from run import Trace, batch, loss_of, run
from transforms import TRANSFORMS

import wlab
from wlab import checkpoint, training, tree

pytestmark = pytest.mark.cover
F = FRAMEWORKS["dict"]
EACH = pytest.mark.parametrize("name", TRANSFORMS)
# Where a law compiles, `make test` takes one row of each kind and `make test-all` every row.
KINDS = (
    "identity",
    "scaled",
    "dense and sparse in turn",
    "prune + quant + tie",
    "rigl + quant + tie",
    "pissa on int4",
    "prune + freeze + tie",
)
COMPILED = [
    pytest.param(name, marks=() if name in KINDS else pytest.mark.long) for name in TRANSFORMS
]
FEW = (
    "dense and sparse in turn",
    "prune + quant + tie",
    "pissa on int4",
)  # where a law compiles twice or more
EACH_COMPILED = pytest.mark.parametrize("name", COMPILED)


def start(name: str, dtype: Any = jnp.float32) -> tuple[wlab.WeightTransform, Any, Any]:
    weights = TRANSFORMS[name](F)
    params = jax.tree.map(lambda x: x.astype(dtype), F.init(jax.random.key(0)))
    stored, state = jax.jit(weights.init)(params, jax.random.key(1))
    return weights, stored, state


def types(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def numbers(tree: Any) -> Any:
    """The tree, with its keys as numbers."""

    def number(x: Any) -> Any:
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(number, tree)


def grads_like(weights: wlab.WeightTransform, stored: Any, state: Any) -> Any:
    seen = weights.view(stored, state, 0)
    return jax.tree.map(jnp.cos, seen) if weights.needs_grads else None


@EACH_COMPILED
def test_init_equals_its_abstract_evaluation(name: str):
    weights = TRANSFORMS[name](F)
    params, key = F.init(jax.random.key(0)), jax.random.key(1)
    abstract = jax.eval_shape(weights.init, params, key)
    assert types(weights.init(params, key)) == types(abstract)
    from_shapes = jax.eval_shape(weights.init, jax.eval_shape(lambda: params), key)
    assert types(from_shapes) == types(abstract)


@EACH
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_types_are_stable_over_view_project_and_update(name: str, dtype: Any):
    weights = TRANSFORMS[name](F)
    params = jax.tree.map(lambda x: x.astype(dtype), F.init(jax.random.key(0)))

    def life(key: Any) -> Any:
        stored, state = weights.init(params, key)
        assert types(weights.view(stored, state, 0)) == types(params)
        if weights.project is not None:
            assert types(weights.project(stored, state)) == types(stored)
        if weights.update is not None:
            new = weights.update(stored, grads_like(weights, stored, state), state, 0)
            assert types(new) == types(state)

    jax.eval_shape(life, jax.random.key(1))


@EACH_COMPILED
def test_eager_equals_jit(name: str):
    weights, stored, state = start(name)
    grads = grads_like(weights, stored, state)

    def both(stored: Any, state: Any, step: Any) -> Any:
        new = state if weights.update is None else weights.update(stored, grads, state, step)
        return weights.view(stored, new, step), numbers(new)

    for eager, compiled in zip(
        jax.tree.leaves(both(stored, state, jnp.int32(2))),
        jax.tree.leaves(jax.jit(both)(stored, state, jnp.int32(2))),
        strict=True,
    ):
        np.testing.assert_array_equal(eager, compiled)


@EACH_COMPILED
def test_forward_mode_agrees_with_reverse_mode_through_the_view(name: str):
    weights, stored, state = start(name)
    tangent = jax.tree.map(jnp.sin, stored)

    def view(stored: Any) -> Any:
        return weights.view(stored, state, 3)

    seen, pushed = jax.jvp(view, (stored,), (tangent,))
    cotangent = jax.tree.map(jnp.cos, seen)
    (pulled,) = jax.vjp(view, stored)[1](cotangent)
    dot = lambda a, b: float(sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b))))  # noqa: E731
    assert dot(pushed, cotangent) == pytest.approx(dot(tangent, pulled), rel=1e-4)


class Trained(NamedTuple):
    """A compiled step, which the laws of one row share, and how often its loss was traced."""

    weights: wlab.WeightTransform
    start: Callable[[], training.TrainState]
    step: Callable[..., Any]
    traces: list[int]


@functools.cache
def trained(name: str) -> Trained:
    weights, tx, traces = TRANSFORMS[name](F), OPTIMIZERS["adamw"], []

    def loss(*args: Any) -> Any:
        traces.append(1)
        return loss_of(F)(*args)

    @jax.jit
    def create(params: Any) -> training.TrainState:
        return training.create_state(params, weights, tx, key=jax.random.key(1))

    def start() -> training.TrainState:
        return create(F.init(jax.random.key(0)))

    step = training.compile_step(training.make_step(loss, weights, tx), start())
    return Trained(weights, start, step, traces)


@functools.cache
def unaccumulated(name: str) -> Trace:
    return run(F, TRANSFORMS[name](F), OPTIMIZERS["momentum"], PLACEMENTS["one device"])


@EACH_COMPILED
def test_one_trace_in_many_steps(name: str):
    state = trained(name).start()
    for _ in range(4):
        state, _ = trained(name).step(state, batch())
    assert len(trained(name).traces) == 1


@EACH_COMPILED
def test_after_a_step_project_changes_nothing(name: str):
    weights = TRANSFORMS[name](F)
    if weights.project is None:
        pytest.skip("this transform keeps no zeros")
    for state in unaccumulated(name).states[1:]:
        again = weights.project(state.stored, state.weights)
        jax.tree.map(np.testing.assert_array_equal, again, state.stored)


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        pytest.param(name, inner, marks=() if name in FEW and inner == "vmap" else pytest.mark.long)
        for name in TRANSFORMS
        for inner in ("vmap", "map")
    ],
)
def test_a_population_equals_its_members_run_alone(name: str, inner: str):
    weights, tx = TRANSFORMS[name](F), OPTIMIZERS["adam"]
    step = training.make_step(loss_of(F), weights, tx)

    def create(key: Any) -> training.TrainState:
        return training.create_state(F.init(key), weights, tx, key=key)

    keys = jax.random.split(jax.random.key(3), 3)
    many = training.create_population(create, keys)
    run_many = training.population(step, 3, inner=inner, devices=jax.devices()[:2])
    alone = [jax.jit(create)(key) for key in keys]
    run_one = jax.jit(step)
    for _ in range(3):
        many, _ = run_many(many, batch())
        alone = [run_one(state, batch())[0] for state in alone]
    for i, state in enumerate(alone):
        one = training.member(many, i)
        for (path, x), y in zip(
            tree.leaves(numbers(state.weights)).items(),
            jax.tree.leaves(numbers(one.weights)),
            strict=True,
        ):
            np.testing.assert_array_equal(x, y, err_msg=path)
        for x, y in zip(jax.tree.leaves(state.stored), jax.tree.leaves(one.stored), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@EACH_COMPILED
def test_the_state_survives_save_and_restore(name: str, tmp_path: Any):
    state, step = trained(name).start(), trained(name).step
    for _ in range(2):
        state, _ = step(state, batch())
    checkpoint.save(tmp_path, 2, state)
    restored = checkpoint.restore(tmp_path, state).state
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    on, again = step(state, batch())[0], step(restored, batch())[0]
    for x, y in zip(jax.tree.leaves(on), jax.tree.leaves(again), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(x, y)


def test_a_nested_chain_equals_the_flat_one():
    flat, nested = TRANSFORMS["prune + quant + tie"](F), None
    prune, quant = TRANSFORMS["magnitude"](F), TRANSFORMS["fake_quant int4"](F)
    tie = TRANSFORMS["tie"](F)
    nested = wlab.chain(first=wlab.chain(prune=prune, quant=quant), tie=tie)
    a = run(F, flat, OPTIMIZERS["muon"], PLACEMENTS["one device"])
    b = run(F, nested, OPTIMIZERS["muon"], PLACEMENTS["one device"])
    jax.tree.map(np.testing.assert_array_equal, a.states[-1].stored, b.states[-1].stored)
    check_zeros(nested, b)


@EACH_COMPILED
def test_the_callers_arrays_and_a_seen_tree_survive_donated_steps(name: str):
    weights, tx = TRANSFORMS[name](F), OPTIMIZERS["adamw"]
    params = F.init(jax.random.key(0))
    before = jax.tree.map(np.array, params)
    state = training.init_state(params, weights, tx, key=jax.random.key(1))
    seen = training.params_of(state, weights)
    first = jax.tree.map(np.array, seen)
    for _ in range(2):
        state, _ = trained(name).step(state, batch())
    jax.tree.map(np.testing.assert_array_equal, params, before)
    jax.tree.map(np.testing.assert_array_equal, seen, first)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.long) for name in TRANSFORMS],
)
def test_accumulation_equals_one_large_batch(name: str):
    weights, tx = TRANSFORMS[name](F), OPTIMIZERS["momentum"]
    parts = run(F, weights, tx, PLACEMENTS["one device"], steps=2, accumulate=4)
    for x, y in zip(
        jax.tree.leaves(unaccumulated(name).states[2].stored),
        jax.tree.leaves(parts.states[2].stored),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_bf16_weights_obey_the_zero_law():
    weights, stored, state = start("magnitude", jnp.bfloat16)
    for step in range(3):
        state = weights.update(stored, None, state, step)
        stored = weights.project(stored, state)
    assert tree.density({"k": stored["fc1"]["kernel"]}) == pytest.approx(0.3, abs=1e-3)

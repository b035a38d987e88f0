"""Magnitude as a transform: its laws, by a step written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wlab
from wlab import pruning, tree

RULES = [(".*kernel", True), (".*", None)]
SCHEDULE = pruning.cubic(1.0, 0.1, begin=2, end=11)


def make_params(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "fc1": {
            "kernel": jax.random.normal(keys[0], (16, 24), dtype),
            "bias": jnp.zeros(24, dtype),
        },
        "fc2": {"kernel": jax.random.normal(keys[1], (24, 6), dtype), "bias": jnp.ones(6, dtype)},
    }


def make_step(transform: wlab.WeightTransform, tx: optax.GradientTransformation):
    """The house's order: project with the old state, update, project with the new one."""

    def loss(seen):
        hidden = jnp.tanh(jnp.ones((1, 16), seen["fc1"]["kernel"].dtype) @ seen["fc1"]["kernel"])
        return jnp.sum((hidden @ seen["fc2"]["kernel"]).astype(jnp.float32) ** 2)

    def step(carry, i):
        stored, opt, state = carry
        grads = jax.grad(lambda stored: loss(transform.view(stored, state, i)))(stored)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            updates, opt = tx.update(grads, opt, stored)
        stored = optax.apply_updates(stored, updates)

        def keep(state):
            project = functools.partial(transform.project, state=state)
            return project(stored), tree.matched(project, opt, stored)

        stored, opt = keep(state)
        state = transform.update(stored, None, state, i)
        stored, opt = keep(state)
        return (stored, opt, state), None

    return step


def unpacked(params, state) -> dict[str, jax.Array]:
    named = tree.leaves(params)
    return {p: pruning.unpack(bits, named[p].shape) for p, bits in state.masks.items()}


def train(transform, tx, params, steps=14):
    stored, state = transform.init(params, jax.random.key(0))
    step = jax.jit(make_step(transform, tx))
    carry, history = (stored, tx.init(stored), state), []
    for i in range(steps):
        carry, _ = step(carry, jnp.int32(i))
        history.append(carry)
    return history


@pytest.mark.parametrize(
    ("tx", "dtype"),
    [
        (optax.sgd(0.1, momentum=0.9), jnp.bfloat16),
        (optax.adamw(1e-2, weight_decay=0.1), jnp.float32),
    ],
    ids=["momentum", "adamw"],
)
def test_pruned_stays_exactly_zero_and_never_returns(tx, dtype):
    transform = pruning.magnitude(SCHEDULE, RULES, every=4)
    dead = {}
    for stored, opt, state in train(transform, tx, make_params(dtype)):
        for path, mask in unpacked(stored, state).items():
            moments = [leaf for p, leaf in tree.leaves(opt).items() if p.endswith(path)]
            assert len(moments) >= 1
            for leaf in (tree.leaves(stored)[path], *moments):
                assert np.all(np.asarray(leaf)[~np.asarray(mask)] == 0)
            assert not np.any(np.asarray(mask) & dead.get(path, False))
            dead[path] = ~np.asarray(mask)
        seen = transform.view(stored, state, 0)
        jax.tree.map(np.testing.assert_array_equal, seen, stored)
    live = {path: int((~d).sum()) for path, d in dead.items()}
    assert live == {"fc1/kernel": 38, "fc2/kernel": 14}


def test_masks_change_at_begin_every_and_end_only():
    transform = pruning.magnitude(SCHEDULE, RULES, every=4)
    kept = [
        int(jnp.sum(unpacked(stored, state)["fc1/kernel"]))
        for stored, _, state in train(transform, optax.sgd(0.0), make_params())
    ]
    # 1 − s(t) = 0.1 + 0.9 (1 − (t − 2) / 9)³: 0.254321 after step 6, 0.101235 after step 10.
    assert kept == [384] * 6 + [98] * 4 + [39] + [38] * 3


def test_the_chosen_are_the_largest_with_ties_to_the_lower_index():
    params = {"kernel": jnp.array([[3.0, -5.0, 0.0], [5.0, -3.0, 5.0]])}
    transform = pruning.magnitude(0.5, [("kernel", True)])
    stored, state = transform.init(params, jax.random.key(0))
    state = transform.update(stored, None, state, 0)
    np.testing.assert_array_equal(
        transform.project(stored, state)["kernel"], [[0, -5, 0], [5, 0, 5]]
    )
    state = transform.update(stored, None, transform.init(params, None)[1], 0)
    np.testing.assert_array_equal(
        pruning.unpack(state.masks["kernel"], (2, 3)), [[False, True, False], [True, False, True]]
    )


def test_the_gradient_is_masked_and_the_forward_pass_is_the_identity():
    params = make_params()
    transform = pruning.magnitude(0.5, RULES)
    stored, state = transform.init(params, None)
    state = transform.update(stored, None, state, 0)
    masks = unpacked(stored, state)
    grads = jax.grad(
        lambda p: sum(jnp.sum(x) for x in jax.tree.leaves(transform.view(p, state, 0)))
    )(stored)
    for path, grad in tree.leaves(grads).items():
        np.testing.assert_array_equal(
            grad, np.asarray(masks.get(path, np.ones(grad.shape)), np.float32)
        )
    _, tangent = jax.jvp(lambda p: transform.view(p, state, 0), (stored,), (stored,))
    np.testing.assert_array_equal(
        tangent["fc1"]["kernel"], np.where(masks["fc1/kernel"], stored["fc1"]["kernel"], 0)
    )


def test_bits_and_int8_choose_alike_in_an_eighth_of_the_memory():
    params = {"kernel": jax.random.normal(jax.random.key(1), (20, 13))}
    seen, size = {}, {}
    for storage in ("bits", "int8"):
        transform = pruning.magnitude(0.3, [("kernel", True)], storage=storage)
        state = transform.update(params, None, transform.init(params, None)[1], 0)
        seen[storage], size[storage] = transform.project(params, state), tree.nbytes(state)
    np.testing.assert_array_equal(seen["bits"]["kernel"], seen["int8"]["kernel"])
    assert size == {"bits": 3 * 13, "int8": 20 * 13}


def test_a_rising_schedule_and_too_few_live_weights_revive_nothing():
    params = {"kernel": jnp.zeros((4, 4)).at[2, 1].set(3.0).at[3, 3].set(1.0)}
    transform = pruning.magnitude(0.5, [("kernel", True)], infer=True)
    stored, state = transform.init(params, None)
    state = transform.update(stored, None, state, 0)
    np.testing.assert_array_equal(
        pruning.unpack(state.masks["kernel"], (4, 4)), params["kernel"] != 0
    )


def test_a_live_zero_outlives_a_dead_one():
    params = {"kernel": jnp.array([[1.0, 0.0, 0.0, 0.0]])}
    transform = pruning.magnitude(pruning.iterative(0.5, rounds=1, every=1), [("kernel", True)])
    stored, state = transform.init(params, None)
    alive = state._replace(masks={"kernel": pruning.pack(jnp.array([[True, False, False, True]]))})
    state = transform.update(stored, None, alive, 0)
    np.testing.assert_array_equal(
        pruning.unpack(state.masks["kernel"], (1, 4)), [[True, False, False, True]]
    )


def test_masks_are_inferred_from_zeros_when_asked():
    params = {"kernel": jnp.array([[1.0, 0.0, -0.0, 2.0]]), "bias": jnp.zeros(4)}
    rules = [("kernel", True), (".*", None)]
    for infer, wanted in ((True, [[True, False, False, True]]), (False, np.ones((1, 4), bool))):
        _, state = pruning.magnitude(0.5, rules, infer=infer).init(params, None)
        np.testing.assert_array_equal(pruning.unpack(state.masks["kernel"], (1, 4)), wanted)


def test_a_leaf_with_its_own_density_follows_the_same_curve():
    rules = [("fc1/kernel", True), ("fc2/kernel", 0.5), (".*", None)]
    transform = pruning.magnitude(pruning.cubic(1.0, 0.1, end=10), rules, every=5)
    masks = [
        {p: int(jnp.sum(m)) for p, m in unpacked(stored, state).items()}
        for stored, _, state in train(transform, optax.sgd(0.0), make_params(), steps=11)
    ]
    assert masks[4] == {"fc1/kernel": 384, "fc2/kernel": 144}
    # Half way 7/8 of the pruning is done: densities 0.2125 and 0.5625.
    assert masks[5] == {"fc1/kernel": 82, "fc2/kernel": 81}
    assert masks[10] == {"fc1/kernel": 38, "fc2/kernel": 72}


def test_a_budget_of_the_whole_is_met_exactly_while_it_falls():
    transform = pruning.magnitude(SCHEDULE, RULES, every=4, allocation=pruning.erk)
    params = make_params()
    state, update = transform.init(params, None)[1], jax.jit(transform.update)
    totals = []
    for step in (6, 11):
        state = update(params, None, state, jnp.int32(step))
        kept = {p: int(jnp.sum(m)) for p, m in unpacked(params, state).items()}
        totals.append(sum(kept.values()))
    assert totals == [pruning.kept(528, SCHEDULE(6)), pruning.kept(528, 0.1)]
    # 53 weights in proportion to 16 + 24 and 24 + 6.
    assert kept == {"fc1/kernel": 30, "fc2/kernel": 23}


def test_a_population_with_traced_densities_equals_a_loop():
    params = {"kernel": jax.random.normal(jax.random.key(2), (9, 8))}

    def last_masks(density):
        schedule = pruning.cubic(1.0, density, end=4)
        transform = pruning.magnitude(schedule, [("kernel", True)], every=2)
        stored, state = transform.init(params, None)
        return jax.lax.scan(
            lambda state, step: (transform.update(stored, None, state, step), None),
            state,
            jnp.arange(5),
        )[0].masks

    densities = jnp.array([0.1, 0.5, 1.0])
    many = jax.jit(jax.vmap(last_masks))(densities)
    for i, density in enumerate(densities):
        for path, one in jax.jit(last_masks)(density).items():
            np.testing.assert_array_equal(many[path][i], one)


def test_under_vmap_over_members_the_update_stays_a_branch():
    transform = pruning.magnitude(SCHEDULE, RULES)
    params = jax.tree.map(lambda x: jnp.stack([x, x + 1]), make_params())
    state = jax.vmap(lambda p: transform.init(p, None)[1])(params)
    update = jax.vmap(lambda p, s, step: transform.update(p, None, s, step), (0, 0, None))
    jaxpr = jax.make_jaxpr(update)(params, state, 0).jaxpr
    assert "cond" in {equation.primitive.name for equation in jaxpr.eqns}


def test_init_works_on_shapes_and_matches_its_abstract_form():
    params = make_params()
    transform = pruning.magnitude(SCHEDULE, RULES, infer=True)
    abstract = jax.eval_shape(lambda p: transform.init(p, None), params)
    concrete = transform.init(params, None)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), abstract, concrete)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("axis_type", "allocation"),
    [(AxisType.Auto, pruning.globally), (AxisType.Explicit, pruning.uniform)],
)
def test_a_mesh_trains_the_masks_of_one_device(axis_type, allocation):
    transform = pruning.magnitude(SCHEDULE, RULES, every=4, allocation=allocation)
    params = jax.tree.map(lambda x: jnp.round(x * 4), make_params())
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    specs = {"kernel": P("x", "y"), "bias": P("y")}
    placed = tree.map_leaves(
        lambda path, x: jax.device_put(x, NamedSharding(mesh, specs[path.split("/")[1]])), params
    )

    @jax.jit
    def masks_after(params):
        state = transform.init(params, None)[1]
        return transform.update(params, None, state, 11)

    single, many = masks_after(params), masks_after(placed)
    jax.tree.map(np.testing.assert_array_equal, single, many)
    if axis_type is AxisType.Explicit:
        assert many.masks["fc1/kernel"].sharding.spec == P("x", "y")


def test_two_prunes_chain_and_an_overlap_is_refused():
    params = make_params()
    first = pruning.magnitude(0.1, [("fc1/kernel", True), (".*", None)])
    second = pruning.magnitude(0.5, [("fc2/kernel", True), (".*", None)])
    weights = wlab.chain(first=first, second=second)
    stored, state = weights.init(params, jax.random.key(0))
    stored = weights.project(stored, weights.update(stored, None, state, 0))
    assert tree.nonzero(stored)["fc1/kernel"] == 38
    assert tree.nonzero(stored)["fc2/kernel"] == 72
    with pytest.raises(ValueError, match="both zero entries of 'fc1/kernel'"):
        wlab.chain(first=first, again=first).init(params, jax.random.key(0))


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ([("kernel", True)], ValueError, "no rule matches leaf 'ids'"),
        (
            [("kernel", True), ("nothing", True), (".*", None)],
            ValueError,
            "'nothing' matches no leaf",
        ),
        ([(".*", None)], ValueError, "select none of the leaves"),
        ([("kernel", 1.5), (".*", None)], ValueError, "density of 'kernel' is the fraction"),
        ([(".*", True)], TypeError, "leaf 'ids' cannot be ranked.*not int32"),
    ],
)
def test_rules_that_do_not_fit_are_refused_by_init(rules, error, message):
    params = {"ids": jnp.arange(4), "kernel": jnp.ones((2, 2))}
    with pytest.raises(error, match=message):
        pruning.magnitude(0.5, rules).init(params, None)


def test_every_below_one_is_refused():
    with pytest.raises(ValueError, match="`every` is a number of steps"):
        pruning.magnitude(0.5, RULES, every=0)

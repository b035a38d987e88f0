"""nnx modules as pure functions over a plain dict."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wlab import tree
from wlab.models import Model, TransformerConfig, from_nnx, lenet5, mlp, transformer
from wlab.transform import Params

Draw = Callable[[Model], Params]

TINY = TransformerConfig(layers=1, width=8, heads=2, vocab=12, context=6)
TOKENS = jnp.array([[1, 2, 3, 4, 5], [10, 0, 7, 7, 1]])
PIXELS = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
MODELS = {
    "mlp": (mlp([256, 16, 4]), jnp.array(PIXELS)),
    "lenet5": (lenet5(side=16), jnp.array(PIXELS)),
    "transformer": (transformer(TINY), TOKENS),
}
every_model = pytest.mark.parametrize(("model", "inputs"), MODELS.values(), ids=MODELS)


def kernels(params: Params) -> dict[str, np.ndarray]:
    """The leaves that are random at the start."""
    leaves = tree.leaves(params)
    return {p: np.array(x) for p, x in leaves.items() if p.endswith(("kernel", "embedding"))}


@every_model
def test_params_are_nested_dicts_of_arrays(model: Model, inputs: jax.Array, key: jax.Array):
    def kinds(node: object) -> set[type]:
        if not isinstance(node, dict):
            return {type(node)}
        return {type(node)}.union(*(kinds(child) for child in node.values()))

    assert kinds(jax.eval_shape(model.init, key)) == {dict, jax.ShapeDtypeStruct}


@every_model
def test_jit_is_eager(model: Model, inputs: jax.Array, drawn: Draw):
    params = drawn(model)
    eager, jitted = model.apply(params, inputs), jax.jit(model.apply)(params, inputs)
    np.testing.assert_allclose(eager, jitted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_no_two_leaves_and_no_two_keys_share_random_numbers(name: str, key: jax.Array):
    model, _ = MODELS[name]
    init, keys = jax.jit(jax.vmap(model.init)), jax.random.split(key, 2)
    params, again = init(keys), init(keys)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    firsts = [float(x) for leaf in kernels(params).values() for x in leaf.reshape(2, -1)[:, 0]]
    assert len(set(firsts)) == len(firsts) >= 4
    promised = tree.leaves(jax.eval_shape(model.init, key))
    for path, leaf in tree.leaves(params).items():
        assert (leaf.shape[1:], leaf.dtype) == (promised[path].shape, promised[path].dtype)


def test_a_population_is_its_members(key: jax.Array):
    init, keys = mlp([3, 2]).init, jax.random.split(key, 2)
    many = jax.vmap(init)(keys)
    for i in range(2):
        jax.tree.map(lambda m, a, i=i: np.testing.assert_allclose(m[i], a), many, init(keys[i]))


@every_model
def test_bf16_weights_give_bf16_outputs_near_the_f32_ones(
    model: Model, inputs: jax.Array, drawn: Draw
):
    params = drawn(model)
    half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), params)
    x = inputs if inputs.dtype == jnp.int32 else inputs.astype(jnp.bfloat16)
    apply = jax.jit(model.apply)
    out, reference = apply(half, x), apply(params, inputs)
    assert out.dtype == jnp.bfloat16
    error = np.linalg.norm(out.astype(jnp.float32) - reference) / np.linalg.norm(reference)
    assert 0 < error < 0.03


@every_model
def test_apply_leaves_the_params_alone(model: Model, inputs: jax.Array, drawn: Draw):
    params = drawn(model)
    before = tree.leaves(params)
    jax.jit(model.apply)(params, inputs)
    assert all(tree.leaves(params)[path] is leaf for path, leaf in before.items())


@every_model
def test_a_few_steps_of_training_lower_the_loss(model: Model, inputs: jax.Array, drawn: Draw):
    labels = inputs if inputs.dtype == jnp.int32 else jnp.array([1, 3])

    def loss_fn(params: Params) -> jax.Array:
        logits = model.apply(params, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params: Params) -> tuple[Params, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 3e-3 * jnp.sign(g), params, grads), loss

    params, losses = drawn(model), []
    for _ in range(20):
        params, loss = step(params)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mlp", jax.sharding.AxisType.Explicit),
        ("lenet5", jax.sharding.AxisType.Explicit),
        ("transformer", jax.sharding.AxisType.Explicit),
        ("transformer", jax.sharding.AxisType.Auto),
    ],
)
def test_a_batch_and_the_rows_of_weights_may_lie_on_a_mesh(
    name: str, kind: jax.sharding.AxisType, drawn: Draw
):
    model, inputs = MODELS[name]

    def mean_square(params: Params, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(model.apply(params, x)))

    grad, params = jax.jit(jax.grad(mean_square)), drawn(model)
    alone = tree.leaves(grad(params, inputs))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        rows, whole = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (("data",), ()))
        spread = jax.tree.map(lambda p: jax.device_put(p, rows if p.ndim == 2 else whole), params)
        together = tree.leaves(grad(spread, jax.device_put(inputs, rows)))
    for path, leaf in together.items():
        error = np.abs(leaf - alone[path]).max()
        assert error <= 1e-5 * max(np.abs(alone[path]).max(), 1e-3), path


def test_any_nnx_module_can_be_handed_out(key: jax.Array):
    init, apply = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    params = init(key) | {"bias": jnp.ones(2)}
    x = jnp.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(apply(params, x), x @ params["kernel"] + 1, rtol=1e-6)


def test_a_dict_of_params_makes_the_round_trip_through_its_nnx_module(key: jax.Array):
    init, apply = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    nnx.update(module, init(key))
    x = jnp.ones((1, 3))
    np.testing.assert_array_equal(module(x), apply(init(key), x))
    again = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, again, init(key))


def test_statistics_are_refused_by_name():
    with pytest.raises(ValueError, match=r"\['mean', 'var'\] are not parameters.*model_state"):
        from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs))

"""Adapter-only files: the trained part alone, and never over another base."""

import json
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlab import chain, checkpoint, training, tree
from wlab.checkpoint import open_source
from wlab.pretrained import load_factors, save_factors
from wlab.quantization import dequantize, int4, quantize
from wlab.transfer import Adaptation, Adapter, Base, continued, dora, lora, pissa
from wlab.tying import Tie, tie

RULES = [(".*/kernel", True), ("head", "train"), (".*", None)]
INT4 = Base(partial(quantize, format=int4(group_size=4)), dequantize)
HEADS = [("q/kernel", Adapter(1, alpha=5, in_axis=1, out_axis=(0,))), *RULES]
KINDS = {
    "LoRA": (Adapter(2, alpha=3), RULES, None),
    "axes of its own": (Adapter(2, scaling="rank_stabilized"), HEADS, None),
    "DoRA": (dora(2), RULES, None),
    "bfloat16": (Adapter(2, dtype=jnp.bfloat16), RULES, None),
    "PiSSA": (Adapter(2, start=pissa), RULES, None),
    "QDoRA": (dora(2, alpha=3), RULES, INT4),
}
EACH = pytest.mark.parametrize("kind", KINDS)


def params():
    rng = np.random.default_rng(0)
    shapes = {"q": {"kernel": (8, 8), "bias": (8,)}, "v": {"kernel": (8, 4)}, "head": (4, 3)}
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s).astype(np.float32)),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def begun(kind):
    """An adaptation that is no longer fresh, and its frozen part."""
    adapter, rules, base = KINDS[kind]
    stored, state = jax.jit(lora(adapter, rules, base=base).init)(params(), jax.random.key(0))
    stored = jax.tree.map(
        lambda x: x + jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), stored
    )
    return Adaptation(adapter, rules, stored, base), state


def assert_same_bits(a, b):
    assert tree.paths(a) == tree.paths(b)
    for (path, x), y in zip(tree.leaves(a).items(), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


@EACH
def test_an_adapter_comes_back_bit_for_bit_on_its_base(kind, tmp_path):
    one, state = begun(kind)
    save_factors(tmp_path / "a.safetensors", one, state)
    two = load_factors(tmp_path / "a.safetensors", params(), base=one.base)
    assert_same_bits(two.stored, one.stored)
    assert two.adapters(tree.paths(params())) == one.adapters(tree.paths(params()))
    stored, again = jax.jit(two.weights.init)(params(), jax.random.key(7))
    assert_same_bits(stored, one.stored)
    assert_same_bits(again, state)
    with (tmp_path / "a.safetensors").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    size = (tmp_path / "a.safetensors").stat().st_size
    assert size == header + tree.nbytes(one.stored)  # no byte of the base


@pytest.mark.parametrize("kind", ["LoRA", "QDoRA"])
def test_merged_weights_are_what_the_transform_shows(kind):
    one, state = begun(kind)
    seen = lora(one.adapter, one.rules, base=one.base).finalize(one.stored, state)
    for x, y in zip(jax.tree.leaves(seen), jax.tree.leaves(one.merged(params())), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def loss(seen, model_state, batch, key):
    del key
    hidden = jnp.tanh(batch @ seen["q"]["kernel"] + seen["q"]["bias"][None])
    error = hidden @ seen["v"]["kernel"] @ seen["head"] - batch[:, :3]
    return jnp.sum(jnp.square(error)), (jnp.float32(len(error)), model_state, {})


def batch(step):
    return jnp.asarray(np.random.default_rng(step).normal(size=(16, 8)).astype(np.float32))


def adamw():
    return optax.adamw(1e-2, weight_decay=0.1)


def test_training_goes_on_from_the_file_as_if_it_had_never_stopped(tmp_path):
    adapter, rules, base = KINDS["QDoRA"]
    weights, tx, key = lora(adapter, rules, base=base), adamw(), jax.random.key(3)
    path, root = tmp_path / "a.safetensors", tmp_path / "moments"
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises floats to int32 powers
        step = jax.jit(training.make_step(loss, weights, tx))
        state = training.init_state(params(), weights, tx, key=key)
        for i in range(6):
            if i == 3:
                save_factors(path, Adaptation(adapter, rules, state.stored), state.weights)
                checkpoint.save(root, 3, {"opt": state.opt, "key": state.key})
            state, _ = step(state, batch(i))

        found = load_factors(path, params(), base=base)
        fresh = training.init_state(params(), found.weights, tx, key=jax.random.key(99))
        rest = checkpoint.restore(root, {"opt": fresh.opt, "key": fresh.key}).state
        again = fresh._replace(step=jnp.int32(3), **rest)
        for i in range(3, 6):
            again, _ = step(again, batch(i))
    assert_same_bits(
        (again.stored, again.opt, again.weights), (state.stored, state.opt, state.weights)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p | {"v": {"kernel": p["v"]["kernel"].at[3, 2].add(1e-6)}},
            "'v/kernel' has other",
        ),
        (lambda p: p | {"q": p["q"] | {"bias": p["q"]["bias"] + 1}}, "'q/bias' has other values"),
        (
            lambda p: p | {"q": p["q"] | {"bias": jnp.ones(8, jnp.bfloat16)}},
            r"'q/bias' was float32\[8\] and is bfloat16\[8\]",
        ),
        (lambda p: p | {"more": jnp.ones(2)}, r"'more' was absent and is float32\[2\]"),
    ],
)
def test_another_base_is_refused_by_the_leaf(change, message, tmp_path):
    one, state = begun("LoRA")
    path = tmp_path / "a.safetensors"
    save_factors(path, one, state)
    with pytest.raises(ValueError, match=rf"belongs to another base: .*{message}.*Load the param"):
        load_factors(path, change(params()))


def test_leaves_of_the_base_may_differ_where_that_is_allowed(tmp_path):
    one, state = begun("LoRA")
    save_factors(tmp_path / "a.safetensors", one, state)
    other = params() | {"v": {"kernel": params()["v"]["kernel"] * 2}}
    found = load_factors(tmp_path / "a.safetensors", other, allow=["v/.*"])
    assert_same_bits(found.stored, one.stored)


def test_another_way_to_keep_the_base_is_refused(tmp_path):
    one, state = begun("QDoRA")
    save_factors(tmp_path / "a.safetensors", one, state)
    with pytest.raises(ValueError, match=r"'q/kernel/codes' was .* and is absent.*`base=`"):
        load_factors(tmp_path / "a.safetensors", params())


def test_other_files_are_refused(tmp_path):
    checkpoint.save_safetensors(tmp_path / "a.safetensors", params())
    with pytest.raises(ValueError, match="does not say which adapters these are"):
        load_factors(tmp_path / "a.safetensors", params())
    one, state = begun("LoRA")
    save_factors(tmp_path / "b.safetensors", one, state)
    texts = dict(open_source(tmp_path / "b.safetensors").metadata)
    fewer = tree.replace(one.stored, {"v/kernel/a": None})
    checkpoint.save_safetensors(tmp_path / "b.safetensors", fewer, metadata=texts)
    with pytest.raises(ValueError, match="leaf 'v/kernel/a' is missing"):
        load_factors(tmp_path / "b.safetensors", params())


def test_a_save_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    one, state = begun("LoRA")
    path = tmp_path / "a.safetensors"
    save_factors(path, one, state)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_factors(path, one, state)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_start_of_ones_own_is_held_to_the_base_it_left(tmp_path):
    def mine(key, kernel, at, scale):
        return Adapter(2).start(key, kernel, at, scale)

    adapter = Adapter(2, start=mine)
    stored, state = lora(adapter, RULES).init(params(), jax.random.key(0))
    save_factors(tmp_path / "a.safetensors", Adaptation(adapter, RULES, stored), state)
    assert_same_bits(load_factors(tmp_path / "a.safetensors", params()).stored, stored)

    def greedy(key, kernel, at, scale):
        factors = pissa(key, kernel, at, scale)
        return factors._replace(b=factors.b / 2)

    adapter = Adapter(2, start=greedy)
    stored, state = lora(adapter, RULES).init(params(), jax.random.key(0))
    save_factors(tmp_path / "b.safetensors", Adaptation(adapter, RULES, stored), state)
    with pytest.raises(ValueError, match="another base"):
        load_factors(tmp_path / "b.safetensors", params())


def tied_network():
    table = params()["q"]["kernel"]
    return {"embed": table, "head": table.T.copy(), "norm": jnp.ones(8)}


TIED = tie([Tie("head", "embed", transpose=True)])
TABLE = [("embed", True), (".*", None)]


@pytest.mark.parametrize("base", [None, INT4], ids=["dense", "int4"])
def test_a_tied_quantized_base_keeps_every_bit_over_a_thousand_steps(base, tmp_path):
    weights, tx = chain(lora=lora(Adapter(2), TABLE, base=base), tie=TIED), adamw()

    def loss(seen, model_state, batch, key):
        del key
        hidden = jnp.tanh(batch @ seen["embed"]) * seen["norm"]
        error = hidden @ seen["head"] - jnp.roll(batch, 1, axis=1)
        return jnp.sum(jnp.square(error)), (jnp.float32(len(error)), model_state, {})

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        first = training.init_state(tied_network(), weights, tx, key=jax.random.key(1), ema=True)
        step = training.make_step(loss, weights, tx, ema=0.99)
        run = jax.jit(
            lambda state: jax.lax.scan(lambda s, _: step(s, batch(0)), state, length=1000)
        )
        last, metrics = run(first)
    assert tree.paths(last.stored) == ["embed/a", "embed/b"]
    assert tree.count(last.opt) == 2 * (8 * 2 + 2 * 8) + 1  # two moments of each, and Adam's step
    assert_same_bits(last.weights, first.weights)
    assert metrics["loss"][-1] < 0.9 * metrics["loss"][0]
    seen = weights.finalize(last.stored, last.weights)
    np.testing.assert_array_equal(seen["head"], seen["embed"].T)
    np.testing.assert_array_equal(seen["norm"], 1)

    # In front of a tie the adapter stands on what the tie stores.
    stores, _ = TIED.init(tied_network(), jax.random.key(0))
    one = Adaptation(Adapter(2), TABLE, last.stored, base)
    save_factors(tmp_path / "a.safetensors", one, last.weights["lora"])
    two = load_factors(tmp_path / "a.safetensors", stores, base=base)
    again = continued(weights, two.stored)
    assert_same_bits(again.finalize(*again.init(tied_network(), jax.random.key(2))), seen)


@pytest.mark.parametrize("base", [None, INT4], ids=["dense", "int4"])
def test_a_fresh_adapter_of_a_tied_table_changes_both_users_by_nothing(base, key):
    weights = chain(lora=lora(dora(2), TABLE, base=base), tie=TIED)
    seen = weights.finalize(*jax.jit(weights.init)(tied_network(), key))
    table = tied_network()["embed"]
    want = table if base is None else base.expand(base.compress(table))
    np.testing.assert_allclose(seen["embed"], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen["head"], seen["embed"].T)


def test_what_was_stored_for_other_rules_does_not_continue(key):
    one, _ = begun("LoRA")
    with pytest.raises(
        ValueError, match=r"leaf 'q/kernel/a' is float32\[8,3\] where .* float32\[8,2\]"
    ):
        continued(lora(Adapter(3), RULES), one.stored).init(params(), key)
    with pytest.raises(ValueError, match="'head' is absent where"):
        continued(lora(Adapter(2), [*RULES[:1], (".*", None)]), one.stored).init(params(), key)


def test_the_header_is_plain_text(tmp_path):
    one, state = begun("LoRA")
    save_factors(tmp_path / "a.safetensors", one, state)
    fields = json.loads(open_source(tmp_path / "a.safetensors").metadata["adapters"])
    assert set(fields) == {"q/kernel", "v/kernel"}
    assert (fields["q/kernel"]["rank"], fields["q/kernel"]["alpha"]) == (2, 3)

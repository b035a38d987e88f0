"""Trees and streams: rules, kept leaves, aliases, memory, and real files' lazy arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

from wlab import checkpoint, merging, models, tree

NAMES = [f"block_{i}/kernel" for i in range(5)]


def drawn(seed: int) -> dict:
    """A small model's weights with an integer leaf and a half-precision one."""
    rng = np.random.default_rng(seed)
    return {
        "embed": jnp.asarray(rng.standard_normal((6, 4)), jnp.bfloat16),
        "block": [
            {"kernel": jnp.asarray(rng.standard_normal((4, 4)), jnp.float32), "bias": jnp.ones(4)}
            for _ in range(3)
        ],
        "count": jnp.arange(3),
    }


def same(a, b) -> None:
    assert tree.paths(a) == tree.paths(b)
    for path, leaf in tree.leaves(a).items():
        assert leaf.dtype == tree.leaves(b)[path].dtype
        np.testing.assert_array_equal(leaf, tree.leaves(b)[path], err_msg=path)


METHODS = {
    "linear": merging.Linear((1.0, 3.0)),
    "slerp": merging.Slerp(0.25),
    "task arithmetic": merging.TaskArithmetic((0.5, 0.25)),
    "ties": merging.Ties(0.5, weights=(1.0, 2.0), scale=0.7),
    "ties as in peft": merging.Ties(0.5, convention=merging.PEFT_FREQUENCY),
    "dare": merging.Dare(0.5),
    "dare with ties": merging.Dare(0.5, convention=merging.MERGEKIT),
    "model stock": merging.ModelStock(),
}
BY_HAND = {
    "linear": lambda base, xs: merging.linear(xs, (1.0, 3.0)),
    "slerp": lambda base, xs: merging.slerp(xs[0], xs[1], 0.25),
    "task arithmetic": lambda base, xs: merging.task_arithmetic(base, xs, (0.5, 0.25)),
    "ties": lambda base, xs: merging.ties(base, xs, (1.0, 2.0), density=0.5, scale=0.7),
    "ties as in peft": lambda base, xs: merging.ties(
        base, xs, density=0.5, convention=merging.PEFT_FREQUENCY
    ),
    "model stock": merging.model_stock,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_tree_is_merged_leaf_by_leaf_in_its_own_containers_and_dtypes(name):
    base, a, b = drawn(0), drawn(1), drawn(2)
    merged = merging.merge(METHODS[name], [a, b], base=base)
    assert jax.tree.map(jax.typeof, merged) == jax.tree.map(jax.typeof, a)
    for path, leaf in tree.leaves(merged).items():
        at = [tree.leaves(x)[path] for x in (base, a, b)]
        expected = at[0] if path == "count" else BY_HAND[name](at[0], at[1:])
        np.testing.assert_array_equal(leaf, expected, err_msg=path)


@pytest.mark.parametrize("name", METHODS)
def test_a_stream_gives_what_memory_gives(name, key):
    base, a, b = drawn(0), drawn(1), drawn(2)
    whole = merging.merge(METHODS[name], [a, b], base=base, key=key)
    counting = Memory()
    streams = [counting.files(tree.leaves(x)) for x in (a, b, base)]
    streamed = dict(merging.merge_leaves(METHODS[name], streams[:2], base=streams[2], key=key))
    same(streamed, dict(tree.leaves(whole)))
    assert list(streamed) == list(streams[0])


@dataclass
class Memory:
    """Files whose arrays tell, when one is read, how many are still in memory."""

    shape: tuple[int, ...] = ()
    most: int = 0
    reads: int = 0

    def files(self, arrays: Mapping[str, jax.Array]) -> dict[str, "File"]:
        return {name: File(np.array(array), self) for name, array in arrays.items()}

    def look(self) -> None:
        alive = [x for x in jax.live_arrays() if x.shape == self.shape]
        self.most = max(self.most, len(alive))


@dataclass(frozen=True)
class File:
    """An array on disk, as merging sees it."""

    array: np.ndarray
    memory: Memory

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> str:
        return self.array.dtype.name

    def read(self) -> np.ndarray:
        self.memory.reads += 1
        self.memory.look()
        return self.array.copy()


@pytest.mark.parametrize("count", [2, 5])
def test_no_more_leaves_are_in_memory_than_models_and_one(count):
    memory = Memory(shape=(7, 11, 13))
    sources = [
        memory.files({name: jnp.full(memory.shape, i + 1.0) for name in NAMES})
        for i in range(count)
    ]
    memory.look()
    assert memory.most == 0  # nothing of this shape is alive but what is merged

    def mean(peers: merging.Peers) -> jax.Array:
        memory.look()
        return merging.linear(peers.leaves)

    for name, leaf in merging.merge_leaves(mean, sources):
        memory.look()
        np.testing.assert_allclose(leaf, (count + 1) / 2, rtol=1e-6, err_msg=name)
    assert memory.reads == count * len(NAMES)
    assert memory.most == count + 1  # the loop still holds the leaf that came before


def test_nothing_is_read_before_its_turn_and_kept_leaves_once():
    memory = Memory()
    a, b = (memory.files({name: jnp.ones(3) for name in NAMES}) for _ in range(2))
    stream: Iterator = merging.merge_leaves(
        merging.Linear(), [a, b], rules=[("block_[1-4]/.*", None)]
    )
    assert memory.reads == 0
    next(stream)
    assert memory.reads == 2
    assert [name for name, _ in stream] == NAMES[1:]
    assert memory.reads == 6


def test_safetensors_files_stream_through(tmp_path):
    base, a, b = ({"w": jnp.full((3, 2), v), "b": jnp.full(2, -v)} for v in (1.0, 2.0, 4.0))
    paths = []
    for name, params in {"base": base, "a": a, "b": b}.items():
        paths.append(tmp_path / f"{name}.safetensors")
        safetensors.flax.save_file(dict(params), paths[-1])
    opened = [checkpoint.open_source(path).arrays for path in paths]
    merged = dict(merging.merge_leaves(merging.TaskArithmetic(0.5), opened[1:], base=opened[0]))
    np.testing.assert_array_equal(merged["w"], np.full((3, 2), 3.0))
    np.testing.assert_array_equal(merged["b"], np.full(2, -3.0))


def test_rules_give_a_leaf_its_own_method_and_none_keeps_it():
    base, a, b = drawn(0), drawn(1), drawn(2)
    rules = [
        (r"block/0/.*", None),
        *[(rf"block/{i}/kernel", merging.Slerp(i / 4)) for i in (1, 2)],
    ]
    merged = merging.merge(merging.Linear((3.0, 1.0)), [a, b], base=base, rules=rules)
    np.testing.assert_array_equal(merged["block"][0]["kernel"], base["block"][0]["kernel"])
    for i in (1, 2):
        kernels = [x["block"][i]["kernel"] for x in (a, b)]
        expected = merging.slerp(kernels[0], kernels[1], i / 4)
        np.testing.assert_array_equal(merged["block"][i]["kernel"], expected)
    expected = merging.linear([a["embed"], b["embed"]], (3.0, 1.0))
    np.testing.assert_array_equal(merged["embed"], expected)
    without_base = merging.merge(merging.Linear(), [a, b], rules=[(".*", None)])
    same(without_base, a)


def test_a_rule_that_names_no_leaf_is_refused():
    with pytest.raises(ValueError, match=r"merge: rule 'head/.*' matches no leaf"):
        merging.merge(merging.Linear(), [drawn(1), drawn(2)], rules=[("head/.*", None)])


def test_any_function_of_the_peers_is_a_method():
    a, b = {"x": jnp.array([1.0, 5.0])}, {"x": jnp.array([3.0, 2.0])}
    merged = merging.merge(lambda peers: jnp.maximum(*peers.leaves), [a, b])
    np.testing.assert_array_equal(merged["x"], [3.0, 5.0])


def test_a_draw_depends_on_the_key_and_the_path_alone(key):
    zeros, ones = jnp.zeros(100), jnp.ones(100)
    base, tuned = {"a": zeros, "b": jnp.zeros(100)}, {"a": ones, "b": jnp.ones(100)}
    both = merging.merge(merging.Dare(0.5), [tuned], base=base, key=key)
    alone = merging.merge(merging.Dare(0.5), [{"b": ones}], base={"b": zeros}, key=key)
    np.testing.assert_array_equal(both["b"], alone["b"])
    assert (both["a"] != both["b"]).any()


def test_an_array_at_two_paths_stays_one(key):
    def tied(value: float) -> dict:
        table = jnp.full((4, 2), value)
        return {"embed": table, "head": table, "norm": jnp.ones(2)}

    merged = merging.merge(merging.Dare(0.5), [tied(1.0), tied(2.0)], base=tied(0.0), key=key)
    assert merged["head"] is merged["embed"]
    assert tree.aliases(merged) == [("embed", "head")]


def test_a_model_merged_with_itself_is_itself(key):
    params = jax.jit(models.mlp([8, 6, 4]).init)(key)
    twin = jax.tree.map(jnp.copy, params)
    same(merging.merge(merging.Linear(), [params, twin]), params)
    same(merging.merge(merging.Linear((0.0, 1.0)), [params, twin]), params)


def test_the_first_model_decides_on_the_dtype_where_dtypes_may_differ():
    a, b = {"x": jnp.array([1.0], jnp.bfloat16)}, {"x": jnp.array([2.0])}
    for first, second in ((a, b), (b, a)):
        merged = merging.merge(merging.Linear(), [first, second], mixed_dtypes=True)
        assert merged["x"].dtype == first["x"].dtype
        np.testing.assert_array_equal(merged["x"], [1.5])

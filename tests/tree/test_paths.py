"""One spelling of a leaf's path for every kind of tree."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wlab import Stored, tree


class Pair(NamedTuple):
    kernel: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclass
class Layer:
    kernel: Any
    bias: Any


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.fc = nnx.Linear(3, 2, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(2, 2, use_bias=False, rngs=rngs)])


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2, name="head")(nn.Dense(3)(x))


def haiku_params() -> Any:
    def forward(x: jax.Array) -> jax.Array:
        return hk.Linear(2, name="head")(hk.nets.MLP([3])(x))

    return jax.eval_shape(hk.transform(forward).init, jax.random.key(0), jnp.ones((1, 4)))


def linen_params() -> Any:
    return jax.eval_shape(LinenNet().init, jax.random.key(0), jnp.ones((1, 4)))


def equinox_params() -> Any:
    mlp = eqx.filter_eval_shape(eqx.nn.MLP, 4, 2, 3, 1, key=jax.random.key(0))
    return eqx.filter(mlp, lambda x: isinstance(x, jax.ShapeDtypeStruct))


LAYER = {"kernel": 1.0, "bias": 2.0}
TREES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "dict": (lambda: {"b": LAYER, "a": 0.0}, ["a", "b/bias", "b/kernel"]),
    "ordered": (lambda: OrderedDict(b=LAYER, a=0.0), ["b/bias", "b/kernel", "a"]),
    "list": (lambda: [LAYER, (3.0, [4.0])], ["0/bias", "0/kernel", "1/0", "1/1/0"]),
    "namedtuple": (lambda: {"x": Pair(1.0, 2.0)}, ["x/kernel", "x/bias"]),
    "dataclass": (lambda: [Layer(1.0, {"w": 2.0})], ["0/kernel", "0/bias/w"]),
    "integer keys": (lambda: {"block": {0: 1.0, 10: 2.0}}, ["block/0", "block/10"]),
    "bare leaf": (lambda: 1.0, [""]),
    "stored": (
        lambda: Stored({"fc": LAYER}, {"fc/kernel": 1.0}),
        ["fc/bias", "fc/kernel", "+/fc/kernel"],
    ),
    "linen": (
        linen_params,
        ["params/Dense_0/bias", "params/Dense_0/kernel", "params/head/bias", "params/head/kernel"],
    ),
    "nnx state": (
        lambda: nnx.state(NnxNet(nnx.Rngs(0))),
        ["blocks/0/kernel", "fc/bias", "fc/kernel"],
    ),
    "nnx dict": (
        lambda: nnx.to_pure_dict(nnx.state(NnxNet(nnx.Rngs(0)))),
        ["blocks/0/kernel", "fc/bias", "fc/kernel"],
    ),
    "equinox": (
        equinox_params,
        ["layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias"],
    ),
    "haiku": (haiku_params, ["head/b", "head/w", "mlp/~/linear_0/b", "mlp/~/linear_0/w"]),
}
every_tree = pytest.mark.parametrize(("make", "expected"), TREES.values(), ids=TREES)


@every_tree
def test_every_kind_of_tree_spells_its_paths_alike(make: Callable[[], Any], expected: list[str]):
    assert tree.paths(make()) == expected


@every_tree
def test_leaves_are_those_of_jax_in_its_order(make: Callable[[], Any], expected: list[str]):
    made = make()
    found = tree.leaves(made)
    assert all(a is b for a, b in zip(found.values(), jax.tree.leaves(made), strict=True))


@every_tree
def test_a_leaf_that_was_taken_out_can_be_put_back(make: Callable[[], Any], expected: list[str]):
    made = make()
    first = expected[0]
    without = tree.replace(made, {first: None})
    assert tree.paths(without) == expected[1:]
    again = tree.replace(without, {first: tree.leaves(made)[first]})
    assert jax.tree.structure(again) == jax.tree.structure(made)
    assert tree.leaves(again)[first] is tree.leaves(made)[first]


@every_tree
def test_mapping_names_each_leaf(make: Callable[[], Any], expected: list[str]):
    assert jax.tree.leaves(tree.map_leaves(lambda path, leaf: path, make())) == expected


def test_a_map_takes_further_trees_of_the_same_structure():
    out = tree.map_leaves(lambda path, a, b: (path, a - b), {"x": [5, 7]}, {"x": [1, 2]})
    assert out == {"x": [("x/0", 4), ("x/1", 5)]}


def test_replacing_leaves_the_given_tree_alone():
    params = {"fc": {"kernel": np.ones(2), "bias": np.ones(1)}}
    out = tree.replace(params, {"fc/bias": 3})
    assert out["fc"]["bias"] == 3
    assert out["fc"]["kernel"] is params["fc"]["kernel"]
    assert params["fc"]["bias"] == 1


def test_a_wrong_path_is_named_beside_the_right_ones():
    with pytest.raises(KeyError, match=r"No leaf at 'fc/kernl'; the tree has 'fc/kernel'"):
        tree.replace({"fc": {"kernel": 1.0}}, {"fc/kernl": 2.0})


def test_a_long_list_of_paths_is_cut():
    with pytest.raises(KeyError, match=r"'7', … \(20 in all\)"):
        tree.replace([0.0] * 20, {"x": 1.0})


def test_an_inner_node_is_no_leaf():
    with pytest.raises(KeyError, match="No leaf at 'fc'"):
        tree.replace({"fc": {"kernel": 1.0}}, {"fc": None})


def test_two_leaves_on_one_path_are_refused():
    with pytest.raises(ValueError, match="Two leaves have the path 'a/b': rename"):
        tree.leaves({"a/b": 1.0, "a": {"b": 2.0}})


def test_extras_are_no_parameters():
    stored = Stored({"fc": LAYER}, {"fc/kernel": 1.0})
    assert list(tree.param_leaves(stored)) == ["fc/bias", "fc/kernel"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("0/mu/fc/kernel", "fc/kernel"),
        ("fc/kernel", "fc/kernel"),
        ("0/mu/block/fc/kernel", "block/fc/kernel"),  # the longest
        ("0/mu/other_fc/kernel", None),  # whole names only
        ("fc/kernel/0", None),
        ("count", None),
    ],
)
def test_the_owner_is_the_longest_stored_path_at_the_end(path: str, expected: str | None):
    assert tree.owner(path, ["fc/kernel", "block/fc/kernel"]) == expected


def test_a_tree_that_is_one_leaf_owns_every_path():
    assert tree.owner("0/mu", [""]) == ""

"""A network takes the weights of another file, in its own names or as its tree."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import models, tree
from wlab.checkpoint import Lazy, open_source, save_safetensors
from wlab.models import ResNetConfig
from wlab.pretrained import NameMap, Network, Plan, export, move, refilled
from wlab.pretrained.networks.network import whole_tree

MODEL = models.resnet(ResNetConfig((1,), (8,), classes=10))


def drawn(seed: int) -> Network:
    """A network whose files call `a/b` `a.b`."""
    params, state = MODEL.init(jax.random.key(seed))
    state = jax.tree.map(lambda x: x + seed, state)
    paths = tree.paths({"params": params, "model_state": state})
    name_map = NameMap(tuple(move(path.replace("/", "."), path) for path in paths))
    return Network(MODEL, None, params, name_map, Plan(()), model_state=state)


def unread(network: Network) -> Network:
    """The network, all of it in its file; nobody may read the weights there."""

    def lazy(x: jax.Array) -> Lazy:
        return Lazy(x.shape, x.dtype.name, x.nbytes, lambda: pytest.fail("it was read"))

    state = jax.tree.map(
        lambda x: replace(lazy(x), read=lambda: np.asarray(x)), network.model_state
    )
    return replace(network, params=jax.tree.map(lazy, network.params), model_state=state)


@pytest.mark.parametrize("names", ["theirs", "ours", "weights alone"])
def test_every_way_of_naming_gives_the_files_weights(names, tmp_path):
    own, other = drawn(1), drawn(2)
    arrays = {
        "theirs": export(whole_tree(other), other.name_map),
        "ours": whole_tree(other),
        "weights alone": other.params,
    }[names]
    save_safetensors(tmp_path / "w.safetensors", arrays)
    found = refilled(unread(own), open_source(tmp_path / "w.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, found.params, other.params)
    statistics = (own if names == "weights alone" else other).model_state
    jax.tree.map(np.testing.assert_array_equal, found.model_state, statistics)
    assert found.model is own.model


def test_the_file_says_the_dtype_and_must_fit(tmp_path):
    own = drawn(1)
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), own.params)
    save_safetensors(tmp_path / "w.safetensors", halves)
    found = refilled(unread(own), open_source(tmp_path / "w.safetensors"))
    assert {x.dtype.name for x in jax.tree.leaves(found.params)} == {"bfloat16"}
    halves["stem"]["kernel"] = jnp.zeros((3, 3, 3, 4))
    save_safetensors(tmp_path / "w.safetensors", halves)
    with pytest.raises(ValueError, match=r"stem/kernel"):
        refilled(own, open_source(tmp_path / "w.safetensors"))
    del halves["stem"]
    save_safetensors(tmp_path / "w.safetensors", halves)
    with pytest.raises(ValueError, match=r"w.safetensors"):
        refilled(own, open_source(tmp_path / "w.safetensors"))

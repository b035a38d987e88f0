"""Shared layers: ALBERT's published sizes, from shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.tree import count, leaves, paths
from wlab.tying import Tie, share, tie, tie_leaves, untie_leaves

LAYERS = r"layer_(\d+)/.*"


def bert(width, embedding, layers=12, hidden=3072, vocab=30_000):
    """BERT-base's shapes (Devlin et al. 2019); ALBERT's with a narrower embedding."""

    def dense(n_in, n_out):
        return {"kernel": (n_in, n_out), "bias": (n_out,)}

    def norm(n):
        return {"scale": (n,), "bias": (n,)}

    def layer():
        return {
            "attn": {name: dense(width, width) for name in ("q", "k", "v", "out")},
            "ffn": {"up": dense(width, hidden), "down": dense(hidden, width)},
            "norm_attn": norm(width),
            "norm_ffn": norm(width),
        }

    shapes = {f"layer_{i}": layer() for i in range(layers)}
    shapes |= {"pooler": dense(width, width), "embed_norm": norm(embedding)}
    sizes = {"token": vocab, "position": 512, "type": 2}
    shapes["embed"] = {name: (size, embedding) for name, size in sizes.items()}
    if embedding != width:
        shapes["project"] = dense(embedding, width)
    return arrays_of(shapes)


def arrays_of(shapes):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


SHARED = {"none": None, "all": ".*", "attention": ".*/attn/.*", "ffn": ".*/ffn/.*"}
# Lan et al. 2020, table 4, in millions.
TABLE_4 = {
    768: {"none": 108, "all": 31, "attention": 83, "ffn": 57},
    128: {"none": 89, "all": 12, "attention": 64, "ffn": 38},
}


@pytest.mark.parametrize("embedding", TABLE_4)
@pytest.mark.parametrize("shared", SHARED)
def test_sizes_of_albert_base_as_in_table_4(embedding, shared, key):
    params = bert(768, embedding)
    only = SHARED[shared]
    ties = [] if only is None else share(params, LAYERS, only=only)
    stored, _ = jax.eval_shape(tie(ties).init, params, key)
    # 109,081,344 and 89,650,176 unshared stand as 108M and 89M in the paper.
    assert abs(count(stored) / 1e6 - TABLE_4[embedding][shared]) < 1.1


def test_sizes_of_albert_base_to_the_weight():
    wide, narrow = bert(768, 768), bert(768, 128)
    assert count(tie_leaves(narrow, share(narrow, LAYERS))) == 11_683_584
    assert count(tie_leaves(wide, share(wide, LAYERS))) == 31_114_752
    assert count(wide) - count(tie_leaves(wide, share(wide, LAYERS))) == 77_966_592


@pytest.mark.parametrize(
    ("vocab", "width", "untied", "tied"),
    [(10_000, 200, 4_651_600, 2_651_600), (10_000, 1500, 66_022_000, 51_022_000)],
    ids=["small", "large"],
)
def test_sizes_of_press_and_wolf_2017(vocab, width, untied, tied):
    """Two LSTM layers; the head is stored (vocab, width)."""
    shapes = {
        "embed": {"embedding": (vocab, width)},
        "head": {"kernel": (vocab, width), "bias": (vocab,)},
        **{f"lstm_{i}": {"kernel": (2 * width, 4 * width), "bias": (4 * width,)} for i in (0, 1)},
    }
    params = arrays_of(shapes)
    assert count(params) == untied
    assert count(tie_leaves(params, [Tie("head/kernel", "embed/embedding")])) == tied


def tower(num_layers=12, width=2):
    return {
        f"layer_{i}": {"w": jnp.full((width,), float(i)), "b": jnp.full((1,), -float(i))}
        for i in range(num_layers)
    }


@pytest.mark.parametrize(
    ("groups", "seen"),
    [
        (1, [0] * 12),
        (3, [0] * 4 + [4] * 4 + [8] * 4),
        (5, [0, 0, 0, 3, 3, 5, 5, 5, 8, 8, 10, 10]),
        (12, list(range(12))),
    ],
)
def test_each_layer_is_seen_as_the_first_of_its_group(groups, seen):
    """Layer 10 comes after layer 9, although its key sorts before that of layer 2."""
    params = tower()
    ties = share(params, LAYERS, groups=groups)
    shown = untie_leaves(tie_leaves(params, ties), ties)
    assert [float(shown[f"layer_{i}"]["w"][0]) for i in range(12)] == seen
    assert len(ties) == 2 * (12 - groups)


def test_only_shares_what_it_matches():
    ties = share(tower(3), LAYERS, only=r".*/w")
    assert ties == [Tie("layer_1/w", "layer_0/w"), Tie("layer_2/w", "layer_0/w")]


def test_layers_may_stand_in_lists_and_start_anywhere():
    params = {"net": [{"w": jnp.zeros(2)} for _ in range(3)], "stem": {"w": jnp.zeros(5)}}
    ties = share(params, r"net/([12])/.*")
    assert ties == [Tie("net/2/w", "net/1/w")]


def test_gradients_of_shared_layers_add_up():
    params = {
        f"layer_{i}": {"w": jnp.asarray(np.eye(4, k=i % 2) + i, jnp.float32) / 8} for i in range(6)
    }
    ties = share(params, LAYERS, groups=2)
    stored = tie_leaves(params, ties)

    def apply(layers, x):
        for i in range(6):
            x = jnp.tanh(x @ layers[i])
        return x.sum()

    def tied(stored):
        seen = untie_leaves(stored, ties)
        return apply([seen[f"layer_{i}"]["w"] for i in range(6)], jnp.ones((1, 4)))

    def by_hand(first, second):
        return apply([first] * 3 + [second] * 3, jnp.ones((1, 4)))

    grads = leaves(jax.jit(jax.grad(tied))(stored))
    expected = jax.jit(jax.grad(by_hand, argnums=(0, 1)))(*leaves(stored).values())
    assert list(grads) == paths(stored) == ["layer_0/w", "layer_3/w"]
    for mine, hand in zip(grads.values(), expected, strict=True):
        np.testing.assert_allclose(mine, hand, rtol=1e-6)


def ragged():
    params = tower(3)
    params["layer_2"]["w"] = jnp.zeros(3)
    return params


def lacking():
    params = tower(3)
    del params["layer_1"]["b"]
    return params


BAD = {
    "a pattern that matches nothing": (tower(), {"layers": r"block_(\d+)/.*"}, "matches no leaf"),
    "a broken pattern": (tower(), {"layers": r"layer_(\d+/.*"}, "not a regular expression"),
    "a pattern without a group": (
        tower(),
        {"layers": r"layer_\d+/.*"},
        "capture the layer's number",
    ),
    "a pattern with two groups": (tower(), {"layers": r"layer_(\d+)/(w|b)"}, r"\(\?:\.\.\.\)"),
    "a group that is no number": (tower(), {"layers": r"(layer_\d+)/.*"}, "captures \\('layer_0',"),
    "an only that matches nothing": (tower(), {"only": ".*/attn/.*"}, "share: only.*no leaf"),
    "no group": (tower(), {"groups": 0}, "between 1 and the 12.*got 0"),
    "more groups than layers": (tower(3), {"groups": 4}, "between 1 and the 3.*got 4"),
    "layers of unequal shapes": (
        ragged(),
        {},
        r"'layer_2/w' is float32\[3\], but 'layer_0/w' is float32\[2\].*Narrow",
    ),
    "a layer that lacks a leaf": (lacking(), {}, "'layer_0/b' has no counterpart in.*'layer_1/w'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sharing_is_refused_by_name(name):
    params, arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        share(params, **{"layers": LAYERS, **arguments})


def test_unequal_layers_may_be_shared_in_groups_or_in_part():
    assert len(share(ragged(), LAYERS, groups=3)) == 0
    assert len(share(ragged(), LAYERS, only=".*/b")) == 2

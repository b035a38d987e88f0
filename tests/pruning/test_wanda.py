"""Wanda against the paper's own loop in NumPy, on any function; what is left alone and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import pruning
from wlab.pruning import Neighbours, PerLeaf, PerOutput, prune, wanda, wanda_scores


def layer(p, x):
    return jnp.tanh(x @ p["up"]) @ p["down"].T


def network(params, x):
    return layer(params["second"], layer(params["first"], x))


def numbers(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture
def params():
    return {
        name: {"up": numbers(8, 12, seed=i), "down": numbers(8, 12, seed=i + 5)}
        for i, name in enumerate(("first", "second"))
    }


@pytest.fixture
def batches():
    sizes = jnp.linspace(0.1, 3, 8)  # else all inputs are alike, and so are all methods
    return [(numbers(16, 8, seed=i) * sizes[None],) for i in range(3)]


RULES = [(".*", PerOutput(0.5))]


def by_hand(w: np.ndarray, x: np.ndarray, keep: int) -> np.ndarray:
    """Inputs by outputs: for each output sort |W| · ‖x‖ and zero the smallest."""
    w = w.copy()
    scores = np.abs(w) * np.linalg.norm(x, axis=0)[:, None]
    for j in range(w.shape[1]):
        w[np.argsort(scores[:, j])[: len(w) - keep], j] = 0
    return w


def test_it_is_the_papers_loop(params, batches):
    found = wanda(network, params, batches, RULES)
    x = np.concatenate([np.asarray(x) for (x,) in batches])
    for name in ("first", "second"):
        dense = jax.tree.map(np.asarray, params[name])
        np.testing.assert_array_equal(found[name]["up"], by_hand(dense["up"], x, 4))
        hidden = np.tanh(x @ dense["up"])
        np.testing.assert_array_equal(found[name]["down"], by_hand(dense["down"].T, hidden, 6).T)
        x = hidden @ dense["down"].T


def test_later_stages_see_what_earlier_ones_left(params, batches):
    stages = ["first/up", "first/down", "second/up", "second/down"]
    found = wanda(network, params, batches, RULES, stages=stages)
    x = np.concatenate([np.asarray(x) for (x,) in batches])
    for name in ("first", "second"):
        dense = jax.tree.map(np.asarray, params[name])
        up = by_hand(dense["up"], x, 4)
        np.testing.assert_array_equal(found[name]["up"], up)
        hidden = np.tanh(x @ up)
        down = by_hand(dense["down"].T, hidden, 6)
        np.testing.assert_array_equal(found[name]["down"], down.T)
        x = hidden @ down
    assert (found["second"]["up"] != wanda(network, params, batches, RULES)["second"]["up"]).any()


def test_layers_in_a_scan_are_scored_each_by_itself(params, batches):
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params.values())

    def scanned(params, x):
        return jax.lax.scan(lambda x, p: (layer(p, x), None), x, params)[0]

    found, apart = (
        wanda(scanned, stacked, batches, RULES),
        wanda(network, params, batches, RULES),
    )
    for i, name in enumerate(("first", "second")):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), found, apart[name])


def test_it_beats_magnitude_where_inputs_differ_in_size(batches):
    params, x = {"w": numbers(8, 200)}, jnp.concatenate([x for (x,) in batches])

    def fn(p, x):
        return x @ p["w"]

    by_inputs, by_size = wanda(fn, params, batches, RULES), prune(params, 0.5)
    away = [jnp.sum((fn(params, x) - fn(p, x)) ** 2) for p in (by_inputs, by_size)]
    assert away[0] < 0.5 * away[1]


def test_inputs_of_one_size_make_it_magnitude(params):
    eye = [(jnp.eye(8),)]
    found = wanda(network, params, eye, [("first/up", PerLeaf(0.25)), (".*", None)])
    expected = prune(params, 0.25, [("first/up", True), (".*", None)])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_groups_of_four_are_along_the_inputs_whatever_the_layout(params, batches):
    found = wanda(network, params, batches, [(".*", Neighbours(keep=2, of=4))])
    up, down = (np.asarray(found["first"][name]) != 0 for name in ("up", "down"))
    assert (up.reshape(2, 4, 12).sum(1) == 2).all()
    assert (down.reshape(8, 3, 4).sum(2) == 2).all()


def test_convolutions_with_groups_are_scored_by_their_own_patches():
    w, x = (
        numbers(3, 3, 4, 6),
        numbers(2, 5, 5, 8, seed=1) * jnp.linspace(0.1, 2, 8)[None, None, None],
    )

    def convolve(params, x):
        return jax.lax.conv_general_dilated(
            x,
            params["w"],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    found = np.asarray(wanda(convolve, {"w": w}, [(x,)], RULES)["w"])
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(x), (3, 3), (1, 2))
    for group in range(2):
        channels = slice(4 * group, 4 * group + 4)
        patches = windows[:, :, :, channels].transpose(0, 1, 2, 4, 5, 3).reshape(-1, 36)
        outputs = slice(3 * group, 3 * group + 3)
        expected = by_hand(np.asarray(w)[..., outputs].reshape(36, 3), patches, 18)
        np.testing.assert_array_equal(found[..., outputs].reshape(36, 3), expected)


def test_what_is_kept_is_bit_identical_and_the_rest_is_untouched(params, batches):
    found = wanda(network, params, batches, [("first/.*", PerOutput(0.5)), (".*", None)])
    for name in ("up", "down"):
        kept = np.asarray(found["first"][name])
        assert ((kept == 0) | (kept == np.asarray(params["first"][name]))).all()
        assert found["second"][name] is params["second"][name]


def test_half_precision_is_scored_in_single(params, batches):
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    batches = [(x.astype(jnp.bfloat16),) for (x,) in batches]
    found = wanda(network, low, batches, RULES)
    assert found["first"]["up"].dtype == jnp.bfloat16
    assert int((found["first"]["up"] != 0).sum()) == 48


def test_scores_are_weights_times_norms():
    scores = wanda_scores(jnp.array([[-2.0, 1.0], [3.0, 0.5]]), jnp.array([4.0, 9.0]))
    assert scores.tolist() == [[4.0, 2.0], [9.0, 1.5]]


@pytest.mark.parametrize(
    ("rules", "options", "said"),
    [
        ([(".*", None)], {}, "the rules select none"),
        ([("first/.*", PerOutput(0.5))], {}, "no rule matches leaf 'second/down'"),
        (RULES, {"stages": ["first/.*"]}, "no rule matches leaf 'second/down'"),
        (RULES, {"stages": ["first/.*", "second/.*", "third/.*"]}, "third"),
    ],
)
def test_rules_and_stages_must_fit(params, batches, rules, options, said):
    with pytest.raises(ValueError, match=said):
        wanda(network, params, batches, rules, **options)


def test_a_norm_a_lookup_and_a_part_are_refused_by_name(batches):
    def fn(p, x):
        return (x * p["scale"][None]) @ p["pair"][0] @ p["pair"][1]

    params = {"scale": jnp.ones(8), "pair": numbers(2, 8, 8)}
    with pytest.raises(ValueError, match="'scale' is in no product"):
        wanda(fn, params, batches, [("scale", PerLeaf(0.5)), (".*", None)])
    with pytest.raises(ValueError, match=r"'pair' of shape .* is no matrix"):
        wanda(fn, params, batches, [("pair", PerLeaf(0.5)), (".*", None)])


def test_no_data_and_zeros_are_refused(params):
    with pytest.raises(ValueError, match="no batch"):
        wanda(network, params, [], RULES)
    with pytest.raises(ValueError, match="are zero in this data"):
        wanda(network, params, [(jnp.zeros((2, 8)),)], RULES)
    assert pruning.wanda is wanda


def test_a_density_alone_is_per_output_and_true_is_refused(params, batches):
    found = wanda(network, params, batches, [(".*", 0.5)])
    wanted = wanda(network, params, batches, RULES)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    with pytest.raises(TypeError, match=r"wanda: rule '\.\*' says True"):
        wanda(network, params, batches, [(".*", True)])

"""Soups and averages against recipes written out, and the report against NumPy."""

import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab import merging, tree


def test_uniform_soup_is_the_mean():
    trees = [{"x": jnp.array([1.0, value])} for value in (0.0, 3.0, 6.0)]
    np.testing.assert_allclose(merging.uniform_soup(trees)["x"], [1.0, 3.0], rtol=1e-6)


def greedy_twin(points: list[float], score) -> tuple[list[int], float]:
    """Recipe 1 on numbers."""
    order = sorted(range(len(points)), key=lambda i: -score(points[i]))
    taken = [order[0]]
    for i in order[1:]:
        now = np.mean([points[j] for j in taken])
        if score(np.mean([points[j] for j in [*taken, i]])) >= score(now):
            taken.append(i)
    return taken, float(np.mean([points[j] for j in taken]))


@given(st.lists(st.integers(-40, 40).map(float), min_size=2, max_size=5))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_greedy_soup_follows_the_recipe(points):
    def score(x: float) -> float:
        return -abs(round(float(x), 3) - 3.5)

    trees = [{"x": jnp.float32(point)} for point in points]
    soup = merging.greedy_soup(trees, lambda params: score(params["x"]))
    members, mean = greedy_twin(points, score)
    assert list(soup.members) == members
    np.testing.assert_allclose(soup.params["x"], mean, atol=1e-5)
    assert soup.score >= max(score(point) for point in points)


def test_greedy_soup_leaves_out_what_hurts():
    trees = [{"x": jnp.array(value)} for value in (9.0, 1.0, -1.0)]
    soup = merging.greedy_soup(trees, lambda params: -abs(float(params["x"])))
    assert soup.members == (1, 2)
    assert (soup.score, float(soup.params["x"])) == (0.0, 0.0)


def test_greedy_soup_refuses_nan():
    with pytest.raises(ValueError, match="a score is NaN"):
        merging.greedy_soup([{"x": jnp.ones(1)}] * 2, lambda _: float("nan"))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_ema_has_the_weights_of_the_closed_form(decay):
    xs = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    weights = (1 - decay) * decay ** np.arange(5, -1, -1.0)
    weights[0] = decay**5  # the first checkpoint is the start of the mean
    assert abs(weights.sum() - 1) < 1e-12
    mean = merging.ema(({"x": jnp.asarray(x)} for x in xs), decay)
    np.testing.assert_allclose(mean["x"], weights @ xs, atol=1e-6)


def test_ema_of_equal_checkpoints_is_the_checkpoint():
    x = {"x": jnp.array([0.1, -3.3, 1e-8]), "half": jnp.array([0.1], jnp.bfloat16)}
    mean = merging.ema([x] * 7, 0.9)
    for path, leaf in tree.leaves(x).items():
        assert tree.leaves(mean)[path].dtype == leaf.dtype
        np.testing.assert_array_equal(tree.leaves(mean)[path], leaf)


def test_ema_does_not_stall_in_half_precision():
    # 1 + (1 - d)/16 is 1 in bfloat16: an average kept in the leaves' dtype would never move.
    steps = [{"x": jnp.full(1, value, jnp.bfloat16)} for value in [1.0] + [1.0625] * 200]
    expected = 1 + (1 - 0.99**200) / 16
    np.testing.assert_array_equal(merging.ema(steps, 0.99)["x"], jnp.bfloat16(expected))


def test_ema_takes_the_last_integers_and_refuses_another_model():
    one = {"x": jnp.ones(2), "step": jnp.array(1)}
    assert merging.ema([one, {**one, "step": jnp.array(2)}], 0.5)["step"] == 2
    with pytest.raises(ValueError, match=r"shape \(2,\) in 'checkpoint 0' and \(3,\) in 'checkp"):
        merging.ema([one, {**one, "x": jnp.ones(3)}], 0.5)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1.0"):
        merging.ema([one], 1.0)
    with pytest.raises(ValueError, match="there is no checkpoint"):
        merging.ema([], 0.5)


def test_ema_lets_checkpoints_go():
    alive: list[weakref.ref] = []
    most = 0

    def checkpoints():
        nonlocal most
        for i in range(6):
            x = jnp.full((50,), float(i))
            alive.append(weakref.ref(x))
            tree_of_x = {"x": x}
            del x
            yield tree_of_x
            del tree_of_x
            most = max(most, sum(ref() is not None for ref in alive))

    merging.ema(checkpoints(), 0.5)
    assert len(alive) == 6
    assert most <= 2


def test_report_against_numpy():
    base, a, b = np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32)
    a[0], b[0] = base[0], base[0]  # a row that nobody changed
    table = merging.report(
        [merging.Parent({"w": jnp.asarray(a)}, name="a"), merging.Parent({"w": b}, name="b")],
        {"w": jnp.asarray(base)},
    )
    assert table.columns == ("path", "norm a", "norm b", "cosine", "conflicts")
    da, db = np.float64(a) - base, np.float64(b) - base
    cosine = np.sum(da * db) / np.linalg.norm(da) / np.linalg.norm(db)
    conflicts = (da * db < 0).sum() / ((da != 0) | (db != 0)).sum()
    assert 0.2 < conflicts < 0.8
    np.testing.assert_allclose(
        table.rows[0][1:], [np.linalg.norm(da), np.linalg.norm(db), cosine, conflicts], rtol=1e-5
    )


def test_report_of_three_models_averages_pairs_and_counts_an_entry_once():
    base = {"w": jnp.zeros(4), "still": jnp.zeros(2), "ids": jnp.arange(2)}
    moves = ([1.0, 1, 0, 0], [1.0, -1, 0, 0], [-1.0, 0, 0, 2])
    trees = [{**base, "w": jnp.array(move), "still": jnp.zeros(2)} for move in moves]
    (still, w) = sorted(merging.report(trees, base).records(), key=lambda row: row["path"])
    assert (still["cosine"], still["conflicts"], w["path"]) == (None, None, "w")
    pairs = [0.0, -1 / np.sqrt(10), -1 / np.sqrt(10)]
    np.testing.assert_allclose(w["cosine"], np.mean(pairs), rtol=1e-6)
    np.testing.assert_allclose(w["conflicts"], 2 / 3)  # two of the three that anybody changed


def test_report_of_one_model_has_its_norm_alone():
    (row,) = merging.report([{"w": jnp.array([3.0, 4.0])}], {"w": jnp.zeros(2)}).rows
    assert row == ("w", 5.0, None, None)

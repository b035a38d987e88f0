"""Erdős–Rényi by its formula; OWL against a loop in NumPy, with its mean kept exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import pruning, tree
from wlab.pruning import PerLeaf, PerOutput, erdos_renyi, owl


def counts(allocation, shapes, density):
    return {path: int(k) for (path,), k in allocation(shapes, density)}


def test_erdos_renyi_of_convolutions_is_the_formula():
    shapes = {"conv": (3, 3, 16, 32), "wide": (1, 1, 64, 128), "dense": (512, 40)}
    sizes = {path: int(np.prod(shape)) for path, shape in shapes.items()}
    densities = {p: (s[-2] + s[-1]) / (s[-2] * s[-1]) for p, s in shapes.items()}
    total = round(0.2 * sum(sizes.values()))
    scale = total / sum(densities[p] * sizes[p] for p in shapes)
    found = counts(erdos_renyi, shapes, 0.2)
    assert sum(found.values()) == total
    for path, k in found.items():
        assert abs(k - scale * densities[path] * sizes[path]) <= 1
    assert found["conv"] > counts(pruning.erk, shapes, 0.2)["conv"]


def test_erdos_renyi_of_matrices_and_vectors_is_erk():
    shapes = {"a": (784, 300), "b": (300, 100), "c": (100, 10), "bias": (300,), "scale": ()}
    assert counts(erdos_renyi, shapes, 0.08) == counts(pruning.erk, shapes, 0.08)


def block(params, x):
    return jnp.tanh(x @ params["up"]) @ params["down"].T


def network(params, x):
    for name in ("first", "second", "third"):
        x = x + block(params[name], x)
    return x


def heavy(shape, seed):
    """Weights with more and larger outliers the larger the seed is."""
    return jax.random.t(jax.random.key(seed), 9.0 - 3 * (seed % 3), shape) / 10


PARAMS = {
    name: {"up": heavy((8, 24 + 8 * i), i), "down": heavy((8, 24 + 8 * i), i + 3)}
    for i, name in enumerate(("first", "second", "third"))
}
BATCHES = [
    (jax.random.normal(jax.random.key(i), (16, 8)) * jnp.linspace(0.1, 3, 8)[None],) for i in (7, 8)
]
ALL, STAGES = [(".*", True)], ["first/.*", "second/.*", "third/.*"]


def by_hand(x, outlier):
    """The outliers of each block, as the paper counts them."""
    found, sizes = [], []
    for leaves in PARAMS.values():
        up, down = (np.asarray(leaves[name], np.float64) for name in ("up", "down"))
        hidden = np.tanh(x @ up)
        one = np.abs(up) * np.linalg.norm(x, axis=0)[:, None]
        other = np.abs(down) * np.linalg.norm(hidden, axis=0)[None]
        metric = np.concatenate([one.ravel(), other.ravel()])
        found.append(np.mean(metric > outlier * metric.mean()))
        sizes.append(metric.size)
        x = x + hidden @ down.T
    return np.array(found), np.array(sizes)


@pytest.mark.parametrize("outlier", [3.0, 5.0])
def test_owl_is_its_papers_loop(outlier):
    outliers, sizes = by_hand(np.concatenate([np.asarray(x) for (x,) in BATCHES]), outlier)
    raised = (outliers - outliers.min()) / (outliers.max() - outliers.min()) * 2 * 0.1
    wanted = 0.4 + raised - (raised * sizes).sum() / sizes.sum()
    rules = owl(
        network,
        PARAMS,
        BATCHES,
        0.4,
        ALL,
        stages=STAGES,
        outlier=outlier,
        spread=0.1,
        pattern=float,
    )
    found = tree.resolve(rules, PARAMS)
    for name, density in zip(PARAMS, wanted, strict=True):
        assert found[f"{name}/up"] == found[f"{name}/down"]
        np.testing.assert_allclose(found[f"{name}/up"], density, rtol=1e-9)
    assert len(set(wanted)) == 3


@pytest.mark.parametrize("stages", [None, STAGES])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.83])
def test_owl_keeps_the_mean_within_the_spread(stages, density):
    found = tree.resolve(
        owl(network, PARAMS, BATCHES, density, ALL, stages=stages, pattern=float), PARAMS
    )
    sizes = {path: leaf.size for path, leaf in tree.leaves(PARAMS).items()}
    mean = sum(found[p] * sizes[p] for p in sizes) / sum(sizes.values())
    np.testing.assert_allclose(mean, density, rtol=1e-12)
    np.testing.assert_allclose(max(found.values()) - min(found.values()), 2 * 0.08, rtol=1e-9)
    assert len(set(found.values())) == (3 if stages else 4)  # without, two pairs are alike


@pytest.mark.long
def test_owls_rules_are_taken_by_all_three_that_prune():
    rules = owl(network, PARAMS, BATCHES, 0.5, [("third/.*", None), (".*", True)])
    assert {type(value) for _, value in rules} == {PerOutput, type(None)}
    value = tree.resolve(rules, PARAMS)["second/up"]
    pruned = [
        pruning.wanda(network, PARAMS, BATCHES, rules),
        pruning.sparsegpt(network, PARAMS, BATCHES, rules).params,
        pruning.prune(PARAMS, 0.5, rules),
    ]
    for params in pruned:
        np.testing.assert_array_equal(params["third"]["up"], PARAMS["third"]["up"])
        kept = np.count_nonzero(params["second"]["up"], axis=0)
        assert (kept == pruning.kept(8, value.density)).all()
    single = owl(network, PARAMS, BATCHES, 0.5, ALL, pattern=PerLeaf)
    kept = sum(tree.nonzero(pruning.prune(PARAMS, 1, single)).values())
    assert abs(kept - sum(leaf.size for leaf in tree.leaves(PARAMS).values()) / 2) <= 3


def test_layers_alike_have_one_density():
    params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8))}
    rules = owl(
        lambda p, x: x @ p["a"] @ p["b"], params, [(jnp.ones((2, 8)),)], 0.3, ALL, pattern=float
    )
    assert rules == [("a", 0.3), ("b", 0.3), (".*", None)]


@pytest.mark.parametrize(
    ("density", "rules", "options", "said"),
    [
        (0.05, ALL, {}, "would have a density of -.* smaller spread than 0.08 about 0.05"),
        (1.5, ALL, {}, "got 1.5"),
        (0.5, [(".*", None)], {}, "the rules select none"),
        (0.5, ALL, {"stages": STAGES[:2]}, "no rule matches leaf 'third/down'"),
        (0.5, ALL, {"stages": [*STAGES, "fourth/.*"]}, "fourth"),
    ],
)
def test_owl_refuses_what_does_not_fit(density, rules, options, said):
    with pytest.raises(ValueError, match=said):
        owl(network, PARAMS, BATCHES, density, rules, **options)


def test_owl_names_a_leaf_in_no_product():
    params = {"w": jnp.ones((8, 8)), "scale": jnp.ones((8, 1))}

    def fn(params, x):
        return (x * params["scale"].T) @ params["w"]

    with pytest.raises(ValueError, match="the score has nothing for leaf 'scale'"):
        owl(fn, params, [(jnp.ones((2, 8)),)], 0.5, ALL)

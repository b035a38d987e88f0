"""Patterns in `magnitude` and `straight_through`, against NumPy twins that go group by group."""

import math
import re
from dataclasses import replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wlab import pruning
from wlab.pruning import Blocks, Neighbours, PerLeaf, PerOutput
from wlab.pruning.choosing import places_at

END = 8
SCHEDULE = pruning.cubic(1.0, 0.1, end=END)
RULES = [
    ("pairs", Neighbours(2, 4)),
    ("one", Neighbours(1, 8)),
    ("free", True),
    ("half", 0.5),
    ("bias", None),
]
SHAPES = {"pairs": (8, 5), "one": (16, 3), "free": (10, 6), "half": (4, 9), "bias": (7,)}


def weights_at(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}


def done(step: int) -> Fraction:
    """1 − (1 − t / end)³: which part of the way the cubic schedule has gone."""
    return 1 - (1 - min(Fraction(step, END), Fraction(1))) ** 3


def neighbours(sizes: np.ndarray, keep: int, of: int) -> np.ndarray:
    """The `keep` largest of every `of` rows, one column and one group after the other."""
    mask = np.zeros(sizes.shape, bool)
    for start in range(0, len(sizes), of):
        for column in range(sizes.shape[1]):
            best = np.argsort(-sizes[start : start + of, column], kind="stable")[:keep]
            mask[start + best, column] = True
    return mask


def largest(sizes: np.ndarray, k: int) -> np.ndarray:
    mask = np.zeros(sizes.size, bool)
    mask[np.argsort(-sizes, axis=None, kind="stable")[:k]] = True
    return mask.reshape(sizes.shape)


def twin(path: str, sizes: np.ndarray, step: int) -> np.ndarray:
    """What stays of a leaf at a step."""
    match path:
        case "pairs":
            return neighbours(sizes, 2 + math.ceil(2 * (1 - done(step))), 4)
        case "one":
            return neighbours(sizes, 1 + math.ceil(7 * (1 - done(step))), 8)
    final = {"free": Fraction(1, 10), "half": Fraction(1, 2)}[path]
    density = 1 - (1 - final) * done(step)
    return largest(sizes, math.floor(sizes.size * density + Fraction(1, 2)))


def masks_of(state) -> dict[str, np.ndarray]:
    return {p: np.asarray(pruning.unpack(m, SHAPES[p])) for p, m in state.masks.items()}


@pytest.mark.parametrize("nested", [True, False], ids=["magnitude", "straight_through"])
def test_patterns_and_densities_follow_one_curve_and_one_trace(nested):
    factory = pruning.magnitude if nested else pruning.straight_through
    transform, traces = factory(SCHEDULE, RULES, every=1), []

    @jax.jit
    def update(stored, state, step):
        traces.append(step)
        return transform.update(stored, None, state, step)

    stored, state = transform.init(jax.tree.map(jnp.asarray, weights_at(0)), jax.random.key(0))
    alive = {path: np.ones(shape, bool) for path, shape in SHAPES.items()}
    for step in range(END + 3):
        stored = weights_at(step)
        state = update(stored, state, jnp.int32(step))
        if nested and step > END:
            continue  # its masks stay
        for path, mask in masks_of(state).items():
            sizes = np.abs(stored[path])
            if nested:
                sizes[~alive[path]] = -1
                alive[path] &= twin(path, sizes, step)
            else:
                alive[path] = twin(path, sizes, step)
            np.testing.assert_array_equal(mask, alive[path], err_msg=f"{path} at {step}")
    assert len(traces) == 1
    last = {path: mask.sum() for path, mask in masks_of(state).items()}
    assert last == {"pairs": 20, "one": 6, "free": 6, "half": 18}


def test_n_of_m_falls_one_by_one_and_is_exact_from_the_end_on():
    schedule = pruning.cubic(1.0, 0.5, begin=3, end=11)
    transform = pruning.magnitude(schedule, [("w", Neighbours(2, 8))], every=1)
    stored, kept = {"w": jax.random.normal(jax.random.key(0), (16, 4))}, []
    state, update = transform.init(stored, jax.random.key(0))[1], jax.jit(transform.update)
    for step in range(14):
        state = update(stored, None, state, jnp.int32(step))
        groups = np.asarray(pruning.unpack(state.masks["w"], (16, 4))).reshape(2, 8, 4).sum(1)
        assert (groups == groups[0, 0]).all()
        kept.append(int(groups[0, 0]))
    # 2 + ⌈6 · (1 − (t − 3) / 8)³⌉
    assert kept == [8, 8, 8, 8, 7, 5, 4, 3, 3, 3, 3, 2, 2, 2]


def test_whole_numbers_on_the_way_are_not_rounded_up():
    """Half of the way of 2:4 is 3:4, whatever float32 makes of half."""
    linear = pruning.Schedule(lambda t: 1 - 0.9 * jnp.float32(t) / 10, 0, 10, 0.1)
    transform = pruning.straight_through(linear, [("w", Neighbours(2, 4))])
    stored = {"w": jnp.arange(4.0)[:, None]}
    state = transform.init(stored, jax.random.key(0))[1]
    kept = [
        int(pruning.unpack(transform.update(stored, None, state, t).masks["w"], (4, 1)).sum())
        for t in (1, 5, 6, 9, 10)
    ]
    assert kept == [4, 3, 3, 3, 2]


def test_a_kernel_of_a_convolution_has_its_groups_along_the_inputs():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 8, 5))
    transform = pruning.magnitude(1.0, [("k", Neighbours(1, 4))])
    state = transform.update({"k": kernel}, None, transform.init({"k": kernel}, None)[1], 0)
    mask = np.asarray(pruning.unpack(state.masks["k"], kernel.shape))
    for place in np.ndindex(3, 3):
        wanted = neighbours(np.abs(np.asarray(kernel[place])), 1, 4)
        np.testing.assert_array_equal(mask[place], wanted)
    pruned = pruning.prune({"k": kernel}, 1.0, [("k", Neighbours(1, 4))])["k"]
    np.testing.assert_array_equal(mask, pruned != 0)


@pytest.mark.parametrize(("remainder", "last"), [("dense", [3] * 4), ("share", [3, 3, 2, 2])])
def test_a_short_group_follows_its_policy_on_the_way(remainder, last):
    """⌈keep · 3 / 4⌉ of three for 4, 3, 2 and 2 of four."""
    rules = [("w", Neighbours(2, 4, remainder))]
    stored = {"w": jax.random.normal(jax.random.key(0), (7, 2))}
    transform = pruning.straight_through(pruning.cubic(1.0, 0.1, end=10), rules)
    state, found = transform.init(stored, jax.random.key(0))[1], []
    for step in (0, 3, 10, 11):
        mask = pruning.unpack(transform.update(stored, None, state, step).masks["w"], (7, 2))
        found.append(int(mask[4:, 0].sum()))
    assert found == last


@pytest.mark.parametrize("pattern", [PerLeaf(0.35), PerOutput(0.35), Blocks(0.35, (1, 1))])
def test_densities_of_patterns_are_the_decimals_that_are_written(pattern):
    """0.35 of ten is four, though float32 makes 3.4999999 of it."""
    schedule = pruning.cubic(1.0, 0.2, end=4)
    kept = [int(places_at(step, schedule, pattern, (10, 1))) for step in (0, 2, 3, 4, 5)]
    assert kept == [10, 4, 4, 4, 4]  # 10 · 0.43125 after 7/8 of the way, 3.6 after 63/64
    assert int(places_at(3, schedule, replace(pattern, density=0.34), (10, 1))) == 4
    assert int(places_at(4, schedule, replace(pattern, density=0.34), (10, 1))) == 3


def test_zeros_found_in_the_weights_stay_in_their_groups():
    weights = jnp.array([[4.0], [0.0], [0.0], [0.0], [1.0], [2.0], [3.0], [0.0]])
    transform = pruning.magnitude(1.0, [("w", Neighbours(2, 4))], infer=True)
    state = transform.update({"w": weights}, None, transform.init({"w": weights}, None)[1], 0)
    mask = pruning.unpack(state.masks["w"], (8, 1))[:, 0]
    assert mask.tolist() == [True, False, False, False, False, True, True, False]


PATTERNS = {
    "a": Neighbours(1, 4),
    "b": Neighbours(2, 3, "share"),
    "c": Blocks(0.3, (4, 2)),
    "d": PerOutput(0.4),
}


def whole_numbers(shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """Small integers with many ties, whose sums are exact in any order."""
    key = jax.random.key(3)
    return {
        path: jax.random.randint(jax.random.fold_in(key, i), shape, -6, 7).astype(jnp.float32)
        for i, path in enumerate(PATTERNS)
    }


@pytest.mark.parametrize("factory", [pruning.magnitude, pruning.straight_through])
def test_a_population_chooses_as_its_members_do(factory):
    transform = factory(SCHEDULE, list(PATTERNS.items()), every=1)
    members = [whole_numbers((8, 4)), {k: v * 1.5 + 1 for k, v in whole_numbers((8, 4)).items()}]

    def masks(stored, step):
        return transform.update(stored, None, transform.init(stored, None)[1], step).masks

    many = jax.jit(jax.vmap(masks, (0, None)))(
        jax.tree.map(lambda *x: jnp.stack(x), *members), jnp.int32(3)
    )
    alone = [jax.jit(masks)(member, jnp.int32(3)) for member in members]
    jax.tree.map(np.testing.assert_array_equal, many, jax.tree.map(lambda *x: jnp.stack(x), *alone))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("spec", "factory"), [(P("x"), pruning.magnitude), (P("y", "z"), pruning.straight_through)]
)
def test_a_mesh_chooses_as_one_device(axis_type, spec, factory):
    """On eight devices 16 rows are two each: a shard holds half of a group of four."""
    transform = factory(SCHEDULE, list(PATTERNS.items()), every=1)
    axes = {"x": 8} if "x" in spec else {"y": 2, "z": 4}
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(axis_type,) * len(axes))
    params = whole_numbers((16, 8))
    placed = jax.device_put(params, NamedSharding(mesh, spec))

    @jax.jit
    def masks(stored):
        return transform.update(stored, None, transform.init(stored, None)[1], 4).masks

    jax.tree.map(np.testing.assert_array_equal, masks(params), masks(placed))


@pytest.mark.parametrize(("pattern", "counts"), [(Neighbours(2, 4), 0), (Blocks(0.3, (4, 4)), 8)])
def test_groups_within_a_shard_are_chosen_without_a_look_at_another(pattern, counts):
    """Of tiles, what is gathered is a count of each device."""
    transform = pruning.magnitude(SCHEDULE, [("w", pattern)], every=1)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    stored = {"w": jax.device_put(jnp.ones((64, 32)), NamedSharding(mesh, P("x")))}
    state = jax.jit(lambda stored: transform.init(stored, None)[1])(stored)
    update = jax.jit(lambda stored, state, step: transform.update(stored, None, state, step))
    program = update.lower(stored, state, jnp.int32(1)).compile().as_text()
    moved = re.findall(
        r"= \w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)", program
    )
    sizes = [math.prod(int(n) for n in shape.split(",")) for shape in moved]
    assert max(sizes, default=0) == counts


@pytest.mark.parametrize("factory", [pruning.magnitude, pruning.straight_through])
@pytest.mark.parametrize(
    ("pattern", "shape", "said"),
    [
        (
            Neighbours(2, 4),
            (10, 3),
            r"shape \(10, 3\): groups of 4 do not divide the 10 entries.*share",
        ),
        (Blocks(0.5, (4, 4)), (8, 6), r"tiles of 4 × 4 do not divide 8 inputs × 6 outputs.*share"),
        (PerOutput(0.5), (8,), r"shape \(8,\): it is no matrix, which PerOutput.*Give it a dens"),
    ],
    ids=["neighbours", "blocks", "vector"],
)
def test_a_pattern_that_does_not_fit_is_refused_by_init(factory, pattern, shape, said):
    with pytest.raises(ValueError, match=rf"{factory.__name__}: leaf 'fc/kernel' of .*{said}"):
        factory(0.5, [("fc/kernel", pattern)]).init({"fc": {"kernel": jnp.ones(shape)}}, None)


def test_those_that_know_no_patterns_say_so():
    moving = pruning.static(0.5, [("w", Neighbours(2, 4))])
    phases = pruning.alternating(0.5, [("w", PerLeaf(0.5))], warmup=0, sparse=1, dense=1, end=2)
    for transform in (moving, phases):
        with pytest.raises(ValueError, match=r"leaf 'w' has .* knows no patterns. Give it True"):
            transform.init({"w": jnp.ones((8, 2))}, jax.random.key(0))

"""Random trees under random chains: what a fixed table does not think of, repeatable by seed."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from frameworks import SIZES, Framework
from optimizers import OPTIMIZERS
from placements import PLACEMENTS
from toys import scaled

from wlab import WeightTransform, chain, tree
from wlab.pruning import (
    alternating,
    cubic,
    erk,
    evolutionary,
    globally,
    iterative,
    magnitude,
    oneshot,
    rigl,
    uniform,
)
from wlab.quantization import Format, fake_quant, int2, int4, int8
from wlab.tying import Tie, tie

SHAPES = [(), (8,), (5,), (4, 6), (6, 4), (8, 16), (16, 8), (7, 3), (2, 8, 4), (4, 8, 2), (1, 9)]
UNFREEZE_AT = 2


class Case(NamedTuple):
    """A network of random weights, what is done to them, and what the laws need to know of it."""

    framework: Framework
    weights: WeightTransform
    optimizer: str
    placement: str
    accumulate: int
    tie: Tie | None
    formats: dict[str, Format]
    frozen: list[str]


class Pair(NamedTuple):
    """A container whose children are reached by attribute."""

    left: Any
    right: Any


def random_case(seed: int) -> Case:
    """Everything by one seed: tree, members of the chain, optimizer, placement."""
    rng = np.random.default_rng(seed)
    shapes = random_tree(rng)
    found = tree.leaves(shapes)
    tied = _random_tie(rng, found)
    stored = {p: s for p, s in found.items() if tied is None or p != tied.destination}
    pruned = _some(rng, [p for p, s in stored.items() if s.ndim])
    formats = {
        path: [int8(), int4(group_size=3), int2(axis=None), int4(symmetric=False)][rng.integers(4)]
        for path in _some(rng, [p for p, s in stored.items() if s.ndim > 1])
    }
    others = [path for path in stored if path not in formats]
    members = {
        "prune": _random_pruning(rng)(_rules(pruned)) if pruned else None,
        "quant": fake_quant(int8(), _rules(formats)) if formats else None,
        "scale": scaled(_rules(_some(rng, others))) if rng.random() < 0.3 and others else None,
        "tie": tie([tied]) if tied else None,
    }
    frozen = [path for path in _some(rng, list(stored)) if path not in pruned]
    return Case(
        framework=linear_readout(shapes, seed),
        weights=_random_nesting(rng, {name: m for name, m in members.items() if m is not None}),
        optimizer=str(rng.choice(list(OPTIMIZERS))),
        placement=str(rng.choice(list(PLACEMENTS))),
        accumulate=int(rng.choice([1, 1, 2])),
        tie=tied,
        formats=formats,
        frozen=frozen if rng.random() < 0.5 else [],
    )


def random_tree(rng: np.random.Generator, depth: int = 3) -> Any:
    """Shapes in nested dicts, lists, tuples and named tuples; the top is never a leaf."""

    def child() -> Any:
        if depth == 1 or rng.random() < 0.4:
            return jax.ShapeDtypeStruct(SHAPES[rng.integers(len(SHAPES))], jnp.float32)
        return random_tree(rng, depth - 1)

    match rng.integers(4):
        case 0:
            return [child() for _ in range(rng.integers(1, 4))]
        case 1:
            return (child(), child())
        case 2:
            return Pair(child(), child())
    return {f"layer_{i}.x[{i}]": child() for i in range(rng.integers(1, 4))}


def linear_readout(shapes: Any, seed: int) -> Framework:
    """A model whose every output is a random sum over all weights: no gradient is ever zero."""

    def init(key: jax.Array) -> Any:
        keys = iter(jax.random.split(key, len(jax.tree.leaves(shapes))))
        return jax.tree.map(lambda s: jax.random.normal(next(keys), s.shape), shapes)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(shapes))))

        def of_leaf(leaf: jax.Array) -> jax.Array:
            mix = jax.random.normal(next(keys), (SIZES[0], leaf.size, SIZES[-1])) / leaf.size
            return jnp.einsum("ri,ijo,j->ro", x, mix, leaf.reshape(-1))

        return sum(map(of_leaf, jax.tree.leaves(params)), jnp.zeros((len(x), SIZES[-1])))

    return Framework(init, apply, kernels=".*", tie=("", ""))


def _random_pruning(rng: np.random.Generator) -> Callable[[tree.Rules[bool]], WeightTransform]:
    schedule = [cubic(1.0, 0.2, end=3), oneshot(0.1, at=1), iterative(0.3, rounds=2, every=2)]
    every, chosen = int(rng.integers(1, 3)), schedule[rng.integers(3)]
    options = {
        "allocation": [uniform, globally, erk][rng.integers(3)],
        "storage": str(rng.choice(["bits", "int8"])),
    }
    moves = {"every": every, "end": 9, "fraction": 0.7} | options
    return [
        lambda rules: magnitude(chosen, rules, every=every, **options),
        lambda rules: alternating(0.4, rules, warmup=0, sparse=every, dense=1, end=9, **options),
        lambda rules: rigl(0.4, rules, **moves),
        lambda rules: evolutionary(0.4, rules, **moves),
    ][rng.integers(4)]


def _random_tie(rng: np.random.Generator, found: dict[str, Any]) -> Tie | None:
    """A tie of two leaves that fit, straight or transposed, if there are any."""
    fitting = [
        Tie(a, b, transpose=flip, scale=float(rng.choice([1.0, 0.5])))
        for a, x in found.items()
        for b, y in found.items()
        for flip in (False, True)
        if a != b and x.ndim and x.shape == (y.shape[::-1] if flip else y.shape)
    ]
    return fitting[rng.integers(len(fitting))] if fitting else None


def _random_nesting(rng: np.random.Generator, members: dict[str, WeightTransform]) -> Any:
    names, cut = list(members), int(rng.integers(0, len(members) + 1))
    inner = {name: members[name] for name in names[cut:]}
    if not inner or not cut:
        return chain(**members)
    return chain(**{name: members[name] for name in names[:cut]}, inner=chain(**inner))


def _some(rng: np.random.Generator, paths: Sequence[str]) -> list[str]:
    return [path for path in paths if rng.random() < 0.6]


def _rules(values: Any) -> list[tuple[str, Any]]:
    named = values if isinstance(values, dict) else dict.fromkeys(values, True)
    return [*((re.escape(path), value) for path, value in named.items()), (".*", None)]

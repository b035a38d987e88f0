"""Wanda: weights times the size of their inputs, in one pass over some data and no training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import calibration, graph, tree
from wlab.graph import Use
from wlab.pruning.patterns import Pattern, chosen
from wlab.transform import Params


def wanda_scores(
    kernel: Float[Array, "*batch inputs outputs"], squares: Float[Array, "*batch inputs"]
) -> Float[Array, "*batch inputs outputs"]:
    """|W| times the norm of each input: |W_ij| · √(Σ x_i²).

    Reference:
        Sun et al. 2023 (arXiv:2306.11695), equation 1.
    """
    return jnp.abs(kernel).astype(jnp.float32) * jnp.sqrt(squares)[..., None]


def wanda(
    fn: Callable[..., Any],
    params: Params,
    batches: Sequence[tuple[Any, ...]],
    rules: tree.Rules[Pattern | None],
    *,
    stages: Sequence[str] = (".*",),
    report: Callable[[str, int], None] = lambda stage, done: None,
) -> Params:
    """Zeroes the weights that matter least for the inputs that they get.

    The others stay as they are. Works on any function of parameters and inputs: which axes of a
    leaf are inputs is read from it. Weights in scans are scored layer by layer.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`; read once a stage.
        rules: Ordered `(path regex, pattern)`: `PerOutput(0.5)`, `Neighbours(keep=2, of=4)`,
            `PerLeaf(0.5)`, or None for leaves that are left alone.
        stages: Path regexes, in the order in which the function comes to the leaves. The leaves
            of a stage are scored by inputs that earlier stages have already changed, as Wanda
            does it block by block; by default all at once, in one pass.
        report: Called with a stage and the number of its batches done.

    Raises:
        ValueError: If the rules do not fit the tree, a rule gives a pattern to a leaf that is in no
            product or is no matrix there, no stage has a leaf or two have it, a leaf gets no
            inputs but zeros, or as `calibration.collect`.

    Reference:
        Sun et al. 2023 (arXiv:2306.11695).
    """
    patterns = {p: f for p, f in tree.resolve(rules, params, purpose="wanda").items() if f}
    if not patterns:
        raise ValueError(f"wanda: the rules select none of the leaves {tree.paths(params)}.")
    uses = _uses(fn, params, batches, patterns)
    for stage, paths in _staged(stages, [*patterns]).items():
        seen = calibration.collect(
            fn,
            params,
            batches,
            calibration.squares(),
            where=lambda use, paths=paths: use.path in paths,
            report=lambda done, stage=stage: report(stage, done),
        )
        named = tree.leaves(params)
        pruned = {
            path: _pruned(uses[path], jnp.asarray(named[path]), seen[path].sums, patterns[path])
            for path in paths
        }
        params = tree.replace(params, pruned)
    return params


def _pruned(
    use: Use, leaf: Array, squares: Float[Array, "*batch inputs"], pattern: Pattern
) -> Array:
    if not bool(jnp.any(squares > 0)):
        raise ValueError(
            f"wanda: all inputs of {use.path!r} are zero in this data: nothing ranks its weights."
        )

    @jax.jit
    def zeroed(leaf: Array, squares: Array) -> Array:
        kernel = graph.to_matrix(use, leaf)
        mask = chosen(pattern, wanda_scores(kernel, squares))
        return graph.from_matrix(use, jnp.where(mask, kernel, 0))

    return zeroed(leaf, squares)


def _uses(
    fn: Callable[..., Any],
    params: Params,
    batches: Sequence[tuple[Any, ...]],
    patterns: Mapping[str, Pattern],
) -> dict[str, Use]:
    """The product of each chosen leaf."""
    if not batches:
        raise ValueError("wanda: there is no batch to calibrate on.")
    products = graph.products(graph.read(fn, params, *batches[0]))
    found = {path: use for (path, _), use in products.items()}
    for path in patterns:
        if path not in found:
            raise ValueError(
                f"wanda: {path!r} is in no product with anything that depends on the inputs, so "
                "its weights have none to be scored by. Leave it alone by a rule."
            )
        graph.to_matrix(found[path], jnp.asarray(tree.leaves(params)[path]))
    return {path: found[path] for path in patterns}


def _staged(stages: Sequence[str], paths: Sequence[str]) -> dict[str, list[str]]:
    """The leaves of each stage, in the order of the stages."""
    stage_of = tree.match([(stage, stage) for stage in stages], paths, purpose="wanda, stages")
    return {stage: [path for path in paths if stage_of[path] == stage] for stage in stages}

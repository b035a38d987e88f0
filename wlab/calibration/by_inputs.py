"""Weights changed by what they get to see: any function, leaf by leaf, stage by stage."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array

from wlab import graph, tree
from wlab.calibration.collecting import Collected
from wlab.calibration.finished import (
    NOTHING,
    NOWHERE,
    Finished,
    Told,
    arrays_of,
    fingerprint,
    leaf_of,
    parts_of,
)
from wlab.calibration.in_stages import in_stages
from wlab.graph import Statistic, Use
from wlab.transform import Params

Batches: TypeAlias = Sequence[Any]  # tuples of the function's inputs
Report: TypeAlias = Callable[[str, int], None]
Choice: TypeAlias = Any  # what a rule says is to be done: a pattern, a format
Change: TypeAlias = Callable[[str, Array, Any, Choice], tuple[Array, Any]]
"""The new matrix of a leaf and what to tell of it, from its path, matrix, statistic and choice."""


def by_inputs(
    fn: Callable[..., Any],
    params: Params,
    batches: Batches,
    rules: tree.Rules[Choice | None],
    statistic: Statistic,
    change: Change,
    *,
    stages: Sequence[str],
    report: Report,
    purpose: str,
    finished: Finished | None = None,
    told_in: Told | None = None,
    asked: tuple[Any, ...] = (),
    hold: bool = True,
) -> tuple[Params, dict[str, Any]]:
    """Changes the leaves that a rule chooses, each as a matrix with the statistic of its inputs.

    Returns the new tree, and by path what `change` had to tell.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`.
        rules: Ordered `(path regex, choice)`; None leaves a leaf as it is.
        statistic: Of the inputs of a leaf.
        change: Of a leaf as a matrix.
        stages: Path regexes, in the order in which the function comes to the leaves.
        report: Called with a stage and the number of its batches done.
        purpose: Who asks, for messages.
        finished: Where stages that are done are kept, and looked for.
        told_in: How what `change` told goes into arrays and back; None if it tells nothing.
        asked: What else decides the result.
        hold: Whether the new tree is wanted; if not, it is `params`, and none is held beside it.

    Raises:
        ValueError: If the rules do not fit the tree, a rule chooses a leaf that is in no product
            or is no matrix there, the stages miss a leaf or have none, or as `collect`.
        TypeError: If the batches are no list, or a batch is no tuple.
    """
    choices = {p: f for p, f in tree.resolve(rules, params, purpose=purpose).items() if f}
    if not choices:
        raise ValueError(f"{purpose}: the rules select none of the leaves {tree.paths(params)}.")
    refuse_bad_batches(batches, purpose)
    read = graph.read_uncalled(fn, params, *batches[0])
    uses = _uses(read, choices, purpose)
    told: dict[str, Any] = {}
    keeper, codec = finished or NOWHERE, told_in or NOTHING
    paths = staged(stages, [*choices], purpose)
    of = "" if finished is None else fingerprint(params, batches, purpose, choices, paths, *asked)

    def known(params: Params, stage: str) -> Params | None:
        arrays = keeper.load(stage, of)
        if arrays is None:
            return None
        named = tree.leaves(params)
        new = {path: leaf_of(path, arrays, named[path]) for path in paths[stage]}
        for path, leaf in new.items():
            old, matrix = (graph.to_matrix(uses[path], jnp.asarray(x)) for x in (named[path], leaf))
            told[path] = codec.read(path, old, matrix, parts_of(path, arrays, codec), choices[path])
        return tree.replace(params, new)

    def changed(params: Params, stage: str, seen: Collected) -> Params:
        named, new = tree.leaves(params), {}
        for path, found in seen.items():
            matrix = graph.to_matrix(uses[path], jnp.asarray(named[path]))
            matrix, told[path] = change(path, matrix, found, choices[path])
            new[path] = graph.from_matrix(uses[path], matrix)
        keeper.save(stage, of, arrays_of(new, told, codec))
        return tree.replace(params, new)

    how = (read, params, batches, statistic, paths, changed, report)
    return in_stages(*how, known=known, hold=hold), told


def staged(stages: Sequence[str], paths: Sequence[str], purpose: str) -> dict[str, list[str]]:
    """The leaves of each stage, in the order of the stages.

    Raises:
        ValueError: If the stages miss a leaf or have none.
    """
    rules = [(stage, stage) for stage in stages]
    stage_of = tree.match(rules, paths, purpose=f"{purpose}, stages")
    return {stage: [path for path in paths if stage_of[path] == stage] for stage in stages}


def refuse_bad_batches(batches: Any, purpose: str) -> None:
    """Refuses what can't be read several times, batch by batch.

    Raises:
        ValueError: If there is no batch.
        TypeError: If the batches are no list, or a batch is no tuple.
    """
    wanted = f"{purpose}: batches are read several times, so they must be a list of tuples"
    if not isinstance(batches, Sequence):
        raise TypeError(f"{wanted}; got {type(batches).__name__}.")
    if not batches:
        raise ValueError(f"{purpose}: there is no batch to look at.")
    for batch in batches:
        if not isinstance(batch, tuple):
            raise TypeError(f"{wanted}, as [(tokens,), …]; a batch is {type(batch).__name__}.")


def _uses(read: graph.Graph, choices: Mapping[str, Choice], purpose: str) -> dict[str, Use]:
    """The product of each leaf that is chosen."""
    found = {path: use for (path, _), use in graph.products(read).items()}
    for path in choices:
        if path not in found:
            raise ValueError(
                f"{purpose}: {path!r} is in no product with anything that depends on the inputs, "
                "so its weights have none to be scored by. Leave it alone by a rule."
            )
        graph.refuse_parts(found[path])
    return found

"""Looks at what weights see and changes them, stage by stage, running no part from the start again.

What later stages need of each batch is kept, as it is once the stages before are changed: of a
network of blocks, the hidden states. Stages that run alike, as blocks do, are compiled once.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from wlab import tree
from wlab.calibration.collecting import Collected, by_leaf, refuse_bad
from wlab.graph import Graph, Statistic, products
from wlab.graph.cutting import Segment, read_uncalled, run_segment, segments
from wlab.transform import Params

Stages = Mapping[str, Sequence[str]]  # the paths of the leaves of each, in order
Run = Callable[[Any, Any, Any], tuple[Sequence[Any], Sequence[Any]]]


class Program(NamedTuple):
    """One stage for batches of some shapes.

    Attributes:
        run: From leaves, constants and kept values: values to keep, and a statistic a chosen leaf.
        leaves: The paths of those that it reads.
        consts: The constants.
        chosen: The paths of those that are looked at.
    """

    run: Run
    leaves: tuple[str, ...]
    consts: tuple[Any, ...]
    chosen: tuple[str, ...]


def in_stages(
    fn: Callable[..., Any],
    params: Params,
    batches: Sequence[tuple[Any, ...]],
    statistic: Statistic,
    stages: Stages,
    change: Callable[[Params, str, Collected], Params],
    report: Callable[[str, int], None],
) -> Params:
    """The tree after the last stage.

    A stage sees inputs as the leaves of earlier stages make them now, and its own and later ones
    as they were.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`.
        statistic: As `gram()`, `squares()`, `absmax()`.
        stages: Which leaves are looked at and changed together.
        change: The tree with the leaves of a stage changed, from what they got to see.
        report: Called with a stage and the number of its batches done.

    Raises:
        ValueError: As `collect`.
    """
    programs, kept = _prepared(fn, params, batches, statistic, [*stages.values()])
    added = jax.jit(statistic.together, donate_argnums=0)
    for at, stage in enumerate(stages):
        leaves, total = tree.leaves(params), None
        for i, of_batch in enumerate(programs):
            one = of_batch[at]
            kept[i], found = one.run([leaves[p] for p in one.leaves], one.consts, kept[i])
            total = found if total is None else added(total, found)
            report(stage, i + 1)
        seen = dict(zip(programs[0][at].chosen, total or (), strict=True))
        refuse_bad(seen)
        params = change(params, stage, seen)
    return params


def _prepared(
    fn: Callable[..., Any],
    params: Params,
    batches: Sequence[tuple[Any, ...]],
    statistic: Statistic,
    stages: Sequence[Sequence[str]],
) -> tuple[list[list[Program]], list[Sequence[Any]]]:
    """For each batch its programs, and what the first of those takes."""
    of_shapes: dict[Any, tuple[list[Program], list[int]]] = {}
    firsts: dict[str, Run] = {}
    programs, kept = [], []
    for batch in batches:
        inputs, structure = jax.tree.flatten(batch)
        shapes = (structure, *(jax.typeof(x) for x in inputs))
        if shapes not in of_shapes:
            graph = read_uncalled(fn, params, *batch)
            chosen = products(graph)
            uses = [{k: use for k, use in chosen.items() if k[0] in paths} for paths in stages]
            cut = segments(graph, uses)
            begins = graph.function.jaxpr.invars[len(graph.paths) :]
            compiled = [_program(graph, one, statistic, firsts) for one in cut]
            of_shapes[shapes] = (compiled, [begins.index(v) for v in cut[0].takes])
        compiled, taken = of_shapes[shapes]
        programs.append(compiled)
        kept.append([inputs[i] for i in taken])
    return programs, kept


def _program(
    graph: Graph, segment: Segment, statistic: Statistic, firsts: dict[str, Run]
) -> Program:
    """A segment; run by what was compiled for one before it, if both read the same."""
    jaxpr = graph.function.jaxpr
    run = jax.jit(partial(_measured, graph, segment, statistic))
    names = (
        [jaxpr.invars[i] for i in segment.leaves],
        [jaxpr.constvars[i] for i in segment.consts],
        [*segment.takes],
    )
    text = run.lower(*jax.tree.map(lambda v: v.aval, names)).as_text()
    if "callback" not in text:  # the text of a callback does not tell which
        run = firsts.setdefault(text, run)
    leaves = tuple(graph.paths[i] for i in segment.leaves)
    consts = tuple(graph.function.consts[i] for i in segment.consts)
    return Program(run, leaves, consts, tuple(dict.fromkeys(path for path, _ in segment.chosen)))


def _measured(
    graph: Graph, segment: Segment, statistic: Statistic, *operands: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    kept, found = run_segment(graph, segment, statistic, operands)
    return kept, [*by_leaf(statistic, segment.chosen, found).values()]

"""Looks at what weights see and changes them, stage by stage, running no part from the start again.

What later stages need of each batch is kept, as it is once the stages before are changed: of a
network of blocks, the hidden states. Stages that run alike, as blocks do, are compiled once.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from wlab import graph, tree
from wlab.calibration.collecting import Collected, by_leaf, refuse_bad
from wlab.graph import Graph, Segment, Statistic
from wlab.transform import Params

Stages = Mapping[str, Sequence[str]]  # the paths of the leaves of each, in order
Run = jax.stages.Wrapped


class Program(NamedTuple):
    """One stage for batches of some shapes.

    Attributes:
        run: From leaves, constants and kept values: values to keep, and a statistic a chosen leaf.
        leaves: The paths of those that it reads.
        consts: The constants.
        chosen: The paths of those that are looked at.
        pass_on: As `run`, but for the values to keep alone.
    """

    run: Run
    leaves: tuple[str, ...]
    consts: tuple[Any, ...]
    chosen: tuple[str, ...]
    pass_on: Run


def in_stages(
    read: Graph,
    params: Params,
    batches: Sequence[tuple[Any, ...]],
    statistic: Statistic,
    stages: Stages,
    change: Callable[[Params, str, Collected], Params],
    report: Callable[[str, int], None],
    *,
    known: Callable[[Params, str], Params | None] = lambda params, stage: None,
    along: Stages | None = None,
    hold: bool = True,
) -> Params:
    """The tree after the last stage.

    A stage sees inputs as the leaves of earlier stages make them now, and its own and later ones
    as they were.

    Args:
        read: From `graph.read_uncalled`, of `params` and the first batch.
        params: Any tree.
        batches: Tuples of the function's inputs after `params`; read once.
        statistic: As `gram()`, `squares()`, `absmax()`.
        stages: Which leaves are looked at and changed together.
        change: The tree with the leaves of a stage changed, from what they got to see.
        report: Called with a stage and the number of its batches done.
        known: The tree with the leaves of a stage changed, if that was done before: then inputs
            are only handed on through it.
        along: Which other leaves a stage may change.
        hold: Whether the tree is wanted. If not, a changed leaf is given up for what it was as
            soon as no stage to come has to do with it, and what is returned is `params`.

    Raises:
        ValueError: As `collect`.
    """
    first = tree.leaves(params)
    others = [(along or {}).get(stage, ()) for stage in stages]
    programs, kept = _prepared(read, params, batches, statistic, [*stages.values()], others)
    added = jax.jit(statistic.together, donate_argnums=0)
    needed = _needed(programs, [*stages.values()], others)
    for at, stage in enumerate(stages):
        leaves, total = tree.leaves(params), None
        new = known(params, stage)
        for i, of_batch in enumerate(programs):
            one = of_batch[at]
            operands = ([leaves[p] for p in one.leaves], one.consts, kept[i])
            if new is None:
                kept[i], found = one.run(*operands)
                total = found if total is None else added(total, found)
            else:
                kept[i] = one.pass_on(*operands)
            report(stage, i + 1)
        if new is None:
            seen = dict(zip(programs[0][at].chosen, total or (), strict=True))
            refuse_bad(seen)
            new = change(params, stage, seen)
        done = [] if hold else [path for path in tree.paths(params) if path not in needed[at]]
        params = tree.replace(new, {path: first[path] for path in done})
    return params


def _needed(
    programs: Sequence[Sequence[Program]],
    stages: Sequence[Sequence[str]],
    along: Sequence[Sequence[str]],
) -> list[set[str]]:
    """The leaves with which stages after each have to do."""
    found: list[set[str]] = [set()]
    for at in reversed(range(1, len(stages))):
        read = (path for of_batch in programs for path in of_batch[at].leaves)
        found.append(found[-1] | {*read, *stages[at], *along[at]})
    return found[::-1]


def _prepared(
    read: Graph,
    params: Params,
    batches: Sequence[tuple[Any, ...]],
    statistic: Statistic,
    stages: Sequence[Sequence[str]],
    along: Sequence[Sequence[str]],
) -> tuple[list[list[Program]], list[Sequence[Any]]]:
    """For each batch its programs, and what the first of those takes."""
    of_shapes: dict[Any, tuple[list[Program], Callable[[Sequence[Any]], list[Any]]]] = {}
    firsts: dict[str, tuple[Run, Run]] = {}
    programs, kept = [], []
    for batch in batches:
        inputs, structure = jax.tree.flatten(batch)
        shapes = (structure, *(jax.typeof(x) for x in inputs))
        if shapes not in of_shapes:
            here = graph.read_uncalled(read.fn, params, *batch) if of_shapes else read
            chosen = graph.products(here)
            uses = [{k: use for k, use in chosen.items() if k[0] in paths} for paths in stages]
            cut = graph.segments(here, uses, along)
            compiled = [_program(here, one, statistic) for one in cut]
            if len(cut) > 1:
                pairs = zip(cut, compiled, strict=True)
                compiled = [_shared(here, one, program, firsts) for one, program in pairs]
            of_shapes[shapes] = (compiled, partial(graph.begun, here, cut[0]))
        compiled, begin = of_shapes[shapes]
        programs.append(compiled)
        kept.append(begin(inputs))
    return programs, kept


def _program(read: Graph, segment: Segment, statistic: Statistic) -> Program:
    leaves = tuple(read.paths[i] for i in segment.leaves)
    consts = tuple(read.function.consts[i] for i in segment.consts)
    chosen = tuple(dict.fromkeys(path for path, _ in segment.chosen))
    run = jax.jit(partial(_measured, read, segment, statistic))
    return Program(run, leaves, consts, chosen, jax.jit(lambda *operands: run(*operands)[0]))


def _shared(
    read: Graph, segment: Segment, program: Program, firsts: dict[str, tuple[Run, Run]]
) -> Program:
    """A program; run by what is compiled for one before it, if both read the same."""
    shapes = ([v.aval for v in variables] for variables in graph.operands_of(read, segment))
    platforms = (jax.default_backend(),)  # types of sharded values tell no devices
    text = program.run.trace(*shapes).lower(lowering_platforms=platforms).as_text()
    if "callback" in text:  # which one, it does not tell
        return program
    run, pass_on = firsts.setdefault(text, (program.run, program.pass_on))
    return program._replace(run=run, pass_on=pass_on)


def _measured(
    read: Graph, segment: Segment, statistic: Statistic, *operands: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    kept, found = graph.run_segment(read, segment, statistic, operands)
    return kept, [*by_leaf(statistic, segment.chosen, found).values()]

"""Follows the leaves through a jaxpr: what each value is to them, and where they are used."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from jax.extend.core import Literal

from wlab.graph.arranging import PASSING, arranged, stepped
from wlab.graph.compat import Opened, called, mapped, opened, scan_counts
from wlab.graph.meeting import ELEMENTWISE, met
from wlab.graph.use import Site, Use
from wlab.graph.view import View, cut, every_turn, one_turn


@dataclass(frozen=True)
class Weight:
    """A value that parameters and constants alone decide.

    Attributes:
        views: The leaves whose entries it holds, as they are or each computed from its own.
    """

    views: tuple[View, ...] = ()


Value = Weight | None  # None where inputs have a say
Walked = tuple[Sequence[Value], Sequence[Use]]  # of the results, and on the way to them


def walk(function: Opened, operands: Sequence[Value], site: Site) -> Walked:
    """The results of a jaxpr, and every use in it, in the order of its equations."""
    jaxpr = function.jaxpr
    values: dict[Any, Value] = dict.fromkeys(jaxpr.constvars, Weight())
    values |= zip(jaxpr.invars, operands, strict=True)

    def value(atom: Any) -> Value:
        return Weight() if isinstance(atom, Literal) else values[atom]

    uses: list[Use] = []
    for i, equation in enumerate(jaxpr.eqns):
        results, found = _through(equation, [value(v) for v in equation.invars], (*site, i))
        values |= zip(equation.outvars, results, strict=True)
        uses += found
    return [value(v) for v in jaxpr.outvars], uses


def _through(equation: Any, operands: Sequence[Value], site: Site) -> Walked:
    """Through one equation."""
    name = equation.primitive.name
    if not any(operand is not None and operand.views for operand in operands):
        return _results(equation, operands), ()
    if (function := called(equation)) is not None:
        return walk(function, operands, site)
    if name in _LOOPS:
        return _LOOPS[name](equation, operands, site)
    if name in PASSING:
        passed = [v and Weight(tuple(stepped(x, equation) for x in v.views)) for v in operands]
        return passed, ()
    first = operands[0]
    if first is not None and first.views and not any(v and v.views for v in operands[1:]):
        images = [arranged(equation, view) for view in first.views]
        if all(image is not None and None not in image for image in images):
            return [Weight(tuple(of_one)) for of_one in zip(*images, strict=True)], ()
    if name in ELEMENTWISE and None not in operands:
        return _computed(equation, operands, site)
    return _results(equation, operands), _uses(equation, operands, site)


def _results(equation: Any, operands: Sequence[Value]) -> list[Value]:
    """Values without a view, decided by parameters alone if the operands are."""
    return [None if None in operands else Weight()] * len(equation.outvars)


def _uses(equation: Any, operands: Sequence[Value], site: Site) -> list[Use]:
    """A use for each view among the operands."""
    leaves = [tuple(view.path for view in v.views) if v else () for v in operands]
    found = []
    for i, operand in enumerate(operands):
        partners = tuple(path for j, paths in enumerate(leaves) if j != i for path in paths)
        for view in operand.views if operand else ():
            use = met(equation, i, view, site)
            found.append(replace(use, partners=partners, alone=None not in operands))
    return found


def _computed(equation: Any, operands: Sequence[Value], site: Site) -> Walked:
    """Entry by entry, from parameters alone: leaves of the result's shape live on in it."""
    shape = tuple(equation.outvars[0].aval.shape)

    def lives_on(view: View) -> bool:
        return view.sizes == shape and not view.repeats

    kept, used = [], []
    for operand in operands:
        views = () if operand is None else operand.views
        kept += [view for view in views if lives_on(view)]
        used.append(Weight(tuple(view for view in views if not lives_on(view))))
    once = {(v.path, v.axes, v.offsets): replace(stepped(v, equation), exact=False) for v in kept}
    return [Weight(tuple(once.values()))], _uses(equation, used, site)


def _scan(equation: Any, operands: Sequence[Value], site: Site) -> Walked:
    consts, carried = scan_counts(equation)
    carry, parts = operands[consts : consts + carried], operands[consts + carried :]
    shared = [_looped(operand) for operand in operands[:consts]]
    turns = [_one_turn(operand) for operand in parts]
    uncut = [part if turn is None else None for part, turn in zip(parts, turns, strict=True)]
    inner = [*shared, *[None] * carried, *turns]
    results, found = walk(opened(equation.params["jaxpr"]), inner, site)
    lost = _either([*[None] * consts, *carry, *uncut], _left(results, operands))
    return _results(equation, operands), [*_opaque(equation, lost, site), *found]


def _while(equation: Any, operands: Sequence[Value], site: Site) -> Walked:
    params = equation.params
    tests, bodies = params["cond_nconsts"], params["body_nconsts"]
    state: list[Value] = [None] * (len(operands) - tests - bodies)
    shared = [_looped(operand) for operand in operands[: tests + bodies]]
    _, in_test = walk(opened(params["cond_jaxpr"]), shared[:tests] + state, (*site, "cond"))
    body = opened(params["body_jaxpr"])
    results, in_body = walk(body, shared[tests:] + state, (*site, "body"))
    carry = operands[tests + bodies :]
    lost = _either([*[None] * (tests + bodies), *carry], _left(results, operands))
    return _results(equation, operands), [*_opaque(equation, lost, site), *in_test, *in_body]


def _cond(equation: Any, operands: Sequence[Value], site: Site) -> Walked:
    index, *inner = operands
    results: list[Value] = []
    uses: list[Use] = []
    for i, branch in enumerate(equation.params["branches"]):
        given, found = walk(opened(branch), inner, (*site, f"branch {i}"))
        results, uses = [*results, *given], [*uses, *found]
    lost = [index, *_left(results, inner)]
    return _results(equation, operands), [*_opaque(equation, lost, site), *uses]


def _shard_map(equation: Any, operands: Sequence[Value], site: Site) -> Walked:
    of = mapped(equation)
    parts = [_one_part(*pair, of.mesh) for pair in zip(operands, of.in_specs, strict=True)]
    uncut = [whole if part is None else None for whole, part in zip(operands, parts, strict=True)]
    results, found = walk(of.function, parts, site)
    lost = _either(uncut, _left(results, operands))
    return _results(equation, operands), [*_opaque(equation, lost, site), *found]


_LOOPS = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}


def _looped(operand: Value) -> Value:
    return operand and Weight(tuple(every_turn(view) for view in operand.views))


def _one_turn(operand: Value) -> Value:
    """One turn's part of what is scanned over; None if a view has no such part."""
    turns = [one_turn(view) for view in operand.views] if operand else []
    if operand is None or None in turns:
        return None
    return Weight(tuple(view for view in turns if view is not None))


def _one_part(operand: Value, spec: Any, mesh: Any) -> Value:
    """One device's part; None if a view has no such part."""
    found = []
    for view in operand.views if operand else ():
        part: View | None = view
        for i, names in enumerate(spec):
            names = names if isinstance(names, tuple) else (names,) if names else ()
            part = part and cut(part, i, names, prod(mesh.shape[name] for name in names))
        found.append(part)
    if operand is None or None in found:
        return None
    return Weight(tuple(view for view in found if view is not None))


def _left(results: Sequence[Value], operands: Sequence[Value]) -> list[Value]:
    """What leaves a loop or a branch: where from which turn, or whether at all, is not told."""
    paths = {view.path for v in results for view in (v.views if v else ())}
    return [v and Weight(tuple(x for x in v.views if x.path in paths)) for v in operands]


def _either(first: Sequence[Value], other: Sequence[Value]) -> list[Value]:
    return [b if a is None else a for a, b in zip(first, other, strict=True)]


def _opaque(equation: Any, operands: Sequence[Value], site: Site) -> list[Use]:
    """Uses of which nothing is known, as of what a loop carries."""
    name = equation.primitive.name
    return [
        Use(site, name, i, view, opaque=True)
        for i, operand in enumerate(operands)
        for view in (operand.views if operand else ())
    ]

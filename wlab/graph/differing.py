"""Along which axes of a mesh each operand within `shard_map` may differ between devices.

The types of JAX say it too, but only where they are checked, and they call equal values varying
where these meet others that do vary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import Literal

from wlab.graph.compat import Opened, called, mapped, opened, scan_counts
from wlab.graph.devices import Names
from wlab.graph.use import Site

# All devices along the axes get the same; every other collective gives each something else.
_EQUAL = "all_gather all_gather_invariant pmax pmin psum psum_invariant"
_EQUALIZING = frozenset(_EQUAL.split())
_RETYPING = frozenset({"pvary", "pcast"})


def differing(function: Opened) -> dict[Site, list[Names]]:
    """The axes of the mesh along which each operand of each equation differs, by site."""
    walk = _Walk()
    walk.through(function, [frozenset()] * len(function.jaxpr.invars), ())
    return walk.operands


@dataclass(frozen=True)
class _Walk:
    """Filled on the way; what a loop carries is met again until it no longer grows."""

    operands: dict[Site, list[Names]] = field(default_factory=dict)

    def through(self, function: Opened, given: Sequence[Names], site: Site) -> list[Names]:
        jaxpr = function.jaxpr
        known: dict[Any, Names] = dict.fromkeys(jaxpr.constvars, frozenset())
        known |= zip(jaxpr.invars, given, strict=True)

        def names(atom: Any) -> Names:
            return frozenset() if isinstance(atom, Literal) else known[atom]

        for i, equation in enumerate(jaxpr.eqns):
            at, operands = (*site, i), [names(v) for v in equation.invars]
            self.operands[at] = operands
            known |= zip(equation.outvars, self._step(equation, operands, at), strict=True)
        return [names(v) for v in jaxpr.outvars]

    def _step(self, equation: Any, operands: Sequence[Names], site: Site) -> Sequence[Names]:
        if (function := called(equation)) is not None:
            return self.through(function, operands, site)
        match equation.primitive.name:
            case "scan":
                return self._scan(equation, operands, site)
            case "while":
                return self._while(equation, operands, site)
            case "cond":
                return self._cond(equation, operands, site)
            case "shard_map":
                return self._shard_map(equation, operands, site)
            case _:
                return [_after(equation, _all(operands))] * len(equation.outvars)

    def _scan(self, equation: Any, operands: Sequence[Names], site: Site) -> list[Names]:
        consts, carried = scan_counts(equation)
        shared, parts = operands[:consts], operands[consts + carried :]
        body, state = opened(equation.params["jaxpr"]), list(operands[consts : consts + carried])
        while True:
            found = self.through(body, [*shared, *state, *parts], site)
            grown = _grown(state, found[:carried], frozenset())
            if grown == state:
                return [*state, *found[carried:]]
            state = grown

    def _while(self, equation: Any, operands: Sequence[Names], site: Site) -> list[Names]:
        params = equation.params
        tests, bodies = params["cond_nconsts"], params["body_nconsts"]
        test, body = opened(params["cond_jaxpr"]), opened(params["body_jaxpr"])
        shared, state = operands[tests : tests + bodies], list(operands[tests + bodies :])
        while True:
            (turns,) = self.through(test, [*operands[:tests], *state], (*site, "cond"))
            found = self.through(body, [*shared, *state], (*site, "body"))
            grown = _grown(state, found, turns)
            if grown == state:
                return state
            state = grown

    def _cond(self, equation: Any, operands: Sequence[Names], site: Site) -> list[Names]:
        index, *rest = operands
        branches = [
            self.through(opened(branch), rest, (*site, f"branch {i}"))
            for i, branch in enumerate(equation.params["branches"])
        ]
        return [_all([index, *each]) for each in zip(*branches, strict=True)]

    def _shard_map(self, equation: Any, operands: Sequence[Names], site: Site) -> list[Names]:
        of = mapped(equation)
        given = [own | spec_names(spec) for own, spec in zip(operands, of.in_specs, strict=True)]
        return [names - of.axes for names in self.through(of.function, given, site)]


def spec_names(spec: Any) -> Names:
    """The axes of the mesh that a specification names."""
    return _strings(spec)


def _after(equation: Any, names: Names) -> Names:
    """Of the results of an equation whose operands differ along `names`."""
    name, params = equation.primitive.name, equation.params
    if name in _RETYPING:
        return names
    own = _strings([params.get("axes", ()), params.get("axis_name", ())])
    if name in _EQUALIZING and params.get("axis_index_groups") is None:
        return names - own
    return names | own


def _strings(of: Any) -> Names:
    """The names in nested tuples; not the numbers of a value's own axes."""
    if isinstance(of, str):
        return frozenset({of})
    return _all(_strings(part) for part in of) if isinstance(of, Iterable) else frozenset()


def _all(names: Iterable[Names]) -> Names:
    return frozenset().union(*names)


def _grown(state: Sequence[Names], found: Sequence[Names], more: Names) -> list[Names]:
    return [_all([*pair, more]) for pair in zip(state, found, strict=True)]

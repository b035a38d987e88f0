"""A function as one list of steps: calls are opened, and loops over leaves are entered."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from wlab.graph.arranging import ARRANGING
from wlab.graph.compat import Opened, called, opened, scan_counts
from wlab.graph.reading import Graph
from wlab.graph.use import Site

TURN, SHARED, CARRY = "scan turn", "scan constant", "scan carry"


class Step(NamedTuple):
    """An equation, or a boundary of a loop.

    Attributes:
        name: Of the primitive, or what boundary it is.
        equation: In the function that was read; of a boundary the loop.
        inputs: Numbers of values.
        outputs: Likewise.
        site: Of the equation.
        within: The name of the compiled function around it, if there is one.
    """

    name: str
    equation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    site: Site
    within: str


@dataclass
class Program:
    """Filled while a function is opened.

    Attributes:
        steps: In order.
        shapes: Of each value, by its number.
        fixed: Values that can't have a factor, and what they are.
        free: Values that no positive factor changes: zeros and infinities.
        weights: Values that parameters and constants alone decide.
        leaves: The number of each leaf, by path.
        steps_of: The steps that a value is in.
    """

    steps: list[Step] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    fixed: dict[int, str] = field(default_factory=dict)
    free: set[int] = field(default_factory=set)
    weights: set[int] = field(default_factory=set)
    leaves: dict[str, int] = field(default_factory=dict)
    steps_of: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def new(self, aval: Any) -> int:
        """The number of a new value."""
        self.shapes.append(tuple(aval.shape))
        number = len(self.shapes) - 1
        if not jnp.issubdtype(aval.dtype, jnp.floating):
            self.fixed[number] = f"it is {aval.dtype}"
        return number

    def constant(self, aval: Any, value: Any) -> int:
        """The number of a value that the function itself holds."""
        number = self.new(aval)
        self.weights.add(number)
        if jnp.issubdtype(aval.dtype, jnp.floating) or jnp.issubdtype(aval.dtype, jnp.integer):
            known = np.asarray(value).astype(np.float64)
            if ((known == 0) | np.isinf(known)).all():
                self.free.add(number)
        self.fixed.setdefault(number, "it is a number of the function itself")
        return number

    def step(self, step: Step) -> None:
        """Adds a step."""
        for number in {*step.inputs, *step.outputs}:
            self.steps_of[number].append(len(self.steps))
        self.steps.append(step)
        if self.weights.issuperset(step.inputs):
            self.weights.update(step.outputs)
        if step.name in ARRANGING and self.free.issuperset(step.inputs):
            self.free.update(step.outputs)

    def open(
        self, function: Opened, operands: Sequence[int], site: Site, within: str = ""
    ) -> list[int]:
        """Adds all steps of a jaxpr, and gives the numbers of its results."""
        jaxpr = function.jaxpr
        pairs = zip(jaxpr.constvars, function.consts, strict=True)
        numbers = {v: self.constant(v.aval, value) for v, value in pairs}
        numbers |= zip(jaxpr.invars, operands, strict=True)
        for i, equation in enumerate(jaxpr.eqns):
            inputs = [self._number(v, numbers) for v in equation.invars]
            found = self._through(equation, inputs, (*site, i), within)
            numbers |= zip(equation.outvars, found, strict=True)
        return [self._number(v, numbers) for v in jaxpr.outvars]

    def _number(self, atom: Any, numbers: Mapping[Any, int]) -> int:
        return self.constant(atom.aval, atom.val) if isinstance(atom, Literal) else numbers[atom]

    def _through(
        self, equation: Any, inputs: Sequence[int], site: Site, within: str
    ) -> Sequence[int]:
        name, function = equation.primitive.name, called(equation)
        if function is not None:
            name = str(equation.params.get("name", within))
            return self.open(function, inputs, site, within if "<" in name else name)
        if name == "scan":
            return self._scan(equation, inputs, site, within)
        outputs = [self.new(v.aval) for v in equation.outvars]
        self.step(Step(name, equation, tuple(inputs), tuple(outputs), site, within))
        return outputs

    def _scan(self, equation: Any, inputs: Sequence[int], site: Site, within: str) -> list[int]:
        consts, carried = scan_counts(equation)
        body = opened(equation.params["jaxpr"])
        inner = [self.new(v.aval) for v in body.jaxpr.invars]
        outputs = [self.new(v.aval) for v in equation.outvars]

        def boundary(name: str, before: Sequence[int], after: Sequence[int]) -> None:
            self.step(Step(name, equation, tuple(before), tuple(after), site, within))

        for i, (outer, own) in enumerate(zip(inputs, inner, strict=True)):
            if i < consts or i >= consts + carried:
                boundary(SHARED if i < consts else TURN, [outer], [own])
        results = self.open(body, inner, site, within)
        for i, (outer, own) in enumerate(zip(outputs, results, strict=True)):
            if i < carried:
                boundary(CARRY, [inputs[consts + i], own], [inner[consts + i], outer])
            else:
                boundary(TURN, [outer], [own])
        return outputs


def program(graph: Graph) -> Program:
    """The steps of a function that has been read."""
    found, jaxpr = Program(), graph.function.jaxpr
    operands = [found.new(v.aval) for v in jaxpr.invars]
    count = len(graph.paths)
    found.leaves.update(zip(graph.paths, operands, strict=False))
    found.weights.update(operands[:count])
    found.fixed |= dict.fromkeys(operands[count:], "it is an input of the function")
    results = found.open(graph.function, operands, ())
    found.fixed |= dict.fromkeys(results, "it is a result of the function")
    return found

"""What has been found out so far: the factors of some values, and which of them are one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from wlab.graph.scaled.factors import Clash, Factors, Ties, joined, none, short
from wlab.graph.scaled.program import Program
from wlab.graph.use import Site


@dataclass(frozen=True)
class State:
    """One account of a program; every value that is not named stays as it is.

    Attributes:
        program: The steps.
        factors: Of values, by number.
        ties: Among the factors.
        site: Of the product whose other operand must have the inverse of what its leaf has.
        turns: For each loop around what is looked at, by its place, the factors of one turn.
    """

    program: Program = field(repr=False)
    factors: Mapping[int, Factors]
    ties: Ties
    site: Site
    turns: Mapping[Site, int]

    def of(self, number: int) -> Factors:
        """The factors of a value."""
        found = self.factors.get(number)
        return none(len(self.program.shapes[number])) if found is None else self.ties.of(found)

    def moves(self, number: int) -> bool:
        """Whether a value has any factor."""
        return number in self.factors

    def tied(self, ties: Ties) -> "State":
        """With these ties."""
        return self if ties is self.ties else replace(self, ties=ties)

    def has(self, number: int, factors: Factors) -> "State":
        """With what a value has, beside what was known of it.

        Raises:
            Clash: If it can't have that.
        """
        if not factors.any() or number in self.program.free:
            return self
        if number in self.program.fixed:
            raise Clash(self.program.fixed[number])
        old = self.of(number)
        new, ties = joined(old, factors, self.ties)
        if new.shape == old.shape and (new == ties.of(old)).all():
            return self.tied(ties)
        return replace(self, factors={**self.factors, number: new}, ties=ties)


Outcomes: TypeAlias = list[State]
"""What a step allows, the best first; one that is the state itself if all is well."""


def shape_of(state: State, number: int) -> tuple[int, ...]:
    """The shape of a value."""
    return state.program.shapes[number]


def filled(factors: Factors, axis: int, size: int) -> Factors:
    """With an entry for each position of an axis."""
    shape = list(factors.shape)
    shape[axis] = size
    return np.broadcast_to(factors, shape)


def within(factors: Factors, axis: int, start: int, step: int, size: int) -> Factors:
    """As some positions of a longer axis, of which the others have no factor."""
    shape = list(factors.shape)
    shape[axis] = size
    found = np.zeros(shape, np.int64)
    at = [slice(None)] * factors.ndim
    at[axis] = slice(start, start + (factors.shape[axis] - 1) * step + 1, step)
    found[tuple(at)] = factors
    return short(found)

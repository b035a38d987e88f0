"""Which factor each entry of a value is multiplied with, and which factors must be one.

An entry i > 0 stands for the factor i, −i for its inverse, 0 for none. An axis along which all
entries are alike has size 1, so what is kept is small. Factors are positive.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Factors: TypeAlias = NDArray[np.int64]


class Clash(Exception):
    """No factor can be here; the text says why."""


@dataclass(frozen=True)
class Ties:
    """Factors that must be one.

    Attributes:
        classes: For each number, the smallest of those that it is one with; 0 for 0.
        period: Numbers of one turn of the loops around; every turn has the same ties.
    """

    classes: Factors
    period: int

    def of(self, factors: Factors) -> Factors:
        """The factors, each by the smallest number that it has."""
        return np.asarray(np.sign(factors) * self.classes[np.abs(factors)])

    def tied(self, one: Factors, other: Factors) -> "Ties":
        """With positive numbers, pair by pair, being one.

        Raises:
            Clash: If they are of different turns of a loop.
        """
        one, other = self.classes[one], self.classes[other]
        if (one == other).all():
            return self
        if ((one - 1) // self.period != (other - 1) // self.period).any():
            raise Clash("turns of a loop would share a factor")
        one, other, turn = (one - 1) % self.period, (other - 1) % self.period, self._one_turn()
        while (turn[one] != turn[other]).any():
            a, b = turn[one], turn[other]
            least = np.arange(self.period)
            np.minimum.at(least, np.maximum(a, b), np.minimum(a, b))
            turn = least[turn]
        starts = np.arange(0, len(self.classes) - 1, self.period)
        every = (starts[:, None] + turn[None] + 1).reshape(-1)
        return replace(self, classes=np.concatenate([[0], every]))

    def _one_turn(self) -> Factors:
        return self.classes[1 : self.period + 1] - 1


def untied(size: int, turns: int) -> Ties:
    """Factors of which none must be another."""
    return Ties(np.arange(size + 1), size // turns)


def none(ndim: int) -> Factors:
    """Of a value that stays as it is."""
    return np.zeros((1,) * ndim, np.int64)


def short(factors: Factors) -> Factors:
    """With size 1 for each axis along which all entries are alike."""
    for axis, size in enumerate(factors.shape):
        first = factors.take([0], axis)
        if size > 1 and (factors == first).all():
            factors = first
    return factors


def joined(one: Factors, other: Factors, ties: Ties) -> tuple[Factors, Ties]:
    """What two accounts of one value say together.

    Raises:
        Clash: If they can't both be right.
    """
    one, other = np.broadcast_arrays(ties.of(one), ties.of(other))
    both = (one != 0) & (other != 0)
    if (np.sign(one) != np.sign(other))[both].any():
        raise Clash("it would have a factor and its inverse")
    ties = ties.tied(np.abs(one[both]), np.abs(other[both]))
    return short(ties.of(np.where(one == 0, other, one))), ties


def merged(factors: Factors, axes: Sequence[int], ties: Ties) -> tuple[Factors, Ties]:
    """With one factor along some axes, of which each then has size 1.

    Raises:
        Clash: If a factor meets its inverse there.
    """
    for axis in axes:
        if factors.shape[axis] == 1:
            continue
        low = np.minimum(factors.min(axis, keepdims=True), 0)
        high = np.maximum(factors.max(axis, keepdims=True), 0)
        if ((low < 0) & (high > 0)).any():
            raise Clash("it would have a factor and its inverse")
        all_of, any_of = np.broadcast_arrays(np.abs(factors), high - low)
        there = all_of > 0
        ties = ties.tied(all_of[there], any_of[there])
        factors = ties.of(low + high)
    return factors, ties


def reshaped(factors: Factors, old: Sequence[int], new: Sequence[int]) -> Factors:
    """Of a value of shape `old`, after it was reshaped to `new`; of no empty one."""
    filled, sizes = list(factors.shape), list(new)
    for before, after in _blocks(old, new):
        if all(filled[i] == 1 for i in before):
            for j in after:
                sizes[j] = 1
        else:
            for i in before:
                filled[i] = old[i]
    return short(np.broadcast_to(factors, filled).reshape(sizes))


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[range, range]]:
    """The shortest runs of axes of both shapes that hold as many entries."""
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = min(i + 1, len(old)), min(j + 1, len(new))
        while prod(old[i:a]) != prod(new[j:b]):
            if prod(old[i:a]) < prod(new[j:b]):
                a += 1
            else:
                b += 1
        yield range(i, a), range(j, b)
        i, j = a, b

"""Schedules: the density, the fraction of weights kept, as a function of the step.

A schedule knows its last step, at which the transform updates its masks whatever `every`
says: the target is always reached.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from wlab.pruning.budget import Density, refuse_bad_density

StepLike: TypeAlias = int | Int[Array, ""]


@dataclass(frozen=True)
class Schedule:
    """A density per step, falling from `begin` and final from `end` on.

    Attributes:
        density_fn: Step -> fraction kept.
        begin: The first step, counted from 0, after which masks are chosen.
        end: The last such step.
        final: The density from `end` on. Kept as given, so its count of weights is exact.
    """

    density_fn: Callable[[StepLike], Float[Array, ""]]
    begin: int
    end: int
    final: Density

    def __post_init__(self) -> None:
        refuse_bad_density(self.final, "final density")
        if not 0 <= self.begin <= self.end:
            raise ValueError(f"A schedule needs 0 <= begin <= end, got {self.begin}, {self.end}.")

    def __call__(self, step: StepLike) -> Float[Array, ""]:
        """The density at a step."""
        return self.density_fn(step)

    def is_due(self, step: StepLike, every: int) -> Bool[Array, ""]:
        """Whether masks are chosen after a step: every so often from `begin`, and at `end`."""
        elapsed = jnp.asarray(step) - self.begin
        is_turn = (elapsed % every == 0) | (step == self.end)
        return is_turn & (elapsed >= 0) & (step <= self.end)

    def is_open(self, step: StepLike, every: int) -> Bool[Array, ""]:
        """As `is_due`, but with every so often going on after `end`: for masks that stay open."""
        elapsed = jnp.asarray(step) - self.begin
        return (elapsed >= 0) & ((elapsed % every == 0) | (step == self.end))


def constant(density: Density) -> Schedule:
    """Prunes to `density` after the first step, once.

    Raises:
        ValueError: If a concrete density is outside [0, 1].
    """
    return oneshot(density, at=0)


def oneshot(density: Density, *, at: int) -> Schedule:
    """Prunes to `density` after step `at`, counted from 0, once.

    Raises:
        ValueError: If a concrete density is outside [0, 1], or `at` is negative.
    """
    return Schedule(lambda step: jnp.where(step < at, 1.0, density), at, at, density)


def cubic(initial: Density, final: Density, *, begin: int = 0, end: int) -> Schedule:
    """Prunes fast at first and slowly at the end: the gradual magnitude pruning schedule.

    d(t) = final + (initial − final) · (1 − (t − begin) / (end − begin))³

    Raises:
        ValueError: If a concrete density is outside [0, 1], or not 0 <= begin <= end.

    Reference:
        Zhu & Gupta 2017 (arXiv:1710.01878), eq. 1, with density = 1 − sparsity.
    """
    refuse_bad_density(initial, "initial density")

    def density(step: StepLike) -> Float[Array, ""]:
        return final + (initial - final) * (1 - _progress(step, begin, end)) ** 3

    return Schedule(density, begin, end, final)


def iterative(final: Density, *, rounds: int, every: int, begin: int = 0) -> Schedule:
    """Keeps the same fraction of what is left in each round: prune, train on, prune again.

    d = final^(r / rounds) after round r = 1, …, rounds, at steps begin + (r − 1) · every.

    Args:
        final: The density after the last round.
        rounds: The number of prunings.
        every: Steps from one pruning to the next. The transform's own `every` must divide it.
        begin: The step of the first pruning.

    Raises:
        ValueError: If a concrete density is outside [0, 1], or `rounds` or `every` is below 1.

    Reference:
        Han et al. 2015 (arXiv:1506.02626); Frankle & Carbin 2019 (arXiv:1803.03635).
    """
    if rounds < 1 or every < 1:
        raise ValueError(f"iterative needs rounds, every >= 1, got {rounds}, {every}.")

    def density(step: StepLike) -> Float[Array, ""]:
        done = jnp.clip((jnp.asarray(step) - begin) // every + 1, 0, rounds)
        return jnp.asarray(final, jnp.float32) ** (done.astype(jnp.float32) / rounds)

    return Schedule(density, begin, begin + (rounds - 1) * every, final)


def _progress(step: StepLike, begin: int, end: int) -> Float[Array, ""]:
    elapsed = jnp.asarray(step - begin, jnp.float32)
    return jnp.where(step >= end, 1.0, jnp.maximum(elapsed / max(end - begin, 1), 0.0))

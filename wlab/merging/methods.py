"""Ways to merge as values: what a rule names, checked against the models before any is read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Float

from wlab.merging.arrays import linear, model_stock, per_model, slerp
from wlab.merging.deltas import MERGEKIT, Convention, dare, task_arithmetic, ties
from wlab.merging.thinning import Key, refuse_bad_density

Numbers: TypeAlias = float | int | Sequence[float | int]  # one for all models, or one for each


class Peers(NamedTuple):
    """The leaves that stand at one path.

    Attributes:
        path: Where they stand.
        leaves: One for each model, in order.
        base: The base's leaf, if there is a base.
        key: The key that was given, the path folded in.
    """

    path: str
    leaves: tuple[Float[Array, "..."], ...]
    base: Float[Array, "..."] | None
    key: Key | None


Method: TypeAlias = Callable[[Peers], Array]


@runtime_checkable
class Checked(Protocol):
    """A method that knows beforehand what it needs."""

    def check(self, models: int, *, has_base: bool, has_key: bool) -> None:
        """Raises a ValueError if it cannot merge that many models."""
        ...


@dataclass(frozen=True)
class Linear:
    """The weighted mean, or the weighted sum, as `linear`. It does not look at the base."""

    weights: Numbers = 1.0
    _: KW_ONLY
    normalize: bool = True

    def __post_init__(self) -> None:
        _refuse_bad_weights("Linear", self.weights)
        if self.normalize and abs(_sum(self.weights)) < 1e-8:
            raise ValueError(f"Linear: the weights {self.weights} add up to zero.")

    def check(self, models: int, *, has_base: bool, has_key: bool) -> None:
        """Raises a ValueError unless there are two models or more."""
        _refuse_count("Linear", models, least=2)
        per_model(self.weights, models)

    def __call__(self, peers: Peers) -> Array:
        return linear(peers.leaves, self.weights, normalize=self.normalize)


@dataclass(frozen=True)
class Slerp:
    """The point at `t` on the arc from the first model to the second, as `slerp`."""

    t: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.t <= 1:
            raise ValueError(f"Slerp: t is a place on the arc, in [0, 1]; got {self.t}.")

    def check(self, models: int, *, has_base: bool, has_key: bool) -> None:
        """Raises a ValueError unless there are two models."""
        if models != 2:
            raise ValueError(f"Slerp: an arc joins two models beside the base, got {models}.")

    def __call__(self, peers: Peers) -> Array:
        a, b = peers.leaves
        return slerp(a, b, self.t)


@dataclass(frozen=True)
class TaskArithmetic:
    """The base and what each model learned, times its weight, as `task_arithmetic`."""

    weights: Numbers = 1.0

    def __post_init__(self) -> None:
        _refuse_bad_weights("TaskArithmetic", self.weights)

    def check(self, models: int, *, has_base: bool, has_key: bool) -> None:
        """Raises a ValueError unless there is a base."""
        _refuse_no_base("TaskArithmetic", has_base)
        per_model(self.weights, models)

    def __call__(self, peers: Peers) -> Array:
        return task_arithmetic(_base(peers), peers.leaves, self.weights)


@dataclass(frozen=True)
class Ties:
    """The base and the mean of the largest changes that agree in sign, as `ties`."""

    density: float
    _: KW_ONLY
    weights: Numbers = 1.0
    convention: Convention = MERGEKIT
    scale: float = 1.0

    def __post_init__(self) -> None:
        refuse_bad_density(self.density)
        _refuse_bad_weights("Ties", self.weights, negative=False)
        _refuse_bad_weights("Ties", self.scale)

    def check(self, models: int, *, has_base: bool, has_key: bool) -> None:
        """Raises a ValueError unless there is a base."""
        _refuse_no_base("Ties", has_base)
        per_model(self.weights, models)

    def __call__(self, peers: Peers) -> Array:
        return ties(
            _base(peers),
            peers.leaves,
            self.weights,
            density=self.density,
            convention=self.convention,
            scale=self.scale,
        )


@dataclass(frozen=True)
class Dare:
    """The base and a random part of each change, enlarged, as `dare`; merged as the convention
    says, or added up without one."""

    density: float
    _: KW_ONLY
    weights: Numbers = 1.0
    convention: Convention | None = None

    def __post_init__(self) -> None:
        refuse_bad_density(self.density)
        _refuse_bad_weights("Dare", self.weights, negative=self.convention is None)

    def check(self, models: int, *, has_base: bool, has_key: bool) -> None:
        """Raises a ValueError unless there are a base and a key."""
        _refuse_no_base("Dare", has_base)
        if not has_key:
            raise ValueError("Dare: what is dropped is drawn; pass key=jax.random.key(0).")
        per_model(self.weights, models)

    def __call__(self, peers: Peers) -> Array:
        return dare(
            _base(peers),
            peers.leaves,
            self.weights,
            density=self.density,
            key=peers.key,
            convention=self.convention,
        )


@dataclass(frozen=True)
class ModelStock:
    """The mean drawn towards the base by the angle between the models, as `model_stock`."""

    def check(self, models: int, *, has_base: bool, has_key: bool) -> None:
        """Raises a ValueError unless there are a base and two models or more."""
        _refuse_no_base("ModelStock", has_base)
        _refuse_count("ModelStock", models, least=2)

    def __call__(self, peers: Peers) -> Array:
        return model_stock(_base(peers), peers.leaves)


def _base(peers: Peers) -> Float[Array, "..."]:
    if peers.base is None:
        raise ValueError(f"{peers.path!r}: this method needs the base.")
    return peers.base


def _refuse_no_base(method: str, has_base: bool) -> None:
    if not has_base:
        raise ValueError(f"{method}: a change is seen from what was tuned; pass base=…")


def _refuse_count(method: str, models: int, *, least: int) -> None:
    if models < least:
        raise ValueError(f"{method}: merges {least} models or more beside the base, got {models}.")


def _refuse_bad_weights(method: str, weights: Numbers, *, negative: bool = True) -> None:
    for weight in weights if isinstance(weights, Sequence) else [weights]:
        if not math.isfinite(weight) or (weight < 0 and not negative):
            raise ValueError(
                f"{method}: weights are finite{'' if negative else ' and not below zero'}; got "
                f"{weight}." + ("" if negative else " TaskArithmetic can take a model away.")
            )


def _sum(weights: Numbers) -> float:
    return sum(weights) if isinstance(weights, Sequence) else weights

"""Models merged leaf by leaf: trees in memory, or files larger than memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Array

from wlab import tree
from wlab.merging.agreement import refuse_aliases, refuse_disagreement
from wlab.merging.methods import Checked, Method, Peers
from wlab.merging.parent import LeafLike, Parent, dtype_of, is_float, named, raw, shape_of, values
from wlab.merging.thinning import Key
from wlab.tree.paths import Tree


@dataclass(frozen=True)
class MergedLeaf:
    """A leaf that is merged when it is read, as often as it is read.

    Attributes:
        shape: Of what `read` gives.
        dtype: Of what `read` gives, as `bfloat16`.
        read: Reads the leaves of all models and merges them; nothing is kept.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def merge(
    method: Method,
    trees: Sequence[Tree | Parent],
    *,
    base: Tree | Parent | None = None,
    rules: tree.Rules[Method | None] | None = None,
    key: Key | None = None,
    mixed_dtypes: bool = False,
) -> Tree:
    """One tree out of several of the same shapes, in the first one's containers and dtypes.

    Runs on the host: it looks at values, so not under jit. An array that stands at several
    paths in every model is merged once and stands at them again.

    Example:
        A gradient over the layers, and the norms of the first model:

            arc = [(rf"block_{i}/.*", merging.Slerp(i / 11)) for i in range(12)]
            merged = merging.merge(merging.Slerp(), [a, b], rules=[(".*/norm/.*", None), *arc])

    Args:
        method: How leaves are merged that no rule names: `Linear()`, `Ties(0.2)`, or any
            function of `Peers`.
        trees: The models, as trees or as `Parent`s that know their name, ties and vocabulary.
        base: What they were tuned from, for the methods that need it.
        rules: Ordered `(path regex, method)`; None keeps the leaf of the base, or of the first
            model without one.
        key: For methods that draw. A leaf's draw depends on the key and its path alone.
        mixed_dtypes: Allow a leaf to have another float dtype in each model.

    Raises:
        ValueError: If there are fewer than two models; if vocabularies, ties, names, shapes or
            dtypes differ; if a method lacks what it needs or a rule names no leaf; if a leaf
            that is merged holds NaN or infinity; if one that is no float differs.
    """
    parents = [named(model, f"model {i}") for i, model in enumerate(trees)]
    origin = None if base is None else named(base, "base")
    groups = refuse_aliases([*parents, *([] if origin is None else [origin])]) if parents else []
    first = {path: group[0] for group in groups for path in group[1:]}

    def flat(parent: Parent) -> Parent:
        found = tree.leaves(parent.weights)
        return replace(parent, weights={p: leaf for p, leaf in found.items() if p not in first})

    merged = dict(
        merge_leaves(
            method,
            [flat(parent) for parent in parents],
            base=None if origin is None else flat(origin),
            rules=rules,
            key=key,
            mixed_dtypes=mixed_dtypes,
        )
    )
    copies = {path: merged[source] for path, source in first.items()}
    return tree.replace(parents[0].weights, merged | copies)


def merge_leaves(
    method: Method,
    models: Sequence[Mapping[str, LeafLike] | Parent],
    *,
    base: Mapping[str, LeafLike] | Parent | None = None,
    rules: tree.Rules[Method | None] | None = None,
    key: Key | None = None,
    mixed_dtypes: bool = False,
) -> Iterator[tuple[str, Array | np.ndarray]]:
    """The merged leaves by path, one after another, in the order of the first model.

    What stays in a file is read when its turn comes and let go before the next: there are never
    more leaves in memory than models (the base counts as one) and the result. The float32
    copies that a method works on and what the caller keeps come on top. A leaf that is no
    float is handed on as it is.

    Args:
        method: As in `merge`.
        models: Mappings from paths to arrays or to `Readable`s, such as `Source.arrays`.
        base: As in `merge`.
        rules: As in `merge`.
        key: As in `merge`.
        mixed_dtypes: As in `merge`.

    Raises:
        ValueError: As `merge`: from the call for what the headers tell, while iterating for
            NaN, infinity and unequal integers.
    """
    chosen, parents, origin = _chosen(method, models, base, rules, key, mixed_dtypes)
    return ((path, _merged(path, each, parents, origin, key)) for path, each in chosen.items())


def merge_lazily(
    method: Method,
    models: Sequence[Mapping[str, LeafLike] | Parent],
    *,
    base: Mapping[str, LeafLike] | Parent | None = None,
    rules: tree.Rules[Method | None] | None = None,
    key: Key | None = None,
    mixed_dtypes: bool = False,
) -> dict[str, MergedLeaf]:
    """The same leaves, none of them merged yet: what a writer needs that asks for shapes first.

    Args:
        method: As in `merge`.
        models: As in `merge_leaves`.
        base: As in `merge`.
        rules: As in `merge`.
        key: As in `merge`.
        mixed_dtypes: As in `merge`.

    Raises:
        ValueError: As `merge`: from the call for what the headers tell, from `read` for NaN,
            infinity and unequal integers.
    """
    chosen, parents, origin = _chosen(method, models, base, rules, key, mixed_dtypes)

    def leaf(path: str, each: Method | None) -> MergedLeaf:
        model = (origin or parents[0]) if each is None else parents[0]
        like = model.weights[path]

        def read() -> np.ndarray:
            return np.asarray(_merged(path, each, parents, origin, key))

        return MergedLeaf(shape_of(like), np.dtype(dtype_of(like)).name, read)

    return {path: leaf(path, each) for path, each in chosen.items()}


def _chosen(
    method: Method,
    models: Sequence[Mapping[str, LeafLike] | Parent],
    base: Mapping[str, LeafLike] | Parent | None,
    rules: tree.Rules[Method | None] | None,
    key: Key | None,
    mixed_dtypes: bool,
) -> tuple[dict[str, Method | None], list[Parent], Parent | None]:
    """The method of each leaf, the models and the base, after all that the headers can tell."""
    parents = [named(model, f"model {i}") for i, model in enumerate(models)]
    origin = None if base is None else named(base, "base")
    everyone = [*parents, *([] if origin is None else [origin])]
    if not parents or len(everyone) < 2:
        raise ValueError(f"merge: needs two models, or one and a base; got {len(parents)}.")
    refuse_disagreement(everyone, mixed_dtypes=mixed_dtypes)
    chosen = _methods(method, rules, list(parents[0].weights))
    for each in chosen.values():
        if isinstance(each, Checked):
            each.check(len(parents), has_base=origin is not None, has_key=key is not None)
    return chosen, parents, origin


def _methods(
    method: Method, rules: tree.Rules[Method | None] | None, paths: Sequence[str]
) -> dict[str, Method | None]:
    """The method of each path; `method` is the last rule unless there is one for all."""
    rules = list(rules or [])
    if not rules or rules[-1][0] != ".*":
        rules.append((".*", method))
    return tree.match(rules, paths, purpose="merge")


def _merged(
    path: str, method: Method | None, parents: list[Parent], origin: Parent | None, key: Key | None
) -> Array | np.ndarray:
    kept = parents[0] if origin is None else origin
    if method is None:
        return raw(kept.weights[path])
    if not is_float(kept.weights[path]):
        return _equal(path, parents if origin is None else [*parents, origin])
    leaves = tuple(values(parent, path) for parent in parents)
    base = None if origin is None else values(origin, path)
    return method(Peers(path, leaves, base, None if key is None else tree.path_key(key, path)))


def _equal(path: str, parents: list[Parent]) -> Array | np.ndarray:
    first = raw(parents[0].weights[path])
    for other in parents[1:]:
        if not np.array_equal(np.asarray(first), np.asarray(raw(other.weights[path]))):
            raise ValueError(
                f"merge: {path!r} is {first.dtype}, which has no mean, and differs between "
                f"{parents[0].name!r} and {other.name!r}. Keep one by a rule (path, None)."
            )
    return first

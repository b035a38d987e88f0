"""Taking tied leaves out of a tree, showing them again, and both as a weight transform."""

from collections.abc import Sequence

from wlab.transform import Key, Params, State, Step, WeightTransform
from wlab.tree import leaves, replace
from wlab.tying.spec import Tie, by_destination, check, show


def tie_leaves(params: Params, ties: Sequence[Tie]) -> Params:
    """Takes every destination out; the tree keeps its containers and the sources their values.

    Args:
        params: What the model sees: arrays or shapes.
        ties: Which leaves to take out. What they held is dropped, equal to the source or not.

    Raises:
        ValueError: If a path is unknown, tied twice or tied to itself, or if shapes or dtypes
            disagree.
    """
    tied = by_destination(ties)
    check(params, ties)
    return replace(params, dict.fromkeys(tied))


def untie_leaves(stored: Params, ties: Sequence[Tie]) -> Params:
    """Puts `scale · transpose(source)` at every destination: the inverse of `tie_leaves`.

    No two leaves of the result share an array, so it can be trained untied as it is.

    Raises:
        ValueError: If a destination is tied twice or to itself.
        KeyError: If a path has no place in `stored`.
    """
    tied, found = by_destination(ties), leaves(stored)

    def value(path: str):
        return show(value(tied[path].source), tied[path]) if path in tied else found[path]

    return replace(stored, {path: value(path) for path in tied})


def tie(ties: Sequence[Tie]) -> WeightTransform:
    r"""Stores one leaf where the model sees several.

    The gradient of a stored leaf is the sum over its users, $\sum_r s_r P_r^T g_r$. Norms,
    decay, moments, counts and checkpoints meet it once. The source keeps its own value.

    Args:
        ties: `Tie("head/kernel", "embed/embedding", transpose=True)` and so on; see `share`
            for whole layers, `proposals` for arrays that already stand at two paths.

    Raises:
        ValueError: If a leaf is tied twice or to itself; from `init`, if a path is unknown or
            shapes or dtypes disagree.
        TypeError: If the ties are no list of them.

    Reference:
        Press & Wolf 2017 (arXiv:1608.05859); Inan et al. 2017 (arXiv:1611.01462).
    """
    by_destination(ties)
    ties = tuple(ties)

    def init(params: Params, key: Key) -> tuple[Params, State]:
        del key
        return tie_leaves(params, ties), ()

    def view(stored: Params, state: State, step: Step) -> Params:
        del state, step
        return untie_leaves(stored, ties)

    return WeightTransform(init, view)

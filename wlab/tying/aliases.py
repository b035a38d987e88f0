"""Arrays that stand at two paths: found before they drift apart.

Putting one array under two keys ties nothing. The first optimizer step writes two
different arrays, norms count it twice, and donating the tree fails.
"""

import jax
import numpy as np

from wlab.transform import Params
from wlab.tree import aliases, partition
from wlab.tying.spec import Tie


def proposals(params: Params) -> list[Tie]:
    """A tie for every further path of an array, to its first path in tree order.

    Looks at the arrays' identity, so at what was built on the host: a compiled function
    returns every output as an array of its own.
    """
    arrays, _ = partition(lambda _, leaf: isinstance(leaf, jax.Array | np.ndarray), params)
    return [Tie(path, first) for first, *others in aliases(arrays) for path in others]


def refuse_aliases(params: Params) -> None:
    """Does nothing to a tree in which every array stands at one path.

    Raises:
        ValueError: If an array stands at several, with the ties to write.
    """
    found = proposals(params)
    if found:
        ties = ", ".join(f'Tie("{tie.destination}", "{tie.source}")' for tie in found)
        raise ValueError(
            f"{found[0].destination!r} and {found[0].source!r} hold the same array, and would "
            f"part at the first step. To keep them equal use tying.tie([{ties}]); to train "
            "them apart give each a copy."
        )

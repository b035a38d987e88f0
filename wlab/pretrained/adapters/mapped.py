"""A network's weights beside the names that the hub has for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wlab import tree
from wlab.pretrained.name_map import NameMap
from wlab.pretrained.networks.network import Network
from wlab.transform import Params

STATISTICS = "model_state/"

_PARAMS = "params/"
_SHOWN = 4


@dataclass(frozen=True)
class Mapped:
    """What adapter files need of a network: a `Network` has it.

    Attributes:
        params: Its weights.
        name_map: How the hub names them.
        model_state: Its statistics, if the map has some.
    """

    params: Params
    name_map: NameMap
    model_state: Any = ()


def leaves_by_map(net: Network | Mapped) -> tuple[dict[str, Any], str]:
    """The leaves under the paths of the map, and what stands there before a parameter's path."""
    if any(path.startswith(STATISTICS) for path in net.name_map.ours):
        return tree.leaves({"params": net.params, "model_state": net.model_state}), _PARAMS
    return tree.leaves(net.params), ""


def aligned(names: Iterable[str], net: Network | Mapped) -> dict[str, str]:
    """For names in a file, the map's; these may all have a prefix more, or less, as `bert.`.

    Raises:
        ValueError: If the map lacks one, or several prefixes would do.
    """
    names, known = list(names), {*net.name_map.theirs, *net.name_map.ties}
    if not names or known.issuperset(names):
        return {name: name for name in names}
    first = names[0]
    more = {(n.removesuffix(first), "") for n in known if n.endswith(f".{first}")}
    less = {("", first.removesuffix(n)) for n in known if first.endswith(f".{n}")}
    fits = [
        {name: added + name.removeprefix(cut) for name in names}
        for added, cut in sorted(more | less)
        if known.issuperset(added + name.removeprefix(cut) for name in names)
        and all(name.startswith(cut) for name in names)
    ]
    if len(fits) != 1:
        strangers = [name for name in names if name not in known]
        raise ValueError(
            f"the network has no array {strangers[:_SHOWN]} ({len(strangers)} of {len(names)}); it "
            f"has {list(net.name_map.theirs)[:_SHOWN]}, …. Leave modules out by `ignore=`, or name "
            "the network's arrays as the adapter does with `prefixed`."
        )
    return fits[0]

"""What the words in a `config.json` of the hub mean here, and what of them is refused."""

from collections.abc import Mapping
from typing import Any

from wlab.models.layers import ActivationName

_ACTIVATIONS: dict[str, ActivationName] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}


def hub_activation(name: str) -> ActivationName:
    """What the hub calls `name`, as `gelu_new`.

    Raises:
        ValueError: If wlab has no such function.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"config.json asks for the activation {name!r}, wlab knows {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def refuse_other(sizes: Mapping[str, Any], name: str, *, known: Any) -> None:
    """Raises ValueError if `config.json` asks for something else."""
    found = sizes.get(name, known)
    if found != known:
        raise ValueError(
            f"config.json asks for {name}={found!r}, wlab knows {known!r} alone. Describe the "
            "network by a Model and a NameMap of your own and use `wlab.pretrained.load`."
        )

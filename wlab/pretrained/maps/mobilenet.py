"""MobileNetV2 as torchvision and as timm name it, into `wlab.models.mobilenet`.

The trees are `{"params": …, "model_state": …}`.
"""

from collections.abc import Iterator

from wlab.models.mobilenet import MobileNetV2Config
from wlab.pretrained.maps import torch_layers
from wlab.pretrained.name_map import Move, NameMap

_SEEN = "tests/pretrained/test_convnets.py: outputs of an independent forward pass"
_COUNTERS = r".*\.num_batches_tracked"


def mobilenet_v2(config: MobileNetV2Config) -> NameMap:
    """torchvision's state dict: `features.0` to the last convolution, then `classifier.1`."""
    moves = list(_conv("features.0.0", "features.0.1", "stem", "norm"))
    count = 0
    for stage in config.stages:
        for _ in range(stage.blocks):
            theirs, ours, at = f"features.{count + 1}.conv", f"block_{count}", 0
            if stage.expansion != 1:
                moves += _conv(f"{theirs}.0.0", f"{theirs}.0.1", f"{ours}/expand")
                at = 1
            moves += _conv(f"{theirs}.{at}.0", f"{theirs}.{at}.1", f"{ours}/depthwise")
            moves += _conv(f"{theirs}.{at + 1}", f"{theirs}.{at + 2}", f"{ours}/project")
            count += 1
    moves += _conv(f"features.{count + 1}.0", f"features.{count + 1}.1", "last")
    if config.classes:
        moves += torch_layers.linear("classifier.1", "head")
    return NameMap(tuple(moves), needless=(_COUNTERS,), verified=_SEEN)


def mobilenet_v2_timm(config: MobileNetV2Config) -> NameMap:
    """timm's state dict: `conv_stem`, `blocks.STAGE.BLOCK`, `conv_head`, `classifier`."""
    moves = list(_conv("conv_stem", "bn1", "stem", "norm"))
    count = 0
    for s, stage in enumerate(config.stages):
        expanded = (("conv_pw", "expand"), ("conv_dw", "depthwise"), ("conv_pwl", "project"))
        plain = (("conv_dw", "depthwise"), ("conv_pw", "project"))
        for i in range(stage.blocks):
            parts = plain if stage.expansion == 1 else expanded
            for part, (conv, ours) in enumerate(parts, start=1):
                at = f"blocks.{s}.{i}"
                moves += _conv(f"{at}.{conv}", f"{at}.bn{part}", f"block_{count}/{ours}")
            count += 1
    moves += _conv("conv_head", "bn2", "last")
    if config.classes:
        moves += torch_layers.linear("classifier", "head")
    return NameMap(tuple(moves), needless=(_COUNTERS,), verified=_SEEN)


def _conv(conv: str, norm: str, ours: str, ours_norm: str = "") -> Iterator[Move]:
    """A convolution and the norm that follows it."""
    yield from torch_layers.conv(conv, ours, bias=False)
    yield from torch_layers.norm(norm, ours_norm or f"{ours}_norm")

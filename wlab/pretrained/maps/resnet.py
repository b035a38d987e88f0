"""Residual networks in the spellings of two files, into `wlab.models.resnet`."""

from collections.abc import Iterator

from wlab.pretrained.maps.torch_layers import conv, linear, norm
from wlab.pretrained.name_map import Move, NameMap, move

_SEEN = "tests/pretrained/test_resnets.py: classes of real images"


def resnet_cifar(blocks: tuple[int, ...]) -> NameMap:
    """CIFAR networks as PyTorch's state dicts name them: kernels (out, in, height, width).

    The tree is `{"params": …, "model_state": …}`.
    """
    moves = [*conv("conv1", "stem", bias=False), *norm("bn1", "norm")]
    for stage, count in enumerate(blocks):
        for i in range(count):
            theirs, ours = f"layer{stage + 1}.{i}", f"block_{stage}_{i}"
            for part in (1, 2):
                moves += conv(f"{theirs}.conv{part}", f"{ours}/branch/conv_{part}", bias=False)
                moves += norm(f"{theirs}.bn{part}", f"{ours}/branch/norm_{part}")
            if stage and not i:
                moves += conv(f"{theirs}.shortcut.0", f"{ours}/shortcut", bias=False)
                moves += norm(f"{theirs}.shortcut.1", f"{ours}/shortcut_norm")
    moves += linear("linear", "head")
    return NameMap(tuple(moves), needless=(r".*\.num_batches_tracked",), verified=_SEEN)


def resnet50_keras(blocks: tuple[int, ...] = (3, 4, 6, 3)) -> NameMap:
    """ResNet-50 as Keras names it: kernels are as ours, nothing is transposed."""
    moves = [*_keras_conv("conv1", "stem"), *_keras_norm("bn_conv1", "norm")]
    for stage, count in enumerate(blocks):
        for i in range(count):
            name, ours = f"{stage + 2}{chr(ord('a') + i)}_branch", f"block_{stage}_{i}"
            for part, letter in enumerate("abc", start=1):
                moves += _keras_conv(f"res{name}2{letter}", f"{ours}/branch/conv_{part}")
                moves += _keras_norm(f"bn{name}2{letter}", f"{ours}/branch/norm_{part}")
            if not i:
                moves += _keras_conv(f"res{name}1", f"{ours}/shortcut")
                moves += _keras_norm(f"bn{name}1", f"{ours}/shortcut_norm")
    moves += [
        move("fc1000/kernel", "params/head/kernel"),
        move("fc1000/bias", "params/head/bias"),
    ]
    return NameMap(tuple(moves), verified=_SEEN)


def _keras_conv(theirs: str, ours: str) -> Iterator[Move]:
    yield move(f"{theirs}/kernel", f"params/{ours}/kernel")
    yield move(f"{theirs}/bias", f"params/{ours}/bias")


def _keras_norm(theirs: str, ours: str) -> Iterator[Move]:
    yield move(f"{theirs}/gamma", f"params/{ours}/scale")
    yield move(f"{theirs}/beta", f"params/{ours}/bias")
    yield move(f"{theirs}/moving_mean", f"model_state/{ours}/mean")
    yield move(f"{theirs}/moving_variance", f"model_state/{ours}/var")

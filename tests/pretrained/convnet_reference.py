"""Convolutional networks as nested lists of layers, run in NumPy under the names of their files.

A list names its members by their place, as torch's `Sequential`; a dict by its keys.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def conv(inputs, outputs, size=3, stride=1, padding=None, groups=1, bias=True):
    padding = size // 2 if padding is None else padding
    shape = (outputs, inputs // groups, size, size)
    return "conv", shape, bias, {"stride": stride, "padding": padding, "groups": groups}


def norm(width):
    return "norm", width


def linear(inputs, outputs):
    return "linear", (outputs, inputs)


def pool(size=2, stride=2):
    return "pool", size, stride


def average(side):
    return "average", side


def residual(layers):
    return "residual", layers


def names(net: Any, at: str = "") -> dict[str, tuple[int, ...]]:
    """The state dict: names and shapes, in order."""
    found: dict[str, tuple[int, ...]] = {}
    for name, part in _members(net):
        here = f"{at}.{name}" if at else name
        match part:
            case list() | dict():
                found |= names(part, here)
            case ("residual", inner):
                found |= names(inner, here)
            case ("conv", shape, bias, _):
                found |= {f"{here}.weight": shape} | ({f"{here}.bias": shape[:1]} if bias else {})
            case ("linear", shape):
                found |= {f"{here}.weight": shape, f"{here}.bias": shape[:1]}
            case ("norm", width):
                parts = ("weight", "bias", "running_mean", "running_var")
                found |= {f"{here}.{leaf}": (width,) for leaf in parts}
                found[f"{here}.num_batches_tracked"] = ()
    return found


def filled(net: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights; scales and biases of norms carry some activations beyond 6."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in names(net).items():
        fan = np.prod(shape[1:]) if len(shape) > 1 else 0.5
        array = rng.normal(0, fan**-0.5, shape).astype(np.float32)
        found[name] = array
        if name.endswith("running_var"):
            found[name] = 0.5 + array**2
        if name.endswith("num_batches_tracked"):
            found[name] = np.array(7, np.int64)
    return found


def run(net: Any, w: dict[str, np.ndarray], images: np.ndarray, at: str = "") -> np.ndarray:
    """Images (batch, height, width, 3) to outputs, in float64."""
    return _run(net, w, images.astype(np.float64).transpose(0, 3, 1, 2), at)


def _run(net: Any, w: dict[str, np.ndarray], x: np.ndarray, at: str) -> np.ndarray:
    for name, part in _members(net):
        here = f"{at}.{name}" if at else name
        match part:
            case list() | dict():
                x = _run(part, w, x, here)
            case ("residual", inner):
                y = _run(inner, w, x, here)
                x = x + y if y.shape == x.shape else y
            case ("conv", _, bias, options):
                x = _convolved(x, w[f"{here}.weight"], **options)
                x = x + w[f"{here}.bias"][:, None, None] if bias else x
            case ("linear", _):
                x = np.einsum("bi,oi->bo", x, w[f"{here}.weight"]) + w[f"{here}.bias"]
            case ("norm", _):
                x = _normed(x, *(w[f"{here}.{n}"] for n in ("running_mean", "running_var")))
                on = (slice(None),) + (None,) * (x.ndim - 2)
                x = x * w[f"{here}.weight"][on] + w[f"{here}.bias"][on]
            case ("pool", size, stride):
                x = _windows(x, size, stride).max((-2, -1))
            case ("average", side):
                x = _averaged(x, side)
            case "relu":
                x = np.maximum(x, 0)
            case "relu6":
                x = np.clip(x, 0, 6)
            case "flatten":
                x = x.reshape(len(x), -1)
            case "mean":
                x = x.mean((2, 3))
            case "drop":
                pass
            case _:
                raise ValueError(part)
    return x


def _members(net: Any) -> Iterator[tuple[str, Any]]:
    pairs = net.items() if isinstance(net, dict) else enumerate(net)
    return ((str(name), part) for name, part in pairs)


def _windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    return sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]


def _convolved(x: np.ndarray, kernel: np.ndarray, *, stride: int, padding: int, groups: int):
    x = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    windows = _windows(x, kernel.shape[-1], stride)
    kernels = np.split(kernel.astype(np.float64), groups)
    parts = zip(np.split(windows, groups, 1), kernels, strict=True)
    return np.concatenate(
        [np.moveaxis(np.tensordot(v, k, ((1, 4, 5), (1, 2, 3))), 3, 1) for v, k in parts], 1
    )


def _normed(x: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    on = (slice(None),) + (None,) * (x.ndim - 2)
    return (x - mean[on]) / np.sqrt(variance[on] + 1e-5)


def _averaged(x: np.ndarray, side: int) -> np.ndarray:
    """By loops: cell i reads pixels from floor(i n / k) to ceil((i + 1) n / k)."""
    out = np.zeros((*x.shape[:2], side, side))
    for i in range(side):
        for j in range(side):
            (a, b), (c, d) = (
                (int(np.floor(k * n / side)), int(np.ceil((k + 1) * n / side)))
                for k, n in ((i, x.shape[2]), (j, x.shape[3]))
            )
            out[:, :, i, j] = x[:, :, a:b, c:d].mean((2, 3))
    return out

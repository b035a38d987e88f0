"""LeNet-5 against loops in NumPy."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from wlab.models import Model, lenet5
from wlab.transform import Params

Draw = Callable[[Model], Params]


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A valid cross-correlation of one image (H, W, C) with (5, 5, C, D)."""
    height, width = x.shape[0] - 4, x.shape[1] - 4
    out = np.zeros((height, width, kernel.shape[-1])) + bias
    for i in range(5):
        for j in range(5):
            out += x[i : i + height, j : j + width] @ kernel[i, j]
    return out


def pool(x: np.ndarray) -> np.ndarray:
    height, width, channels = x.shape
    return x.reshape(height // 2, 2, width // 2, 2, channels).max((1, 3))


def forward(params: dict[str, dict[str, np.ndarray]], image: np.ndarray) -> np.ndarray:
    for name in ("conv1", "conv2"):
        image = pool(convolve(image, params[name]["kernel"], params[name]["bias"]))
    hidden = image.ravel() @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    return np.maximum(hidden, 0) @ params["fc2"]["kernel"] + params["fc2"]["bias"]


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3)])
def test_lenet5_computes_what_numpy_does(side: int, channels: int, drawn: Draw):
    model = lenet5(side, channels)
    params = drawn(model)
    images = np.random.default_rng(1).normal(size=(2, side, side, channels)).astype(np.float32)
    expected = np.array([forward(jax.tree.map(np.float64, params), x) for x in images])
    for x in (images, images.reshape(2, -1)):
        found = jax.jit(model.apply)(params, x)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 16 pixels, got 8"):
        lenet5(side=8)

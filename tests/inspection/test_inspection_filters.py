"""Waves that are known beforehand, their turns and their controls; a picture, pixel by pixel."""

import numpy as np
import pytest

from wlab.inspection.filters import sheet, shuffled, waves


def grating(cycles: float, angle: float, size: int = 11, colours: int = 3) -> np.ndarray:
    """One plane wave under a Gaussian, the same in every colour but for its strength."""
    x = (np.arange(size) - size // 2) / size
    y, x = np.meshgrid(x, x, indexing="ij")
    along = y * np.cos(angle) + x * np.sin(angle)
    one = np.cos(2 * np.pi * cycles * along) * np.exp(-(x**2 + y**2) / (2 * 0.35**2))
    return (one[..., None] * np.linspace(1, -0.5, colours))[..., None].astype(np.float32)


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 4, 1.5, 2.0, 2.9])
@pytest.mark.parametrize("cycles", [1.5, 2.5, 4.0])
def test_a_wave_is_found_with_its_frequency_and_direction(cycles: float, angle: float):
    kernel = grating(cycles, angle)
    kernel -= kernel.mean((0, 1))
    found = waves(kernel)
    assert found.oriented.all()
    np.testing.assert_allclose(found.cycles, cycles, atol=0.2)
    apart = (found.angle - angle + np.pi / 2) % np.pi - np.pi / 2
    np.testing.assert_allclose(apart, 0, atol=0.12)


def test_turning_a_filter_turns_its_wave():
    kernel = grating(2.5, 0.4)
    turned = waves(np.rot90(kernel, axes=(0, 1)))
    np.testing.assert_allclose((turned.angle - waves(kernel).angle) % np.pi, np.pi / 2, atol=1e-9)
    np.testing.assert_allclose(turned.share, waves(kernel).share, rtol=1e-9)


def test_strength_and_dtype_change_nothing():
    kernel = grating(3.0, 1.0)
    np.testing.assert_allclose(waves(1000 * kernel).share, waves(kernel).share, rtol=1e-5)
    np.testing.assert_allclose(
        waves(kernel.astype(np.float16)).share, waves(kernel).share, rtol=1e-2
    )


def test_blobs_noise_zeros_and_shuffled_waves_are_no_waves():
    normal = np.random.default_rng(0).normal(size=(11, 11, 3, 500))
    assert waves(normal).oriented.mean() < 0.01
    assert not waves(np.ones((11, 11, 3, 1))).oriented.any()
    assert waves(np.zeros((11, 11, 3, 1))).share == 0
    assert waves(shuffled(grating(2.5, 0.4))).share < 0.4 < 0.6 < waves(grating(2.5, 0.4)).share


def test_shuffling_keeps_the_pixels_and_their_colours():
    kernel = np.arange(3 * 2 * 3 * 4.0).reshape(3, 2, 3, 4)
    rows = {pixel.tobytes() for pixel in kernel.reshape(6, 12)}
    other = shuffled(kernel)
    assert {pixel.tobytes() for pixel in other.reshape(6, 12)} == rows
    assert (other != kernel).any()


def test_a_sheet_shows_every_weight():
    kernel = np.zeros((1, 2, 3, 3))
    kernel[0, 0, 0, 0] = 2.0  # red
    kernel[0, 1, 1, 1] = -0.5  # no green
    found = sheet(kernel, zoom=1)
    assert found.shape == (2 * 3, 2 * 4, 3)  # 2 x 2 places, a black frame about each
    assert found[1, 1].tolist() == [255, 128, 128]
    assert found[1, 2].tolist() == [128, 128, 128]
    assert found[1, 6].tolist() == [128, 0, 128]
    assert found[4, 1].tolist() == [128, 128, 128]
    assert not found[3:, 4:].any()  # a place without a filter
    assert not found[0].any() and not found[:, 0].any()
    assert sheet(kernel, zoom=5).shape == (2 * 7, 2 * 12, 3)


def test_grey_filters_are_drawn_too_and_others_are_not():
    assert sheet(np.ones((5, 5, 1, 6))).ndim == 3
    with pytest.raises(ValueError, match="1 or 3 inputs, these have 16"):
        sheet(np.ones((5, 5, 16, 6)))


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (np.ones((0, 5, 3, 2)), r"got \(0, 5, 3, 2\)"),
        (np.full((5, 5, 3, 2), np.nan), "NaN"),
    ],
)
def test_what_is_no_filter_is_refused(kernel: np.ndarray, said: str):
    for f in (waves, shuffled, sheet):
        with pytest.raises(ValueError, match=said):
            f(kernel)

"""How a folder of the hub prepares images, and how it names their classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from wlab.checkpoint.formats.json_text import json_object
from wlab.models import CLIPConfig, ViTConfig


@dataclass(frozen=True)
class Pictures:
    """What a network of images needs beside its weights: fields of `Network`.

    Attributes:
        image_size: Height and width of the images, pixels.
        labels: The names of its classes, in order.
        prepare: From RGB images in uint8 of that size to what its model reads; None if the folder
            does not say.
    """

    image_size: int
    labels: tuple[str, ...] = ()
    prepare: Callable[[np.ndarray], np.ndarray] | None = None


def pictures(folder: Path, sizes: Mapping[str, Any], config: ViTConfig | CLIPConfig) -> Pictures:
    """What a folder says of its images and of its classes.

    How a photograph becomes one of `image_size` is not a part of `prepare`.

    Args:
        folder: With `preprocessor_config.json`, or `processor_config.json`, or neither.
        sizes: Its `config.json`; `id2label` names the classes.
        config: The network's.

    Raises:
        ValueError: If the file lacks what it says is used, or there is not one name a class.
    """
    classes = config.classes if isinstance(config, ViTConfig) else 0
    labels = _labels(sizes.get("id2label") or {}, classes) if classes else ()
    found = _settings(folder)
    if found is None:
        return Pictures(config.image_size, labels)
    absent = [name for name in ("image_mean", "image_std") if name not in found]
    if not found.get("do_normalize", True):
        found |= {"image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
    elif absent:
        raise ValueError(
            f"{folder}: the settings of images lack {absent[0]}: add it, or set do_normalize to "
            "false."
        )
    factor = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1
    prepare = partial(
        scaled,
        image_size=config.image_size,
        factor=float(factor),
        mean=tuple(map(float, found["image_mean"])),
        deviation=tuple(map(float, found["image_std"])),
    )
    return Pictures(config.image_size, labels, prepare)


def scaled(
    images: UInt8[np.ndarray, "batch height width 3"],
    *,
    image_size: int,
    factor: float,
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
) -> Float32[np.ndarray, "batch height width 3"]:
    r"""$(\mathrm{factor} \cdot x - \mathrm{mean}) / \mathrm{deviation}$, channel by channel.

    Raises:
        ValueError: If the images have another size.
    """
    if images.shape[1:] != (image_size, image_size, 3):
        raise ValueError(
            f"The images are {'×'.join(map(str, images.shape[1:]))}, the network reads "
            f"{image_size}×{image_size}×3: crop and resize them first."
        )
    centered = images.astype(np.float32) * np.float32(factor) - np.array(mean, np.float32)
    return centered / np.array(deviation, np.float32)


def _settings(folder: Path) -> dict[str, Any] | None:
    """How the folder prepares images; newer ones say it beside the settings of texts."""
    alone, together = folder / "preprocessor_config.json", folder / "processor_config.json"
    if alone.exists():
        return json_object(alone)
    return json_object(together).get("image_processor") if together.exists() else None


def _labels(names: Mapping[str, str], classes: int) -> tuple[str, ...]:
    if names and set(names) != {str(i) for i in range(classes)}:
        raise ValueError(
            f"config.json names {len(names)} classes in id2label, the weights have {classes}: "
            "it needs one name each, from 0 on, or none."
        )
    return tuple(names[str(i)] for i in range(classes)) if names else ()

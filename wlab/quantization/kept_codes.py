"""A matrix's codes and what was lost, as arrays of a stage that is kept."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from wlab.quantization.formats import Format
from wlab.quantization.qtensor import PARTS, QTensor

NAMES = (*PARTS, "loss")


def written(q: QTensor, loss: float) -> dict[str, Any]:
    """By these names; None for a part that the format has not."""
    return {part: getattr(q, part) for part in PARTS} | {"loss": np.float64(loss)}


def read(arrays: Mapping[str, Any], format: Format, length: int) -> tuple[QTensor, float]:
    """What was written of a matrix with so many outputs, of the parts that are there."""
    parts = {part: jnp.asarray(arrays[part]) if part in arrays else None for part in PARTS}
    q = QTensor(**parts, format=format, length=length, dtype="float32")
    return q, float(arrays["loss"])

"""The page on 32, 16, 8 and 4 bits: what is counted, and what is rounded how."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.quantization.precision_table import PRECISIONS, rules_of, show, weighed
from wlab import quantization, tree


@pytest.fixture(scope="module")
def params():
    shapes = {"fc/kernel": (160, 3), "conv/kernel": (3, 3, 4, 2), "embed/embedding": (10, 6)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    drawn = {p: jax.random.normal(k, s) for k, (p, s) in zip(keys, shapes.items(), strict=True)}
    return {**drawn, "fc/bias": jnp.arange(3.0)}


BYTES = {  # kernels (with scales, rows of nibbles end at a byte), embeddings, rest
    "float32": (4 * 552, 240, 12),
    "float16": (2 * 552, 120, 6),
    "int8": (480 + 3 * 4 + 72 + 2 * 4, 240, 12),
    "int8, embeddings too": (480 + 3 * 4 + 72 + 2 * 4, 60 + 40, 12),
    "int4": (160 * 2 + 2 * 3 * 2 + 36 + 2 * 2, 240, 12),
    "int4, embeddings in int8": (160 * 2 + 2 * 3 * 2 + 36 + 2 * 2, 60 + 40, 12),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_are_those_of_the_closed_form(params, precision):
    packed = quantization.quantize_tree(params, rules_of(params, PRECISIONS[precision]))
    found = weighed(params, packed)
    kernels, embeddings, rest = BYTES[precision]
    assert found == {
        "bits": 8 * kernels / 552,
        "kernels": kernels,
        "embeddings": embeddings,
        "rest": rest,
    }
    seen = tree.leaves(quantization.dequantize_tree(packed))
    if precision != "float16":
        np.testing.assert_array_equal(seen["fc/bias"], params["fc/bias"])


def test_a_network_has_a_row_a_precision():
    row = {"network": "a", "precision": "int8", "figure": "% right", "value": 93.21, "bits": 8.1}
    text = show({"rows": [row | {"kernels": 3_000_000, "rest": 500_000}]})
    assert "% right" in text
    assert text.splitlines()[-1].split() == ["int8", "8.1", "3", "0", "0.5", "3.5", "93.21"]

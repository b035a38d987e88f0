"""Bias correction: what rounding adds to the mean of an output is taken from its bias."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab import calibration, graph, tree
from wlab.calibration import Batches
from wlab.graph import Use
from wlab.quantization.trees import dequantize_tree
from wlab.transform import Params


def bias_correction(
    fn: Callable[..., Any],
    params: Params,
    rounded: Params,
    batches: Batches,
    pairs: Mapping[str, str],
    *,
    report: Callable[[int], None] = lambda done: None,
) -> Params:
    r"""Moves biases so that rounded weights leave the mean of each output where it was.

    $b \leftarrow b + \mathrm{E}[x] (W - \hat W)$, with the mean input of the product over all
    rows: of a convolution over all positions, whatever fills up its edges among them. Each layer
    makes up for its own rounding, on the inputs it has in the unrounded network.

    Args:
        fn: Of `params` and the arrays of a batch.
        params: The tree before rounding.
        rounded: The tree after it; of values, or with QTensors.
        batches: Tuples of the function's inputs after `params`.
        pairs: The path of the bias that is added to the product with a kernel, by the kernel's
            path. A bias that several have takes all their corrections.
        report: Called with the number of batches done.

    Returns:
        `rounded` with these biases changed.

    Raises:
        ValueError: If there is no pair, a kernel is in no product or is no matrix there, a bias
            is not there as an array, a shape does not fit, or as `calibration.collect`.
        TypeError: If the batches are no list, or a batch is no tuple.

    Reference:
        Nagel et al. 2019 (arXiv:1906.04721), section 4.2; the means are those of data.
    """
    if not pairs:
        raise ValueError("bias_correction: there is no pair of a kernel and a bias.")
    calibration.refuse_bad_batches(batches, "bias_correction")
    products = graph.products(graph.read(fn, params, *batches[0]))
    uses = {path: use for (path, _), use in products.items()}
    old, plain, kept = (tree.leaves(t) for t in (params, dequantize_tree(rounded), rounded))
    for kernel, bias in pairs.items():
        _refuse(kernel, bias, uses, old, plain, kept)
    seen = calibration.collect(
        *(fn, params, batches, calibration.mean()),
        where=lambda use: use.path in pairs,
        report=report,
    )
    moved: dict[str, Array] = {}
    for kernel, bias in pairs.items():
        lost = _single(old[kernel]) - _single(plain[kernel])
        shift = mean_product(seen[kernel].mean, graph.to_matrix(uses[kernel], lost))
        moved[bias] = moved.get(bias, _single(kept[bias])) + shift.reshape(kept[bias].shape)
    return tree.replace(rounded, {p: b.astype(kept[p].dtype) for p, b in moved.items()})


def mean_product(
    mean: Float[Array, "*batch inputs"], kernel: Float[Array, "*batch inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """E[x] W, which is E[xW]."""
    return jnp.einsum("...k,...ko->...o", mean, kernel, precision=jax.lax.Precision.HIGHEST)


def _single(x: Any) -> Array:
    return jnp.asarray(x).astype(jnp.float32)


def _refuse(
    kernel: str,
    bias: str,
    uses: Mapping[str, Use],
    old: Mapping[str, Any],
    plain: Mapping[str, Any],
    kept: Mapping[str, Any],
) -> None:
    if kernel not in uses:
        raise ValueError(
            f"bias_correction: {kernel!r} is in no product with anything that depends on the "
            f"inputs; those that are: {sorted(uses)}."
        )
    graph.refuse_parts(uses[kernel])
    if bias not in kept:
        raise ValueError(
            f"bias_correction: the rounded tree has no array at {bias!r}, to be the bias of "
            f"{kernel!r}; it must be there, and not be quantized."
        )
    if kernel not in plain or jnp.shape(plain[kernel]) != jnp.shape(old[kernel]):
        found = jnp.shape(plain[kernel]) if kernel in plain else "nothing"
        raise ValueError(
            f"bias_correction: {kernel!r} has shape {jnp.shape(old[kernel])} before rounding and "
            f"{found} after; give two trees of one network."
        )
    outputs = old[kernel].size // uses[kernel].fan_in
    if outputs != kept[bias].size:
        raise ValueError(
            f"bias_correction: {kernel!r} has {outputs} outputs, and the bias {bias!r} "
            f"{kept[bias].size} entries; name the bias that is added to this product."
        )

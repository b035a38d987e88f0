"""Runs any function on quantized weights, without dequantizing what products can take as it is."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from wlab import graph, tree
from wlab.graph import Graph, Product
from wlab.quantization.arrays import dequantize
from wlab.quantization.execution.fp8 import Fp8Rows, fp8_matmul
from wlab.quantization.execution.kernel_products import tiles_product
from wlab.quantization.execution.matmuls import LEAST_TILED, weight_only
from wlab.quantization.execution.preparing import (
    can_be_fp8,
    can_be_rows,
    can_be_tiles,
    can_stay,
    rows_of_leaf,
    tiles_of_leaf,
)
from wlab.quantization.execution.tiles import Tiles
from wlab.quantization.execution.w8a8 import Int8Rows, int8_matmul
from wlab.quantization.qtensor import QTensor, is_qtensor
from wlab.quantization.trees import dequantize_tree
from wlab.tree import Rules, match
from wlab.tree.paths import Tree

CHOICES = ("weight_only", "w8a8", "kernel", None)
FITS = {"w8a8": (can_be_rows, can_be_fp8), "kernel": (can_be_tiles,)}
WEIGHT_ONLY: Rules[str | None] = ((".*", "weight_only"),)


class Executable(NamedTuple):
    """A function for quantized weights.

    Attributes:
        prepare: The quantized tree with some leaves laid out as their products read them: to be
            done once, ahead.
        apply: Of the prepared tree, or the quantized one, and the inputs: what the function gives.
            Can be compiled, differentiated in the inputs, and mapped.
        ways: For each quantized leaf "weight_only", "w8a8" or "kernel"; or "whole", if the function
            does something else with it than products: then it is dequantized first. Of a table
            that is looked up the compiler then computes only the rows that are met.
    """

    prepare: Callable[[Tree], Tree]
    apply: Callable[..., Any]
    ways: Mapping[str, str]


def run(
    fn: Callable[..., Any],
    qparams: Tree,
    *inputs: Any,
    rules: Rules[str | None] = WEIGHT_ONLY,
    levels: Mapping[str, Array] | None = None,
) -> Any:
    """What a function gives with quantized parameters.

    `fn(dequantize_tree(qparams), *inputs)`, up to float32 rounding where leaves are "weight_only".
    It reads the function anew at every call: to run it many times see `executable`.

    Args:
        fn: Any function of parameters and inputs that can be traced.
        qparams: Its parameters, with a `QTensor` in the place of any of them.
        inputs: The inputs.
        rules: See `executable`.
        levels: See `executable`.
    """
    made = executable(fn, qparams, *inputs, rules=rules, levels=levels)
    return made.apply(made.prepare(qparams), *inputs)


def executable(
    fn: Callable[..., Any],
    qparams: Tree,
    *example: Any,
    rules: Rules[str | None] = WEIGHT_ONLY,
    levels: Mapping[str, Array] | None = None,
    least_tiled: int = LEAST_TILED,
) -> Executable:
    """A function that takes quantized parameters: read once, compiled when and how you like.

    "weight_only" is the meaning of the format: products with the dequantized weights, on a CPU
    tile by tile. "w8a8" also rounds the inputs of the product to int8, and is done where the leaf
    is a matrix of symmetric integers whose scales span inputs; or to e4m3, where it is one of
    `fp8_e4m3` or `fp8_e5m2` with one scale an output. "kernel" is weight-only for such
    leaves in groups of 16, 32, 64 or 128 · n: laid out in tiles that a kernel reads on a GPU, for
    up to 16 rows. Other leaves are "weight_only": `ways` says what became of each.

    Args:
        fn: As in `run`.
        qparams: As in `run`; shapes suffice.
        example: Inputs, or their shapes. For other shapes the function is read again.
        rules: Ordered `(regex, "weight_only", "w8a8", "kernel" or None)`; None is "weight_only".
            They count for quantized leaves only.
        levels: For a leaf of "w8a8" the magnitude at which its inputs saturate, as `levels_of`
            measures it; for leaves without one, each row's largest is found as it comes.
        least_tiled: Weights in a leaf from which on it is read by tiles.

    Raises:
        ValueError: If a leaf has no rule or a rule no leaf, a rule has another value, or a level is
            for no leaf of "w8a8".
    """
    shapes = jax.eval_shape(dequantize_tree, qparams)
    read = graph.read(fn, shapes, *example)
    ways = _ways(read, _quantized(qparams), match(rules, read.paths, purpose="execution"))
    levels = dict(levels or {})
    _refuse_idle(levels, ways)

    def prepare(qparams: Tree) -> Tree:
        laid: dict[str, Any] = {}
        for path, q in _quantized(qparams).items():
            if ways[path] == "w8a8":
                laid[path] = rows_of_leaf(read.of(path)[0], q, levels.get(path))
            if ways[path] == "kernel":
                laid[path] = tiles_of_leaf(read.of(path)[0], q)
        return _with(qparams, laid)

    operation = partial(_product, least_tiled=least_tiled)
    replaced = _replaced(read, [path for path, way in ways.items() if way != "whole"], operation)

    def apply(prepared: Tree, *inputs: Any) -> Any:
        whole = {
            path: dequantize(q) for path, q in _quantized(prepared).items() if ways[path] == "whole"
        }
        return replaced(_with(prepared, whole), *inputs)

    return Executable(prepare, apply, ways)


def _product(product: Product, least_tiled: int) -> Array:
    weight = product.weight
    if isinstance(weight, Int8Rows):
        return product.result(int8_matmul(product.rows, weight))
    if isinstance(weight, Fp8Rows):
        return product.result(fp8_matmul(product.rows, weight))
    if isinstance(weight, Tiles):
        return product.result(tiles_product(product.rows, weight))
    return weight_only(product, least_tiled) if is_qtensor(weight) else product.apply()


def _replaced(read: Graph, paths: list[str], operation: graph.Operation) -> Callable[..., Any]:
    if not paths:
        return read.fn
    rules: list[tuple[str, graph.Operation | None]] = [(re.escape(p), operation) for p in paths]
    return graph.replace(read, [*rules, (".*", None)])


def _ways(
    read: Graph, quantized: Mapping[str, QTensor], chosen: Mapping[str, str | None]
) -> dict[str, str]:
    ways = {}
    for path, q in quantized.items():
        if chosen[path] not in CHOICES:
            raise ValueError(f"execution: the rule for {path!r} gives {chosen[path]!r}; {CHOICES}.")
        fits = FITS.get(chosen[path] or "", ())
        products = chosen[path] if any(fit(read, path, q) for fit in fits) else "weight_only"
        ways[path] = products if can_stay(read, path, q) else "whole"
    return ways


def _refuse_idle(levels: Mapping[str, Array], ways: Mapping[str, str]) -> None:
    idle = [path for path in levels if ways.get(path) != "w8a8"]
    if idle:
        raise ValueError(
            f"execution: there are levels for {idle}, whose inputs are not rounded; the leaves are "
            f"run so: {dict(ways)}."
        )


def _quantized(params: Tree) -> dict[str, QTensor]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_leaf)
    return {tree.path_name(path): leaf for path, leaf in leaves if is_qtensor(leaf)}


def _with(params: Tree, new: Mapping[str, Any]) -> Tree:
    def chosen(path: tuple[Any, ...], leaf: Any) -> Any:
        return new.get(tree.path_name(path), leaf)

    return jax.tree_util.tree_map_with_path(chosen, params, is_leaf=_is_leaf)


def _is_leaf(x: Any) -> bool:
    return isinstance(x, QTensor | Int8Rows | Fp8Rows | Tiles)

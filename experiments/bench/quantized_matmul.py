"""Products of rows with a quantized 4096² matrix, by `executable`, against those in float32.

W8A8 finds each row's largest input, rounds it, multiplies in int8 and rescales, all of it timed.
8-bit floats are for GPUs that multiply them; others widen them first. int4 is read tile by tile:
that is for the memory's sake, and no speed is promised.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.bench.bench import Bench, timed
from experiments.bench.pair import Thunk
from wlab.quantization import Format, fp8_e4m3, int4, int8, quantize_tree
from wlab.quantization.execution.running import executable

BARS = {1: 1 / 2, 16: 1 / 6, 256: 1 / 6}  # of float32's time, by rows; with VNNI or AMX


def benches(side: int = 4096) -> list[Bench]:
    """A row for each number of rows in W8A8, and for the tiled product of int4 at one row."""
    integers = [
        Bench(
            f"w8a8-{rows}-rows",
            "float32",
            bar if multiplies_bytes() else None,
            timed(partial(pair, side, rows, "w8a8", int8())),
        )
        for rows, bar in BARS.items()
    ]
    floats = [
        Bench(
            f"fp8-{rows}-rows",
            "float32",
            None,
            timed(partial(pair, side, rows, "w8a8", fp8_e4m3())),
        )
        for rows in (16, 256)
    ]
    tiled = partial(pair, side, 1, "weight_only", int4(group_size=128))
    return [*integers, *floats, Bench("int4-tiled-1-row", "float32", None, timed(tiled))]


def multiplies_bytes() -> bool:
    """Whether the processor has instructions that multiply bytes; unknown ones may."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else "vnni"
    return "vnni" in flags or "amx_int8" in flags or "flags" not in flags


def pair(side: int, rows: int, way: str, format: Format) -> tuple[Thunk, Thunk]:
    """The product on codes, and the same in float32."""
    x = jax.random.normal(jax.random.key(0), (rows, side))
    params = {"w": jax.random.normal(jax.random.key(1), (side, side)) / side**0.5}
    quantized = jax.jit(lambda p: quantize_tree(p, [("w", format)]))(params)
    made = executable(_product, quantized, x, rules=[("w", way)])
    prepared = jax.block_until_ready(made.prepare(quantized))
    few, whole = jax.jit(made.apply), jax.jit(_product)
    return lambda: few(prepared, x), lambda: whole(params, x)


def _product(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jnp.dot(x, params["w"])

"""Few rows times a large matrix in 4 and 8 bits on a GPU, against the same product in bfloat16.

Question  How much faster is x W when W is read as packed codes, and how near to the memory's speed?
Run       python -m experiments.bench.int4_matvec [--sizes 4096 8192 16384] [--rows 1 4 16]
          [--only TEXT ...] [--seconds 480] [--group 128]
Cost      a minute for each number of rows on one H100; seconds elsewhere, where kernels are
          interpreted and tiny, and only the answers mean anything
Expect    int4 at one row at least 2.5 times as fast as bfloat16, and 60 % of a copy's bandwidth

Each product is timed in a compiled loop over as many different weights as do not fit in the cache,
each with inputs of its own, which depend on the last turn's result. Every variant's answer is first
compared with the product in float32 of the dequantized weights. What fails to compile is reported
in a line and left out.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlab.quantization.execution import kernels
from wlab.quantization.execution.launch import Launch
from wlab.quantization.execution.tiles import PLANES, Tiles, dense, tiles

CACHE = 128 << 20  # bytes of different weights in a loop: more than twice an H100's cache
TURN_S = 0.02  # of a timed call
REPEATS = 15


@dataclass(frozen=True)
class Weights:
    """One matrix in every form that is compared.

    Attributes:
        codes: 4-bit codes with an offset of 8, a byte each, inputs by outputs.
        scale: float16, of each group of inputs.
        group_size: Inputs in a group.
    """

    codes: jax.Array
    scale: jax.Array
    group_size: int

    def int4(self) -> Tiles:
        """In the kernels' tiles."""
        return _tiles(self.codes, self.scale, bits=4, group_size=self.group_size)

    def int8(self) -> Tiles:
        """The same values as codes of 8 bits, in the kernels' tiles."""
        return _tiles(self.codes + 120, self.scale, bits=8, group_size=self.group_size)

    def native(self) -> tuple[jax.Array, jax.Array]:
        """JAX's own int4, groups by inputs by outputs."""
        signed = (self.codes.astype(jnp.int32) - 8).astype(jnp.int4)
        return signed.reshape(-1, self.group_size, signed.shape[1]), self.scale

    def native_rows(self) -> tuple[jax.Array, jax.Array]:
        """JAX's own int8, groups by inputs by outputs."""
        signed = (self.codes.astype(jnp.int32) - 8).astype(jnp.int8)
        return signed.reshape(-1, self.group_size, signed.shape[1]), self.scale

    def bfloat16(self) -> jax.Array:
        """The dequantized matrix."""
        return dense(self.int4()).astype(jnp.bfloat16)


_tiles = jax.jit(tiles, static_argnames=("bits", "group_size"))


@dataclass(frozen=True)
class Variant:
    """A way to compute the product.

    Attributes:
        name: What is printed.
        form: Which form of `Weights` it takes.
        product: Of rows by inputs with that form: rows by outputs.
        rows: The most it is meant for.
        fewest: The fewest.
        fits: Whether a size and a group are cut up without a remainder.
    """

    name: str
    form: str
    product: Callable[[jax.Array, Any], jax.Array]
    rows: int = 16
    fewest: int = 1
    fits: Callable[[int, int], bool] = lambda size, group: True


def plain(x: jax.Array, w: jax.Array) -> jax.Array:
    """The product that everything is compared with."""
    return jnp.dot(x, w, preferred_element_type=jnp.float32)


def grouped(x: jax.Array, weights: tuple[jax.Array, jax.Array]) -> jax.Array:
    """By XLA alone: a product for each group from JAX's small integers, scaled and summed."""
    codes, scale = weights
    by_group = x.reshape(x.shape[0], *codes.shape[:2])
    parts = jnp.einsum(
        "mgk,gkn->gmn", by_group, codes.astype(x.dtype), preferred_element_type=jnp.float32
    )
    return jnp.sum(parts * scale.astype(jnp.float32)[:, None, :], axis=0)


def dequantized(x: jax.Array, weights: tuple[jax.Array, jax.Array]) -> jax.Array:
    """By XLA alone: the whole matrix from JAX's small integers, then one product."""
    codes, scale = weights
    whole = codes.astype(x.dtype) * scale.astype(x.dtype)[:, None, :]
    return plain(x, whole.reshape(-1, whole.shape[-1]))


def reduced(x: jax.Array, t: Tiles) -> jax.Array:
    """By XLA alone: one fused multiplication and sum over the words of the tiles."""
    count, _, width = t.codes.shape
    place = jax.lax.broadcasted_iota(jnp.int32, (1, 1, PLANES, 1), 2)
    values = ((t.codes[:, :, None, :] >> (4 * place)) & 15) - 8
    scaled = values.astype(jnp.float32) * t.scale.astype(jnp.float32)[:, 0, :, None, None]
    inputs = x.astype(jnp.float32).reshape(-1, count, 1, PLANES, width)
    return jnp.stack([jnp.sum(scaled * row, axis=(0, 2, 3)) for row in inputs])


def variants(interpret: bool) -> Iterator[Variant]:
    """Every way, the likeliest to be best first."""
    yield Variant("int4 xla, fused sum", "int4", reduced, rows=4, fits=lambda s, g: g == 128)
    yield Variant("int4 xla, by group", "native", grouped)
    yield Variant("int4 xla, dequantized", "native", dequantized)
    yield Variant("int8 xla, by group", "native_rows", grouped)
    for launch in PLANES_LAUNCHES:
        product = partial(kernels.by_planes, launch=launch, interpret=interpret)
        yield Variant(f"int4 planes {_text(launch)}", "int4", product, 4, 1, _cuts(launch))
    for launch in DOTS_LAUNCHES:
        product = partial(kernels.by_dots, launch=launch, interpret=interpret)
        yield Variant(f"int4 dots {_text(launch)}", "int4", product, 16, 1, _cuts(launch))
    for launch in BYTES_LAUNCHES:
        product = partial(kernels.by_planes, launch=launch, interpret=interpret)
        yield Variant(f"int8 planes {_text(launch)}", "int8", product, 4, 1, _cuts(launch))
    for launch in BYTE_DOTS_LAUNCHES:
        product = partial(kernels.by_dots, launch=launch, interpret=interpret)
        yield Variant(f"int8 dots {_text(launch)}", "int8", product, 16, 1, _cuts(launch))


# outputs, tiles, splits, warps, stages
PLANES_LAUNCHES = [  # tiles at most as many as warps: then inputs need no shared memory
    Launch(*numbers, in_place=True)
    for numbers in (
        (8, 8, 1, 8, 3),
        (16, 8, 1, 8, 3),
        (16, 16, 1, 16, 3),
        (32, 2, 4, 2, 3),
        (32, 1, 8, 1, 3),
    )
]
DOTS_LAUNCHES = [
    Launch(*numbers, in_place=True)
    for numbers in ((64, 1, 4, 4, 4), (64, 1, 16, 2, 4), (128, 1, 8, 4, 4))
]
BYTES_LAUNCHES = [
    Launch(*numbers)
    for numbers in ((8, 4, 1, 4, 3), (16, 4, 1, 8, 3), (16, 2, 4, 4, 3), (32, 1, 8, 4, 3))
]
BYTE_DOTS_LAUNCHES = [Launch(*numbers) for numbers in ((64, 1, 8, 4, 4), (32, 1, 8, 2, 4))]


def _text(launch: Launch) -> str:
    fields = (launch.outputs, launch.tiles, launch.splits, launch.warps, launch.stages)
    return "/".join(map(str, fields))


def _cuts(launch: Launch) -> Callable[[int, int], bool]:
    """Whether a square matrix is cut up without a remainder."""

    def fits(size: int, group: int) -> bool:
        turn = 128 * launch.tiles * launch.splits
        return size % turn == 0 and size % launch.outputs == 0

    return fits


def loop(product: Callable[..., jax.Array], turns: int) -> Any:
    """`turns` times the product of each input with its weight; inputs depend on the last result."""

    def body(_: Any, carry: Any, weights: Sequence[Any], zero: jax.Array) -> Any:
        inputs = carry[0]
        results = [product(x, w) for x, w in zip(inputs, weights, strict=True)]
        new = [x + (y * zero).astype(x.dtype) for x, y in zip(inputs, results, strict=True)]
        return new, results

    def run(inputs: Any, weights: Any, zero: jax.Array) -> Any:
        results = [jnp.zeros(x.shape, jnp.float32) for x in inputs]
        turn = partial(body, weights=weights, zero=zero)
        return jax.lax.fori_loop(0, turns, turn, (inputs, results))

    return jax.jit(run)


def turns_of(size: int, count: int) -> int:
    """How many turns take some `TURN_S` in bfloat16; off the GPU the least."""
    if jax.default_backend() != "gpu":
        return 2
    return max(4, int(TURN_S / (count * 2 * size * size / 2e12)))


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """The median of a call that has run before, and the distance between the quartiles."""
    once = _timed(run, 1)[0]
    first, middle, third = np.percentile(_timed(run, 3 if once > 0.3 else REPEATS), [25, 50, 75])
    return float(middle), float(third - first)


def _timed(thunk: Callable[[], Any], repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(thunk())
        taken.append(time.perf_counter() - start)
    return taken


def copy_bandwidth(nbytes: int) -> float:
    """Bytes read and written a second by x + 1 of a large array."""
    x = jnp.zeros(nbytes // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    jax.block_until_ready(add(x))
    return 2 * x.nbytes / float(np.median(_timed(lambda: add(x), 20)))


def read_bandwidth(nbytes: int) -> float:
    """Bytes read a second by the largest of a large array."""
    x = jnp.zeros((nbytes // 4096, 1024), jnp.float32)
    top = jax.jit(lambda x: jnp.max(x, axis=1))
    jax.block_until_ready(top(x))
    return x.nbytes / float(np.median(_timed(lambda: top(x), 20)))


def made(size: int, count: int, group: int) -> list[Weights]:
    """Random weights."""

    @jax.jit
    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        bits = jax.random.bits(key, (size, size), jnp.uint8) & 15
        spread = jax.random.uniform(key, (size // group, size), minval=0.5, maxval=1.5)
        return bits, (spread / size**0.5 / 4).astype(jnp.float16)

    parts = [one(jax.random.key(i)) for i in range(count)]
    return [Weights(codes, scale, group) for codes, scale in parts]


def nbytes(weights: Any) -> float:
    """Bytes that the weights take on the device."""
    return sum(
        x.size * (0.5 if x.dtype == jnp.int4 else x.dtype.itemsize)
        for x in jax.tree.leaves(weights)
    )


def error(y: jax.Array, expected: jax.Array) -> float:
    """The largest difference, beside the largest entry."""
    return float(jnp.max(jnp.abs(y - expected)) / jnp.max(jnp.abs(expected)))


@dataclass(frozen=True)
class Case:
    """A size and a number of rows: the weights in every form, and an input for each."""

    size: int
    group: int
    inputs: list[jax.Array]
    weights: list[Weights]
    forms: dict[str, list[Any]] = field(default_factory=dict)

    def compiled(self, variant: Variant) -> Callable[[], Any] | Exception:
        """The loop over the products, or why there is none."""
        weights, zero = self.forms[variant.form], jnp.float32(0)
        try:
            run = loop(variant.product, turns_of(self.size, len(weights)))
            ready = run.lower(self.inputs, weights, zero).compile()
        except Exception as problem:  # one that cannot be compiled must not stop the others
            return problem
        return lambda: ready(self.inputs, weights, zero)


def measure(size: int, rows: int, options: argparse.Namespace, copy: float, until: float) -> None:
    """Prints a line for each variant, and the fastest again at the end."""
    count = max(2, -(-options.cache // (size * size // 2)))
    weights = made(size, count, options.group)
    keys = jax.random.split(jax.random.key(rows), count)
    inputs = [jax.random.normal(key, (rows, size), jnp.bfloat16) for key in keys]
    case = Case(size, options.group, inputs, weights)
    chosen = [Variant("bf16 dot", "bfloat16", plain)]
    for variant in variants(jax.default_backend() != "gpu"):
        named = not options.only or any(text in variant.name for text in options.only)
        if named and variant.fits(size, options.group) and variant.fewest <= rows <= variant.rows:
            chosen.append(variant)
    for form in {variant.form for variant in chosen}:
        case.forms[form] = [getattr(w, form)() for w in weights]
    exact = jax.jit(
        lambda x, w: jnp.dot(x.astype(jnp.float32), dense(w), precision=jax.lax.Precision.HIGHEST)
    )
    expected = exact(inputs[0], weights[0].int4())
    print(f"\n{size}² rows {rows}, {count} weights", flush=True)
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 2)) as pool:
        compiled = pool.map(case.compiled, chosen)
    _time_all(case, list(zip(chosen, compiled, strict=True)), expected, copy, until)


def _time_all(
    case: Case, compiled: list[tuple[Variant, Any]], expected: jax.Array, copy: float, until: float
) -> None:
    products = turns_of(case.size, len(case.weights)) * len(case.weights)
    found: list[tuple[float, str]] = []
    base = float("nan")
    for variant, run in compiled:
        if time.monotonic() > until:
            print("out of time")
            return
        try:
            if isinstance(run, Exception):
                raise run
            wrong = error(jax.block_until_ready(run())[1][0], expected)
            taken, spread = (each / products for each in seconds(run))
        except Exception as problem:
            print(f"{variant.name:36} FAILED {_first_line(problem)}", flush=True)
            continue
        base = taken if variant.form == "bfloat16" else base
        _line(variant.name, taken, spread, base, nbytes(case.forms[variant.form][0]), copy, wrong)
        if wrong < 0.02:
            found.append((taken, variant.name))
    for kind in ("int4", "int8"):
        best = min((f for f in found if f[1].startswith(kind)), default=None)
        if best:
            print(f"best {kind}: {best[1]}, {base / best[0]:.2f} times as fast as bfloat16")


def _line(
    name: str,
    taken: float,
    spread: float,
    base: float,
    size: float,
    copy: float,
    wrong: float,
) -> None:
    note = "" if wrong < 0.02 else "  WRONG"
    print(
        f"{name:36} {1000 * taken:8.4f} ms ± {1000 * spread:.4f}  ×{base / taken:5.2f}  "
        f"{size / taken / 1e9:7.0f} GB/s  {100 * size / taken / copy:5.1f} % of copy  "
        f"differs {wrong:.1e}{note}",
        flush=True,
    )


def _first_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"[:160]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the memory, then every variant at every size."""
    on_gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [4096, 8192, 16384] if on_gpu else [512]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16] if on_gpu else [1])
    parser.add_argument("--group", type=int, default=128, help="inputs with a scale in common")
    parser.add_argument("--only", nargs="+", help="variants whose names contain one of these")
    parser.add_argument("--cache", type=int, default=CACHE if on_gpu else 1)
    parser.add_argument("--seconds", type=float, default=480, help="begin none after these")
    options = parser.parse_args(arguments)
    until = time.monotonic() + options.seconds
    device = jax.devices()[0]
    large = 1 << (30 if on_gpu else 24)
    copy, read = copy_bandwidth(large), read_bandwidth(large)
    print(f"{device.device_kind}, jax {jax.__version__}, group {options.group}; "
          f"copy {copy / 1e9:.0f} GB/s, read {read / 1e9:.0f} GB/s")  # fmt: skip
    print("kernels: outputs/tiles/splits/warps/stages")
    if not on_gpu:
        print("No GPU: kernels are interpreted, and the times are not a kernel's.")
    for rows in options.rows:
        for size in options.sizes:
            if time.monotonic() < until:
                measure(size, rows, options, copy, until)


if __name__ == "__main__":
    main()

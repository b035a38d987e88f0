"""Formats under the names of the tools whose numbers they give, each compared with that tool.

Values are compared where the tool can be run. Rows below are arrays of 32 or 64 consecutive
weights along the last axis, as those tools have them; use `dataclasses.replace(format, axis=-2)`
for kernels stored (in, out). Scales are not always stored as the tool stores them: each constant
says what was compared, and what differs.
"""

from functools import partial

from wlab.quantization.codebooks import Codebook
from wlab.quantization.floats import Floats
from wlab.quantization.formats import Format
from wlab.quantization.grids import Integers
from wlab.quantization.k_quants import KQuant
from wlab.quantization.scales import E4M3, E8M0

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of N(0, 1), scaled to [-1, 1]: Dettmers et al. 2023 (arXiv:2305.14314), appendix E."""

_e4m3 = Floats(4, 3, special="nan")
_e5m2 = Floats(5, 2)
_e2m3 = Floats(2, 3, special="none")
_e3m2 = Floats(3, 2, special="none")
_e2m1 = Floats(2, 1, special="none")

float16 = Format(Floats(5, 10, scaled=False), axis=None)
"""IEEE half precision without scales: `ml_dtypes`' and NumPy's cast, but saturating."""

bfloat16 = Format(Floats(8, 7, scaled=False), axis=None)
"""The upper half of a float32, without scales: `ml_dtypes`' cast, but saturating."""

fp8_e4m3 = partial(Format, _e4m3)
"""Format with the grid ±448, e4m3fn; axis, groups and scales as in `integer`."""

fp8_e5m2 = partial(Format, _e5m2)
"""Format with the grid ±57,344, e5m2."""

fp6_e2m3 = partial(Format, _e2m3)
"""Format with the grid ±7.5 in 6 bits."""

fp6_e3m2 = partial(Format, _e3m2)
"""Format with the grid ±28 in 6 bits."""

fp4_e2m1 = partial(Format, _e2m1)
"""Format with the grid 0, ±0.5, 1, 1.5, 2, 3, 4, 6."""

nf4 = partial(Format, Codebook(NF4, "nf4"))
"""Format with the sixteen values `NF4`."""

ternary = partial(Format, Integers(2))
"""Format with −1, 0, 1 in 2 bits; with `absmean` as range, BitNet b1.58 (arXiv:2402.17764)."""

binary = partial(Format, Codebook((-1.0, 1.0), "binary", "upper"))
"""Format with −1, 1 in 1 bit, 1 for a zero; with `absmean`, XNOR-Net (arXiv:1603.05279)."""

_ggml = partial(Format, axis=-1, group_size=32, scale_dtype="float16", coding="exact")
_ocp = partial(Format, axis=-1, group_size=32, scale_dtype=E8M0)

ggml_q4_0 = _ggml(Integers(4, bound="signed", rounding="half_up"))
"""4.5 bits. All of 262,144 values equal those of gguf 0.19 (and of ggml's reference)."""

ggml_q5_0 = _ggml(Integers(5, bound="signed", rounding="half_up"))
"""5.5 bits. All of 262,144 values equal those of gguf 0.19."""

ggml_q8_0 = _ggml(Integers(8, rounding="half_away"))
"""8.5 bits. All of 262,144 values equal those of gguf 0.19; d is amax · (1/127), not amax / 127,
so in a block of some thousands it may be the next float16."""

ggml_q4_1 = _ggml(Integers(4, symmetric=False, rounding="half_up", zero="minimum"))
"""5 bits. Values equal those of gguf 0.19 in 8,190 of 8,192 blocks; in two d is the next float16,
as for `ggml_q8_0`. A pruned zero does not stay zero."""

ggml_q5_1 = _ggml(Integers(5, symmetric=False, rounding="half_up", zero="minimum"))
"""6 bits. All of 262,144 values equal those of gguf 0.19, otherwise as `ggml_q4_1`."""

ggml_q4_k = KQuant("Q4_K")
"""4.5 bits, for GGUF files alone. Read as gguf 0.19 reads it; scales are chosen by least squares,
so that codes differ from ggml's."""

ggml_q6_k = KQuant("Q6_K")
"""6.5625 bits, otherwise as `ggml_q4_k`."""

bnb_nf4 = nf4(axis=-1, group_size=64, order="high_first")
"""4.5 bits. The table is that of bitsandbytes 0.50, and 131,071 of 131,072 packed bytes; scales
have 16 significant bits where its absmax has 24, so values agree to 1e-5. Its blocks run on
through rows, which is the same where 64 divides them."""

ocp_mxfp8_e4m3 = _ocp(_e4m3)
"""8.25 bits. All of 262,144 values equal those of torchao 0.18 (its FLOOR mode, OCP's rule)."""

ocp_mxfp8_e5m2 = _ocp(_e5m2)
"""8.25 bits. All of 262,144 values equal those of torchao 0.18."""

ocp_mxfp6_e2m3 = _ocp(_e2m3)
"""6.25 bits. OCP Microscaling Formats v1.0; compared with `ml_dtypes`' cast only."""

ocp_mxfp6_e3m2 = _ocp(_e3m2)
"""6.25 bits. OCP Microscaling Formats v1.0; compared with `ml_dtypes`' cast only."""

ocp_mxfp4 = _ocp(_e2m1)
"""4.25 bits. All of 262,144 values equal those of torchao 0.18."""

nvfp4 = Format(_e2m1, axis=-1, group_size=16, scale_dtype=E4M3, outer=True)
"""4.5 bits and one float32. All but 20 of 262,144 values agree with torchao 0.18 to 1e-5: the
outer scale has 16 significant bits, which tips a few near ties."""

qwix_int8 = Format(Integers(8, bound="half"))
"""A scale an output, bound 127.5. Values agree with qwix 0.1.8 to 1e-5 but for one in a thousand
that was near a tie: it keeps 24 bits of a scale and divides, we keep 16 and multiply."""

qwix_int4 = Format(Integers(4, bound="half"))
"""A scale an output, bound 7.5; compared as `qwix_int8`."""

torchao_int8 = Format(Integers(8, bound="half"), axis=-1)
"""A scale a row, bound 127.5. Values agree with `choose_qparams_affine` (symmetric) of torchao
0.18 to 1e-5, but for 3 in 10,000 near ties."""

torchao_int4 = Format(Integers(4, symmetric=False), axis=-1, group_size=128)
"""Groups with integer zero points. Values agree with `choose_qparams_affine` (asymmetric) of
torchao 0.18 to 1e-4, but for 6 of 262,144 near ties, in groups of 32. Its tinygemm variant, with
bfloat16 zero points in units of weights, differs."""

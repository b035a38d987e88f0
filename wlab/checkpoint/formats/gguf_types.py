"""The types of ggml's tensors: how many bytes hold how many elements.

Q8_1 and Q8_K are missing: ggml keeps activations in them, never what is in a file.

Reference: ggml, `ggml.h` (`enum ggml_type`) and `ggml-common.h` (`block_*`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoding:
    """How one of ggml's types stores its elements.

    Attributes:
        code: Its number in a file.
        size: Elements in a block.
        nbytes: Bytes of a block.
        dtype: The NumPy name, if the elements are plain numbers.
    """

    code: int
    size: int
    nbytes: int
    dtype: str | None = None

    @property
    def bits(self) -> float:
        """Bits of one element, its share of the scales included."""
        return 8 * self.nbytes / self.size


ENCODINGS = {
    "F32": Encoding(0, 1, 4, "float32"),
    "F16": Encoding(1, 1, 2, "float16"),
    "Q4_0": Encoding(2, 32, 18),
    "Q4_1": Encoding(3, 32, 20),
    "Q5_0": Encoding(6, 32, 22),
    "Q5_1": Encoding(7, 32, 24),
    "Q8_0": Encoding(8, 32, 34),
    "Q2_K": Encoding(10, 256, 84),
    "Q3_K": Encoding(11, 256, 110),
    "Q4_K": Encoding(12, 256, 144),
    "Q5_K": Encoding(13, 256, 176),
    "Q6_K": Encoding(14, 256, 210),
    "IQ2_XXS": Encoding(16, 256, 66),
    "IQ2_XS": Encoding(17, 256, 74),
    "IQ3_XXS": Encoding(18, 256, 98),
    "IQ1_S": Encoding(19, 256, 50),
    "IQ4_NL": Encoding(20, 32, 18),
    "IQ3_S": Encoding(21, 256, 110),
    "IQ2_S": Encoding(22, 256, 82),
    "IQ4_XS": Encoding(23, 256, 136),
    "I8": Encoding(24, 1, 1, "int8"),
    "I16": Encoding(25, 1, 2, "int16"),
    "I32": Encoding(26, 1, 4, "int32"),
    "I64": Encoding(27, 1, 8, "int64"),
    "F64": Encoding(28, 1, 8, "float64"),
    "IQ1_M": Encoding(29, 256, 56),
    "BF16": Encoding(30, 1, 2, "bfloat16"),
    "TQ1_0": Encoding(34, 256, 54),
    "TQ2_0": Encoding(35, 256, 66),
    "MXFP4": Encoding(39, 32, 17),
    "NVFP4": Encoding(40, 64, 36),
    "Q1_0": Encoding(41, 128, 18),
}

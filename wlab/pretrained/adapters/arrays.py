"""The arrays of a PEFT file: factors by module, and what was trained whole."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from wlab.checkpoint import Lazy, Source, open_source
from wlab.pretrained.adapters.seating import Matrices

ARRAYS = "adapter_model.safetensors"
PREFIX = "base_model.model."

_FILES = (ARRAYS, "adapter_model.bin")
_FACTOR = re.compile(r"(.+)\.lora_((?:embedding_)?[AB]|magnitude_vector)(?:\.weight)?")


@dataclass(frozen=True)
class PeftArrays:
    """A file, sorted; names are those of the network that PEFT saw.

    Attributes:
        source: The file.
        factors: `A`, `B`, `embedding_A`, `embedding_B`, `magnitude_vector` of each module.
        rest: All other arrays.
    """

    source: Source
    factors: Mapping[str, Mapping[str, Lazy]]
    rest: Mapping[str, Lazy]

    def is_table(self, module: str) -> bool:
        """Whether the module is an embedding."""
        return "embedding_A" in self.factors[module]

    def matrices(self, module: str, *, magnitude: bool) -> Matrices:
        """The factors of a module.

        Raises:
            ValueError: If one is missing, or there is one too many.
        """
        found, kind = self.factors[module], "embedding_" if self.is_table(module) else ""
        wanted = {f"{kind}A", f"{kind}B", *(["magnitude_vector"] if magnitude else [])}
        if set(found) != wanted:
            raise ValueError(
                f"module {module!r} has the factors {sorted(found)}, {sorted(wanted)} are wanted"
            )
        a, b = (found[kind + letter].read() for letter in "AB")
        m = found["magnitude_vector"].read().reshape(-1) if magnitude else None
        if prod(b.shape[2:]) != 1:
            raise ValueError(f"module {module!r}: lora_B has the shape {list(b.shape)}")
        return Matrices(a.reshape(len(a), -1).T, b.reshape(b.shape[:2]).T, m)


def read_arrays(folder: Path, ignore: Sequence[str]) -> PeftArrays:
    """Opens and sorts the arrays of a folder.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If the file is damaged, or an `ignore` pattern matches nothing.
    """
    path = next((folder / name for name in _FILES if (folder / name).exists()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(_FILES)}.")
    source = open_source(path)
    named = {_of_the_base(name): array for name, array in source.arrays.items()}
    for pattern in ignore:
        if not any(re.fullmatch(pattern, name) for name in named):
            raise ValueError(f"ignore: {pattern!r} matches no array of {path}.")
    factors: dict[str, dict[str, Lazy]] = {}
    rest: dict[str, Lazy] = {}
    for name, array in named.items():
        if any(re.fullmatch(pattern, name) for pattern in ignore):
            continue
        if found := _FACTOR.fullmatch(name):
            factors.setdefault(found[1], {})[found[2]] = array
        elif ".lora_" in name:
            raise ValueError(f"{path}: {name!r} is no factor that load_adapter knows.")
        else:
            rest[name] = array
    return PeftArrays(source, factors, rest)


def _of_the_base(name: str) -> str:
    """As the network without adapters calls it."""
    return name.removeprefix(PREFIX).replace(".base_layer.", ".")

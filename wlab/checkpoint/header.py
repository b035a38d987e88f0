"""What a step says of itself, in JSON: recipe, versions, metrics and each leaf's fingerprint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FINISHED = "commit_success.txt"  # written by orbax, last of all
_METADATA = "_CHECKPOINT_METADATA"


class Damaged(Exception):
    """A step directory that cannot be read; the message says why."""


def reason(error: Exception, limit: int = 300) -> str:
    """What orbax or TensorStore found wrong, on one line and without their settings."""
    text = " ".join(str(error).split("[tensorstore_spec=")[0].split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + " …"


class LeafHeader(NamedTuple):
    """The type of one saved leaf, and a digest of its bits."""

    dtype: str
    shape: tuple[int, ...]
    digest: int

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Header:
    """The metadata saved with a step. All of it is plain JSON."""

    recipe: dict[str, Any]
    versions: dict[str, str]
    metrics: dict[str, float]
    leaves: dict[str, LeafHeader]

    def to_json(self) -> dict[str, Any]:
        """The form that orbax stores as custom metadata."""
        return {"wlab": vars(self) | {"leaves": {p: [*leaf] for p, leaf in self.leaves.items()}}}

    @classmethod
    def from_json(cls, metadata: dict[str, Any]) -> "Header":
        """The inverse of `to_json`."""
        fields = metadata["wlab"]
        leaves = {
            path: LeafHeader(dtype, tuple(shape), digest)
            for path, (dtype, shape, digest) in fields["leaves"].items()
        }
        return cls(fields["recipe"], fields["versions"], fields["metrics"], leaves)


def read_header(directory: Path) -> Header:
    """The header of a finished step directory.

    Raises:
        Damaged: If the commit marker is missing or the metadata cannot be read.
        ValueError: If the checkpoint is sound but was not written by wlab.
    """
    if not (directory / FINISHED).exists():
        raise Damaged(f"not finished or half deleted: no {FINISHED}")
    try:
        metadata = json.loads((directory / _METADATA).read_text())["custom_metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{_METADATA} is unreadable: {error!r}") from error
    if not isinstance(metadata, dict) or "wlab" not in metadata:
        raise ValueError(
            f"{directory} was not saved by wlab: read it with `wlab.checkpoint.load({directory})`."
        )
    try:
        return Header.from_json(metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{_METADATA} is incomplete: {error!r}") from error

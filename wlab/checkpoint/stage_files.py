"""The work of finished stages, a file each."""

import hashlib
from pathlib import Path

import numpy as np

from wlab.calibration.finished import Arrays, Finished
from wlab.checkpoint.opening import open_source
from wlab.checkpoint.safetensors_io import save_safetensors
from wlab.checkpoint.steps import PathLike


def finished_in(folder: PathLike) -> Finished:
    """Keeps what `wanda`, `sparsegpt`, `gptq` and `awq` have done, by stage, for `finished=`.

    A run that was cut off and is called again with the same arguments goes on behind the last
    stage that is whole: inputs are handed on through those before it, nothing is solved again.
    The folder can be thrown away once the run is over.

    Args:
        folder: Is made if it is missing.

    Raises:
        ValueError: When a stage in it is damaged, or of other weights, batches or options.
    """
    folder = Path(folder)

    def load(stage: str, of: str) -> Arrays | None:
        path = _file(folder, stage)
        if not path.exists():
            return None
        source = open_source(path)
        if source.metadata.get("of") != of:
            raise ValueError(
                f"{path} is stage {stage!r} of other weights, batches or options: give another "
                "folder, or delete it."
            )
        return {name: array.read() for name, array in source.arrays.items()}

    def save(stage: str, of: str, arrays: Arrays) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        named = {name: np.asarray(x) for name, x in arrays.items()}
        save_safetensors(_file(folder, stage), named, metadata={"stage": stage, "of": of})

    return Finished(load, save)


def _file(folder: Path, stage: str) -> Path:
    return folder / f"{hashlib.sha256(stage.encode()).hexdigest()[:16]}.safetensors"

"""Files of quantized leaves, before they are quantized and as they are served."""

from pathlib import Path

from wlab.checkpoint import Source, open_source
from wlab.cli import packed_files, quantized_hub, quantized_onnx
from wlab.cli.dequantizing import quantized_schema


def opened(path: Path) -> Source:
    """The plain weights of a file that is to be quantized, or of a folder of the hub.

    Raises:
        ValueError: If its weights are quantized already.
    """
    schema = quantized_schema(_open(path))
    coded = quantized_hub.is_quantized if path.is_dir() else quantized_onnx.is_quantized
    if schema or coded(path):
        shown = f", {next(iter(schema))!r} and {len(schema) - 1} more leaves" if schema else ""
        raise ValueError(
            f"{path} is quantized already{shown}: quantize what it was made of, or errors add up."
        )
    return packed_files.opened(path)


def served(path: Path) -> Source:
    """A file or folder, its quantized leaves as the arrays that their codes stand for.

    Raises:
        ValueError: If the schema is damaged, or the file lacks an array that it needs.
    """
    if path.is_dir() and quantized_hub.is_quantized(path):
        return quantized_hub.opened(path)
    if quantized_onnx.is_quantized(path):
        return quantized_onnx.opened(path)
    return packed_files.densified(_open(path))


def _open(path: Path) -> Source:
    from wlab.pretrained.networks.hub import weights_of

    return weights_of(path) if path.is_dir() else open_source(path)

"""ONNX models: the initializers of the graph, by name.

The file is walked as a protocol buffer without the onnx package, which would have to hold all of
it in memory twice; of the schema only the few field numbers below are needed.
"""

import mmap
from itertools import islice
from pathlib import Path
from typing import Any

from wlab.checkpoint.formats.onnx_tensors import Tensor, lazy, pair, tensor, text
from wlab.checkpoint.formats.protobuf import BYTES, Data, Field, fields
from wlab.checkpoint.source import Source

_PRODUCER, _VERSION, _GRAPH, _OPERATORS, _PROPERTIES = 2, 3, 7, 8, 14  # of ModelProto
_INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 5, 11, 12, 15  # of GraphProto


def open_onnx(path: Path) -> Source:
    """The initializers of an ONNX model by name; the graph's nodes are skipped.

    The metadata has `inputs` and `outputs` (names; initializers listed as inputs, as old models
    do, are not), `operators` (the version of each operator set), `producer` and `properties`.
    Initializers of subgraphs and of text, and constants that are nodes, are not read.

    Raises:
        ValueError: If the file is no ONNX model, is cut off or damaged, has tensors of unknown
            types or the wrong size, twice the same name, or data outside the model's folder.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = (f for f in fields(data, 0, len(data)) if f.number == _GRAPH)
            graphs = [f for f in islice(model, 2) if f.kind == BYTES]
            if len(graphs) != 1:
                raise ValueError("it has not one graph, but none or several")
            tensors, inputs, outputs = _graph(data, graphs[0])
            metadata = _metadata(data)
        arrays = {name: lazy(path, found) for name, found in tensors.items() if not found.is_text}
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as an ONNX model: {error}.") from None
    inputs = [name for name in inputs if name not in tensors]
    return Source(path, "onnx", arrays, {"inputs": inputs, "outputs": outputs} | metadata)


def _graph(data: Data, graph: Field) -> tuple[dict[str, Tensor], list[str], list[str]]:
    tensors: dict[str, Tensor] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    for field in fields(data, graph.begin, graph.end):
        if field.kind != BYTES:
            continue
        if field.number == _INITIALIZER:
            found = tensor(data, field.begin, field.end)
            if not found.name or found.name in tensors:
                raise ValueError(f"an initializer has no name, or two are called {found.name!r}")
            tensors[found.name] = found
        elif field.number == _SPARSE:
            raise ValueError("it has sparse initializers, which are not read")
        elif field.number in (_INPUT, _OUTPUT):
            (inputs if field.number == _INPUT else outputs).append(_first_text(data, field))
    return tensors, inputs, outputs


def _metadata(data: Data) -> dict[str, Any]:
    told: dict[int, str] = {}
    operators: dict[str, int] = {}
    properties: dict[str, str] = {}
    for field in fields(data, 0, len(data)):
        if field.kind != BYTES:
            continue
        if field.number in (_PRODUCER, _VERSION):
            told[field.number] = text(data, field)
        elif field.number == _PROPERTIES:
            properties |= [pair(data, field)]
        elif field.number == _OPERATORS:
            parts = {f.number: f for f in fields(data, field.begin, field.end)}
            domain = text(data, parts[1]) if 1 in parts else ""
            operators[domain] = parts[2].value if 2 in parts else 0
    producer = " ".join(told[number] for number in sorted(told))
    return {"operators": operators, "producer": producer, "properties": properties}


def _first_text(data: Data, field: Field) -> str:
    """The name of a ValueInfoProto."""
    return next((text(data, f) for f in fields(data, field.begin, field.end) if f.number == 1), "")

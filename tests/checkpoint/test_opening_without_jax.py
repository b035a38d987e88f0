"""Other people's files are opened and read without JAX, flax or the frameworks that wrote them."""

import subprocess
import sys
import textwrap

from fuzz_rows_pickles import ROWS

OPENED = {
    "pickle 4": "numpy_pickles.open_pickle",
    "torch zip": "torch_files.open_torch",
    "torch legacy": "torch_files.open_torch",
    "msgpack": "flax_msgpack.open_msgpack",
    "onnx": "onnx.open_onnx",
}


def test_opening_and_reading_never_imports_jax(tmp_path):
    arguments = []
    for row, function in OPENED.items():
        ROWS[row][0](tmp_path / row)
        arguments += [function, str(tmp_path / row)]
    source = """
        import importlib, pathlib, sys
        for name, path in zip(sys.argv[1::2], sys.argv[2::2]):
            module, function = name.split(".")
            module = importlib.import_module(f"wlab.checkpoint.formats.{module}")
            source = getattr(module, function)(pathlib.Path(path))
            print(len([lazy.read() for lazy in source.arrays.values()]))
        heavy = ("jax", "flax", "torch", "onnx", "msgpack")
        print([name for name in heavy if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(source), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.stdout.split("\n"), result.stderr) == (["3", "5", "5", "3", "4", "[]", ""], "")

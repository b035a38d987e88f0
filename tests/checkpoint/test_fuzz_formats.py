"""A damaged file of any format is read, or refused by a ValueError that names it: nothing else.

A format is added by a file `fuzz_rows_<what>.py` beside this one, with

    ROWS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Source]]]

which maps a name to a function that writes a small sample at a path (and other files beside it,
if the format needs them) and one that opens it. The file at that path is then damaged.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_formats import all_rows

HERE = Path(__file__).parent


def run(tmp_path: Path, module: str, name: str, *, count: int, seconds: int) -> str:
    source = (
        f"import sys, pathlib; sys.path.insert(0, {str(HERE)!r}); import fuzz_formats;"
        f"fuzz_formats.damage({module!r}, {name!r}, pathlib.Path({str(tmp_path)!r}), "
        f"count={count}, seconds={seconds})"
    )
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", source]
    result = subprocess.run(
        command, cwd=HERE.parent.parent, capture_output=True, text=True, timeout=seconds + 300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(("module", "name"), all_rows())
def test_a_damaged_file_is_read_or_refused_by_name(tmp_path, module, name):
    assert "300 damaged files" in run(tmp_path, module, name, count=300, seconds=120)


@pytest.mark.long
@pytest.mark.parametrize(("module", "name"), all_rows())
def test_a_hundred_thousand_damaged_files_are(tmp_path, module, name):
    print(run(tmp_path, module, name, count=100_000, seconds=600))

"""The house keeps its walls: tiers, sizes, documentation."""

import ast
import statistics
from pathlib import Path

import pytest

pytestmark = pytest.mark.cover  # of all files
ROOT = Path(__file__).parent.parent
TIERS = {
    "extras": 0,
    "table": 0,
    "transform": 0,
    "tree": 1,
    "graph": 2,
    "calibration": 3,
    "initializers": 4,
    "decay": 4,
    "tying": 4,
    "pruning": 4,
    "quantization": 4,
    "transfer": 4,
    "merging": 4,
    "data": 4,
    "checkpoint": 4,
    "inspection": 4,
    "training": 5,
    "models": 5,
    "pretrained": 6,
    "cli": 7,
    "__main__": 8,
}
FILES = sorted((ROOT / "wlab").rglob("*.py"))
LIBRARY = [f for f in FILES if f != ROOT / "wlab/__init__.py"]
MAX_FILE, MEDIAN_FILE, MAX_BODY, P90_BODY = 400, 150, 60, 30


def imports_of(tree: ast.AST) -> list[str]:
    """Every wlab module imported anywhere in a file, also inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "wlab":
            found += [f"wlab.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return [name for name in found if name.split(".")[0] == "wlab"]


def rooms_of(source: str) -> set[str]:
    """The packages of wlab that `source` imports from."""
    return {name.split(".")[1] for name in imports_of(ast.parse(source)) if "." in name}


def violations(room: str, source: str) -> list[str]:
    """The imports in `source` that a file of package `room` may not have."""
    return [t for t in sorted(rooms_of(source)) if t != room and TIERS[t] >= TIERS[room]]


@pytest.mark.parametrize("file", LIBRARY, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_import_strictly_lower_tiers_or_their_own_package(file: Path):
    room = file.relative_to(ROOT / "wlab").parts[0].removesuffix(".py")
    assert not violations(room, file.read_text())


def test_layering_is_red_on_a_planted_violation():
    assert violations("quantization", "from wlab.pruning import masks") == ["pruning"]
    assert violations("tree", "def f():\n    import wlab.training.step") == ["training"]
    assert violations("pruning", "from wlab import quantization") == ["quantization"]
    assert not violations("pruning", "from wlab.pruning import masks\nfrom wlab import tree")


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_sizes_of_files_and_functions():
    lengths = {f: len(f.read_text().splitlines()) for f in FILES if f.name != "__init__.py"}
    bodies = {
        f"{f.relative_to(ROOT)}:{node.name}": body_lines(node)
        for f in FILES
        for node in ast.walk(ast.parse(f.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {f: n for f, n in lengths.items() if n > MAX_FILE} == {}
    assert {f: n for f, n in bodies.items() if n > MAX_BODY} == {}
    assert statistics.median(lengths.values()) <= MEDIAN_FILE
    assert statistics.quantiles(bodies.values(), n=10)[-1] <= P90_BODY


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_every_public_name_is_documented(file: Path):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "the module needs a docstring"
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_library_code_raises_and_never_asserts(file: Path):
    assert not [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Assert)]


def test_top_level_holds_only_what_a_user_expects():
    expected = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile"}
    expected |= {"wlab", "experiments", "tests", "runs", "dist"}
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")}
    assert found <= expected

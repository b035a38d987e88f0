"""Every example page runs from the top to the end, and prints something."""

import importlib
from pathlib import Path

import jax
import pytest

PAGES = sorted(p.stem for p in Path("experiments/examples").glob("[a-z]*.py"))
DEAR, LONG = ("equinox_model", "merging", "quantization"), pytest.mark.long  # by seconds


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=LONG if page in DEAR else ()) for page in PAGES]
)
def test_the_page_runs(page: str, capsys: pytest.CaptureFixture[str]):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        importlib.import_module(f"experiments.examples.{page}").main()
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_every_page_is_linked_from_the_readme():
    readme = Path("README.md").read_text()
    assert [page for page in PAGES if f"experiments/examples/{page}.py" not in readme] == []

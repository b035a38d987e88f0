"""Rows of a listing and their total, from hand-made entries."""

from dataclasses import dataclass

import numpy as np

from wlab.inspection import leaf_stats, report


@dataclass(frozen=True)
class Header:
    path: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    sharding: str | None = None


ENTRIES = [
    Header("a/kernel", (2, 3), "bfloat16", 12, "data=2: (data, -)"),
    Header("b", (), "float32", 4),
]


def test_a_report_is_a_row_a_leaf_and_a_total():
    kernel, scalar, total = report(ENTRIES)
    assert kernel == {
        "path": "a/kernel",
        "dtype": "bfloat16",
        "shape": [2, 3],
        "sharding": "data=2: (data, -)",
        "size": 6,
        "bytes": 12,
    }
    assert (scalar["shape"], scalar["size"]) == ([], 1)
    assert (total["path"], total["size"], total["bytes"]) == ("total", 7, 16)


def test_with_statistics_the_total_covers_all_leaves():
    stats = {
        "a/kernel": leaf_stats(np.array([[0.0, 0, 0], [2, np.nan, -2]])),
        "b": leaf_stats(np.array(4.0)),
    }
    kernel, scalar, total = report(ENTRIES, stats)
    assert (kernel["mean"], kernel["nan"], kernel["density"]) == (0.0, 1, 0.5)
    assert (scalar["mean"], scalar["std"]) == (4.0, 0.0)
    assert (total["absmax"], total["nan"]) == (4.0, 1)
    np.testing.assert_allclose(total["density"], 4 / 7)
    np.testing.assert_allclose(total["mean"], 4 / 6)


def test_a_leaf_without_statistics_has_blanks():
    kernel, scalar, _ = report(ENTRIES, {"b": leaf_stats(np.ones(1))})
    assert kernel["mean"] is None
    assert scalar["mean"] == 1.0


def test_an_empty_file_has_only_a_total():
    assert report([])[-1]["size"] == 0

"""A table prints as the reader expects, and is data."""

from wlab.table import from_records
from wlab.tree import Table

TABLE = Table(
    ("leaf", "size", "kept", "prune"),
    (("fc/kernel", 235200, 0.0801234, True), ("fc/bias", 300, None, False)),
)


def test_printing_aligns_text_to_the_left_and_numbers_to_the_right():
    assert str(TABLE) == "\n".join(
        [
            "leaf          size     kept  prune",
            "─────────  ───────  ───────  ─────",
            "fc/kernel  235,200  0.08012  yes",
            "fc/bias        300        –  no",
        ]
    )


def test_records_are_a_dict_a_row():
    assert TABLE.records()[1] == {"leaf": "fc/bias", "size": 300, "kept": None, "prune": False}


def test_a_table_without_rows_is_its_heading():
    assert str(Table(("a", "bc"), ())) == "a  bc\n─  ──"


def test_records_make_a_table_without_its_empty_columns():
    table = from_records([{"a": 1, "b": None, "c": None}, {"a": 2, "b": None, "c": "x"}])
    assert table == Table(("a", "c"), ((1, None), (2, "x")))


def test_a_table_is_its_records():
    assert from_records(TABLE.records()) == TABLE

"""What `make test` leaves out of the tests that have many cases."""

from types import SimpleNamespace
from typing import Any

from cases import few, spread


def test_places_are_spread_from_the_first_to_the_last():
    assert spread(9, 3, "a") == {0, 4, 8}
    assert spread(4, 3, "a") == {0, 2, 3}
    assert spread(3, 3, "a") == spread(3, 1000, "a") == {0, 1, 2}
    assert spread(0, 3, "a") == set()


def test_where_one_case_is_left_tests_take_different_ones():
    drawn = [spread(5, 1, f"test_a.py::law_{i}") for i in range(40)]
    assert set.union(*drawn) == {0, 1, 2, 3, 4} and {len(places) for places in drawn} == {1}
    assert drawn[7] == spread(5, 1, "test_a.py::law_7")


def item(name: str, *, cover: bool = False) -> Any:
    return SimpleNamespace(nodeid=name, get_closest_marker=lambda mark: cover or None)


def test_each_test_keeps_some_cases_and_a_cover_all_of_them():
    many = [item(f"test_a.py::many[{i}]") for i in range(5)]
    covering = [item(f"test_a.py::rows[{i}]", cover=True) for i in range(5)]
    alone = item("test_b.py::alone")
    assert list(few([*many, *covering, alone], 2)) == [many[0], many[4], *covering, alone]

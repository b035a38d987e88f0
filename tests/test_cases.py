"""What `make test` leaves out of the tests that have many cases."""

from types import SimpleNamespace
from typing import Any

from cases import few, spread


def test_places_are_spread_from_the_first_to_the_last():
    assert spread(9, 3) == {0, 4, 8}
    assert spread(4, 3) == {0, 2, 3}
    assert spread(3, 3) == spread(3, 1000) == {0, 1, 2}
    assert spread(5, 1) == {0} and spread(0, 3) == set()


def item(name: str, *, cover: bool = False) -> Any:
    return SimpleNamespace(nodeid=name, get_closest_marker=lambda mark: cover or None)


def test_each_test_keeps_some_cases_and_a_cover_all_of_them():
    many = [item(f"test_a.py::many[{i}]") for i in range(5)]
    covering = [item(f"test_a.py::rows[{i}]", cover=True) for i in range(5)]
    alone = item("test_b.py::alone")
    assert list(few([*many, *covering, alone], 2)) == [many[0], many[4], *covering, alone]

"""20 newsgroups: 11,293 + 7,528 letters, in lower case and without punctuation (Lang 1995)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from wlab.data.fetch import fetch

_HEADER = ["Category\tText", "d\tstring", "class\t"]


class Letters(NamedTuple):
    """Texts and the group each was sent to, by its place among the names."""

    text: tuple[str, ...]
    label: Int32[np.ndarray, " letters"]


class Newsgroups(NamedTuple):
    """Letters to learn from and later ones to be tested on; the names of the groups, in order."""

    train: Letters
    test: Letters
    names: tuple[str, ...]


def newsgroups(*, file: str | Path | None = None, cache: str | Path | None = None) -> Newsgroups:
    """Reads 20 newsgroups, fetched if need be; arguments and errors as in `fetch`.

    Headers, digits and punctuation were taken out before (Cardoso-Cachopo 2007); nothing was
    taken out here.
    """
    folder = fetch("20newsgroups", file=file, cache=cache)
    train, test = (_rows(folder / f"20newsgroups-{part}.tab") for part in ("train", "test"))
    names = tuple(sorted({name for name, _ in train}))
    return Newsgroups(_letters(train, names), _letters(test, names), names)


def _rows(path: Path) -> list[tuple[str, str]]:
    """Group and text of each line, behind three lines of header."""
    *header, rest = path.read_text(encoding="utf-8").split("\n", len(_HEADER))
    if header != _HEADER:
        raise ValueError(f"{path} begins with {header}, not with {_HEADER}.")
    rows = [line.split("\t", 1) for line in rest.split("\n") if line]
    return [(name, text) for name, text in rows]


def _letters(rows: list[tuple[str, str]], names: tuple[str, ...]) -> Letters:
    place = {name: i for i, name in enumerate(names)}
    label = np.array([place[name] for name, _ in rows], np.int32)
    return Letters(tuple(text for _, text in rows), label)

"""Image datasets by name."""

import logging
from pathlib import Path

from wlab.data.arrays import Dataset
from wlab.data.cifar10 import cifar10
from wlab.data.client import FetchError
from wlab.data.digits import digits
from wlab.data.mnist import mnist

_log = logging.getLogger(__name__)


def load(name: str, *, file: str | Path | None = None, cache: str | Path | None = None) -> Dataset:
    """Reads `mnist`, `cifar10` (both fetched if need be) or the embedded `digits`.

    Raises:
        ValueError: If the name is unknown or a file is not the pinned one.
        FetchError: If it could not be downloaded.
    """
    match name:
        case "digits":
            return digits()
        case "mnist":
            return mnist(file=file, cache=cache)
        case "cifar10":
            return cifar10(file=file, cache=cache)
    raise ValueError(f"no image dataset {name!r}; there are digits, mnist, cifar10.")


def load_or_digits(
    name: str, *, file: str | Path | None = None, cache: str | Path | None = None
) -> Dataset:
    """As `load`, or the digits, with a logged warning, when it can't be downloaded.

    A wrong hash is no such case: it still raises. `Dataset.name` says what was loaded.
    """
    try:
        return load(name, file=file, cache=cache)
    except FetchError as error:
        _log.warning("%s Using the embedded 8×8 digits instead of %s.", error, name)
        return digits()

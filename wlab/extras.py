"""Packages that only some need, loaded when they are needed."""

import importlib
from types import ModuleType


def required(module: str, *, extra: str) -> ModuleType:
    """A module of a package that an extra brings.

    Raises:
        ImportError: If it is not installed, naming the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is not installed: pip install "weightlab[{extra}]".'
        ) from error

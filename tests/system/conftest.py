"""What all runs share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Compiled programs, so that a run repeated starts sooner."""
    return tmp_path_factory.mktemp("cache")

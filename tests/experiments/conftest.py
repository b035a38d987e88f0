"""What the pages on experiments have in common."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """optax 0.2.8 raises a float to an int32 count."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield

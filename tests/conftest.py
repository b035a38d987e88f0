"""Eight CPU devices and the strictest settings JAX has, before any backend starts."""

import os

# Tests compile much and compute little: half the time goes without LLVM's optimizations.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8 "
    + os.environ.get("XLA_FLAGS", "")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Needs the packages of the extra `peers`: `make test-peers`.
collect_ignore = [] if os.environ.get("WLAB_PEERS") else ["peers"]


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)

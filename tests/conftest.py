"""Eight CPU devices and the strictest settings JAX has, before any backend starts."""

import os
from collections import defaultdict
from pathlib import Path

# Tests compile much and compute little: half the time goes without LLVM's optimizations, and a
# tenth by not splitting what is small for several threads.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from cases import few

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What one process, or an earlier run, has compiled is not compiled again by another.
COMPILED = Path(__file__).parents[1] / "runs" / "compiled"
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# Needs the packages of the extra `peers`: `make test-peers`.
collect_ignore = [] if os.environ.get("WLAB_PEERS") else ["peers"]


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, help="so many cases of each test at most, spread evenly")


@pytest.hookimpl(trylast=True)  # after -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    most = config.getoption("--cases")
    if most is not None:
        kept = list(few(items, most))
        ids = {item.nodeid for item in kept}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in ids])
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells which files take the time: `make test` is to stay short."""
    spent: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                spent[report.location[0]] += report.duration
    if sum(spent.values()) > 60:
        terminalreporter.section("seconds a file")
        for file, seconds in sorted(spent.items(), key=lambda pair: -pair[1])[:40]:
            terminalreporter.line(f"{seconds:7.0f}  {file}")

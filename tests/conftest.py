"""Settings of the whole test run: CPU, a cache of compilations, short collections, x64."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"

# Before jax is imported, and inherited by the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402
import pytest  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Without the slow tests XLA compiles in a hurry, here and in the processes that tests start.

    It reads its flags when the first program is compiled, and ends the process if it does not know
    one: the emitters can be chosen up to JAX 0.10.
    """
    hurry = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    if jax.__version_info__ < (0, 11):
        hurry.append("--xla_cpu_use_fusion_emitters=false")
    if "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", " ".join(hurry))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of several processes come first: they wait, and at the end nobody else would run."""
    items.sort(key=lambda item: item.path.name != "test_distributed.py")


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> None:
    """What is alive by now stays: collecting garbage need not look through JAX's caches again.

    A damaged checkpoint is followed by a full collection, which takes a second late in a run.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def x64() -> Iterator[None]:
    """float64 for one module: `pytestmark = pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield

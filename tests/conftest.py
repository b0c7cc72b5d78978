"""Settings of every test: strict promotion, shape checks at run time, float64 unless a module declines it.

The shape checks are installed before `rankpg` is imported, so this file must not import it.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile

# Tests compile much and run little. Without LLVM's optimizations, with the older emitter of loops, in one
# piece, compiling takes a third of the time. Before jax; a jaxlib that drops a flag says which.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false "
    f"--xla_cpu_parallel_codegen_split_count=1 {os.environ.get('XLA_FLAGS', '')}"
)
# Nothing is compiled twice: the session's processes share a folder of programs, and its end removes it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    "PYTEST_XDIST_WORKER" in os.environ and os.environ.get("JAX_COMPILATION_CACHE_DIR")
) or tempfile.mkdtemp(prefix="rankpg-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
from hypothesis import settings

try:
    import jaxtyping
except ModuleNotFoundError:  # the library works without it, and so do its tests: they check less
    HOOKED = False
else:
    jaxtyping.install_import_hook("rankpg", "beartype.beartype")
    HOOKED = True


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):  # a process of its own, or the one the others belong to
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


settings.register_profile("rankpg", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("rankpg")

_FLAGS = {
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
}


@pytest.fixture(scope="module", autouse=True)
def jax_flags(request):
    """Strict promotion and float64 for the tests of this folder; doctests show what a user sees instead.

    Enabling float64 only makes it possible: arrays say their dtype here. A module that tests what a user
    gets without the flag writes `ENABLE_X64 = False` at its top.
    """
    flags = {**_FLAGS, "jax_enable_x64": getattr(request.module, "ENABLE_X64", True)}
    before = {name: getattr(jax.config, name) for name in flags}
    for name, value in flags.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def as_a_user(jax_flags):
    """Restores a user's settings: the config checks its own types, and JAX promotes dtypes.

    For a module that runs whole programs: `pytestmark = pytest.mark.usefixtures("as_a_user")`.
    """
    from rankpg import TrainConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainConfig, "__init__", inspect.unwrap(TrainConfig.__init__))
        jax.config.update("jax_numpy_dtype_promotion", "standard")
        yield


@pytest.fixture(scope="module")
def standard_promotion(jax_flags):
    """JAX's own promotion of dtypes, which optimizers of optax need: `usefixtures("standard_promotion")`."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture(scope="module")
def as_scripts_run(jax_flags):
    """Switches off the strict flags, which a reader's snippets and scripts do not have."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")


@pytest.fixture
def key():
    return jax.random.key(20260604)


@pytest.fixture
def keys(key):
    """keys(n): n independent keys."""
    return lambda n: jax.random.split(key, n)

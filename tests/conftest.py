"""Several devices on one CPU, and compiled programs kept between runs."""

import os
import pathlib

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("NPROC", "16")  # jax 0.10 may hang with 8 virtual devices on fewer than 16 threads

import jax

jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_runtest_teardown(item, nextitem):
    """Drops what a test function compiled before the next one begins: a worker stays at 1 GB instead of 4."""
    if nextitem is None or getattr(item, "originalname", None) != getattr(nextitem, "originalname", None):
        jax.clear_caches()

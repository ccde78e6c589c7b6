"""Compiled programs are kept on the disk, so that a resumed or repeated run starts at once."""

import os
from pathlib import Path

import jax

_LEAST_SECONDS = 0.0  # a model's making is a hundred short programs


def keep_programs() -> None:
    """Keeps them in $JAXMODELS_PROGRAMS, or in the user's cache folder; "off" keeps none.

    A folder that JAX was told otherwise is left as it is. A program is found again by its text, its
    options, JAX's version and the machine's features.
    """
    told = os.environ.get("JAXMODELS_PROGRAMS", "")
    if told == "off" or getattr(jax.config, "jax_compilation_cache_dir") is not None:  # noqa: B009
        return
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", told or str(Path(cache) / "jaxmodels/programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)

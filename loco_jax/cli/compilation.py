"""JAX's cache of compiled programs on disk: the second start of a command compiles nothing."""

import os
import pathlib
import sys

from loco_jax.cli import disk

VARIABLE = "LOCO_JAX_CACHE"  # an environment variable: a folder, or "off"
_MOST_BYTES = 2 * 2**30  # of the folder; JAX removes the least recently used programs


def use_cache() -> pathlib.Path | None:
    """Turns the cache on, before a command computes anything; returns its folder, or None if there is none.

    The folder is `$XDG_CACHE_HOME/loco_jax/xla`, or `~/.cache/loco_jax/xla`; the environment variable LOCO_JAX_CACHE
    names another, or turns the cache "off". The user's own `jax_compilation_cache_dir` stays in force. Several
    processes may share a folder. If the folder cannot be written to, a line on stderr says so.
    """
    import jax  # here, so that --help answers at once

    if own := jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return pathlib.Path(own)
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() in ("off", "0", "none"):
        return None
    try:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = pathlib.Path(chosen or os.path.join(home, "loco_jax", "xla")).expanduser().absolute()
        # Compiled code from this folder runs unchecked, so nobody else may write there.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk.check_writable(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        remedy = f"set {VARIABLE}=FOLDER, a folder that can be written to"
        print(f"loco_jax: compiled code is not cached ({error}); {remedy}", file=sys.stderr)
        return None
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many short ones add up
    return folder

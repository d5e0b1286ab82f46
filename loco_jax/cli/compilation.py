"""What XLA compiles is kept on disk, so that the second start of a command compiles nothing."""

import os
import pathlib
import sys

from loco_jax.cli import disk

VARIABLE = "LOCO_JAX_CACHE"  # in the environment: a folder, or "off"
_MOST_BYTES = 2 * 2**30  # of a folder; what was not used for longest goes first


def use_cache() -> pathlib.Path | None:
    """Lets JAX keep what it compiles in the user's cache folder; for commands, before they compute anything.

    The folder is `$XDG_CACHE_HOME/loco_jax/xla`, or `~/.cache/loco_jax/xla`. LOCO_JAX_CACHE names another, or says
    "off". If the user has set JAX's own `jax_compilation_cache_dir`, that is left as it is. Several processes may use
    one folder at once. A folder that cannot be written to is no error: a line on stderr tells, and nothing is kept.

    Returns the folder in use, or None.
    """
    import jax  # here, so that commands say --help quickly

    if jax.config.jax_compilation_cache_dir:
        return pathlib.Path(jax.config.jax_compilation_cache_dir)
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() in ("off", "0", "none"):
        return None
    try:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = pathlib.Path(chosen or os.path.join(home, "loco_jax", "xla")).expanduser().absolute()
        # Compiled code is run as it is found: nobody else may put any there.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk.check_writable(folder)
    except (OSError, RuntimeError) as error:  # the latter where there is no home
        print(f"loco_jax: nothing compiled is kept ({error}); {VARIABLE}=FOLDER names a folder for it", file=sys.stderr)
        return None
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many short ones add up
    return folder

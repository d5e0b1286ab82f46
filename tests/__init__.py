"""The tests. They check the annotations of all functions of loco_jax that they call."""

import os

from jaxtyping import install_import_hook

# Here, since pytest's option for it does not reach the processes of xdist. Ints pass for floats, as in mypy.
# Processes that tests start do without: it doubles the time of their imports.
if "LOCO_JAX_UNCHECKED" not in os.environ:
    install_import_hook("loco_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

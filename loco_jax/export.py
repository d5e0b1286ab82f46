"""A run in one file of weights: of any task; or a whole LoCO of parts that were trained apart.

    python -m loco_jax.export --workdir=runs/loco2 --output=loco2.safetensors
    python -m loco_jax.export --config=configs/loco2.py --code_predictor=predictor.safetensors \
        --config.vha=vha2.safetensors --config.refiner=refiner.safetensors --output=loco2.safetensors
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from loco_jax import cli
from loco_jax.runs import checkpoints


def export(workdir: str, path: str, dtype: Any = None, tune: int = 0, refiner: str = "") -> None:
    """Writes the newest checkpoint of a run of any task as a file of weights; see `tasks.loco.export`.

    Raises WeightsError or CheckpointError if it cannot be read, ValueError for what only a LoCO has.
    """
    from loco_jax import tasks
    from loco_jax.tasks import loco, vha
    from loco_jax.weights import files as weights

    folder = weights.path_of(workdir)
    config = weights.run_config(folder)
    if config.get("task", "loco") == "loco":
        loco.export(workdir, path, dtype, tune, refiner)
        return
    if tune or refiner:
        raise ValueError(f"--tune and --refiner are for a run of the task loco; {workdir} is one of {config.task}")
    with vha.stated_by(folder):
        task = tasks.create(config)
    params = weights.read_run(folder, config, tasks.network_shapes(task))
    weights.save(path, params, {"kind": config.task, "config": weights.portable(config)}, dtype)


def run(argv: Sequence[str]) -> None:
    """The command: exits with one line about what is wrong, if anything is."""
    values = flags.FLAGS
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    parts = [name for name in ("config", "code_predictor") if values[name].value]
    if (values.workdir and parts) or (not values.workdir and len(parts) < 2):
        sys.exit("loco_jax: want either --workdir, or --config and --code_predictor")
    if values.refiner and not values.workdir:
        sys.exit("loco_jax: --refiner goes with --workdir; of parts, --config.refiner names it")
    from loco_jax.tasks import loco
    from loco_jax.weights import files as weights  # after the flags, so that --help is quick

    logging.set_verbosity(logging.ERROR)
    dtype = np.float16 if values.half else None
    try:
        cli.check_devices()
        weights.check_output(values.output)
        if values.workdir:
            export(values.workdir, values.output, dtype, values.tune, values.refiner)
        else:
            loco.join(values.config, values.code_predictor, values.output, dtype, values.tune)
    except (ValueError, OSError, checkpoints.CheckpointError) as error:
        sys.exit(f"loco_jax: {error}")
    print(f"Written to {values.output}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The LoCO that the parts make, e.g. configs/loco2.py.")
    flags.DEFINE_string("workdir", "", "A run whose newest checkpoint is written.")
    flags.DEFINE_string("code_predictor", "", "A file that python -m loco_jax.torch_weights made.")
    flags.DEFINE_string("refiner", "", 'Of --workdir: in place of its config.refiner, a run, a file, or "picture".')
    flags.DEFINE_string("output", None, "The safetensors file to write.", required=True)
    flags.DEFINE_bool("half", False, "Store numbers in half precision: half the size.")
    flags.DEFINE_integer(
        "tune",
        0,
        "Choose config.refine and config.people on so many validation frames; 0: as configured.",
        lower_bound=0,
    )
    cli.start(run)

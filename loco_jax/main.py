"""usage: python -m loco_jax.main --config=configs/vha2.py [--workdir=…] [--mode=train|eval|replay] [--weights=…]

Trains an experiment, scores it, or repeats one of its training steps.

The exit status is 0 when all is done or config.max_minutes is over; 75 (EX_TEMPFAIL) when a signal stopped training
after a checkpoint, from which the same command goes on; 130 when a signal stopped something else; 1 after an error.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from loco_jax import cli
from loco_jax.runs import ending

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, e.g. configs/vha2.py:scale=demo.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints and results; default runs/<the config's name>.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "replay"],
    "Train, score the newest checkpoint, or repeat one --step of a run to inspect it.",
)
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "validation"], "With --mode=eval: the frames that are scored.")
_WEIGHTS = flags.DEFINE_string(
    "weights", "", 'With --mode=eval: score these, a run\'s folder, a file of weights, or "released".'
)
_STEP = flags.DEFINE_integer("step", None, "With --mode=replay: the number of the step, from 1.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", 'For several processes: HOST:PORT of the first one, or "auto" to ask the cluster.'
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: their number.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: this one's number, from 0.", lower_bound=0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if _CONFIG.value is None:
        sys.exit(f"loco_jax: {cli.no_config()}")
    # Here, because --help is quick without JAX.
    from loco_jax import evaluate, replay, train
    from loco_jax.cli import compilation
    from loco_jax.ops import distributed

    if not flags.FLAGS["verbosity"].present:  # Orbax logs much, and raises what matters
        logging.set_verbosity(logging.FATAL)
    compilation.use_cache()
    with ending.reported():
        distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        cli.check_devices()
        config = _CONFIG.value
        workdir = _WORKDIR.value or f"runs/{config.name}"
        if _STEP.value is not None and _MODE.value != "replay":
            raise ValueError("--step is for --mode=replay")
        if flags.FLAGS["split"].present and _MODE.value != "eval":
            raise ValueError("--split is for --mode=eval")
        if _MODE.value == "eval":
            given = config_flags.get_override_values(flags.FLAGS["config"])
            evaluate.evaluate(config, workdir, source=_WEIGHTS.value, split=_SPLIT.value, given=given)
        elif _WEIGHTS.value:
            raise ValueError("--weights is for --mode=eval; training starts from --config.init")
        elif _MODE.value == "replay":
            replay.replay(config, workdir, _STEP.value or 0)
        else:
            train.train(config, workdir)


if __name__ == "__main__":
    cli.start(main, stuck=ending.stop)

"""python -m loco_jax.main --config=configs/vha2.py [--workdir=…] [--mode=train|eval]"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, e.g. configs/vha2.py:scale=demo.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and results go; runs/<the config's name> if absent.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval"], "Train, or score the newest checkpoint on the test split."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    from loco_jax import checkpoints, evaluate, train  # after the flags, so that --help is quick

    config = _CONFIG.value
    if not flags.FLAGS["verbosity"].present:  # Orbax says much that only its developers need
        logging.set_verbosity(logging.WARNING)
    run = train.train if _MODE.value == "train" else evaluate.evaluate
    try:
        run(config, _WORKDIR.value or f"runs/{config.name}")
    except (ValueError, FileNotFoundError, checkpoints.CheckpointError, train.TrainingError) as error:
        sys.exit(f"loco_jax: {error}")


def entry_point() -> None:
    app.run(main)


if __name__ == "__main__":
    entry_point()

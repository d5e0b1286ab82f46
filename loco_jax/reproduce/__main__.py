"""usage: python -m loco_jax.reproduce [--scale=demo|full] [--budget=MINUTES] [--only=ROW,ROW] [--workdir=FOLDER]

Trains and scores every system of the poster on equal budgets, and writes the poster's tables with our rows beside its
own. It does what is missing in order, and the same command goes on after an interruption. With
--config.data.source=jta --config.data.dir=FOLDER it trains on a prepared JTA in place of the crowd.

The exit status is 0 when all is done; 75 (EX_TEMPFAIL) when a signal stopped it: the same command goes on; 130 if that
was before the first row; 1 after an error of a row, which does not stop the others.
"""

import functools
import os

from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from loco_jax import cli
from loco_jax.runs import ending

# Fields that the command line can set for all rows; these values only say which type they have.
_SHARED = {
    "data": {"source": "crowd", "dir": "", "workers": 0},
    "model": {"dtype": "float32"},
    "eval_frames": 64,
    "test_frames": 256,
    "quiet": False,
}


def _define_flags() -> None:
    flags.DEFINE_enum("scale", "demo", ["demo", "full", "test"], "Size of pictures and volume; test is for tests.")
    flags.DEFINE_float("budget", None, "Minutes of training of a system (default: 20; at full scale 60).", 0.001)
    flags.DEFINE_float("speed", 1.0, "Speed of this machine; a training takes budget / speed minutes.", 0.01)
    flags.DEFINE_list("only", [], "Names of rows, see --list; default all.")
    flags.DEFINE_bool("list", False, "Print the names of the rows, and stop.")
    flags.DEFINE_string("workdir", "runs/reproduce", "Folder for all runs.")
    flags.DEFINE_string("output", None, "Folder for poster.md, its figures and poster.json (default: the workdir).")
    config_flags.DEFINE_config_dict(
        "config", ConfigDict(_SHARED), "Fields that all rows share, e.g. --config.data.source=jta."
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    from loco_jax.reproduce import experiments

    values = flags.FLAGS
    if values.list:
        print(*experiments.BY_NAME, sep="\n")
        return
    rows = experiments.named(values.only or list(experiments.BY_NAME))
    # Here, because --help is quick without JAX.
    from loco_jax.cli import compilation
    from loco_jax.reproduce import poster, running

    logging.set_verbosity(logging.FATAL)  # Orbax logs much, and raises what matters
    compilation.use_cache()
    with ending.reported():
        cli.check_devices()
        folder = epath.Path(values.workdir).expanduser()
        budget = values.budget or experiments.BUDGET[values.scale]
        settings = experiments.Settings(
            folder, values.scale, budget, config_flags.get_override_values(values["config"]), speed=values.speed
        )
        output = epath.Path(values.output or folder).expanduser()
        running.check(settings)
        page = poster.write(settings, output)  # so that what cannot be written is known before the long work
        running.claim(settings)
        print(running.plan(rows, settings), flush=True)
        running.run(rows, settings, print, lambda: poster.write(settings, output))
        print(f"Tables and figures: {page}")


if __name__ == "__main__":
    _define_flags()
    cli.start(main, stuck=functools.partial(ending.stop, os.EX_TEMPFAIL))

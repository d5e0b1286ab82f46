"""python -m loco_jax.main --config=configs/vha2.py [--workdir=…] [--mode=train|eval|replay] [--weights=…]

Ends with status 0 when all is done, or config.max_minutes is over; with 75 (EX_TEMPFAIL) when a signal stopped
training: all is saved, and the same command goes on; with 130 when a signal stopped something else; with 1 after an
error.
"""

import functools
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from loco_jax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, e.g. configs/vha2.py:scale=demo.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and results go; runs/<the config's name> if absent.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "replay"],
    "Train; or score the newest checkpoint; or look at one --step of a run again.",
)
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "validation"], "With --mode=eval: which frames are scored.")
_WEIGHTS = flags.DEFINE_string(
    "weights", "", 'With --mode=eval, score these: a run\'s folder, a file of weights, or "released".'
)
_STEP = flags.DEFINE_integer("step", None, "With --mode=replay: which step, from 1.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", 'Of several processes that compute as one: HOST:PORT of the first, or "auto" to ask the cluster.'
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many there are.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which one this is, from 0.", lower_bound=0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if _CONFIG.value is None:
        sys.exit(f"loco_jax: {cli.no_config()}")
    import jax  # after the flags, so that --help is quick

    from loco_jax import train
    from loco_jax.cli import compilation
    from loco_jax.ops import distributed

    if not flags.FLAGS["verbosity"].present:  # Orbax says much; what matters it raises
        logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = functools.partial(_unless_of_orbax, sys.unraisablehook)
    compilation.use_cache()
    try:
        distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        cli.check_devices()
        _do()
    except train.Stopped as stopped:
        if distributed.is_first():
            print(stopped)
        sys.exit(os.EX_TEMPFAIL)
    except Exception as error:
        several = jax.distributed.is_initialized()
        if several and distributed.may_mean_that_one_is_lost(error):
            _fail(
                f"loco_jax: process {jax.process_index()} of {jax.process_count()}: {error}\n"
                "Perhaps another process is lost: see what it said. The same command goes on from the last checkpoint."
            )
        if isinstance(error, (ValueError, OSError, train.TrainingError, distributed.OtherProcessError)):
            _fail(f"loco_jax: {error}")
        if not several:
            raise
        _fail(traceback.format_exc())
    except KeyboardInterrupt:  # before or after the steps; while they run, the loop stops by itself
        _stopped()


def _do() -> None:
    """What the flags ask for."""
    from loco_jax import evaluate, replay, train

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


def _unless_of_orbax(hook: Callable[[Any], Any], unraisable: Any) -> None:
    """Hides what Orbax says when another read or write of its own has failed. That failure is reported separately."""
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def _stopped() -> NoReturn:
    _fail("loco_jax: stopped", cli.STOPPED)


def _fail(message: str, status: int = 1) -> NoReturn:
    """Ends at once.

    An orderly end would wait for the other processes, and for what is being compiled; and what cannot be written,
    libraries would try to write again.
    """
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    for worker in multiprocessing.active_children():
        worker.terminate()
    os._exit(status)


if __name__ == "__main__":
    cli.start(main, stuck=_stopped)

"""The end of a run's process: the exceptions that end training, and their messages and exit statuses."""

import contextlib
import functools
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from loco_jax import cli


class TrainingError(RuntimeError):
    """Training cannot go on. The checkpoints that were saved before are intact."""


class Diverged(TrainingError):
    """Too many steps in a row were not finite."""


class Stopped(Exception):
    """A signal ended training before its last step. Everything is saved: the same call goes on from there."""


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """While entered, an exception prints its message and ends the process with the status for it.

    The status is 75 (EX_TEMPFAIL) for Stopped, 130 after a signal that did not stop training, and 1 for an error. An
    unexpected error keeps its traceback.
    """
    import jax  # here, because --help is quick without it

    from loco_jax.ops import distributed

    sys.unraisablehook = functools.partial(_unless_of_orbax, sys.unraisablehook)
    try:
        yield
    except Stopped as stopped:
        if distributed.is_first():
            print(stopped)
        sys.exit(os.EX_TEMPFAIL)
    except Exception as error:
        several = jax.distributed.is_initialized()
        if several and distributed.may_mean_that_one_is_lost(error):
            _fail(
                f"loco_jax: process {jax.process_index()} of {jax.process_count()}: {error}\n"
                "Perhaps another process is lost: see its messages. The same command goes on from the last checkpoint."
            )
        if isinstance(error, ValueError | OSError | TrainingError | distributed.OtherProcessError):
            _fail(f"loco_jax: {error}")
        if not several:
            raise
        _fail(traceback.format_exc())
    except KeyboardInterrupt:  # before or after the steps; while they run, the loop stops by itself
        stop()


def stop(status: int = cli.STOPPED) -> NoReturn:
    """Ends the process after a signal."""
    _fail("loco_jax: stopped", status)


def _fail(message: str, status: int = 1) -> NoReturn:
    """Ends the process at once.

    An orderly exit would wait for the other processes and for compilations under way. Libraries would also try again
    to write what could not be written.
    """
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    for worker in multiprocessing.active_children():
        worker.terminate()
    os._exit(status)


def _unless_of_orbax(hook: Callable[[Any], Any], unraisable: Any) -> None:
    """Hides the message of Orbax that follows a failed read or write. The failure itself is reported separately."""
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)

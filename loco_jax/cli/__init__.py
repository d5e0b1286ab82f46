"""Code that all commands share: flags, --help, signals, errors in one line, the exit status, the start of JAX.

A command defines absl flags, has a function `main(argv)`, and calls `cli.start(main)`. Its --help starts with its
module's docstring. Heavy imports go inside `main`, so that --help answers at once.
"""

import contextlib
import faulthandler
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from absl import app, flags, logging

from loco_jax.cli import accounts, signals
from loco_jax.cli.arguments import in_a_line, no_config, parse

__all__ = ["STOPPED", "call", "check_devices", "no_config", "parse", "run", "start", "start_jax"]
STOPPED = 130  # the exit status after Ctrl-C or SIGTERM, unless training saved a checkpoint
Main = Callable[[list[str]], Any]
Stuck = Callable[[], None] | None
T = TypeVar("T")


def start(main: Main, values: flags.FlagValues = flags.FLAGS, stuck: Stuck = None) -> NoReturn:
    """Runs a command on the process's command line, and ends the process with its exit status; see `run`."""
    os.environ["MPLBACKEND"] = "Agg"  # Jupyter sets one for its child processes that may not be installed here
    if sys.stderr:
        faulthandler.enable()
    logging.use_absl_handler()
    sys.exit(run(main, sys.argv, values, stuck))


def run(main: Main, argv: Sequence[str], values: flags.FlagValues = flags.FLAGS, stuck: Stuck = None) -> int:
    """Parses the flags, calls `main` with the program's name and the positional arguments, returns the exit status.

    The status is what `main` returns (0 for None); 1 and a line on stderr after ValueError, OSError, and
    ModuleNotFoundError; 2 and the help on stderr after `app.UsageError`; after Ctrl-C and SIGTERM see `call`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters of a file's name
            stream.reconfigure(errors="replace")
    if {"--help", "-help", "-h"} & set(argv):
        with contextlib.suppress(BrokenPipeError):  # of `--help | head`
            print(_help(main, values), flush=True)
        return 0

    def parse_and_run() -> int:
        try:
            return main(parse(argv, values)) or 0
        except app.UsageError as error:
            print(f"{_help(main, values)}\n\nloco_jax: {error}", file=sys.stderr)
            return 2
        except (ValueError, OSError, ModuleNotFoundError) as error:
            print(f"loco_jax: {error}", file=sys.stderr)
            return 1

    return call(parse_and_run, stuck=stuck)


def call(main: Callable[..., T], *arguments: Any, stuck: Stuck = None) -> T | int:
    """Returns `main(*arguments)`; after Ctrl-C or SIGTERM it prints a line on stderr and returns `STOPPED`.

    A thread calls `stuck` if code outside Python does not let a signal through, see `signals.sigterm_as_ctrl_c`.
    """
    with signals.sigterm_as_ctrl_c(stuck), accounts.stand_ins():
        try:
            return main(*arguments)
        except KeyboardInterrupt as error:
            print(f"loco_jax: {str(error) or 'stopped'}", file=sys.stderr)
            return STOPPED


def start_jax() -> None:
    """Gets JAX ready: only errors are logged, compiled programs are kept, and devices are checked as below."""
    from loco_jax.cli import compilation

    logging.set_verbosity(logging.ERROR)
    compilation.use_cache()
    check_devices()


def check_devices() -> None:
    """Raises ValueError with one line if JAX finds no device of the kind that the environment names."""
    import jax  # here, so that --help answers at once

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS")
        what = f"JAX_PLATFORMS={asked}: no such device can be used here" if asked else "JAX finds no device"
        raise ValueError(f"{what} ({in_a_line(error)}); set JAX_PLATFORMS=cpu") from error


def _help(main: Main, values: flags.FlagValues) -> str:
    """The docstring of the command's module, and the command's own flags without those of libraries."""
    doc = (sys.modules[main.__module__].__doc__ or "").strip()
    # absl calls the main module argv[0].
    modules = [sys.argv[0]] if values is flags.FLAGS else values.flags_by_module_dict().keys() - {"absl.flags"}
    return "\n".join([doc, *map(values.module_help, modules)])

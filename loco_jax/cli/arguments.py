"""Parses the command line, and reports an error in it in one line, with the nearest correct name."""

import difflib
import os
import pathlib
import re
import runpy
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict

_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line into `values`; returns the program's name and the positional arguments.

    Exits with one line if something is wrong. If there is no file `configs/NAME.py` in the working directory,
    `--config=configs/NAME.py` means the package's own.
    """
    argv, given = list(argv), _config_of(argv, values)
    path, _, argument = given.partition(":")
    own = _CONFIGS.parent / path
    if path and not os.path.isfile(path) and own.parent == _CONFIGS and own.is_file():
        written = (given, f"--config={given}", f"-config={given}")
        argv = [text.replace(path, str(own), 1) if text in written else text for text in argv]
        path = str(own)
    if path and not os.path.isfile(path):
        sys.exit(f"loco_jax: --config={path}: there is no such file; {_configs_like(path)}")
    values.unparse_flags()  # a second call in one process starts from the defaults
    try:
        return values(argv)
    except Exception as error:  # a config file is Python, and can raise any
        sys.exit(f"loco_jax: {_unknown_field(path, argument, argv) or in_a_line(error)}")


def no_config() -> str:
    """The error message for a missing --config."""
    return f"--config= is missing; name an experiment: {_configs_like('')}"


def in_a_line(error: Exception) -> str:
    """The most informative line of an error's message."""
    # ml_collections puts the traceback of a config file into the message; its last line has the error.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line.strip() for line in reversed(lines) if "Error: " in line), lines[0])


def _config_of(argv: Sequence[str], values: flags.FlagValues) -> str:
    """The value of --config; "" if it is not given, or if the command has no such flag."""
    match = re.search(r"\0--?config[=\0]([^\0]*)", "\0".join(argv))  # --config=VALUE or --config VALUE
    return match[1] if match and "config" in values else ""


def _configs_like(path: str) -> str:
    """Names the config whose name is nearest, or else all configs."""
    files = [f for f in sorted(_CONFIGS.glob("*.py")) if "def get_config(arg" in f.read_text(encoding="utf-8")]
    known = {f.stem: f"configs/{f.name}" for f in files}
    if near := difflib.get_close_matches(pathlib.Path(path).stem, known, n=1):
        return f"did you mean --config={known[near[0]]}?"
    return f"configs has {', '.join(f'{name}.py' for name in known)}, or name a file of your own"


def _unknown_field(path: str, argument: str, argv: Sequence[str]) -> str:
    """Says which --config.NAME is not a field of the config, and which field is nearest; "" if all are fields."""
    names = [match[1] for text in argv if (match := re.match(r"--?(?:no)?config\.([\w.]+)", text))]
    if not (path and names):
        return ""
    try:
        config = runpy.run_path(path)["get_config"](*([argument] if argument else []))
    except Exception:  # the file's own error is reported elsewhere
        return ""
    fields = list(_fields(config))
    wrong = next((name for name in names if not any(f"{field}.".startswith(f"{name}.") for field in fields)), None)
    if wrong is None:
        return ""
    near = " or ".join(f"--config.{name}" for name in difflib.get_close_matches(wrong, fields, cutoff=0.5))
    return f"--config.{wrong}: the config has no such field" + (f"; did you mean {near}?" if near else "")


def _fields(section: ConfigDict, name: str = "") -> Iterator[str]:
    """The full names of all fields."""
    for field, value in section.items():
        yield from _fields(value, f"{name}{field}.") if isinstance(value, ConfigDict) else [f"{name}{field}"]

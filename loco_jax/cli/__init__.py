"""What all commands share: they handle signals, parse the command line, and report an error in one line."""

import contextlib
import difflib
import os
import pathlib
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from absl import app, flags
from ml_collections import ConfigDict

from loco_jax.cli import accounts, signals

_CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
STOPPED = 130  # the exit status after Ctrl-C or SIGTERM, unless training saved a checkpoint
T = TypeVar("T")


def start(main: Callable[[list[str]], Any], stuck: Callable[[], None] | None = None) -> NoReturn:
    """Runs a command whose options are absl's flags, and ends with its status; `stuck` as for `call`."""
    sys.exit(call(lambda: app.run(main, flags_parser=parse), stuck=stuck))


def call(main: Callable[..., T], *arguments: Any, stuck: Callable[[], None] | None = None) -> T | int:
    """What `main(*arguments)` returns; or after Ctrl-C or SIGTERM a line on stderr and `STOPPED`.

    A thread calls `stuck` if code outside Python does not let a signal through, see `signals.sigterm_as_ctrl_c`.
    """
    with signals.sigterm_as_ctrl_c(stuck), accounts.stand_ins(), _plain_backend():
        try:
            return main(*arguments)
        except KeyboardInterrupt as error:
            print(f"loco_jax: {str(error) or 'stopped'}", file=sys.stderr)
            return STOPPED


@contextlib.contextmanager
def _plain_backend() -> Iterator[None]:
    """While entered, Matplotlib draws into files. Jupyter sets a backend that need not be installed here."""
    old = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "Agg"
    try:
        yield
    finally:
        os.environ.pop("MPLBACKEND")
        os.environ.update({} if old is None else {"MPLBACKEND": old})


def check_devices() -> None:
    """Raises ValueError, in a line, where JAX finds no device of the kind that the environment names."""
    import jax  # here, so that commands say --help quickly

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        names = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
        if asked := " ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name)):
            why = f" ({_in_a_line(error)})" if str(error) else ""
            raise ValueError(f"{asked}: no such device can be used here{why}; set JAX_PLATFORMS=cpu") from error
        raise ValueError(f"JAX finds no device ({_in_a_line(error)}); set JAX_PLATFORMS=cpu") from error


# ---- The command line


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; exits with one line about what is wrong with it.

    `--config=configs/NAME.py` is the package's own where the working directory has none.
    """
    given = _config_of(argv)
    path, _, argument = given.partition(":")
    own = _CONFIGS.parent / path
    if path and not os.path.isfile(path) and own.parent == _CONFIGS and own.is_file():
        written = (given, f"--config={given}", f"-config={given}")
        argv = [text.replace(path, str(own), 1) if text in written else text for text in argv]
        path = str(own)
    if path and not os.path.isfile(path):
        sys.exit(f"loco_jax: --config={path}: there is no such file; {_configs_like(path)}")
    try:
        return flags.FLAGS(argv)
    except Exception as error:  # a config file is Python, and can raise any
        sys.exit(f"loco_jax: {_unknown_field(path, argument, argv) or _in_a_line(error)}")


def no_config() -> str:
    """What to say where --config is missing."""
    return f"--config= is missing, the experiment; {_configs_like('')}"


def _in_a_line(error: Exception) -> str:
    # ml_collections puts the traceback of a config file into the message; its last line tells.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line.strip() for line in reversed(lines) if "Error: " in line), lines[0])


def _config_of(argv: Sequence[str]) -> str:
    """What --config says; "" if it is not given, or no flag of this command."""
    if "config" not in flags.FLAGS:
        return ""
    for i, text in enumerate(argv):
        if text in ("--config", "-config"):
            return argv[i + 1] if i + 1 < len(argv) else ""
        if match := re.match("--?config=(.*)", text):
            return match[1]
    return ""


def _configs_like(path: str) -> str:
    """The config of nearest name, or all there are."""
    files = [f for f in sorted(_CONFIGS.glob("*.py")) if "def get_config(arg" in f.read_text(encoding="utf-8")]
    known = {f.stem: f"configs/{f.name}" for f in files}
    near = difflib.get_close_matches(pathlib.Path(path).stem, known, n=1) if path else []
    if near:
        return f"did you mean --config={known[near[0]]}?"
    return f"configs has {', '.join(f'{name}.py' for name in known)}, or name a file of your own"


def _unknown_field(path: str, argument: str, argv: Sequence[str]) -> str:
    """Which --config.NAME is no field of the config, and the nearest that is; "" if all of them are."""
    names = [match[1] for text in argv if (match := re.match(r"--?(?:no)?config\.([^=]+)", text))]
    if not (path and names):
        return ""
    try:
        config = runpy.run_path(path)["get_config"](*([argument] if argument else []))
    except Exception:  # what is wrong with the file is told by itself
        return ""
    return next(filter(None, (_wrong_name(config, name) for name in names)), "")


def _wrong_name(config: ConfigDict, name: str) -> str:
    section, above = config, ""
    for part in re.sub(r"\[[^]]*\]", "", name).split("."):
        if not isinstance(section, ConfigDict):
            return f"--config.{name}: config.{above} is {section!r} and has no fields"
        if part not in section:
            return f"--config.{name}: the config has no such field; {_fields_like(config, section, above, part)}"
        section, above = section[part], f"{above}.{part}".strip(".")
    return ""


def _fields_like(config: ConfigDict, section: ConfigDict, above: str, part: str) -> str:
    """The name that ml_collections suggests in a section, else the nearest elsewhere, or all of the section."""
    try:
        section[part]
    except KeyError as error:
        if match := re.search('Did you mean "([^"]+)"', str(error)):
            return f"did you mean --config.{f'{above}.{match[1]}'.strip('.')}?"
    names = {name.rpartition(".")[2]: name for name in _all_names(config)}
    if near := difflib.get_close_matches(part, names, n=1, cutoff=0.8):
        return f"did you mean --config.{names[near[0]]}?"
    return f"there are {', '.join(f'{above}.{field}'.strip('.') for field in section)}"


def _all_names(config: ConfigDict, above: str = "") -> Iterator[str]:
    for field, value in config.items():
        yield above + field
        if isinstance(value, ConfigDict):
            yield from _all_names(value, f"{above}{field}.")

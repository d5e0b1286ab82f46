"""Files for other software, made from the JSON of predict."""

import os
import pathlib
from collections.abc import Sequence

from loco_jax import motion
from loco_jax.predict import saved
from loco_jax.predict.files import printable


def parse(text: str) -> list[str]:
    """The formats in a flag's value like c3d,trc; each once.

    Raises ValueError for an unknown one, ModuleNotFoundError, with the extra, for a library that is not installed.
    """
    formats = list(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    motion.check_formats(formats)
    return formats


def export(results: os.PathLike | str, base: str, formats: Sequence[str], old: Sequence[str] | None = None) -> str:
    """Writes the people of a JSON file; `base` is the path up to the name, and `old` are the files of an earlier run,
    which are looked up by default. Returns a line that says what is written.

    Raises ValueError if this version of predict did not write the JSON, and what `motion.write` raises.
    """
    written, removed = motion.write(saved.read(results), base, formats, old)
    stale = f"; removed {_list(removed)} of an earlier run" if removed else ""
    if not written:
        return f"{printable(results)}: nobody is found, so no file is written for {', '.join(formats)}{stale}"
    return f"  {printable(written[0].parent / _list(written))}{stale}"


def _list(paths: Sequence[pathlib.Path]) -> str:
    return printable(", ".join(path.name for path in paths))

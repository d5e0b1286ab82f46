"""Files for other software, made of the JSON of predict."""

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


def export(results: os.PathLike | str, base: str, formats: Sequence[str]) -> str:
    """Writes the people of a JSON file; `base` is the path up to the name. Returns a line that says what is written.

    Raises ValueError if predict did not write the JSON, and what `motion.write` raises.
    """
    written = motion.write(saved.read(results), base, formats)
    if not written:
        return f"{printable(results)}: nobody is found, so no file is written for {', '.join(formats)}"
    folder = pathlib.Path(base).parent
    return f"  {printable(folder / written[0].name)}" + "".join(f", {printable(path.name)}" for path in written[1:])

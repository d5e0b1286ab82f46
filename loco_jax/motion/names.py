"""Names of the files in `loco_jax.motion`'s formats, and which of those in a folder are our own."""

import contextlib
import os
import re
from collections.abc import Iterable, Sequence

WRITER = "loco_jax"
ENDINGS = {"c3d": ".c3d", "trc": ".trc", "gltf": ".glb", "csv": ".csv"}  # of files with everybody
# What our files have in their first bytes, or in the JSON of glTF.
_MARKS = {
    ".c3d": f"{WRITER}.c3d",
    ".trc": f"PathFileType\t4\t(X/Y/Z)\t{WRITER}.trc",
    ".glb": f'"generator":"{WRITER}"',
    ".csv": "frame,time,person,joint,x,y,z,score",
    ".bvh": "HIERARCHY\nROOT neck\n{\n  OFFSET 0.000000 0.000000 0.000000\n",  # other software indents differently
}
_BEGINNING = {".c3d": 2**22}  # bytes; ezc3d writes the names of points before the mark


def of_person(base: str, number: int) -> str:
    """The path of a person's file."""
    return f"{base}_p{number}.bvh"


def earlier(folder: os.PathLike | str, formats: Sequence[str]) -> dict[str, list[str]]:
    """The files in a folder that have the names of these formats' files, in order, by their paths up to NAME."""
    endings = [re.escape(ENDINGS[name]) if name in ENDINGS else r"_p[0-9]+\.bvh" for name in formats]
    pattern = re.compile(f"(.*?)({'|'.join(endings)})", re.DOTALL)
    found: dict[str, list[str]] = {}
    if not formats:
        return found
    with contextlib.suppress(OSError):  # writing reports the error
        for name in sorted(os.listdir(folder or ".")):
            if match := pattern.fullmatch(name):
                found.setdefault(os.path.join(folder, match[1]), []).append(os.path.join(folder, name))
    return found


def refuse_others(paths: Iterable[str]) -> None:
    """Raises ValueError for a path that is a folder or a file of others. Paths need not exist."""
    for path in paths:
        if os.path.isdir(path):
            raise ValueError(f"{path}: is a folder; remove it, or name another --output")
        if os.path.lexists(path) and not is_ours(path):
            raise ValueError(f"{path}: is not a file that predict or convert wrote; move it, or name another --output")


def is_ours(path: str) -> bool:
    """Whether `loco_jax.motion` wrote a file, by its content."""
    ending = os.path.splitext(path)[1]
    try:
        with open(path, "rb") as file:
            beginning = file.read(_BEGINNING.get(ending, 1024))
            if beginning.startswith(b"glTF"):
                beginning += file.read(int.from_bytes(beginning[12:16], "little"))  # its JSON
    except OSError:  # for example of a broken link
        return False
    return _MARKS[ending].encode() in beginning

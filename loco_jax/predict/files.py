"""The files that the user names, and the names of the files that are written for each."""

import os
import pathlib
from collections.abc import Sequence

from loco_jax.cli import disk
from loco_jax.media import pictures, videos

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts", ".m2ts", ".ts",
    ".ogv",
)  # fmt: skip
OUR_KEYS = "weights", "coordinates"  # our JSON has these keys near its beginning
_OVERLAY = "_overlay.mp4"
_LONGEST_NAME = 200  # bytes; file systems take 255, and endings like _overlay.jpg are added


def printable(text: os.PathLike | str) -> str:
    """A file's name, or a text with a file's name, without bytes that cannot be printed."""
    return os.fsencode(text).decode("utf-8", "replace")


def in_a_line(path: pathlib.Path, message: BaseException | str) -> str:
    """The first line of a message, with the file's name."""
    text = str(message).strip().split("\n")[0] or type(message).__name__
    return printable(text if str(path) in text else f"{path}: {text}")


def is_video(path: pathlib.Path) -> bool:
    """Decides by the file's ending, or by its content if the ending is unknown."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in pictures.SUFFIXES + pictures.FOREIGN:
        return suffix in VIDEO_SUFFIXES
    return path.is_file() and not pictures.is_picture(path) and videos.is_video(path)


def is_film(path: pathlib.Path) -> bool:
    """Whether a path is a video, or a folder whose pictures are one."""
    try:
        return path.is_dir() or is_video(path)
    except OSError:  # reading it as a picture reports the error
        return False


def collect(inputs: Sequence[str], as_films: bool = False) -> tuple[list[pathlib.Path], list[str], list[str]]:
    """The files that the user names, each once, with the pictures and videos in folders; errors; and notes about files
    in folders that are left out, a line each. With `as_films` a folder stands for its pictures."""
    paths, failures, notes = [], [], []
    for text in inputs:
        path = pathlib.Path(text).expanduser()
        try:
            paths += _inside(path, as_films) if path.is_dir() else [path]
            if path.is_dir() and (names := sorted(path.name for path in _visible(path, pictures.FOREIGN))):
                shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                notes.append(f"{path}: left out {shown}: convert these pictures to JPEG or PNG")
        except (OSError, ValueError) as error:
            failures.append(str(error))
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1], failures, notes


def _inside(folder: pathlib.Path, as_film: bool) -> list[pathlib.Path]:
    """A folder's videos and pictures, without the overlays of this command. Raises PictureError if there are none."""
    found = [
        path
        for path in _visible(folder, VIDEO_SUFFIXES)
        if not (path.name.endswith(_OVERLAY) and folder.joinpath(path.name.removesuffix(_OVERLAY) + ".json").exists())
        and (path.suffix.lower() != ".ts" or videos.is_video(path))  # other files end in .ts too
    ]
    try:
        some = pictures.find(folder)
    except pictures.PictureError:
        if not found:
            raise
        return sorted(found)
    return [*sorted(found), folder] if as_film else sorted([*found, *some])


def _visible(folder: pathlib.Path, suffixes: Sequence[str]) -> list[pathlib.Path]:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != "."]
    return [path for path in paths if path.is_file()]


def make_folder(name: str) -> pathlib.Path:
    """Makes the folder for results. Raises ValueError if files cannot be written there."""
    if not name:
        raise ValueError("--output= is empty; name a folder")
    output = pathlib.Path(name).expanduser()
    try:
        output.mkdir(parents=True, exist_ok=True)
        disk.check_writable(output)
    except OSError as error:
        raise ValueError(f"--output={output}: cannot be written to ({error.strerror}); name another folder") from error
    return output


def outputs(name: str) -> tuple[str, ...]:
    """The files that may be written for a name."""
    return f"{name}.json", f"{name}_overlay.jpg", f"{name}_overlay.mp4", f"{name}_3d.html"


def name_outputs(paths: Sequence[pathlib.Path], output: os.PathLike | str = ".") -> list[str]:
    """A name for each input's results: the input's own name without its ending, with a number if that is taken.

    All names differ, also on file systems that ignore case. No result replaces an input, or a file in `output` that
    this command did not write.
    """
    inputs = {os.path.realpath(path).lower() for path in paths}
    folder = os.path.realpath(output)
    taken = {"shards"}  # an exported shards.csv would be in the way of `merge`
    names = []
    for path in paths:
        own = path.resolve().name if path.is_dir() else path.stem
        stem = os.fsencode(own)[:_LONGEST_NAME].decode("utf-8", "ignore").strip()
        stem = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in stem) or "picture"
        name, number = stem, 1
        while (
            name.lower() in taken
            or any(os.path.join(folder, file).lower() in inputs for file in outputs(name))
            or _is_foreign(pathlib.Path(folder), name)
        ):
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def _is_foreign(folder: pathlib.Path, name: str) -> bool:
    """Whether this command did not write the files of a name. Its own files have its JSON beside them."""
    if not any(os.path.lexists(folder / file) for file in outputs(name)):
        return False
    try:
        with (folder / outputs(name)[0]).open("rb") as file:
            beginning = file.read(16_384)
    except OSError:
        return True
    return not all(f'"{key}": '.encode() in beginning for key in OUR_KEYS)

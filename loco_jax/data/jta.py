"""JTA (Joint Track Auto) as a TFDS data set: JTA's annotation files in, ArrayRecord out, no TensorFlow.

    python -m loco_jax.data.jta --jta_dir=JTA --data_dir=DATA

reads `JTA/annotations/{train,val,test}/seq_N.json` and writes `DATA/jta/poses/1.0.0`. With `--pictures` it also reads
`JTA/frames/{train,val,test}/seq_N/F.jpg` (F from 1; other pictures of 8 bits such as F.png will do), or where a
sequence has no such folder `JTA/videos/{train,val,test}/seq_N.mp4`, and writes `DATA/jta/frames/1.0.0`. The intrinsics
are JTA's, unless `JTA/camera.json` (`{"fx": ..., "fy": ..., "cx": ..., "cy": ...}`, in pixels) or the flags --fx --fy
--cx --cy say otherwise. That file may also have `"num_frames"`: how many frames the sequences of a miniature have, at
most 900.

Pictures of all of JTA take some 80 GB in full HD. While they are prepared the disk holds them once, and with
`--overwrite` the old ones beside them until the new ones are complete.
"""

import concurrent.futures.process
import contextlib
import functools
import gc
import hashlib
import io
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags, logging
from etils import epath
from PIL import Image

from loco_jax import cli
from loco_jax.cli import accounts, disk, progress
from loco_jax.data import scratch
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import JTA_JOINTS, NUM_JTA_JOINTS
from loco_jax.media import pictures
from loco_jax.media import videos as video

VERSION = "1.0.0"
NUM_FRAMES = 900
MAX_PEOPLE = 64
CAMERA_FILE = "camera.json"
MINIATURE_FILE = "miniature.json"  # beside the annotations of a JTA that loco_jax.data.miniature made
_CAMERA_REMEDY = (
    'write {"fx": ..., "fy": ..., "cx": ..., "cy": ...} in pixels, or remove the file for the camera of JTA'
)
JPEG_QUALITY = 95  # of frames that come out of videos or are no JPEG; extracted JPEGs are taken as they are

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
_JPEG_BYTES = 0.4  # a pixel, about, at that quality
_SHARD_BYTES = 200_000_000  # TFDS holds a file's examples in memory until it is written

# A process takes as long to start as to read one real sequence or two, of some 25 MB each.
_BYTES_PER_WORKER = 50_000_000

# Of an annotation file: more than 900 frames of MAX_PEOPLE can fill, several times over.
_MOST_BYTES = 600_000_000
_MOST_ROWS = 8_000_000
_MOST_CAMERA_BYTES = 100_000

# The ten numbers of a row.
FIELDS = ("frame", "person_id", "joint_type", "x2d", "y2d", "x3d", "y3d", "z3d", "occluded", "self_occluded")


class Selection(NamedTuple):
    """A split: the folder under `annotations` that it is read from, and the frames that it takes of each sequence."""

    folder: str
    frames: range

    def up_to(self, num_frames: int) -> list[int]:
        """Those frames that a sequence of so many has."""
        return [frame for frame in self.frames if frame <= num_frames]


# The paper's selections (method section 1).
SPLITS = {
    "train_vha": Selection("train", range(10, NUM_FRAMES + 1, 10)),
    "train": Selection("train", range(1, NUM_FRAMES + 1, 5)),
    "validation": Selection("val", range(10, NUM_FRAMES + 1, 10)),
    "test": Selection("test", range(10, NUM_FRAMES + 1, 10)),
}
FOLDERS = ("train", "val", "test")


def _frames_of(folder: str, num_frames: int) -> list[int]:
    """The frames that any split takes of a folder's sequences of so many frames, ascending."""
    return sorted(frame for s in SPLITS.values() if s.folder == folder for frame in s.up_to(num_frames))


class AnnotationError(ValueError):
    """JTA's files are not as they should be; the message names the file, the row, the field and the way out."""


class People(NamedTuple):
    """The people in some frames of a sequence, by ascending frame and then id; N counts people over all those frames.

    Attributes:
      frame: `[N]` int32, from 1.
      id: `[N]` int64.
      pixels: `[N, 22, 2]` float32, x right and y down from the top left corner; 0 where not present.
      joints: `[N, 22, 3]` float32, metres in camera coordinates; 0 where not present.
      present: `[N, 22]` bool, whether the joint is annotated.
      occluded: `[N, 22]` bool, hidden by something else.
      self_occluded: `[N, 22]` bool, hidden by the person itself.
    """

    frame: np.ndarray
    id: np.ndarray
    pixels: np.ndarray
    joints: np.ndarray
    present: np.ndarray
    occluded: np.ndarray
    self_occluded: np.ndarray


# ---- Reading JTA's files


def read_sequence(path: os.PathLike, frames: Sequence[int], max_people: int = MAX_PEOPLE) -> People:
    """The people in the given `frames` of the annotation file at `path`. Every row is checked, also of other frames.

    Raises:
      AnnotationError: the file is not JTA's format, or one of `frames` has more than `max_people` people.
    """
    path = pathlib.Path(path)
    table = _load_table(path)
    _check_values(path, table)
    rows = np.lexsort((table[:, 2], table[:, 1], table[:, 0]))  # by frame, person, joint
    table = table[rows]
    _check_duplicates(path, table, rows)
    used = np.isin(table[:, 0], np.asarray(frames))
    table, rows = table[used], rows[used]
    starts = np.flatnonzero(np.any(np.diff(table[:, :2], axis=0, prepend=-1) != 0, axis=1))  # a person's first row
    _check_crowding(path, table[starts, 0], rows[starts], max_people)
    return _group(table, starts)


def _load_table(path: pathlib.Path) -> np.ndarray:
    """The file's rows as numbers `[R, 10]` float64."""
    text = _read_text(path, _MOST_BYTES)
    if text.count("[") + text.count("{") > _MOST_ROWS:  # a small file can hold so many that memory does not
        raise AnnotationError(f"{path}: has more than {_MOST_ROWS:,} rows; no sequence has; get the file again")
    try:
        with _no_garbage_collection():
            rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON ({error}); the file is damaged, get it again") from error
    if not isinstance(rows, list):
        raise AnnotationError(f"{path}: of type {type(rows).__name__}, not a list of rows; get the file again")
    if not rows:
        return np.zeros((0, len(FIELDS)))
    # NumPy takes true for 1, and of one long text makes a table of texts as long: look for them in the file.
    if not any(part in text for part in ("true", "false", '"')):
        try:
            table = np.array(rows)
        except ValueError:  # rows of different lengths
            table = np.zeros(0)
        if table.ndim == 2 and table.shape[1] == len(FIELDS) and table.dtype.kind in "iuf":
            return table.astype(np.float64)
    return _load_odd_rows(path, rows)


def _read_text(path: pathlib.Path, most_bytes: int) -> str:
    """A file's text. Raises AnnotationError for what is no file of UTF-8 or too large to be what it should."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
            raise AnnotationError(f"{path}: is not a file; get it again")
        if path.stat().st_size > most_bytes:
            raise AnnotationError(f"{path}: has more than {most_bytes:,} bytes; no such file of JTA has; get it again")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); check the file and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not JSON ({error}); the file is damaged, get it again") from error


def _load_odd_rows(path: pathlib.Path, rows: list) -> np.ndarray:
    """The slow way, for rows that NumPy does not see as a table of numbers: finds the first one that is wrong."""
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(FIELDS):
            found = f"has {len(row)} values" if isinstance(row, list) else f"is of type {type(row).__name__}"
            wanted = f"not a list of the {len(FIELDS)} numbers {', '.join(FIELDS)}"
            raise _bad_row(path, i, None, f"{found}, {wanted}; correct it or leave it out")
        for field, value in zip(FIELDS, row):
            if type(value) not in (int, float):
                raise _bad_row(path, i, field, f"{_quoted(value)} is not a number; write the number")
    return np.array([[_as_float(value) for value in row] for row in rows])


def _as_float(value: float) -> float:
    """Integers beyond float64 are infinite, which no check lets pass."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _quoted(value: Any) -> str:
    """What JSON says, or its beginning."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]} …"


@contextlib.contextmanager
def _no_garbage_collection():
    """Looking for garbage while half a million small lists are made adds half to the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_values(path: pathlib.Path, table: np.ndarray) -> None:
    """Raises AnnotationError for the first value that its field does not allow."""
    finite = np.abs(table) < np.finfo(np.float32).max  # NaN compares false
    for column, field in enumerate(FIELDS):
        _check_column(path, table, field, finite[:, column], "is not a finite number; correct it or leave the row out")
    frame, person, joint, occluded, self_occluded = table[:, (0, 1, 2, 8, 9)].T
    # Beyond 2^53 neighbouring ids are one float.
    whole = (person == np.rint(person)) & (np.abs(person) < 2**53)
    _check_column(path, table, "person_id", whole, "is not an integer; correct it")
    ranges = {"frame": (frame, 1, NUM_FRAMES), "joint_type": (joint, 0, NUM_JTA_JOINTS - 1)}
    for field, (values, first, last) in ranges.items():
        good = (values == np.rint(values)) & (values >= first) & (values <= last)
        _check_column(path, table, field, good, f"is not an integer from {first} to {last}; correct it")
    for field, values in {"occluded": occluded, "self_occluded": self_occluded}.items():
        _check_column(path, table, field, (values == 0) | (values == 1), "is neither 0 nor 1; correct it")


def _check_column(path: pathlib.Path, table: np.ndarray, field: str, good: np.ndarray, problem: str) -> None:
    bad = np.flatnonzero(~good)
    if bad.size:
        value = table[bad[0], FIELDS.index(field)]
        raise _bad_row(path, bad[0], field, f"{value:.10g} {problem}", others=bad.size - 1)


def _check_duplicates(path: pathlib.Path, table: np.ndarray, rows: np.ndarray) -> None:
    """Raises AnnotationError where two rows (`rows` are their numbers in the file) are the same joint."""
    same = np.flatnonzero(~np.any(np.diff(table[:, :3], axis=0), axis=1))
    if same.size:
        i = same[0]
        frame, person, joint = table[i, :3].astype(int)
        what = f"joint {joint} of person {person} in frame {frame} is there twice, also in row {rows[i]}; leave one out"
        raise _bad_row(path, rows[i + 1], "joint_type", what, others=same.size - 1)


def _check_crowding(path: pathlib.Path, frame: np.ndarray, rows: np.ndarray, max_people: int) -> None:
    """Raises AnnotationError for too many people; `frame` and first row of each person, in order."""
    frames, firsts, counts = np.unique(frame, return_index=True, return_counts=True)
    crowded = np.flatnonzero(counts > max_people)
    if crowded.size:
        i = crowded[0]
        what = f"frame {int(frames[i])} has {counts[i]} people, more than max_people={max_people}"
        remedy = f"prepare with --max_people={counts.max()} or more"
        raise _bad_row(path, rows[firsts[i] + max_people], "person_id", f"{what}; {remedy}", others=crowded.size - 1)


def _bad_row(path: pathlib.Path, row: int, field: str | None, problem: str, others: int = 0) -> AnnotationError:
    where = f"row {row} (the first is 0)" + (f", {field}:" if field else "")
    more = f" (and {others} more like it)" if others else ""
    return AnnotationError(f"{path}: {where} {problem}{more}")


def _group(table: np.ndarray, starts: np.ndarray) -> People:
    """`table` `[R, 10]` sorted by frame, person, joint; `starts` `[N]` the first row of each person in each frame."""
    person = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(table)))
    joint = table[:, 2].astype(int)

    def spread(values: np.ndarray, dtype) -> np.ndarray:
        out = np.zeros((len(starts), NUM_JTA_JOINTS, *values.shape[1:]), dtype)
        out[person, joint] = values
        return out

    return People(
        frame=table[starts, 0].astype(np.int32),
        id=table[starts, 1].astype(np.int64),
        pixels=spread(table[:, 3:5], np.float32),
        joints=spread(table[:, 5:8], np.float32),
        present=spread(np.ones(len(table)), bool),
        occluded=spread(table[:, 8], bool),
        self_occluded=spread(table[:, 9], bool),
    )


def load_people(path: os.PathLike) -> People:
    """What `np.savez(path, **people._asdict())` stored."""
    with np.load(path) as arrays:
        return People(**arrays)


def find_sequences(jta_dir: os.PathLike) -> dict[str, dict[int, pathlib.Path]]:
    """Annotation files by folder (train, val, test) and sequence number, ascending.

    Raises:
      AnnotationError: a folder is missing, has no `seq_N.json`, or one with a wrong name; the message names them all.
    """
    annotations = pathlib.Path(jta_dir) / "annotations"
    found, problems = {}, []
    for folder in FOLDERS:
        numbered = {}
        for path in (annotations / folder).glob("seq_*.json"):
            if match := re.fullmatch(r"seq_(0|[1-9][0-9]{0,5})\.json", path.name):
                numbered[int(match[1])] = path
            else:
                problems.append(
                    f"{path}: is not called seq_N.json, N a plain number of at most 6 digits; rename or remove it"
                )
        found[folder] = dict(sorted(numbered.items()))
        if not (annotations / folder).is_dir():
            problems.append(f"{annotations / folder}: there is no such folder")
        elif not numbered:
            problems.append(f"{annotations / folder}: holds no seq_N.json")
    if problems:
        hint = "jta_dir must be the folder that holds JTA's annotations/train, annotations/val and annotations/test"
        raise AnnotationError("\n  ".join([f"no complete JTA in {jta_dir}:", *problems, hint]))
    return found


def read_camera(jta_dir: os.PathLike) -> Camera:
    """The intrinsics in pixels that `camera.json` in `jta_dir` gives, or JTA's where there is no such file.

    Raises:
      AnnotationError: the file is not the four numbers fx, fy, cx, cy, finite, the first two positive.
    """
    path = pathlib.Path(jta_dir).expanduser() / CAMERA_FILE
    if not path.exists():
        return cameras.JTA
    values = _read_camera_file(path)
    values.pop("num_frames", None)  # see `read_num_frames`
    if sorted(values) != sorted(Camera._fields):
        raise AnnotationError(f"{path}: must hold exactly {', '.join(Camera._fields)}; {_CAMERA_REMEDY}")
    for field, value in values.items():
        if type(value) not in (int, float):
            raise AnnotationError(f"{path}: {field}: {_quoted(value)} is not a number; {_CAMERA_REMEDY}")
    try:
        return check_camera(Camera(**values))
    except ValueError as error:
        raise AnnotationError(f"{path}: {error}; {_CAMERA_REMEDY}") from error


def _read_camera_file(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(_read_text(path, _MOST_CAMERA_BYTES))
    except AnnotationError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON ({error}); {_CAMERA_REMEDY}") from error
    if not isinstance(values, dict):
        raise AnnotationError(f"{path}: must hold exactly {', '.join(Camera._fields)}; {_CAMERA_REMEDY}")
    return values


def read_num_frames(jta_dir: os.PathLike) -> int:
    """Frames of a sequence: 900, unless `camera.json` in `jta_dir` says less; AnnotationError if it makes no sense."""
    path = pathlib.Path(jta_dir).expanduser() / CAMERA_FILE
    if not path.exists():
        return NUM_FRAMES
    read_camera(jta_dir)  # says what is wrong with the file as a whole
    number = _read_camera_file(path).get("num_frames", NUM_FRAMES)
    if type(number) is not int or not 10 <= number <= NUM_FRAMES:
        raise AnnotationError(f"{path}: num_frames: {_quoted(number)} is not an integer from 10 to {NUM_FRAMES}")
    return number


def check_camera(camera: Camera) -> Camera:
    """`camera` as Python floats. ValueError unless all are finite and fx and fy are positive."""
    camera = Camera(*map(_as_float, camera))
    for field, value in camera._asdict().items():
        if not math.isfinite(value) or (field in ("fx", "fy") and value <= 0):
            raise ValueError(f"{field}: {value} is not a {'positive ' if field in ('fx', 'fy') else ''}finite number")
    return camera


def replace_folder(target: pathlib.Path, new: pathlib.Path, old: pathlib.Path) -> None:
    """Moves `new` to `target`. What was there moves to `old`, or back if this fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        new.rename(target)
        return
    try:
        target.rename(old)
        new.rename(target)
    except BaseException:  # a signal too, which comes as soon as a system call is over
        if old.exists() and not target.exists():
            old.rename(target)
        raise


# ---- Pictures


def collect_pictures(
    jta_dir: os.PathLike, folder: str, number: int, frames: Sequence[int], out: pathlib.Path, height: int = 0
) -> tuple[dict[int, pathlib.Path], "PictureSize"]:
    """JPEG files of the given `frames` of a sequence, by frame, and their size.

    Extracted JPEGs stay where they are; other frames, and all that are to be resized, are written into `out`.

    Args:
      jta_dir: holds `frames` or `videos`; where a sequence is in both, `frames` is taken.
      folder: train, val or test.
      number: of the sequence.
      frames: ascending, from 1.
      out: a folder for what has to be written; made if needed.
      height: of the pictures in pixels, the width in proportion; 0 to leave them as they are.

    Raises AnnotationError naming file and frame: a missing, damaged or short video, a picture that is missing, damaged
    or of another size than the first.
    """
    extracted, movie = _picture_places(jta_dir, folder, number)
    if extracted.is_dir():
        found, source = _extracted(extracted, frames), extracted
    elif movie.exists():
        found, source = _from_video(movie, frames), movie
    else:
        raise AnnotationError(f"{movie}: no such video, nor extracted frames in {extracted}; get one of them")
    files, size = {}, None
    for frame, (picture, path) in found:
        if size not in (None, picture.size):
            raise AnnotationError(
                f"{source}, frame {frame}: {_by(picture.size)} pixels, but frame {frames[0]} has {_by(size)}"
            )
        size = picture.size
        if path is None or height not in (0, picture.height):
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{frame}.jpg"
            if height not in (0, picture.height):
                picture = picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.BOX)
            picture.save(path, quality=JPEG_QUALITY)
        files[frame] = path
    width, old_height = size
    new_height = height or old_height
    return files, PictureSize(new_height, round(width * new_height / old_height), new_height / old_height)


class PictureSize(NamedTuple):
    """Pixels of pictures as they are stored, and how many times larger than they came."""

    height: int
    width: int
    factor: float


def _picture_places(jta_dir: os.PathLike, folder: str, number: int) -> tuple[pathlib.Path, pathlib.Path]:
    """Where a sequence's extracted frames may be, and its video."""
    root = pathlib.Path(jta_dir)
    return root / "frames" / folder / f"seq_{number}", root / "videos" / folder / f"seq_{number}.mp4"


def _picture_files(jta_dir: pathlib.Path, folder: str, number: int, frames: Sequence[int]) -> list[pathlib.Path]:
    """The files that a sequence's pictures come from, whether they exist or not: extracted frames, or the video."""
    extracted, movie = _picture_places(jta_dir, folder, number)
    return _extracted_files(extracted, frames) if extracted.is_dir() else [movie]


def _extracted_files(folder: pathlib.Path, frames: Sequence[int]) -> list[pathlib.Path]:
    """A file for each frame, of any ending of a picture; F.jpg where there is one, or none at all."""
    order = {suffix: i for i, suffix in enumerate(pictures.SUFFIXES)}  # .jpg first
    found = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in order),
        key=lambda path: (order[path.suffix.lower()], path.suffix != path.suffix.lower()),
    )
    by_number = {path.stem: path for path in reversed(found)}
    return [by_number.get(str(frame), folder / f"{frame}.jpg") for frame in frames]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _extracted(
    folder: pathlib.Path, frames: Sequence[int]
) -> Iterator[tuple[int, tuple[Image.Image, pathlib.Path | None]]]:
    for frame, path in zip(frames, _extracted_files(folder, frames)):
        try:
            if path.exists() and not path.is_file():
                raise OSError("not a file")  # a pipe would be waited for
            picture = _load_extracted(path)
        except AnnotationError:
            raise
        except FileNotFoundError as error:
            raise AnnotationError(f"{path}: no such picture, frame {frame} is missing; extract it again") from error
        except Exception as error:  # a damaged file can make Pillow raise nearly anything
            raise AnnotationError(f"{path}: frame {frame} is damaged ({error}); extract it again") from error
        yield frame, picture


def _load_extracted(path: pathlib.Path) -> tuple[Image.Image, pathlib.Path | None]:
    """A frame, and its file where that is a JPEG that can be taken as it is."""
    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            pictures.check_scans(path, picture)
            picture.load()  # the whole, or a truncated file would surprise the training
            return picture.convert("RGB"), path if picture.mode == "RGB" else None
    except Image.UnidentifiedImageError:
        if pictures.is_deep(path):
            raise AnnotationError(
                f"{path}: has more than 8 bits a value, and its white would be guessed for each frame alone; "
                "save all frames with 8 bits"
            ) from None
        return Image.fromarray(pictures.read(path).image), None


def _from_video(path: pathlib.Path, frames: Sequence[int]) -> Iterator[tuple[int, tuple[Image.Image, None]]]:
    wanted, last = set(frames), 0
    try:
        for number, frame in video.frames(path, strict=True):
            last = number + 1
            if last in wanted:
                yield last, (Image.fromarray(video.colours(path, number, frame)), None)
            if last >= frames[-1]:
                return
    except video.VideoError as error:
        remedy = f"frame {frames[-1]} (counted from 1) is needed; get the file again, or put its frames into frames/"
        raise AnnotationError(f"{error}; {remedy}") from error
    raise AnnotationError(f"{path}: has {last} frames, but frame {frames[-1]} is needed; it is cut off, get it again")


def _check_space(data_dir: pathlib.Path, needed: int) -> None:
    """Raises OSError if the pictures will not go onto the disk of `data_dir`, about."""
    free = shutil.disk_usage(data_dir).free
    if free < needed:
        raise OSError(
            f"{data_dir}: {free / 1e9:.1f} GB are free on that disk, and the pictures need about {needed / 1e9:.1f}; "
            "choose another --data_dir, or make them smaller with --picture_height"
        )


def _needed_bytes(files: Mapping[str, Mapping[int, pathlib.Path]], what: "_Wanted", size: tuple[int, int]) -> int:
    """About how much the pictures will take on disk, if all come in this size (height, width)."""
    height, width = size
    pixels = height * width * ((what.picture_height or height) / height) ** 2
    total = 0
    for folder, numbered in files.items():
        frames = _frames_of(folder, what.num_frames)
        for number in numbered:
            places = _picture_files(what.jta_dir, folder, number, frames)
            if places[0].suffix.lower() in _JPEG_SUFFIXES and not what.picture_height:  # taken as they are
                total += sum(path.stat().st_size for path in places if path.exists())
            else:
                total += int(len(frames) * pixels * _JPEG_BYTES)
    return total


def _first_size(files: Mapping[str, Mapping[int, pathlib.Path]], what: "_Wanted") -> tuple[int, int] | None:
    """Height and width of the first picture or video that can be read, None without any."""
    for folder, numbered in files.items():
        for number in numbered:
            path = _picture_files(what.jta_dir, folder, number, _frames_of(folder, what.num_frames))[0]
            try:
                if path.suffix != ".mp4":
                    return _load_extracted(path)[0].size[::-1]
                return next(video.read(path))[1].shape[:2]  # a header tells those before turning
            except Exception:  # what is wrong with it is told with all that is wrong
                continue
    return None


# ---- The data set


_CITATION = """@inproceedings{fabbri2018learning,
  title     = {Learning to Detect and Track Visible and Occluded Body Joints in a Virtual World},
  author    = {Fabbri, Matteo and Lanzi, Fabio and Calderara, Simone and Palazzi, Andrea and Vezzani, Roberto and
               Cucchiara, Rita},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2018}
}"""


class Jta(tfds.core.ShardBasedBuilder):
    """One example a frame, ordered by sequence and frame; frames with nobody are there too.

    Features:
      sequence, frame: integers; frames count from 1.
      camera: fx, fy, cx, cy in pixels, float32.
      image: only in the config `frames`: the picture, a JPEG file's bytes.
      people: P people by ascending id. `id` [P] int64, `pixels` [P, 22, 2] and `joints` [P, 22, 3] float32 (metres),
        `present`, `occluded` and `self_occluded` [P, 22] bool, as in `People`.

    Each file of a split is written as it is read, some 200 MB of consecutive frames.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="poses", description="People's joints and the camera."),
        tfds.core.BuilderConfig(name="frames", description="The same, and the pictures."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir is the folder that holds JTA's annotations/{train,val,test}/seq_N.json, and for pictures its "
        "videos/{train,val,test}/seq_N.mp4"
    )

    def __init__(
        self,
        *,
        camera: Camera | None = None,
        max_people: int = MAX_PEOPLE,
        skip_bad: bool = False,
        num_workers: int = 0,
        picture_height: int = 0,
        **kwargs: Any,
    ):
        """See `prepare` for the arguments; `kwargs` are those of TFDS, among them `config` and `data_dir`."""
        self._picture_height = picture_height
        self._camera = camera
        self._max_people = max_people
        self._skip_bad = skip_bad
        self._num_workers = num_workers
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        array = tfds.features.Tensor

        def joints(dtype, *coordinates):
            doc = f"joints in order: {', '.join(JTA_JOINTS)}"
            return array(shape=(None, NUM_JTA_JOINTS, *coordinates), dtype=dtype, doc=doc)

        pictures = self.builder_config.name == "frames"
        image = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")} if pictures else {}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Joint Track Auto: people in virtual streets, with their joints in 2D and 3D.",
            homepage="https://github.com/fabbrimatteo/JTA-Dataset",
            citation=_CITATION,
            features=tfds.features.FeaturesDict(
                {
                    "sequence": np.int32,
                    "frame": np.int32,
                    **image,
                    "camera": {field: np.float32 for field in Camera._fields},
                    "people": {
                        "id": array(shape=(None,), dtype=np.int64),
                        "pixels": joints(np.float32, 2),
                        "joints": joints(np.float32, 3),
                        "present": joints(np.bool_),
                        "occluded": joints(np.bool_),
                        "self_occluded": joints(np.bool_),
                    },
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable[[], Iterator]]]:
        jta_dir = pathlib.Path(dl_manager.manual_dir)
        files = find_sequences(jta_dir)
        asked = resolve_camera(jta_dir, self._camera)
        wanted = _Wanted(
            jta_dir,
            self._max_people,
            read_num_frames(jta_dir),
            self.builder_config.name == "frames",
            self._picture_height,
        )
        if wanted.pictures and (came := _first_size(files, wanted)):  # before hours of work
            _check_middle(asked, came)
            _check_space(pathlib.Path(self.data_dir_root), _needed_bytes(files, wanted, came))
        opened = contextlib.ExitStack()
        self._clean_up = weakref.finalize(self, opened.close)
        work = opened.enter_context(scratch.folder(pathlib.Path(self.data_dir_root), ".jta_scratch_"))
        # All is read and checked before anything is written, and a train file once for both of its splits.
        read, bad = _read_all(files, work, wanted, self._num_workers)
        _check_bad(files, read, bad, self._skip_bad)
        size = _common_size(read)
        factor = size.factor if size else 1.0
        camera = Camera(*asked.scaled(factor))
        source = _describe_source(files, wanted)
        made = (pathlib.Path(source["jta_dir"]) / MINIATURE_FILE).exists()
        self.info.metadata.update(
            source=source,
            name="miniature of the crowd in JTA's format" if made else "JTA",
            asked={"camera": asked._asdict(), "picture_height": self._picture_height},
            camera=camera._asdict(),
            left_out=bad,
            splits={split: _total(split, read[SPLITS[split].folder].values()) for split in SPLITS},
            picture_size=size and [size.height, size.width],
        )

        bar = opened.enter_context(
            _bar("Writing", sum(t["frames"] for t in self.info.metadata["splits"].values()), " frames")
        )
        shards = {}
        for split, selection in SPLITS.items():
            write = functools.partial(_examples, read[selection.folder], camera, factor, work, bar.update)
            places = _shards(read[selection.folder], selection.up_to(wanted.num_frames))
            shards[split] = [functools.partial(write, shard) for shard in places]
        return shards

    def _post_download_and_prepare_hook(self) -> None:
        self._clean_up()


def _shards(sequences: Mapping[int, "_Read"], frames: Sequence[int]) -> list[list[tuple[int, int]]]:
    """All (sequence, frame) in order, parted into lists of at most `_SHARD_BYTES`."""
    shards, filled = [[]], 0
    for number, sequence in sequences.items():
        people = sequence.path.stat().st_size // len(frames)
        for frame in frames:
            size = people + (sequence.pictures[frame].stat().st_size if sequence.pictures else 0)
            if shards[-1] and filled + size > _SHARD_BYTES:
                shards.append([])
                filled = 0
            shards[-1].append((number, frame))
            filled += size
    return shards


def _examples(
    sequences: Mapping[int, "_Read"],
    camera: Camera,
    factor: float,
    work: pathlib.Path,
    done: Callable[[], Any],
    shard: Sequence[tuple[int, int]],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Keys and examples of the (sequence, frame) in `shard`; `done` is called after each.

    Pictures in `work` are removed when they are read: no two splits have one in common.
    """
    for number, group in itertools.groupby(shard, key=lambda place: place[0]):
        people = load_people(sequences[number].path)
        people = people._replace(pixels=people.pixels * np.float32(factor))
        for _, frame in group:
            first, end = (np.searchsorted(people.frame, frame, side) for side in ("left", "right"))
            image = {}
            if sequences[number].pictures:
                path = sequences[number].pictures[frame]
                image = {"image": path.read_bytes()}
                if path.is_relative_to(work):
                    path.unlink()
            yield (
                number * (NUM_FRAMES + 1) + frame,
                {
                    "sequence": number,
                    "frame": frame,
                    **image,
                    "camera": camera._asdict(),
                    "people": {k: v[first:end] for k, v in people._asdict().items() if k != "frame"},
                },
            )
            done()


class _Read(NamedTuple):
    """A sequence after reading: where its `People` are, per split how many there are, its pictures and their size."""

    path: pathlib.Path
    counts: dict[str, dict[str, int]]
    pictures: dict[int, pathlib.Path]
    size: PictureSize | None


class _Wanted(NamedTuple):
    """What to read of each sequence, and where its pictures are looked for."""

    jta_dir: pathlib.Path
    max_people: int
    num_frames: int
    pictures: bool
    picture_height: int


def _common_size(read: Mapping[str, Mapping[int, _Read]]) -> PictureSize | None:
    """The size of all pictures, None if there are none. AnnotationError if sequences differ: all have one camera."""
    sizes = {}
    for folder, sequences in read.items():
        for number, sequence in sequences.items():
            sizes.setdefault(sequence.size, f"{folder}/seq_{number}")
    if len(sizes) > 1:
        came = {name: (size.width / size.factor, size.height / size.factor) for size, name in sizes.items()}
        listed = ", ".join(f"{name} has {width:.0f} x {height:.0f}" for name, (width, height) in came.items())
        raise AnnotationError(f"the pictures have not all the same size, as those of one camera do: {listed}")
    return next(iter(sizes))


def _check_middle(camera: Camera, size: tuple[int, int]) -> None:
    """Raises AnnotationError if the camera does not look at about the middle of pictures of this height and width."""
    height, width = size
    # JTA's own looks at it exactly; where it was only assumed, pictures that were made smaller show in this.
    allowed = 0.02 if camera == cameras.JTA else 0.25
    if abs(camera.cx / width - 0.5) > allowed or abs(camera.cy / height - 0.5) > allowed:
        raise AnnotationError(
            f"the pictures are {_by((width, height))} pixels, but the camera looks at pixel ({camera.cx:g}, "
            f"{camera.cy:g}), not at their middle. Give the camera of these very pictures with --fx --fy --cx --cy or "
            f"{CAMERA_FILE}; pictures made smaller with --picture_height need none, their camera shrinks with them"
        )


def _read_all(
    files: Mapping[str, Mapping[int, pathlib.Path]], work: pathlib.Path, what: _Wanted, num_workers: int
) -> tuple[dict[str, dict[int, _Read]], list[str]]:
    """Reads every file, however many are bad: what was read, by folder and number, and what is wrong with the rest."""
    wanted = [(folder, number) for folder in files for number in files[folder]]
    paths = [files[folder][number] for folder, number in wanted]
    outs = [work / f"{folder}_{number}.npz" for folder, number in wanted]
    folders = [folder for folder, _ in wanted]
    read, bad = {folder: {} for folder in files}, []
    worth = len(paths) if what.pictures else sum(path.stat().st_size for path in paths) // _BYTES_PER_WORKER
    with _mapper(min(num_workers, worth)) as mapper, _bar("Reading", len(paths), " sequences") as bar:
        results = mapper(functools.partial(_read_to_file, what=what), folders, paths, outs)
        for result, (folder, number) in zip(results, wanted):
            bar.update()
            if isinstance(result, str):
                bad.append(result)
            else:
                read[folder][number] = result
    return read, bad


def _read_to_file(folder: str, path: pathlib.Path, out: pathlib.Path, *, what: _Wanted) -> _Read | str:
    """Puts the frames that any split takes of a sequence into `out`. A bad file's message is returned, not raised."""
    frames, pictures, size = _frames_of(folder, what.num_frames), {}, None
    try:
        people = read_sequence(path, frames, what.max_people)
        if what.pictures:
            number = int(path.stem.removeprefix("seq_"))
            pictures, size = collect_pictures(
                what.jta_dir, folder, number, frames, out.with_suffix(""), what.picture_height
            )
    except AnnotationError as error:
        shutil.rmtree(out.with_suffix(""), ignore_errors=True)  # nobody else would before the end
        return str(error)
    np.savez(out, **people._asdict())
    counts = {split: _count(people, s.up_to(what.num_frames)) for split, s in SPLITS.items() if s.folder == folder}
    return _Read(out, counts, pictures, size)


def _count(people: People, frames: Sequence[int]) -> dict[str, int]:
    used = np.isin(people.frame, np.asarray(frames))
    most = np.bincount(people.frame[used], minlength=1).max()
    joints = people.present[used].sum()
    return {"frames": len(frames), "people": int(used.sum()), "joints": int(joints), "most_people": int(most)}


def _total(split: str, read: Iterable[_Read]) -> dict[str, int]:
    counts = [sequence.counts[split] for sequence in read]
    total = {key: sum(count[key] for count in counts) for key in ("frames", "people", "joints")}
    return {"sequences": len(counts), **total, "most_people": max(count["most_people"] for count in counts)}


@contextlib.contextmanager
def _mapper(num_workers: int):
    """A `map` that works in so many processes beside this one, or in this one for less than two."""
    if num_workers < 2:
        yield map
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of JAX's threads may hang
    others = multiprocessing.active_children()
    # A terminal's Ctrl-C reaches the workers too, but this process ends them.
    pool = concurrent.futures.ProcessPoolExecutor(num_workers, spawn, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield pool.map
    except BaseException as error:
        for worker in set(multiprocessing.active_children()).difference(others):
            worker.terminate()
        if isinstance(error, concurrent.futures.process.BrokenProcessPool):
            raise OSError(
                "a process that read sequences was killed, perhaps for want of memory; try --num_workers=1"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _check_bad(files: Mapping[str, Mapping], read: Mapping[str, Mapping], bad: list[str], skip_bad: bool) -> None:
    """Raises AnnotationError naming all bad files, unless they may be skipped and leave something in each folder."""
    empty = [folder for folder in files if not read[folder]]
    if not bad or (skip_bad and not empty):
        return
    total = sum(len(paths) for paths in files.values())
    lines = [f"{len(bad)} of {total} sequences are bad, nothing was prepared:", *bad]
    if empty:
        lines.append(f"Mend them: no good sequence is left in annotations/{', annotations/'.join(empty)}.")
    else:
        lines.append("Mend them, or prepare the other files with --skip_bad.")
    raise AnnotationError("\n  ".join(lines))


def _bar(what: str, total: int, unit: str):
    """A progress bar, to be seen if standard error is a terminal."""
    return progress.bar(total, unit, not sys.stderr.isatty(), desc=what, leave=False, dynamic_ncols=True)


# ---- Preparing and loading


class Prepared(NamedTuple):
    """A data set on disk.

    Attributes:
      folder: where it is.
      splits: per split the counts `sequences`, `frames`, `people`, `joints` and `most_people` (in one frame).
      camera: the intrinsics in pixels.
      left_out: per bad file that was skipped, what is wrong with it.
      reused: whether it was there already.
      picture_size: height and width of the pictures, None without.
    """

    folder: pathlib.Path
    splits: dict[str, dict[str, int]]
    camera: Camera
    left_out: list[str]
    reused: bool
    picture_size: tuple[int, int] | None = None


def prepare(
    jta_dir: os.PathLike,
    data_dir: os.PathLike,
    *,
    camera: Camera | None = None,
    max_people: int = MAX_PEOPLE,
    skip_bad: bool = False,
    overwrite: bool = False,
    num_workers: int = 0,
    pictures: bool = False,
    picture_height: int = 0,
) -> Prepared:
    """Turns JTA's annotation files into ArrayRecord files under `data_dir`. What is there stays until all is well.

    With pictures the disk must have room for all of them once, see the top of this file.

    Args:
      jta_dir: holds `annotations/{train,val,test}/seq_N.json`.
      data_dir: is made where missing; the data set goes into its `jta/poses`, or with pictures `jta/frames`.
      camera: intrinsics in pixels; None for those of `read_camera`.
      max_people: more people in a frame are an error.
      skip_bad: leave sequences with bad files out instead of refusing all.
      overwrite: replace what was prepared before; without, the same source is reused and another one refused.
      num_workers: how many processes may read; fewer do if there is little to read, and below two, this one does.
      pictures: with them, see `collect_pictures`.
      picture_height: make the pictures so many pixels high, the camera with them; 0 leaves them as they are.

    Raises:
      ValueError: a negative `picture_height`, or one without `pictures`.
      AnnotationError: missing folders, or bad files, all of them listed; or pictures that differ in size, or in whose
        middle the camera does not look.
      FileExistsError: `data_dir` holds a JTA prepared from something else.
      OSError: the disk is too small, or cannot be written to.
    """
    jta_dir, data_dir = (pathlib.Path(folder).expanduser().resolve() for folder in (jta_dir, data_dir))
    if picture_height < 0 or (picture_height and not pictures):
        raise ValueError(f"picture_height={picture_height} must not be negative, and needs pictures")
    files = find_sequences(jta_dir)
    camera = resolve_camera(jta_dir, camera)
    config = "frames" if pictures else "poses"
    target = _folder(data_dir, config)
    if _is_prepared(target) and not overwrite:
        wanted = _Wanted(jta_dir, max_people, read_num_frames(jta_dir), pictures, picture_height)
        _check_same(target, _describe_source(files, wanted), camera, max_people, skip_bad, picture_height)
        return _describe_prepared(target, reused=True)
    try:
        disk.check_writable(target.parent)  # known before the work
    except OSError as error:
        raise OSError(
            f"{error.filename}: cannot be written to ({error.strerror}); choose another --data_dir"
        ) from error
    data_dir.mkdir(parents=True, exist_ok=True)
    with scratch.folder(data_dir, ".jta_preparing_") as work, _quiet_tfds():
        options = {"camera": camera, "max_people": max_people, "skip_bad": skip_bad, "num_workers": num_workers}
        builder = Jta(config=config, data_dir=work, picture_height=picture_height, **options)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=jta_dir))
        replace_folder(target, pathlib.Path(builder.data_dir), work / "old")
    return _describe_prepared(target, reused=False)


def name_of(data_dir: os.PathLike, pictures: bool = False) -> str:
    """Whose data is prepared there: "JTA", or what else was given in its format. FileNotFoundError as `load`."""
    return _metadata(_find_prepared(data_dir, pictures)).get("name", "JTA")  # older versions noted no name


def load(data_dir: os.PathLike, split: str, pictures: bool = False) -> Sequence[dict[str, Any]]:
    """The examples of a prepared split as a random access source of NumPy arrays (see `Jta` for the features).

    Args:
      data_dir: what `prepare` was given.
      split: a name in `SPLITS`, or a part of one as TFDS writes it, such as `train[:10%]`.
      pictures: of the config `frames`: with `image`, a JPEG file's bytes. Without, either config will do.

    Raises:
      FileNotFoundError: nothing is prepared there; the message has the command that does it.
      ValueError: there is no such split, or no example in it; or, of an example, that its file is damaged or gone.
    """
    target = _find_prepared(data_dir, pictures)
    if split.partition("[")[0] not in SPLITS:
        raise ValueError(f"JTA has no split {split!r}, only {', '.join(SPLITS)} and parts of them such as train[:10%]")
    with _quiet_tfds():
        builder = tfds.builder_from_directory(target)
        if not builder.info.splits[split].num_examples:
            raise ValueError(f"split {split!r} of {target} holds no frame; ask for more of it")
        decoders = {"image": tfds.decode.SkipDecoding()} if "image" in builder.info.features else None
        return _Examples(builder.as_data_source(split, decoders=decoders), f"{target}, split {split!r}")


class _Examples(Sequence):
    """A data source whose errors name the data and say what to do."""

    def __init__(self, source: Sequence[dict[str, Any]], where: str):
        self._source, self._where = source, where

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            example = self._source[index]
            if example["frame"] is None:  # what ArrayRecord gives of a file that was cut off after it was opened
                raise OSError("it is empty")
            return example
        except (RuntimeError, OSError) as error:  # ArrayRecord checks what it reads, and raises the former for all
            raise ValueError(
                f"{self._where}: example {index} cannot be read ({error}); a file there is damaged or gone: put it "
                "back, or prepare the data again with --overwrite"
            ) from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def describe(data_dir: os.PathLike, pictures: bool = False) -> Prepared:
    """What is prepared there, of the config that `load` takes. Raises FileNotFoundError as it does."""
    return _describe_prepared(_find_prepared(data_dir, pictures), reused=True)


def _find_prepared(data_dir: os.PathLike, pictures: bool) -> epath.Path:
    target = _folder(epath.Path(data_dir).expanduser(), "frames" if pictures else "poses")
    if not pictures and not _is_prepared(target):
        with_pictures = _folder(epath.Path(data_dir).expanduser(), "frames")
        target = with_pictures if _is_prepared(with_pictures) else target
    if not _is_prepared(target):
        command = f"python -m loco_jax.data.jta --jta_dir=JTA --data_dir={data_dir}{' --pictures' * pictures}"
        raise FileNotFoundError(f"no prepared JTA in {target}; prepare it with\n  {command}")
    return target


def resolve_camera(jta_dir: os.PathLike, camera: Camera | None) -> Camera:
    """`camera`, or where it is None that of `read_camera`, checked. ValueError if it makes no sense."""
    return read_camera(jta_dir) if camera is None else check_camera(camera)


def _folder(data_dir: epath.Path, config: str) -> epath.Path:
    return data_dir / "jta" / config / VERSION


def _is_prepared(target: pathlib.Path) -> bool:
    return (target / "dataset_info.json").exists()  # what TFDS writes last


def _metadata(target: pathlib.Path) -> dict[str, Any]:
    with _quiet_tfds():
        return dict(tfds.builder_from_directory(target).info.metadata)


def _describe_source(files: Mapping[str, Mapping[int, pathlib.Path]], what: _Wanted) -> dict[str, str]:
    """What tells whether annotations, and pictures, are those of an earlier run, without reading them."""
    digest = hashlib.sha256(f"{what.num_frames} frames\n".encode())
    for folder, numbered in files.items():
        frames = _frames_of(folder, what.num_frames)
        for number, annotations in numbered.items():
            pictures = _picture_files(what.jta_dir, folder, number, frames) if what.pictures else ()
            for path in (path for path in (annotations, *pictures) if path.exists()):
                status = path.stat()
                digest.update(f"{folder}/{number}/{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return {"jta_dir": str(what.jta_dir), "files": digest.hexdigest()}


def _check_same(
    target: pathlib.Path, source: dict, camera: Camera, max_people: int, skip_bad: bool, picture_height: int
) -> None:
    """Raises FileExistsError where a new run would not give what is in `target`."""
    old = _metadata(target)
    most_people = max(split["most_people"] for split in old["splits"].values())
    asked = {"camera": camera._asdict(), "picture_height": picture_height}
    if "asked" not in old:
        difference = "was prepared by an earlier version, which did not note what it was asked for"
    elif old["source"]["jta_dir"] != source["jta_dir"]:
        difference = f"was prepared from {old['source']['jta_dir']}, not from {source['jta_dir']}"
    elif old["source"]["files"] != source["files"]:
        difference = "was prepared before its files changed"
    elif old["asked"]["picture_height"] != picture_height:
        heights = (
            f"{height} pixels high" if height else "as they came"
            for height in (old["asked"]["picture_height"], picture_height)
        )
        difference = "has pictures {}, not {}".format(*heights)
    elif old["asked"] != asked:
        difference = f"was prepared with the camera {old['asked']['camera']}, not {asked['camera']}"
    elif old["left_out"] and not skip_bad:
        difference = f"lacks {len(old['left_out'])} bad files (--skip_bad accepts that)"
    elif most_people > max_people:
        difference = f"has up to {most_people} people in a frame, more than max_people={max_people}"
    else:
        return
    raise FileExistsError(f"{target} {difference}; replace it with --overwrite, or choose another --data_dir")


def _describe_prepared(target: pathlib.Path, reused: bool) -> Prepared:
    metadata = _metadata(target)
    size = metadata.get("picture_size") and tuple(metadata["picture_size"])  # not there in the oldest
    return Prepared(target, metadata["splits"], Camera(**metadata["camera"]), metadata["left_out"], reused, size)


@contextlib.contextmanager
def _quiet_tfds():
    """TFDS prints, logs and draws bars of its own, and wants a name for every user."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()), accounts.stand_ins():
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)


# ---- The command


def _define_flags() -> None:
    flags.DEFINE_string("jta_dir", None, "Folder with annotations/{train,val,test}/seq_N.json.", required=True)
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder for the prepared data set. Full-HD pictures of all of JTA need about 80 GB there, and with --overwrite "
        "as much again until they are complete.",
        required=True,
    )
    flags.DEFINE_bool("pictures", False, "With pictures, from JTA's frames/ or videos/.")
    flags.DEFINE_integer("picture_height", 0, "Make pictures so many pixels high; 0 leaves them as they are.", 0)
    flags.DEFINE_bool("skip_bad", False, "Leave out sequences with bad annotations or pictures, and say which.")
    flags.DEFINE_bool("overwrite", False, "Replace a data set that was prepared before.")
    flags.DEFINE_integer("max_people", MAX_PEOPLE, "More people in a frame are an error.", lower_bound=1)
    flags.DEFINE_integer("num_workers", min(os.cpu_count() or 1, 8), "Most processes that read.", lower_bound=0)
    for field, value in cameras.JTA._asdict().items():
        flags.DEFINE_float(field, None, f"Intrinsic in pixels (default: {CAMERA_FILE} of jta_dir, or {value:g}).")


def _camera_from_flags(values: flags.FlagValues) -> Camera:
    given = {field: values[field].value for field in Camera._fields if values[field].value is not None}
    return read_camera(values.jta_dir)._replace(**given)


def _report(prepared: Prepared, seconds: float) -> str:
    done = "Already prepared" if prepared.reused else f"Prepared in {seconds:.1f} s"
    columns = ("sequences", "frames", "people", "joints")
    camera = ", ".join(f"{field} {value:g}" for field, value in prepared.camera._asdict().items())
    lines = [f"{done}: {prepared.folder}", f"camera: {camera}"]
    if prepared.picture_size:
        lines.append("pictures: {} pixels high, {} wide".format(*prepared.picture_size))
    lines.append(f"{'split':12}" + "".join(f"{column:>12}" for column in columns))
    for split, counts in prepared.splits.items():
        lines.append(f"{split:12}" + "".join(f"{counts[column]:12,}" for column in columns))
    if prepared.left_out:
        lines.append("\n  ".join([f"Left out {len(prepared.left_out)} bad file(s):", *prepared.left_out]))
    if prepared.reused:
        lines.append("Prepare it again with --overwrite.")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; all options start with --")
    values = flags.FLAGS
    start = time.time()
    try:
        prepared = prepare(
            values.jta_dir,
            values.data_dir,
            camera=_camera_from_flags(values),
            max_people=values.max_people,
            skip_bad=values.skip_bad,
            overwrite=values.overwrite,
            num_workers=values.num_workers,
            pictures=values.pictures,
            picture_height=values.picture_height,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(_report(prepared, time.time() - start))


if __name__ == "__main__":
    _define_flags()
    cli.start(main)

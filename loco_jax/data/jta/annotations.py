"""JTA's annotations: finding, reading and checking its JSON files."""

import gc
import json
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from loco_jax.geometry.skeleton import NUM_JTA_JOINTS

VERSION = "1.0.0"  # of the prepared data
NUM_FRAMES = 900
MINIATURE_FILE = "miniature.json"  # beside the annotations of a JTA that loco_jax.data.miniature made
MAX_PEOPLE = 64

# An annotation file can have no more bytes and rows: several times what 900 frames of MAX_PEOPLE need.
_MOST_BYTES = 600_000_000
_MOST_ROWS = 8_000_000

FIELDS = (  # of a row
    "frame", "person_id", "joint_type", "x2d", "y2d", "x3d", "y3d", "z3d", "occluded", "self_occluded",
)  # fmt: skip


class Selection(NamedTuple):
    """A split: the folder under `annotations` that it is read from, and the frames that it takes of each sequence."""

    folder: str
    frames: range

    def up_to(self, num_frames: int) -> list[int]:
        """The frames that exist in a sequence of `num_frames`."""
        return [frame for frame in self.frames if frame <= num_frames]


# The paper's selections (method section 1).
SPLITS = {
    "train_vha": Selection("train", range(10, NUM_FRAMES + 1, 10)),
    "train": Selection("train", range(1, NUM_FRAMES + 1, 5)),
    "validation": Selection("val", range(10, NUM_FRAMES + 1, 10)),
    "test": Selection("test", range(10, NUM_FRAMES + 1, 10)),
}
FOLDERS = ("train", "val", "test")


def frames_of(folder: str, num_frames: int) -> list[int]:
    """The frames that the splits of a folder take of a sequence of `num_frames`, ascending."""
    return sorted(frame for s in SPLITS.values() if s.folder == folder for frame in s.up_to(num_frames))


class AnnotationError(ValueError):
    """A file of JTA is missing or wrong. The message names the file, the row, the field and the remedy."""


class People(NamedTuple):
    """The N people of all given frames of a sequence, by ascending frame and then id. Absent joints are 0."""

    frame: Int[np.ndarray, " N"]  # from 1
    id: Int[np.ndarray, " N"]
    pixels: Float32[np.ndarray, "N 22 2"]  # x right and y down from the top left corner
    joints: Float32[np.ndarray, "N 22 3"]  # metres in camera coordinates
    present: Bool[np.ndarray, "N 22"]  # whether the joint is annotated
    occluded: Bool[np.ndarray, "N 22"]  # hidden by something else
    self_occluded: Bool[np.ndarray, "N 22"]  # hidden by the person itself


def find_sequences(jta_dir: os.PathLike | str) -> dict[str, dict[int, pathlib.Path]]:
    """Annotation files by folder (train, val, test) and sequence number, ascending.

    Raises:
      AnnotationError: a folder is missing, has no `seq_N.json`, or has one with a wrong name; the message names all.
    """
    annotations = pathlib.Path(jta_dir) / "annotations"
    found: dict[str, dict[int, pathlib.Path]] = {}
    problems = []
    for folder in FOLDERS:
        numbered = {}
        for path in (annotations / folder).glob("seq_*.json"):
            if match := re.fullmatch(r"seq_(0|[1-9][0-9]{0,5})\.json", path.name):
                numbered[int(match[1])] = path
            else:
                problems.append(f"{path}: is not called seq_N.json with N from 0 to 999999; rename or remove it")
        found[folder] = dict(sorted(numbered.items()))
        if not (annotations / folder).is_dir():
            problems.append(f"{annotations / folder}: does not exist")
        elif not numbered:
            problems.append(f"{annotations / folder}: has no file seq_N.json")
    if problems:
        hint = "--jta_dir must be the folder with JTA's annotations/train, annotations/val and annotations/test"
        raise AnnotationError("\n  ".join([f"{jta_dir} has no complete JTA:", *problems, hint]))
    return found


def read_sequence(path: os.PathLike | str, frames: Sequence[int], max_people: int = MAX_PEOPLE) -> People:
    """The people in the given `frames` of an annotation file. Rows of other frames are checked too.

    Raises:
      AnnotationError: the file is not in JTA's format, or one of `frames` has more than `max_people` people.
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


def read_text(path: pathlib.Path, most_bytes: int) -> str:
    """A file's text. Raises AnnotationError if it is no file, is not UTF-8, or is larger than `most_bytes`."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise AnnotationError(f"{path}: is not a file; get it again")
        if path.stat().st_size > most_bytes:
            raise AnnotationError(f"{path}: has more than {most_bytes:,} bytes, unlike all files of JTA; get it again")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); check the file and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: is not JSON ({error}); the file is damaged, get it again") from error


def as_float(value: float) -> float:
    """A float; infinite for an integer that is too large for one, which no check accepts."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def quoted(value: Any) -> str:
    """A value as JSON, cut after 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]} …"


# ---- Rows


def _load_table(path: pathlib.Path) -> np.ndarray:
    """The file's R rows of numbers, `[R, 10]` float64."""
    text = read_text(path, _MOST_BYTES)
    if text.count("[") + text.count("{") > _MOST_ROWS:  # a small file can hold more lists than memory
        raise AnnotationError(f"{path}: has more than {_MOST_ROWS:,} rows, unlike all sequences; get the file again")
    try:
        gc.disable()  # while half a million small lists are made, it would add half to the time
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: is not JSON ({error}); the file is damaged, get it again") from error
    finally:
        gc.enable()
    if not isinstance(rows, list):
        raise AnnotationError(f"{path}: is of type {type(rows).__name__}, not a list of rows; get the file again")
    if not rows:
        return np.zeros((0, len(FIELDS)))
    # NumPy reads true as 1, and one long text makes all values texts of that length. The loop below finds both.
    if not any(part in text for part in ("true", "false", '"')):
        try:
            table = np.array(rows)
        except ValueError:  # rows of different lengths
            table = np.zeros(0)
        if table.ndim == 2 and table.shape[1] == len(FIELDS) and table.dtype.kind in "iuf":
            return table.astype(np.float64)
    for i, row in enumerate(rows):  # finds the first one that is wrong
        if not isinstance(row, list) or len(row) != len(FIELDS):
            found = f"has {len(row)} values" if isinstance(row, list) else f"is of type {type(row).__name__}"
            wanted = f"not a list of the {len(FIELDS)} numbers {', '.join(FIELDS)}"
            raise _bad_row(path, i, None, f"{found}, {wanted}; correct it or leave it out")
        for field, value in zip(FIELDS, row):
            if type(value) not in (int, float):
                raise _bad_row(path, i, field, f"{quoted(value)} is not a number; write the number")
    return np.array([[as_float(value) for value in row] for row in rows])


def _check_values(path: pathlib.Path, table: np.ndarray) -> None:
    """Raises AnnotationError for the first value that its field does not allow."""
    columns = dict(zip(FIELDS, table.T))
    for field, column in columns.items():  # NaN compares false
        finite = np.abs(column) < np.finfo(np.float32).max
        _check_column(path, field, column, finite, "is not a finite number; correct it or leave the row out")
    whole = {field: columns[field] == np.rint(columns[field]) for field in ("frame", "person_id", "joint_type")}
    good = whole["person_id"] & (np.abs(columns["person_id"]) < 2**53)
    _check_column(path, "person_id", columns["person_id"], good, "is not an integer; correct it")
    for field, first, last in (("frame", 1, NUM_FRAMES), ("joint_type", 0, NUM_JTA_JOINTS - 1)):
        good = whole[field] & (columns[field] >= first) & (columns[field] <= last)
        _check_column(path, field, columns[field], good, f"is not an integer from {first} to {last}; correct it")
    for field in ("occluded", "self_occluded"):
        _check_column(path, field, columns[field], np.isin(columns[field], (0, 1)), "is neither 0 nor 1; correct it")


def _check_column(path: pathlib.Path, field: str, values: np.ndarray, good: np.ndarray, problem: str) -> None:
    bad = np.flatnonzero(~good)
    if bad.size:
        raise _bad_row(path, bad[0], field, f"{values[bad[0]]:.10g} {problem}", others=bad.size - 1)


def _check_duplicates(path: pathlib.Path, table: np.ndarray, rows: np.ndarray) -> None:
    """Raises AnnotationError if two rows (`rows` are their numbers in the file) are the same joint."""
    same = np.flatnonzero(~np.any(np.diff(table[:, :3], axis=0), axis=1))
    if same.size:
        i = same[0]
        frame, person, joint = table[i, :3].astype(int)
        what = f"joint {joint} of person {person} in frame {frame} is also in row {rows[i]}; leave one of them out"
        raise _bad_row(path, rows[i + 1], "joint_type", what, others=same.size - 1)


def _check_crowding(path: pathlib.Path, frame: np.ndarray, rows: np.ndarray, max_people: int) -> None:
    """Raises AnnotationError for too many people. `frame` and `rows` have each person's frame and first row."""
    frames, firsts, counts = np.unique(frame, return_index=True, return_counts=True)
    crowded = np.flatnonzero(counts > max_people)
    if crowded.size:
        i = crowded[0]
        what = f"frame {int(frames[i])} has {counts[i]} people, more than max_people={max_people}"
        remedy = f"prepare with --max_people={counts.max()} or more"
        raise _bad_row(path, rows[firsts[i] + max_people], "person_id", f"{what}; {remedy}", others=crowded.size - 1)


def _bad_row(
    path: pathlib.Path, row: int | np.integer, field: str | None, problem: str, others: int | np.integer = 0
) -> AnnotationError:
    where = f"row {row} (the first is 0)" + (f", {field}:" if field else "")
    more = f" (and {others} more like it)" if others else ""
    return AnnotationError(f"{path}: {where} {problem}{more}")


def _group(table: np.ndarray, starts: np.ndarray) -> People:
    """The people of `table` `[R, 10]`, which is sorted by frame, person and joint.

    `starts` `[N]` has the first row of each person in each frame.
    """
    person = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(table)))
    joint = table[:, 2].astype(int)

    def scatter(values: np.ndarray, dtype) -> np.ndarray:
        out = np.zeros((len(starts), NUM_JTA_JOINTS, *values.shape[1:]), dtype)
        out[person, joint] = values
        return out

    return People(
        frame=table[starts, 0].astype(np.int32),
        id=table[starts, 1].astype(np.int64),
        pixels=scatter(table[:, 3:5], np.float32),
        joints=scatter(table[:, 5:8], np.float32),
        present=scatter(np.ones(len(table)), bool),
        occluded=scatter(table[:, 8], bool),
        self_occluded=scatter(table[:, 9], bool),
    )

"""JTA's annotations: finding, reading and checking its JSON files, and `camera.json`."""

import json
import math
import numbers
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.skeleton import NUM_JTA_JOINTS

VERSION = "1.0.0"  # of the prepared data
NUM_FRAMES = 900
MINIATURE_FILE = "miniature.json"  # beside the annotations of a JTA that loco_jax.data.miniature made
CAMERA_FILE = "camera.json"  # intrinsics, and the number of frames of a sequence
MAX_PEOPLE = 64

FIELDS = (  # of a row
    "frame", "person_id", "joint_type", "x2d", "y2d", "x3d", "y3d", "z3d", "occluded", "self_occluded",
)  # fmt: skip
_INTEGERS = {  # the first and the last that is allowed
    "frame": (1, NUM_FRAMES),
    "person_id": (-(2**53), 2**53),
    "joint_type": (0, NUM_JTA_JOINTS - 1),
    "occluded": (0, 1),
    "self_occluded": (0, 1),
}


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

    Raises AnnotationError if a folder has no `seq_N.json`, or has one with a wrong name; the message names all.
    """
    found: dict[str, dict[int, pathlib.Path]] = {}
    problems = []
    for folder in ("train", "val", "test"):
        place, numbered = pathlib.Path(jta_dir) / "annotations" / folder, {}
        for path in place.glob("seq_*.json"):
            if match := re.fullmatch(r"seq_(0|[1-9][0-9]{0,5})\.json", path.name):
                numbered[int(match[1])] = path
            else:
                problems.append(f"{path}: is not called seq_N.json with N from 0 to 999999; rename or remove it")
        if not numbered:
            problems.append(f"{place}: has no file seq_N.json")
        found[folder] = dict(sorted(numbered.items()))
    if problems:
        hint = "--jta_dir must be the folder with JTA's annotations/train, annotations/val and annotations/test"
        raise AnnotationError("\n  ".join([f"{jta_dir} has no complete JTA:", *problems, hint]))
    return found


def read_camera_file(jta_dir: os.PathLike | str) -> tuple[Camera, int]:
    """The intrinsics in pixels and the frames of a sequence; JTA's own if `jta_dir` has no `camera.json`.

    Raises AnnotationError if the file does not hold fx, fy, cx, cy, all finite, the first two positive, and perhaps
    num_frames, an integer from 10 to 900.
    """
    path = pathlib.Path(jta_dir).expanduser() / CAMERA_FILE
    if not path.exists():
        return cameras.JTA, NUM_FRAMES
    values = _load_json(path)
    num_frames = values.pop("num_frames", NUM_FRAMES) if isinstance(values, dict) else NUM_FRAMES
    try:
        if not isinstance(values, dict) or sorted(values) != sorted(Camera._fields):
            raise ValueError(f"must hold exactly {', '.join(Camera._fields)}")
        if num_frames not in range(10, NUM_FRAMES + 1):
            raise ValueError(f"num_frames: {_quoted(num_frames)} is not an integer from 10 to {NUM_FRAMES}")
        return check_camera(Camera(**values)), int(num_frames)
    except ValueError as error:
        remedy = "write numbers of pixels, or remove the file to use the camera of JTA"
        raise AnnotationError(f"{path}: {error}; {remedy}") from error


def check_camera(camera: Camera) -> Camera:
    """`camera` as Python floats. Raises ValueError unless all are finite and fx and fy are positive."""
    for field, value in camera._asdict().items():
        number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (field in ("fx", "fy") and value <= 0):
            kind = "positive finite" if field in ("fx", "fy") else "finite"
            raise ValueError(f"{field}: {_quoted(value)} is not a {kind} number")
    return Camera(*map(float, camera))


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
    table = table[np.isin(table[:, 0], np.asarray(frames))]
    starts = np.flatnonzero(np.any(np.diff(table[:, :2], axis=0, prepend=-1) != 0, axis=1))  # a person's first row
    people = _group(table, starts)
    frame, count = np.unique(people.frame, return_counts=True)
    if (crowded := count > max_people).any():
        raise AnnotationError(
            f"{path}: frame {frame[crowded][0]} has {count[crowded][0]} people, more than max_people={max_people}; "
            f"prepare with --max_people={count.max()} or more"
        )
    return people


def _load_json(path: pathlib.Path) -> Any:
    """A file's content, with floats for all numbers. Raises AnnotationError."""
    try:
        return json.loads(path.read_bytes(), parse_int=float)
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); check the file and its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: is not JSON ({error}); the file is damaged, get it again") from error


def _quoted(value: Any) -> str:
    """A value as JSON, cut after 60 characters."""
    return json.dumps(value, default=str)[:60]


# ---- Rows


def _load_table(path: pathlib.Path) -> np.ndarray:
    """The file's R rows of numbers, `[R, 10]` float64."""
    rows = _load_json(path)
    if not isinstance(rows, list):
        raise AnnotationError(f"{path}: is of type {type(rows).__name__}, not a list of rows; get the file again")
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(FIELDS):
            wanted = f"is not a list of the {len(FIELDS)} numbers {', '.join(FIELDS)}"
            raise _bad_row(path, i, None, f"{_quoted(row)} {wanted}; correct it or leave it out")
        for field, value in zip(FIELDS, row):
            if type(value) is not float:
                raise _bad_row(path, i, field, f"{_quoted(value)} is not a number; write the number")
    return np.array(rows, np.float64).reshape(-1, len(FIELDS))


def _check_values(path: pathlib.Path, table: np.ndarray) -> None:
    """Raises AnnotationError for the first value that its field does not allow."""
    for field, column in zip(FIELDS, table.T):
        if field in _INTEGERS:
            first, last = _INTEGERS[field]
            good = (column == np.rint(column)) & (column >= first) & (column <= last)
            wanted = f"an integer from {first} to {last}"
        else:
            good, wanted = np.abs(column) < np.finfo(np.float32).max, "a finite number"  # NaN compares false
        bad = np.flatnonzero(~good)
        if bad.size:
            problem = f"{column[bad[0]]:.10g} is not {wanted}; correct it or leave the row out"
            raise _bad_row(path, bad[0], field, problem, others=bad.size - 1)


def _check_duplicates(path: pathlib.Path, table: np.ndarray, rows: np.ndarray) -> None:
    """Raises AnnotationError if two rows (`rows` are their numbers in the file) are the same joint."""
    same = np.flatnonzero(~np.any(np.diff(table[:, :3], axis=0), axis=1))
    if same.size:
        i = same[0]
        frame, person, joint = table[i, :3].astype(int)
        what = f"joint {joint} of person {person} in frame {frame} is also in row {rows[i]}; leave one of them out"
        raise _bad_row(path, rows[i + 1], "joint_type", what, others=same.size - 1)


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

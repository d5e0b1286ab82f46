"""Motion of people in files that other software reads: C3D, TRC, BVH, glTF and CSV.

All but CSV have the same axes: x to the camera's right, y up, z towards the camera, and the ground at y = 0.
"""

import functools
import importlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from loco_jax.cli import disk
from loco_jax.geometry import skeleton
from loco_jax.motion import names
from loco_jax.pose.ground import Ground, ground
from loco_jax.pose.tracking import Tracked

FORMATS = ("c3d", "trc", "bvh", "gltf", "csv")
_NEEDED = {"c3d": "ezc3d", "gltf": "pygltflib"}  # libraries
_USUAL_RATE = 30.0  # frames a second, where there is one frame
_BLOCK = 2**18  # markers that are in memory at a time


class Track(NamedTuple):
    """One person from the first frame with a known joint to the last.

    Attributes:
      number: the identity, from 1.
      first: the index of the first frame.
      joints: metres, y up, on the ground; NaN if unknown.
    """

    number: int
    first: int
    joints: Float[np.ndarray, "T J 3"]


class Tracks(NamedTuple):
    """People, by rising id, and all frames.

    Attributes:
      times: seconds from the first frame.
      rate: the mean number of frames a second; 30 for a single frame.
      people: those who have a known joint.
    """

    times: Float[np.ndarray, " T"]
    rate: float
    people: tuple[Track, ...]

    def labels(self) -> list[str]:
        """The names of all joints, like p3_left_knee: those of the first person come first."""
        return [f"p{person.number}_{name}" for person in self.people for name in skeleton.JOINTS]

    def markers(self) -> Iterator[Float32[np.ndarray, "T N J 3"]]:
        """Everybody's joints in millimetres, some frames at a time; NaN if unknown or if a person is not there."""
        step = max(1, _BLOCK // max(1, len(self.people) * skeleton.NUM_JOINTS))
        for start in range(0, len(self.times), step):
            stop = min(start + step, len(self.times))
            block = np.full((stop - start, len(self.people), skeleton.NUM_JOINTS, 3), np.nan, np.float32)
            for row, (_, first, joints) in enumerate(self.people):
                begin, end = max(start, first), min(stop, first + len(joints))
                if begin < end:
                    block[begin - start : end - start, row] = 1000 * joints[begin - first : end - first]
            yield block


class Files(NamedTuple):
    """Paths of files that are written, and of those of an earlier run that are removed."""

    written: list[pathlib.Path]
    removed: list[pathlib.Path]


def check_formats(formats: Sequence[str]) -> None:
    """Raises ValueError for an unknown format, and ModuleNotFoundError if a library is not installed."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"--export={name}: there is no such format; formats are {', '.join(FORMATS)}")
    for library in (_NEEDED[name] for name in formats if name in _NEEDED):
        try:
            importlib.import_module(library)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{library} is not installed: pip install 'loco-jax[files]'") from error


def tracks_of(frames: Sequence[Tracked]) -> Tracks:
    """The people of frames in a world with y up, whose ground is estimated from all people.

    Raises ValueError if the frames' times do not rise.
    """
    times = np.array([frame.time - frames[0].time for frame in frames], float)
    # In glTF times are float32.
    if not (np.isfinite(times).all() and (np.diff(times.astype(np.float32)) > 0).all()):
        raise ValueError("the frames are not in order of time")
    found: dict[int, dict[int, np.ndarray]] = {}  # by identity and frame
    for t, frame in enumerate(frames):
        for number, joints in zip(frame.ids.tolist(), frame.joints):
            known = np.isfinite(joints).all(axis=-1, keepdims=True)
            if known.any():
                found.setdefault(number, {})[t] = np.where(known, joints, np.nan)
    seen = [joints for rows in found.values() for joints in rows.values()]
    place = ground(np.array(seen, float).reshape(-1, skeleton.NUM_JOINTS, 3))
    people = []
    for number, rows in sorted(found.items()):
        whole = np.full((max(rows) - min(rows) + 1, skeleton.NUM_JOINTS, 3), np.nan)
        whole[np.array(list(rows)) - min(rows)] = list(rows.values())
        people.append(Track(number, min(rows), to_world(whole, place)))
    rate = (len(times) - 1) / times[-1] if len(times) > 1 else _USUAL_RATE
    return Tracks(times, float(rate), tuple(people))


def to_world(joints: Float[np.ndarray, "*N 3"], place: Ground) -> Float[np.ndarray, "*N 3"]:
    """Points in metres in camera coordinates (x right, y down, z ahead) as x right, y up, z back, from the ground."""
    right, up, ahead = place.axes()
    return joints @ np.stack([right, up, -ahead], axis=1) + [0.0, place.height, 0.0]


def write(
    frames: Sequence[Tracked], base: os.PathLike | str, formats: Sequence[str], old: Sequence[str] | None = None
) -> Files:
    """Writes NAME.c3d, NAME.trc, NAME_p3.bvh (a file for each person), NAME.glb and NAME.csv.

    Files of these formats that an earlier run wrote for NAME are replaced or removed. Without people nothing is
    written.

    Args:
      frames: people in order of time.
      base: the path up to NAME.
      formats: some of `FORMATS`.
      old: the files of `names.earlier` for NAME; by default they are looked up.

    Raises ValueError for an unknown format, for frames that are not in order, for a path that is a folder or a file of
    others, and for what a format cannot hold; ModuleNotFoundError for a missing library; OSError for a path that cannot
    be written to. All paths are checked before the first file is written.
    """
    check_formats(formats)
    base = os.fspath(base)
    if old is None:
        old = names.earlier(os.path.dirname(base), formats).get(base, [])
    tracks = tracks_of(frames)
    writers: dict[str, Callable[[pathlib.Path], None]] = {}
    for name in formats if tracks.people else ():
        write_to = importlib.import_module(f"loco_jax.motion.{name}").write
        if name == "bvh":
            for person in tracks.people:
                writers[names.of_person(base, person.number)] = functools.partial(write_to, tracks, person)
        else:
            writers[base + names.ENDINGS[name]] = functools.partial(write_to, frames if name == "csv" else tracks)
    names.refuse_others([*old, *writers])
    for path, write_to in writers.items():
        with disk.whole(path) as part:
            write_to(part)
    stale = [path for path in old if path not in writers]
    for path in stale:
        pathlib.Path(path).unlink(missing_ok=True)
    return Files([pathlib.Path(path) for path in writers], [pathlib.Path(path) for path in stale])

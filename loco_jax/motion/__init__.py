"""Motion of people in files that other software reads: C3D, TRC, BVH, glTF and CSV.

All but CSV have the same axes: x to the camera's right, y up, z back to the camera, and the ground at y = 0.
"""

import functools
import importlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from loco_jax.cli import disk
from loco_jax.geometry import skeleton
from loco_jax.pose.ground import Ground, ground
from loco_jax.pose.tracking import Tracked

FORMATS = ("c3d", "trc", "bvh", "gltf", "csv")
ENDINGS = {"c3d": ".c3d", "trc": ".trc", "gltf": ".glb", "csv": ".csv"}  # of files with everybody
_NEEDED = {"c3d": "ezc3d", "gltf": "pygltflib"}  # libraries
_USUAL_RATE = 30.0  # frames a second, where there is one frame


class Tracks(NamedTuple):
    """People of all frames, by rising id.

    Attributes:
      ids: identities, from 1.
      times: seconds from the first frame.
      rate: frames a second.
      joints: metres, y up, on the ground; NaN if unknown or if the person is not in the frame.
    """

    ids: tuple[int, ...]
    times: Float[np.ndarray, " T"]
    rate: float
    joints: Float[np.ndarray, "N T J 3"]

    def labels(self) -> list[str]:
        """The names of all joints, like p3_left_knee: those of the first person come first."""
        return [f"p{number}_{name}" for number in self.ids for name in skeleton.JOINTS]

    def markers(self) -> Float[np.ndarray, "T M 3"]:
        """The joints in the order of `labels`, in millimetres."""
        return 1000 * np.moveaxis(self.joints, 0, 1).reshape(len(self.times), -1, 3)


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


def rate_of(frames: Sequence[Tracked]) -> float:
    """The mean number of frames a second; 30 for a single frame."""
    seconds = frames[-1].time - frames[0].time if frames else 0.0
    return (len(frames) - 1) / seconds if seconds > 0 else _USUAL_RATE


def tracks_of(frames: Sequence[Tracked], rate: float, place: Ground | None = None) -> Tracks:
    """The people of frames, which are in order of time, in a world with y up.

    `rate` is in frames a second. `place` is the ground; by default it is estimated from all people.
    """
    ids = tuple(sorted({int(number) for frame in frames for number in frame.ids}))
    joints = np.full((len(ids), len(frames), skeleton.NUM_JOINTS, 3), np.nan)
    row = {number: i for i, number in enumerate(ids)}
    for t, frame in enumerate(frames):
        for number, person in zip(frame.ids, frame.joints):
            joints[row[int(number)], t] = np.where(np.isfinite(person).all(axis=-1, keepdims=True), person, np.nan)
    times = np.array([frame.time - frames[0].time for frame in frames], float)
    return Tracks(ids, times, float(rate), to_world(joints, place or ground(_seen(joints))))


def to_world(joints: Float[np.ndarray, "*N 3"], place: Ground) -> Float[np.ndarray, "*N 3"]:
    """Points in metres in camera coordinates (x right, y down, z ahead) as x right, y up, z back, from the ground."""
    right, up, ahead = place.axes()
    return joints @ np.stack([right, up, -ahead], axis=1) + [0.0, place.height, 0.0]


def write(frames: Sequence[Tracked], base: os.PathLike | str, formats: Sequence[str]) -> list[pathlib.Path]:
    """Writes NAME.c3d, NAME.trc, NAME_p3.bvh (a file for each person), NAME.glb and NAME.csv.

    `base` is the path up to NAME. `formats` are some of `FORMATS`. Returns the paths; without people there are none.
    Raises ValueError for an unknown format and for a path that is a folder, ModuleNotFoundError for a missing library,
    and OSError for a path that cannot be written to.
    """
    check_formats(formats)
    if not any(len(frame.ids) for frame in frames):
        return []
    rate = rate_of(frames)
    tracks = tracks_of(frames, rate)
    path = functools.partial("{}{}".format, os.fspath(base))
    written: list[pathlib.Path] = []
    for name in dict.fromkeys(formats):
        module = importlib.import_module(f"loco_jax.motion.{name}")
        if name == "csv":
            files = {path(ENDINGS[name]): functools.partial(module.write, frames)}
        elif name == "bvh":
            files = {
                path(f"_p{number}.bvh"): functools.partial(module.write, joints, rate)
                for number, joints in zip(tracks.ids, tracks.joints)
            }
        else:
            files = {path(ENDINGS[name]): functools.partial(module.write, tracks)}
        for file, write_to in files.items():
            if os.path.isdir(file):
                raise ValueError(f"{file}: is a folder; remove it, or name another --output")
            with disk.whole(file) as part:
                write_to(part)
            written.append(pathlib.Path(file))
    return written


def _seen(joints: Float[np.ndarray, "N T J 3"]) -> Float[np.ndarray, "M J 3"]:
    people = joints.reshape(-1, *joints.shape[2:])
    return people[np.isfinite(people).any(axis=(1, 2))]

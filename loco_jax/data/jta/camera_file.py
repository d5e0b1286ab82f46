"""`camera.json`: a JTA's intrinsics, and how many frames its sequences have."""

import json
import math
import os
import pathlib
from typing import Any

from loco_jax.data.jta.annotations import NUM_FRAMES, AnnotationError, as_float, quoted, read_text
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera

CAMERA_FILE = "camera.json"
_MOST_BYTES = 100_000
_REMEDY = 'write {"fx": ..., "fy": ..., "cx": ..., "cy": ...} in pixels, or remove the file for the camera of JTA'


def read_camera(jta_dir: os.PathLike | str) -> Camera:
    """The intrinsics in pixels from `camera.json` in `jta_dir`, or JTA's if there is no such file.

    Raises:
      AnnotationError: the file is not the four numbers fx, fy, cx, cy, all finite, the first two positive.
    """
    path, values = _read(jta_dir)
    if values is None:
        return cameras.JTA
    values.pop("num_frames", None)
    if sorted(values) != sorted(Camera._fields):
        raise AnnotationError(f"{path}: must hold exactly {', '.join(Camera._fields)}; {_REMEDY}")
    for field, value in values.items():
        if type(value) not in (int, float):
            raise AnnotationError(f"{path}: {field}: {quoted(value)} is not a number; {_REMEDY}")
    try:
        return check_camera(Camera(**values))
    except ValueError as error:
        raise AnnotationError(f"{path}: {error}; {_REMEDY}") from error


def read_num_frames(jta_dir: os.PathLike | str) -> int:
    """Frames of a sequence: 900, or fewer if `camera.json` in `jta_dir` says so. Raises AnnotationError."""
    read_camera(jta_dir)  # raises if the file as a whole is wrong
    path, values = _read(jta_dir)
    number = (values or {}).get("num_frames", NUM_FRAMES)
    if type(number) is not int or not 10 <= number <= NUM_FRAMES:
        raise AnnotationError(f"{path}: num_frames: {quoted(number)} is not an integer from 10 to {NUM_FRAMES}")
    return number


def check_camera(camera: Camera) -> Camera:
    """`camera` as Python floats. Raises ValueError unless all are finite and fx and fy are positive."""
    camera = Camera(*(as_float(value) for value in camera))  # type: ignore[arg-type]
    for field, value in camera._asdict().items():
        if not math.isfinite(value) or (field in ("fx", "fy") and value <= 0):
            raise ValueError(f"{field}: {value} is not a {'positive ' if field in ('fx', 'fy') else ''}finite number")
    return camera


def _read(jta_dir: os.PathLike | str) -> tuple[pathlib.Path, dict[str, Any] | None]:
    path = pathlib.Path(jta_dir).expanduser() / CAMERA_FILE
    if not path.exists():
        return path, None
    text = read_text(path, _MOST_BYTES)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON ({error}); {_REMEDY}") from error
    if not isinstance(values, dict):
        raise AnnotationError(f"{path}: must hold exactly {', '.join(Camera._fields)}; {_REMEDY}")
    return path, values

"""`camera.json`: a JTA's intrinsics, and the number of frames of its sequences."""

import json
import math
import os
import pathlib

from loco_jax.data.jta.annotations import NUM_FRAMES, AnnotationError, as_float, quoted, read_text
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera

CAMERA_FILE = "camera.json"
_MOST_BYTES = 100_000
_REMEDY = 'write {"fx": ..., "fy": ..., "cx": ..., "cy": ...} in pixels, or remove the file to use the camera of JTA'


def read_camera_file(jta_dir: os.PathLike | str) -> tuple[Camera, int]:
    """The intrinsics in pixels and the frames of a sequence; JTA's own if `jta_dir` has no `camera.json`.

    Raises:
      AnnotationError: the file does not hold the four numbers fx, fy, cx, cy, all finite, the first two positive, and
        perhaps num_frames, an integer from 10 to 900.
    """
    path = pathlib.Path(jta_dir).expanduser() / CAMERA_FILE
    if not path.exists():
        return cameras.JTA, NUM_FRAMES
    text = read_text(path, _MOST_BYTES)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: is not JSON ({error}); {_REMEDY}") from error
    num_frames = values.pop("num_frames", NUM_FRAMES) if isinstance(values, dict) else None
    if not isinstance(values, dict) or sorted(values) != sorted(Camera._fields):
        raise AnnotationError(f"{path}: must hold exactly {', '.join(Camera._fields)}; {_REMEDY}")
    for field, value in values.items():
        if type(value) not in (int, float):
            raise AnnotationError(f"{path}: {field}: {quoted(value)} is not a number; {_REMEDY}")
    if type(num_frames) is not int or not 10 <= num_frames <= NUM_FRAMES:
        problem = f"num_frames: {quoted(num_frames)} is not an integer from 10 to {NUM_FRAMES}"
        raise AnnotationError(f"{path}: {problem}; correct or remove it")
    try:
        return check_camera(Camera(**values)), num_frames
    except ValueError as error:
        raise AnnotationError(f"{path}: {error}; {_REMEDY}") from error


def check_camera(camera: Camera) -> Camera:
    """`camera` as Python floats. Raises ValueError unless all are finite and fx and fy are positive."""
    camera = Camera(*(as_float(value) for value in camera))  # type: ignore[arg-type]
    for field, value in camera._asdict().items():
        if not math.isfinite(value) or (field in ("fx", "fy") and value <= 0):
            raise ValueError(f"{field}: {value} is not a {'positive ' if field in ('fx', 'fy') else ''}finite number")
    return camera

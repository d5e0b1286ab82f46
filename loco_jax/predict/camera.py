"""The camera of a picture: given by the user, read from EXIF, or assumed."""

import math
from typing import NamedTuple

from loco_jax.geometry.camera import Camera
from loco_jax.media.pictures import Focal


class Lens(NamedTuple):
    """The user's values for the camera, in pixels of the user's picture, or None."""

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    fov: float | None = None  # horizontal, in degrees, of a picture whose optical axis is in the middle


def check_lens(lens: Lens) -> None:
    """Raises ValueError for impossible values, and for values that contradict each other."""
    for name, value in lens._asdict().items():
        centre = name in ("cx", "cy")
        if value is not None and not (math.isfinite(value) and (value > 0 or centre)):
            raise ValueError(f"--{name}={value:g} must be a finite number" + ("" if centre else " above 0"))
    if lens.fov is not None and (lens.fx is not None or lens.fy is not None):
        raise ValueError("--fov says the same as --fx and --fy: give one of them")
    if lens.fov is not None and not 1 <= lens.fov <= 170:
        raise ValueError(f"--fov={lens.fov:g} is not between 1 and 170 degrees")


def camera_of(
    size: tuple[int, int],
    lens: Lens,
    focal: Focal | None,
    trained: Camera,
    trained_size: tuple[int, int],
    pixel_aspect: float = 1.0,
) -> tuple[Camera, str]:
    """The camera of a picture, and where it comes from.

    The user's values come first, then EXIF, then the field of view of the training pictures, across the picture's
    longer side.

    Args:
      size: the picture's height and width.
      lens: the user's values.
      focal: the values of EXIF, or None.
      trained, trained_size: the camera of the training pictures, and their height and width.
      pixel_aspect: a pixel's width divided by its height, for `lens.fov` and for the assumed field of view.

    Raises ValueError for impossible values.
    """
    check_lens(lens)
    height, width = size
    given = {name: value for name, value in lens._asdict().items() if value is not None}
    source = [f"--{name}={value:g}" for name, value in given.items()]
    cx, cy = given.get("cx", width / 2), given.get("cy", height / 2)
    if not (-width <= cx <= 2 * width and -height <= cy <= 2 * height):
        raise ValueError(f"{' '.join(source)} is far outside the picture, which is {width} x {height} pixels")
    if lens.fov is not None:
        fx = width / 2 / math.tan(math.radians(lens.fov) / 2)
        fy = fx * pixel_aspect
    elif lengths := [f for f in (lens.fx, lens.fy) if f is not None]:
        fx, fy = lengths[0], lengths[-1]
    elif focal is not None:
        fx, fy = focal.fx, focal.fy
        source.insert(0, focal.source)
    else:
        longer = max(width * pixel_aspect, height)  # in heights of pixels
        fy = float(trained.fx) * longer / max(trained_size)
        fx = fy / pixel_aspect
        angle = 2 * math.degrees(math.atan(longer / 2 / fy))
        source.insert(0, f"assumed: {angle:.1f} degrees across the longer side, as in training")
    if not 0.02 * max(size) < min(fx, fy) <= max(fx, fy) < 200 * max(size):
        raise ValueError(
            f"focal lengths of {fx:g} and {fy:g} pixels are not possible for a picture of {width} x {height} pixels; "
            "give --fx and --fy, or --fov"
        )
    return Camera(float(fx), float(fy), float(cx), float(cy)), ", ".join(source)

"""The camera of a picture: given by the user, read from EXIF, or assumed."""

import math
from typing import NamedTuple

from loco_jax.geometry.camera import Camera
from loco_jax.media.pictures import Focal

_NARROWEST, _WIDEST = 1.0, 170.0  # degrees


class Lens(NamedTuple):
    """The user's values for the camera, in pixels of the user's picture, or None.

    `fov` is the horizontal field of view in degrees, from edge to edge.
    """

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    fov: float | None = None


def check_lens(lens: Lens) -> None:
    """Raises ValueError for impossible values, and for values that contradict each other."""
    for name, value in lens._asdict().items():
        centre = name in ("cx", "cy")
        if value is not None and not (math.isfinite(value) and (value > 0 or centre)):
            raise ValueError(f"--{name}={value:g} must be a finite number" + ("" if centre else " above 0"))
    if lens.fov is None:
        return
    if lens.fx is not None or lens.fy is not None:
        raise ValueError("--fov says the same as --fx and --fy: give one of them")
    if not _NARROWEST <= lens.fov <= _WIDEST:
        raise ValueError(f"--fov={lens.fov:g} is not between {_NARROWEST:g} and {_WIDEST:g} degrees")


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
    for name, length in (("cx", width), ("cy", height)):
        if not -length <= given.get(name, 0) <= 2 * length:
            raise ValueError(f"--{name}={given[name]:g} is far outside the picture, which is {width} x {height} pixels")
    cx, cy = given.get("cx", width / 2), given.get("cy", height / 2)
    sources = [f"--{name}={value:g}" for name, value in given.items() if name in ("cx", "cy")]
    if lens.fov is not None:
        fx = _focal_of_view(lens.fov, cx, width)
        fy, source = fx * pixel_aspect, f"--fov={lens.fov:g}"
    elif lens.fx is not None or lens.fy is not None:
        lengths = [f for f in (lens.fx, lens.fy) if f is not None]
        fx, fy = lengths[0], lengths[-1]
        source = " ".join(f"--{name}={given[name]:g}" for name in ("fx", "fy") if name in given)
    elif focal is not None:
        fx, fy, source = focal
    else:
        longer = max(width * pixel_aspect, height)  # in heights of pixels
        fy = float(trained.fx) * longer / max(trained_size)
        fx = fy / pixel_aspect
        angle = 2 * math.degrees(math.atan(longer / 2 / fy))
        source = f"assumed: {angle:.1f} degrees across the longer side, as in training"
    if given.keys() & {"fx", "fy", "fov"}:
        for f in (fx, fy):
            if not 0.02 * max(size) < f < 200 * max(size):
                raise ValueError(f"a focal length of {f:g} pixels cannot be, for a picture of {width} x {height}")
    return Camera(float(fx), float(fy), float(cx), float(cy)), ", ".join([source, *sources])


def _focal_of_view(fov: float, cx: float, width: int) -> float:
    """Solves atan(cx / f) + atan((width - cx) / f) = fov (degrees) for f; of two solutions the longer."""
    half = 0.5 * width / math.tan(math.radians(fov))
    square = half * half + cx * (width - cx)
    if square < 0 or (f := half + math.sqrt(square)) <= 0:
        raise ValueError(f"--fov={fov:g} cannot be with --cx={cx:g}: give --fx")
    return f

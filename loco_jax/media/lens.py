"""The focal length of a picture's lens, from EXIF."""

import math
from typing import NamedTuple

from PIL import ExifTags, Image

_FILM_DIAGONAL = math.hypot(36, 24)  # millimetres, of 35 mm film
_SAME_SHAPE = 1.02  # ratios of width to height that differ by a smaller factor count as the same
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # EXIF's units of resolution


class Focal(NamedTuple):
    """Focal lengths in pixels, and their source in words."""

    fx: float
    fy: float
    source: str


def focal_of(picture: Image.Image, size: tuple[int, int]) -> Focal | None:
    """Focal lengths of a picture as it is stored, with this width and height. None if EXIF has no usable one."""
    try:
        exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
        film = _focal_of_film(exif, size)
        # EXIF 2.32 does not say whether the equivalent on film includes DigitalZoomRatio. This code assumes that it
        # does in cameras by Apple, and in no others.
        counted = film and str(picture.getexif().get(ExifTags.Base.Make, "")).startswith("Apple")
        focal = film or _focal_of_sensor(exif, size)
        focal = focal if focal is None or counted else _zoomed(exif, focal)
    except Exception:  # EXIF can hold anything
        return None
    if focal is None:
        return None
    across = [math.degrees(2 * math.atan(n / 2 / f)) for n, f in zip(size, focal[:2])]
    return focal if 1 < max(across) < 170 else None


def _zoomed(exif: dict, focal: Focal) -> Focal:
    zoom = float(exif.get(ExifTags.Base.DigitalZoomRatio, 0))  # 0: none
    if not (math.isfinite(zoom) and zoom > 1):
        return focal
    return Focal(zoom * focal.fx, zoom * focal.fy, f"{focal.source}, {zoom:g} times as long by digital zoom")


def _focal_of_film(exif: dict, size: tuple[int, int]) -> Focal | None:
    """From the equivalent on film, which compares the diagonals."""
    millimetres = float(exif.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
    if not (math.isfinite(millimetres) and millimetres > 0) or _resized(exif, size) is None:
        return None
    f = millimetres * math.hypot(*size) / _FILM_DIAGONAL
    return Focal(f, f, f"EXIF: {millimetres:g} mm on 35 mm film")


def _focal_of_sensor(exif: dict, size: tuple[int, int]) -> Focal | None:
    """From millimetres and the sensor's pixels per unit of length; the picture may have been resized since."""
    millimetres = float(exif.get(ExifTags.Base.FocalLength, 0))
    unit = _MILLIMETRES[exif.get(ExifTags.Base.FocalPlaneResolutionUnit, 2)]
    x = float(exif.get(ExifTags.Base.FocalPlaneXResolution, 0))
    y = float(exif.get(ExifTags.Base.FocalPlaneYResolution, x))
    if not all(math.isfinite(n) and n > 0 for n in (millimetres, x, y)) or (resized := _resized(exif, size)) is None:
        return None
    factor, turned = resized
    fx, fy = (millimetres * n / unit * factor for n in ((y, x) if turned else (x, y)))
    return Focal(fx, fy, f"EXIF: {millimetres:g} mm and the sensor's resolution")


def _resized(exif: dict, size: tuple[int, int]) -> tuple[float, bool] | None:
    """The factor by which the picture was resized since it was taken, and whether it was turned on its side.

    None if it has another shape: it was cropped, and the size of the crop is not known.
    """
    tags = ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight
    was = [float(exif.get(tag) or now) for now, tag in zip(size, tags)]
    for turned in (False, True):
        x, y = (now / before for now, before in zip(size, was[::-1] if turned else was))
        if max(x, y) <= (_SAME_SHAPE + 1 / min(size)) * min(x, y):
            return (x + y) / 2, turned
    return None

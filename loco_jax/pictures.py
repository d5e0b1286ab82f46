"""Anybody's pictures: read as arrays, with what EXIF says of the lens, and resampled for a network.

Pixels count from the picture's top left corner, so that a picture resized by a factor has all its pixels, and its
camera, multiplied by that factor.
"""

import contextlib
import functools
import math
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from loco_jax.camera import Camera

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
)  # fmt: skip
FOREIGN = (
    ".heic",
    ".heif",
    ".hif",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raf",
    ".orf",
    ".rw2",
    ".psd",
    ".svg",
)  # pictures too, but Pillow cannot read them, or only a thumbnail in them
GREY = 128  # behind what is transparent, and around a picture that does not fill its canvas
CELL = 64  # pixels; canvases larger than the trained pictures are whole numbers of these, so that few are compiled
MOST_PIXELS = 4  # times those of the trained pictures; a larger canvas is shrunk

_MOST_DECODED = (
    1e11  # pixels in all scans of a JPEG; each scan is a pass over the whole picture, of 1e9 pixels a second
)
_STRIP = 2**22  # pixels of a picture that are converted at once: conversions take several times a picture's memory
_FILM_DIAGONAL = math.hypot(36, 24)  # millimetres, of the film that "35 mm equivalent" speaks of
_SAME_SHAPE = 1.02  # times; pictures whose sides differ by less have one shape
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # EXIF's units of resolution


class PictureError(ValueError):
    """A file cannot be read as a picture; the message names it."""


class Focal(NamedTuple):
    """Focal lengths in pixels, and where they come from."""

    fx: float
    fy: float
    source: str


class Picture(NamedTuple):
    """A picture `[H, W, 3]` uint8, upright, and the focal lengths that EXIF tells, or None."""

    image: np.ndarray
    focal: Focal | None


class Canvas(NamedTuple):
    """How pictures of one size and camera are shown to a network, see `plan`.

    Attributes:
      picture_size: height and width of the resampled picture.
      origin: row and column of the canvas where the picture's top left corner lies.
      size: height and width of the canvas.
      camera: for the network, in the canvas's pixels. Its focal lengths are those trained with.
      shrink: 1, or below that how much smaller people look in the canvas than they did in training.
    """

    picture_size: tuple[int, int]
    origin: tuple[int, int]
    size: tuple[int, int]
    camera: Camera
    shrink: float


# ---- Reading


def read(path: os.PathLike | str) -> Picture:
    """A picture file; of several pictures in it the first.

    EXIF's orientation is applied. Grey, palette, CMYK and 16-bit pictures become RGB; transparent parts become grey.
    Raises PictureError.
    """
    path = pathlib.Path(path)
    try:
        if path.stat().st_size == 0 and path.is_file():
            raise PictureError(f"{path}: is empty (0 bytes); get the file again")
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
            raise PictureError(f"{path}: is not a file")
        with _open(path) as picture:
            return _read(path, picture)
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{path}: has too many pixels, or claims so ({error}); make it smaller") from error
    except Image.UnidentifiedImageError as error:
        hint = "convert it to JPEG or PNG" if path.suffix.lower() in FOREIGN else "JPEG or PNG will do"
        raise PictureError(f"{path}: is not a picture that can be read; {hint}") from error
    except Exception as error:  # decoders raise nearly anything for damaged files
        if isinstance(error, OSError) and error.errno:
            raise PictureError(f"{path}: cannot be read ({error.strerror})") from error
        reason = str(error) or type(error).__name__
        raise PictureError(f"{path}: cannot be read as a picture ({reason}); it is damaged or cut off") from error


def is_picture(path: os.PathLike | str) -> bool:
    """Whether a file begins like a picture that can be read, whatever its name."""
    try:
        with _open(path):
            return True
    except Image.UnidentifiedImageError:
        return False
    except Exception:  # it is one, and damaged
        return True


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Image.Image]:
    """A picture of a kind in SUFFIXES, whatever its name: Pillow knows more, and runs programs in PostScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures and odd metadata: what matters is raised
        with Image.open(path, formats=_formats()) as picture:
            yield picture


@functools.cache
def _formats() -> tuple[str, ...]:
    known = Image.registered_extensions()
    return tuple(dict.fromkeys(known[suffix] for suffix in SUFFIXES if suffix in known))


def find(folder: os.PathLike | str) -> list[pathlib.Path]:
    """The pictures in a folder, by name; hidden files and overlays that we wrote are none. Raises PictureError if there
    are none or if the folder cannot be read."""
    folder = pathlib.Path(folder)
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise PictureError(f"{folder}: cannot be read ({error.strerror})") from error
    found = [
        folder / name
        for name in names
        if pathlib.Path(name).suffix.lower() in SUFFIXES and not name.startswith(".") and not _is_ours(name, names)
    ]
    if not found:
        raise PictureError(f"{folder}: holds no pictures ({', '.join(SUFFIXES)}); videos are named one by one")
    return found


def _is_ours(name: str, names: list[str]) -> bool:
    stem = name.removesuffix("_overlay.jpg")
    return stem != name and f"{stem}.json" in names and f"{stem}_3d.html" in names


def check_scans(path: pathlib.Path, picture: Image.Image) -> None:
    """Raises PictureError for an opened JPEG file that has so many scans that it would take for ever to decode."""
    if picture.format in ("JPEG", "MPO"):
        scans = path.read_bytes().count(b"\xff\xda")  # or fewer: what a telephone appends may have some by chance
        if scans * picture.width * picture.height > _MOST_DECODED:
            raise PictureError(f"{path}: has {scans:,} scans, which would take too long; save it again as another file")


def _read(path: pathlib.Path, picture: Image.Image) -> Picture:
    check_scans(path, picture)
    picture.load()
    if 0 in picture.size:
        raise PictureError(f"{path}: has no pixels ({picture.width} x {picture.height})")
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        focal = _focal(picture)
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception:  # EXIF that makes no sense does not spoil the picture
        return Picture(_to_rgb(picture), None)
    if focal and orientation in (5, 6, 7, 8):  # stored on its side
        focal = Focal(focal.fy, focal.fx, focal.source)
    return Picture(_to_rgb(picture), focal)


def _to_rgb(picture: Image.Image) -> np.ndarray:
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    deep = picture.mode == "F" or picture.mode.startswith("I")  # grey of 16 bits and more
    if deep:
        largest = max(float(_values(strip).max()) for _, strip in _strips(picture))
        steps = (1.0,) * (picture.mode == "F") + (255.0, 65535.0, largest)
        top = next(step for step in steps if largest <= step)
    for rows, strip in _strips(picture):
        if deep:
            rgb[rows] = np.clip(_values(strip) * (255 / top), 0, 255).round()[..., None]
        elif strip.has_transparency_data:
            behind = Image.new("RGBA", strip.size, (GREY, GREY, GREY, 255))
            rgb[rows] = Image.alpha_composite(behind, strip.convert("RGBA")).convert("RGB")
        else:
            rgb[rows] = strip.convert("RGB")
    return rgb


def _strips(picture: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Parts of a picture from the top down, and the rows that they are."""
    step = max(1, _STRIP // picture.width)
    for top in range(0, picture.height, step):
        end = min(top + step, picture.height)
        yield slice(top, end), picture.crop((0, top, picture.width, end))


def _values(picture: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(picture, np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _focal(picture: Image.Image) -> Focal | None:
    """Of the picture as it is stored. None if EXIF does not say, or says nonsense."""
    try:
        exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
        focal = _focal_of_film(exif, picture.size) or _focal_of_sensor(exif, picture.size)
    except Exception:  # anything can be in there
        return None
    if focal is None:
        return None
    across = [math.degrees(2 * math.atan(n / 2 / f)) for n, f in zip(picture.size, focal[:2])]
    return focal if 1 < max(across) < 170 else None


def _focal_of_film(exif: dict, size: tuple[int, int]) -> Focal | None:
    """From the equivalent on film, which compares the diagonals."""
    millimetres = float(exif.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
    if not (math.isfinite(millimetres) and millimetres > 0) or _resized(exif, size) is None:
        return None
    f = millimetres * math.hypot(*size) / _FILM_DIAGONAL
    return Focal(f, f, f"EXIF: {millimetres:g} mm on 35 mm film")


def _focal_of_sensor(exif: dict, size: tuple[int, int]) -> Focal | None:
    """From millimetres, and the sensor's pixels in a unit of length; the picture may have been resized since."""
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
    """How many times as large the picture is as it was when taken, and whether it was laid on its side since.

    None if it has another shape: it was cut, and nothing tells from how large a part it was made.
    """
    tags = ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight
    was = [float(exif.get(tag) or now) for now, tag in zip(size, tags)]
    for turned in (False, True):
        x, y = (now / before for now, before in zip(size, was[::-1] if turned else was))
        if max(x, y) <= (_SAME_SHAPE + 1 / min(size)) * min(x, y):
            return (x + y) / 2, turned
    return None


# ---- Resampling


def plan(size: tuple[int, int], camera: Camera, trained: Camera, trained_size: tuple[int, int]) -> Canvas:
    """How to show pictures of `size` (height, width) by `camera` to a network.

    They are resampled so that a pixel is as wide an angle as in training, and padded: to the trained pictures' height
    and width, or where they are larger than that to a whole number of CELL. A canvas of more than MOST_PIXELS times the
    trained pixels is too large to work on: then pictures are shrunk below equal angles, see `to_user`.

    Pictures lie so that the optical axis is where it was in training, as near to it as the canvas allows: a network
    learns which row means which angle downwards, and so which distance.

    Args:
      size, camera: of the pictures.
      trained, trained_size: the camera that the network was trained with, and the size of its pictures.
    """
    focal = float(trained.fy), float(trained.fx)
    scale = [f / float(own) for f, own in zip(focal, (camera.fy, camera.fx))]
    full = [n * s for n, s in zip(size, scale)]
    shrink = min(1.0, math.sqrt(MOST_PIXELS * math.prod(trained_size) / math.prod(full)))
    for axis in range(2):  # of a narrow picture the canvas is broader than the picture
        if full[axis] * shrink < trained_size[axis]:
            shrink = min(shrink, MOST_PIXELS * trained_size[1 - axis] / full[1 - axis])
    rows, columns = (max(1, round(n * shrink)) for n in full)
    canvas = [t if n <= t else CELL * math.ceil(n / CELL) for n, t in zip((rows, columns), trained_size)]
    x, y = columns / size[1], rows / size[0]
    wanted = float(trained.cy) - camera.cy * y, float(trained.cx) - camera.cx * x
    top, left = (min(max(round(w), 0), c - n) for w, c, n in zip(wanted, canvas, (rows, columns)))
    # Focal lengths are those trained with but for the rounding to whole pixels.
    pretended = Camera(camera.fx * x / shrink, camera.fy * y / shrink, camera.cx * x + left, camera.cy * y + top)
    return Canvas((rows, columns), (top, left), (canvas[0], canvas[1]), Camera(*map(float, pretended)), shrink)


def fill(canvas: Canvas, image: np.ndarray) -> np.ndarray:
    """The canvas `[h, w, 3]` uint8 with a picture `[H, W, 3]` uint8 in its place, grey around it."""
    (rows, columns), (top, left) = canvas.picture_size, canvas.origin
    if image.shape[:2] != (rows, columns):
        image = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC))
    filled = np.full((*canvas.size, 3), GREY, np.uint8)
    filled[top : top + rows, left : left + columns] = image
    return filled


def to_user(canvas: Canvas, joints: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Joints `[N, J, 3]` in metres from the user's camera, of those that a network found in the canvas.

    At equal angles they are the same. Of a canvas that was shrunk by s, the network takes everybody for 1 / s times as
    far as they are. So every person as a whole is brought nearer by s in depth: each joint stays at its pixel, and the
    body as deep as it was.

    Args:
      canvas: what was looked at.
      joints: `[N, J, 3]` in the coordinates of `canvas.camera`.
      known: `[N, J]` which of them there are; the others are left as they are.
    """
    if canvas.shrink == 1 or not len(joints):
        return joints
    z = joints[..., 2]
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    middle = (z * known).sum(axis=1, keepdims=True) / count
    nearer = z + (canvas.shrink - 1) * middle
    nearer = np.maximum(nearer, 0.2 * canvas.shrink * z)  # so near that the body would reach behind the camera
    along = nearer / np.where(z == 0, 1, canvas.shrink * z)
    moved = np.concatenate([joints[..., :2] * along[..., None], nearer[..., None]], axis=-1)
    return np.where(known[..., None], moved, joints)

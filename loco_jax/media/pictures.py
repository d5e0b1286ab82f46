"""Anybody's pictures: read as arrays, with what EXIF says of the lens, and resampled for a network.

Pixels count from the picture's top left corner, so that a picture resized by a factor has all its pixels, and its
camera, multiplied by that factor.
"""

import contextlib
import functools
import io
import math
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageChops, ImageOps, JpegImagePlugin

from loco_jax.geometry.camera import Camera

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp",
    ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
)  # fmt: skip
FOREIGN = (
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".psd", ".xcf", ".svg", ".jxl",
    ".exr", ".hdr", ".eps", ".pdf",
)  # fmt: skip  # pictures too, but Pillow cannot read them, or only a thumbnail in them
GREY = 128  # behind what is transparent, and around a picture that does not fill its canvas
CELL = 64  # pixels; canvases larger than the trained pictures are whole numbers of these, so that few are compiled
MOST_PIXELS = 4  # times those of the trained pictures; a larger canvas is shrunk

pillow_heif.register_heif_opener()

_MOST_DECODED = 1e11  # pixels in all scans of a JPEG; each is a pass over the whole picture, of 1e9 pixels a second
_LARGE = 2**30 // 12  # pixels; Pillow refuses twice as many. Larger JPEGs are halved while they are decoded
_LARGEST = 4 * _LARGE
_LEAST_THERE = 0.95  # of a JPEG's rows; a file with fewer is cut off
_JPEG_END = b"\xff\xd9"
_WHITE = 2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1  # in files of 16 bits, of cameras of fewer
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
    """A picture that was read.

    Attributes:
      image: `[H, W, 3]` uint8, upright.
      focal: what EXIF tells, or None.
      size: height and width of the file's picture, upright. Of a very large one `image` has half of them, rounded up.
      warnings: what to know about it, a line each.
    """

    image: np.ndarray
    focal: Focal | None
    size: tuple[int, int]
    warnings: tuple[str, ...] = ()


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
    A JPEG of more than 89 million pixels is read at half its size, and one that lacks its last bytes with less in its
    last rows. Raises PictureError.
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
        remedy = "make it smaller, or save it as a JPEG"
        raise PictureError(f"{path}: has too many pixels, or claims so ({error}); {remedy}") from error
    except Image.UnidentifiedImageError as error:
        if pillow_heif.is_supported(path):
            raise PictureError(f"{path}: begins as HEIC and cannot be read; it is damaged or cut off") from error
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


def is_deep(path: os.PathLike | str) -> bool:
    """Whether a picture has values of 16 bits or more, of which `read` has to guess the one that is white.

    Raises what Pillow raises for a file that is none.
    """
    with _open(pathlib.Path(path)) as picture:
        return _is_deep_grey(picture) or _packed(picture)


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Image.Image]:
    """A picture of a kind in SUFFIXES, whatever its name: Pillow knows more, and runs programs in PostScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures and odd metadata: what matters is raised
        with _open_image(path) as picture:
            yield picture


def _open_image(path: pathlib.Path) -> Image.Image:
    try:
        return Image.open(path, formats=_formats())
    except Image.DecompressionBombError:
        with contextlib.suppress(SyntaxError):  # it is no JPEG
            picture = JpegImagePlugin.JpegImageFile(path)
            if math.prod(picture.size) <= _LARGEST:
                return picture
            picture.close()
        raise


@functools.cache
def _formats() -> tuple[str, ...]:
    known = Image.registered_extensions()
    found = dict.fromkeys(known[suffix] for suffix in SUFFIXES if suffix in known)
    return tuple(name for name in found if name in Image.OPEN)  # MPO is read as JPEG


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
    (width, height), focal, notes = picture.size, None, []
    if 0 in picture.size:
        raise PictureError(f"{path}: has no pixels ({width} x {height})")
    if _is_jpeg(picture) and width * height > _LARGE:
        picture.draft(None, (width // 2, height // 2))
        notes.append(f"it has {width} x {height} pixels, and was read at half its size")
    packed = _packed(picture)
    picture = _load(path, picture, notes)
    if packed:
        _use_low_bytes(path, picture, notes)
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        focal = _focal(picture, (width, height))
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception:  # EXIF that makes no sense does not spoil the picture
        return Picture(_to_rgb(picture, notes), None, (height, width), tuple(notes))
    if orientation in (5, 6, 7, 8):  # stored on its side
        width, height = height, width
        focal = focal and Focal(focal.fy, focal.fx, focal.source)
    return Picture(_to_rgb(picture, notes), focal, (height, width), tuple(notes))


def _is_jpeg(picture: Image.Image) -> bool:
    return picture.format in ("JPEG", "MPO")


def _load(path: pathlib.Path, picture: Image.Image, notes: list[str]) -> Image.Image:
    """The picture, decoded; of a JPEG without its last bytes what is there of it, with a note."""
    try:
        picture.load()
        return picture
    except OSError as error:
        if not _is_jpeg(picture) or "truncated" not in str(error):
            raise
        content, size = path.read_bytes().rstrip(b"\xff"), picture.size
        # What is decoded from bytes that are not the file's differs with them.
        ends = _JPEG_END, 99 * b"\xa5" + _JPEG_END
        mended, other = (_decode_jpeg(content + end, size) for end in ends)
        box = ImageChops.difference(mended, other).getbbox()
        there = size[1] if box is None else box[1]
        if there < _LEAST_THERE * size[1]:
            raise
        cut = f": its last {size[1] - there} of {size[1]} rows are incomplete" if there < size[1] else ""
        notes.append("the end of its file is missing" + cut)
        return mended


def _decode_jpeg(content: bytes, size: tuple[int, int]) -> Image.Image:
    picture = JpegImagePlugin.JpegImageFile(io.BytesIO(content))
    if picture.size != size:
        picture.draft(None, size)
    picture.load()
    return picture


def _is_deep_grey(picture: Image.Image) -> bool:
    return picture.mode == "F" or picture.mode.startswith("I")


def _packed(picture: Image.Image) -> bool:
    """Whether it has colours of 16 bits, of which Pillow reads the high bytes."""
    return any(_packing(tile[3]).startswith("RGB") and ";16" in _packing(tile[3]) for tile in picture.tile)


def _packing(arguments: object) -> str:
    """How a decoder's arguments say that bytes lie in the file, such as RGB;16B."""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _use_low_bytes(path: pathlib.Path, picture: Image.Image, notes: list[str]) -> None:
    """Fills a picture of 16 bits with what the low bytes add, if the high ones are those of a camera of fewer bits."""
    highest = max(high for _, high in picture.getextrema())
    if highest >= 2**6:
        return
    with _open(path) as low:
        low.tile = [tile._replace(args=_other_byte(tile.args)) for tile in low.tile]
        low.load()
    values = np.asarray(picture, np.uint16) << 8 | np.asarray(low, np.uint16)
    white = _white(int(values.max()), notes)
    picture.paste(Image.fromarray((np.arange(white + 1) * (255 / white)).round().astype(np.uint8)[values]))


def _other_byte(arguments: object) -> object:
    packing, *others = arguments if isinstance(arguments, tuple) else (arguments,)
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[packing[-1]]
    return (packing[:-1] + other, *others) if others else packing[:-1] + other


def _white(largest: float, notes: list[str]) -> float:
    """The value of white in a picture of deep values, of which `largest` is the largest."""
    white = next((white for white in _WHITE if largest <= white), largest)
    if white in _WHITE[1:-1]:
        notes.append(f"its values go up to {largest:g}, so {white}, of {white.bit_length()} bits, was taken for white")
    return white


def _to_rgb(picture: Image.Image, notes: list[str]) -> np.ndarray:
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    deep = _is_deep_grey(picture)
    if deep:
        largest = max(float(_values(strip).max()) for _, strip in _strips(picture))
        top = 1.0 if picture.mode == "F" and largest <= 1 else _white(largest, notes)
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


def _focal(picture: Image.Image, size: tuple[int, int]) -> Focal | None:
    """Of the picture as it is stored, with this width and height. None if EXIF does not say, or says nonsense."""
    try:
        exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
        film = _focal_of_film(exif, size)
        # EXIF 2.32 gives DigitalZoomRatio, and does not say whether the equivalent on film counts it. Here that of
        # cameras by Apple is taken to count it, and no other.
        counted = film and str(picture.getexif().get(ExifTags.Base.Make, "")).startswith("Apple")
        focal = film or _focal_of_sensor(exif, size)
        focal = focal if focal is None or counted else _zoomed(exif, focal)
    except Exception:  # anything can be in there
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

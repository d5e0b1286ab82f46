"""Reads pictures of any kind as arrays."""

import contextlib
import functools
import io
import math
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageChops, ImageFile, ImageOps, JpegImagePlugin

from loco_jax.media import lens
from loco_jax.media.lens import Focal

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp",
    ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
    ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
)  # fmt: skip
# Suffixes of pictures that Pillow cannot read, or of which it reads only a thumbnail.
FOREIGN = (
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".psd", ".xcf", ".svg", ".jxl",
    ".exr", ".hdr", ".eps", ".pdf",
)  # fmt: skip
GREY = 128  # behind transparent parts

pillow_heif.register_heif_opener()

_MOST_DECODED = 1e11  # pixels in all scans of a JPEG; each scan decodes the whole picture, 1e9 pixels a second
_LARGE = 2**30 // 12  # pixels; Pillow refuses twice as many. Larger JPEGs are halved while they are decoded
_LARGEST = 4 * _LARGE
_LEAST_THERE = 0.95  # of a JPEG's rows; a file with fewer counts as cut off
_JPEG_END = b"\xff\xd9"
_WHITE = 2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1  # in files of 16 bits; cameras may have fewer
_STRIP = 2**22  # pixels that are converted at once: conversions need several times a picture's memory


class PictureError(ValueError):
    """A file cannot be read as a picture; the message names it."""


class Picture(NamedTuple):
    """A picture that was read."""

    image: UInt8[np.ndarray, "H W 3"]  # upright
    focal: Focal | None  # from EXIF
    size: tuple[int, int]  # height and width in the file, upright; `image` has half of them if they are very large
    warnings: tuple[str, ...] = ()  # a line each


# ---- Reading


def read(path: os.PathLike | str) -> Picture:
    """Reads a picture file; if it holds several pictures, the first.

    EXIF's orientation is applied. Grey, palette, CMYK and 16-bit pictures become RGB; transparent parts become grey. A
    JPEG of more than 89 million pixels is read at half its size. A JPEG that lacks its last bytes is read if it lacks
    only few rows. Raises PictureError.
    """
    path = pathlib.Path(path)
    try:
        if path.stat().st_size == 0 and path.is_file():
            raise PictureError(f"{path}: is empty (0 bytes); get the file again")
        if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe may never end
            raise PictureError(f"{path}: is not a file")
        with _open(path) as picture:
            return _read(path, picture)
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        problem = f"has too many pixels, or a damaged header ({error})"
        raise PictureError(f"{path}: {problem}; make it smaller, or save it as a JPEG") from error
    except Image.UnidentifiedImageError as error:
        if pillow_heif.is_supported(path):
            raise PictureError(f"{path}: begins as HEIC and cannot be read; it is damaged or cut off") from error
        raise PictureError(f"{path}: is not a picture of a known kind; convert it to JPEG or PNG") from error
    except Exception as error:  # decoders can raise nearly anything for damaged files
        if isinstance(error, OSError) and error.errno:
            raise PictureError(f"{path}: cannot be read ({error.strerror})") from error
        reason = str(error) or type(error).__name__
        raise PictureError(f"{path}: cannot be read as a picture ({reason}); it is damaged or cut off") from error


def is_picture(path: os.PathLike | str) -> bool:
    """Whether the content of a file begins like a picture that can be read."""
    try:
        with _open(pathlib.Path(path)):
            return True
    except Image.UnidentifiedImageError:
        return False
    except Exception:  # a damaged picture
        return True


def is_deep(path: os.PathLike | str) -> bool:
    """Whether a picture has values of 16 bits or more, for which `read` has to guess the value of white.

    Raises what Pillow raises for a file that is no picture.
    """
    with _open(pathlib.Path(path)) as picture:
        return _is_deep_grey(picture) or _packed(picture)


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[ImageFile.ImageFile]:
    """Opens a picture of a kind in SUFFIXES, whatever its name. Pillow knows more kinds, and runs PostScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large pictures and odd metadata; errors are raised all the same
        with _open_image(path) as picture:
            yield picture


def _open_image(path: pathlib.Path) -> ImageFile.ImageFile:
    try:
        return Image.open(path, formats=_formats())
    except Image.DecompressionBombError:
        with contextlib.suppress(SyntaxError):  # not a JPEG
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
    """The pictures in a folder, by name, without hidden files and the overlays that `predict` wrote.

    Raises PictureError if there are none or if the folder cannot be read.
    """
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
        raise PictureError(f"{folder}: has no pictures ({', '.join(SUFFIXES)}); name videos one by one")
    return found


def _is_ours(name: str, names: list[str]) -> bool:
    """Whether a picture is an overlay that `predict` wrote: its other files are there too."""
    stem = name.removesuffix("_overlay.jpg")
    return stem != name and f"{stem}.json" in names and f"{stem}_3d.html" in names


def check_scans(path: pathlib.Path, picture: Image.Image) -> None:
    """Raises PictureError for an opened JPEG with so many scans that decoding would take very long."""
    if _is_jpeg(picture):
        scans = path.read_bytes().count(b"\xff\xda")  # may be too many: data after the picture counts too
        if scans * picture.width * picture.height > _MOST_DECODED:
            raise PictureError(f"{path}: has {scans:,} scans, which take too long to decode; save it again")


def _read(path: pathlib.Path, picture: ImageFile.ImageFile) -> Picture:
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
        focal = lens.focal_of(picture, (width, height))
        ImageOps.exif_transpose(picture, in_place=True)
    except Exception:  # nonsense in EXIF does not spoil the picture
        return Picture(_to_rgb(picture, notes), None, (height, width), tuple(notes))
    if orientation in (5, 6, 7, 8):  # stored on its side
        width, height = height, width
        focal = focal and Focal(focal.fy, focal.fx, focal.source)
    return Picture(_to_rgb(picture, notes), focal, (height, width), tuple(notes))


def _is_jpeg(picture: Image.Image) -> bool:
    return picture.format in ("JPEG", "MPO")


def _load(path: pathlib.Path, picture: ImageFile.ImageFile, notes: list[str]) -> ImageFile.ImageFile:
    """The decoded picture. A JPEG without its last bytes is decoded as far as possible, with a note."""
    try:
        picture.load()
        return picture
    except OSError as error:
        if not _is_jpeg(picture) or "truncated" not in str(error):
            raise
        content, size = path.read_bytes().rstrip(b"\xff"), picture.size
        # Rows that depend on the appended bytes differ between the two.
        ends = _JPEG_END, 99 * b"\xa5" + _JPEG_END
        mended, other = (_decode_jpeg(content + end, size) for end in ends)
        box = ImageChops.difference(mended, other).getbbox()
        there = size[1] if box is None else box[1]
        if there < _LEAST_THERE * size[1]:
            raise
        cut = f": its last {size[1] - there} of {size[1]} rows are incomplete" if there < size[1] else ""
        notes.append("the end of its file is missing" + cut)
        return mended


def _decode_jpeg(content: bytes, size: tuple[int, int]) -> ImageFile.ImageFile:
    picture = JpegImagePlugin.JpegImageFile(io.BytesIO(content))
    if picture.size != size:
        picture.draft(None, size)
    picture.load()
    return picture


def _is_deep_grey(picture: Image.Image) -> bool:
    return picture.mode == "F" or picture.mode.startswith("I")


def _packed(picture: ImageFile.ImageFile) -> bool:
    """Whether a picture has colours of 16 bits, of which Pillow reads only the high bytes."""
    # The order of bytes in the file, such as RGB;16B, is the decoder's first or only argument.
    orders = (str(args[0] if isinstance(args, tuple) and args else args) for *_, args in picture.tile)
    return any(order.startswith("RGB") and ";16" in order for order in orders)


def _use_low_bytes(path: pathlib.Path, picture: ImageFile.ImageFile, notes: list[str]) -> None:
    """Adds the low bytes to a picture of 16 bits, if the high ones show that its camera has fewer bits."""
    highest = np.max(picture.getextrema())
    if highest >= 2**6:
        return
    with _open(path) as low:
        low.tile = [tile._replace(args=_other_byte(tile.args)) for tile in low.tile]
        low.load()
    values = np.asarray(picture, np.uint16) << 8 | np.asarray(low, np.uint16)
    white = int(_white(int(values.max()), notes))
    picture.paste(Image.fromarray((np.arange(white + 1) * (255 / white)).round().astype(np.uint8)[values]))


def _other_byte(arguments: Any) -> Any:
    packing, *others = arguments if isinstance(arguments, tuple) else (arguments,)
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[packing[-1]]
    return (packing[:-1] + other, *others) if others else packing[:-1] + other


def _white(largest: float, notes: list[str]) -> float:
    """The value of white in a picture whose largest value is `largest`."""
    white = next((white for white in _WHITE if largest <= white), largest)
    if white in _WHITE[1:-1]:
        notes.append(
            f"its values go up to {largest:g}, so {white}, of {int(white).bit_length()} bits, was taken for white"
        )
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
            rgb[rows] = np.asarray(Image.alpha_composite(behind, strip.convert("RGBA")).convert("RGB"))
        else:
            rgb[rows] = np.asarray(strip.convert("RGB"))
    return rgb


def _strips(picture: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Parts of a picture from the top down, each with its rows."""
    step = max(1, _STRIP // picture.width)
    for top in range(0, picture.height, step):
        end = min(top + step, picture.height)
        yield slice(top, end), picture.crop((0, top, picture.width, end))


def _values(picture: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(picture, np.float32), nan=0.0, posinf=0.0, neginf=0.0)

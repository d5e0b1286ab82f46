"""Reads pictures of any kind as arrays, and the focal length of their lens from EXIF."""

import contextlib
import functools
import io
import math
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
import pillow_heif
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageChops, ImageFile, ImageOps, JpegImagePlugin, TiffImagePlugin

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

_LARGE = 2**30 // 12  # pixels; Pillow refuses twice as many. Larger JPEGs are halved while they are decoded
_LEAST_THERE = 0.95  # of a JPEG's rows; a file with fewer counts as cut off
_JPEG_END = b"\xff\xd9"
_WHITE = 2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1  # in files of 16 bits; cameras may have fewer
_FILM_DIAGONAL = math.hypot(36, 24)  # millimetres, of 35 mm film
_SAME_SHAPE = 1.02  # ratios of width to height that differ by a smaller factor count as the same
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # EXIF's units of resolution


class PictureError(ValueError):
    """A file cannot be read as a picture; the message names it."""


class Focal(NamedTuple):
    """Focal lengths in pixels, and their source in words."""

    fx: float
    fy: float
    source: str


class Picture(NamedTuple):
    """A picture that was read."""

    image: UInt8[np.ndarray, "H W 3"]  # upright
    focal: Focal | None  # from EXIF
    size: tuple[int, int]  # height and width in the file, upright; `image` has half of them if they are very large
    warnings: tuple[str, ...] = ()  # a line each


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
        raise PictureError(f"{path}: has too many pixels, or a damaged header ({error}); make it smaller") from error
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
    """Whether a picture has values of more than 8 bits, for which `read` may have to guess the value of white.

    Raises what Pillow raises for a file that is no picture.
    """
    with _open(pathlib.Path(path)) as picture:
        return _is_deep(pathlib.Path(path), picture)


def _is_deep(path: pathlib.Path, picture: ImageFile.ImageFile) -> bool:
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return max(picture.tag_v2.get(ExifTags.Base.BitsPerSample, (8,))) > 8
    if picture.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] > 8
    return picture.mode == "F" or picture.mode.startswith("I")


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
            if math.prod(picture.size) <= 4 * _LARGE:
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
        names = {path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}
    except OSError as error:
        raise PictureError(f"{folder}: cannot be read ({error.strerror})") from error
    ours = {
        f"{name.removesuffix(end)}_overlay.jpg" for end in ("_3d.html", ".json") for name in names if name.endswith(end)
    }
    found = [folder / name for name in sorted(names - ours) if pathlib.Path(name).suffix.lower() in SUFFIXES]
    if not found:
        raise PictureError(f"{folder}: has no pictures ({', '.join(SUFFIXES)})")
    return found


def _read(path: pathlib.Path, picture: ImageFile.ImageFile) -> Picture:
    size, focal, notes = picture.size, None, list[str]()
    if _is_jpeg(picture) and math.prod(size) > _LARGE:
        picture.draft(None, (size[0] // 2, size[1] // 2))
        notes.append(f"it has {size[0]} x {size[1]} pixels, and was read at half its size")
    deep, turn = _is_deep(path, picture), picture.getexif().get(ExifTags.Base.Orientation)
    picture = _load(path, picture, notes)
    if deep and picture.mode.startswith("RGB") and np.max(picture.getextrema()) < 64:
        _use_low_bytes(path, picture, turn, notes)
    with contextlib.suppress(Exception):  # nonsense in EXIF does not spoil the picture
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        focal = _focal_of(picture, size)
        ImageOps.exif_transpose(picture, in_place=True)
        if orientation in (5, 6, 7, 8):  # stored on its side
            size = size[::-1]
            focal = focal and Focal(focal.fy, focal.fx, focal.source)
    return Picture(_to_rgb(picture, notes), focal, size[::-1], tuple(notes))


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
    picture.draft(None, size)
    picture.load()
    return picture


def _use_low_bytes(path: pathlib.Path, picture: Image.Image, turn: int | None, notes: list[str]) -> None:
    """Brightens a dark picture whose camera fills fewer than 16 bits: Pillow reads only the high bytes.

    `turn` is EXIF's orientation, which Pillow has applied to a TIFF.
    """
    with path.open("rb") as content, av.open(content, "r") as file:
        frame = next(file.decode(video=0))
    values = frame.to_ndarray(format="rgb48le" if picture.mode == "RGB" else "rgba64le")
    white = _white(float(values.max()), notes)
    brighter = Image.fromarray((values * (255 / white)).round().astype(np.uint8))
    brighter.getexif().update({ExifTags.Base.Orientation: turn} if turn else {})
    picture.paste(ImageOps.exif_transpose(brighter) if picture.format == "TIFF" else brighter)


def _white(largest: float, notes: list[str]) -> float:
    """The value of white in a picture whose largest value is `largest`."""
    white = next((white for white in _WHITE if largest <= white), largest)
    if white in _WHITE[1:-1]:
        bits = int(white).bit_length()
        notes.append(f"its values go up to {largest:g}, so {white}, of {bits} bits, was taken for white")
    return white


def _to_rgb(picture: Image.Image, notes: list[str]) -> np.ndarray:
    if picture.mode == "F" or picture.mode.startswith("I"):  # grey of 16 bits or more
        values = np.nan_to_num(np.asarray(picture, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        largest = float(values.max())
        white = 1.0 if picture.mode == "F" and largest <= 1 else _white(largest, notes)
        grey = np.clip(values * (255 / white), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        behind = Image.new("RGBA", picture.size, (GREY, GREY, GREY, 255))
        picture = Image.alpha_composite(behind, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


# ---- The focal length


def _focal_of(picture: Image.Image, size: tuple[int, int]) -> Focal | None:
    """Focal lengths of a picture as it is stored, with this width and height. None if EXIF has no usable one."""
    try:
        exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
        film = _focal_of_film(exif, size)
        # EXIF 2.32 does not say whether the equivalent on film includes DigitalZoomRatio. This code assumes that it
        # does in cameras by Apple, and in no others.
        counted = film and str(picture.getexif().get(ExifTags.Base.Make, "")).startswith("Apple")
        focal = film or _focal_of_sensor(exif, size)
        if focal is None:
            return None
        fx, fy, source = focal
        zoom = 1.0 if counted else float(exif.get(ExifTags.Base.DigitalZoomRatio, 1))
        if zoom > 1:
            fx, fy, source = zoom * fx, zoom * fy, f"{source}, {zoom:g} times as long by digital zoom"
        across = max(math.degrees(2 * math.atan(n / 2 / f)) for n, f in zip(size, (fx, fy)))
    except Exception:  # EXIF can hold anything
        return None
    return Focal(fx, fy, source) if 1 < across < 170 else None


def _focal_of_film(exif: dict, size: tuple[int, int]) -> Focal | None:
    """From the equivalent on film, which compares the diagonals."""
    millimetres = float(exif.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
    if not millimetres > 0 or _resized(exif, size) is None:
        return None
    f = millimetres * math.hypot(*size) / _FILM_DIAGONAL
    return Focal(f, f, f"EXIF: {millimetres:g} mm on 35 mm film")


def _focal_of_sensor(exif: dict, size: tuple[int, int]) -> Focal | None:
    """From millimetres and the sensor's pixels per unit of length; the picture may have been resized since."""
    millimetres = float(exif.get(ExifTags.Base.FocalLength, 0))
    unit = _MILLIMETRES[exif.get(ExifTags.Base.FocalPlaneResolutionUnit, 2)]
    x = float(exif.get(ExifTags.Base.FocalPlaneXResolution, 0))
    y = float(exif.get(ExifTags.Base.FocalPlaneYResolution, x))
    if not all(n > 0 for n in (millimetres, x, y)) or (resized := _resized(exif, size)) is None:
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

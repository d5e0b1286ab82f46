"""Reads pictures of any kind as arrays."""

import contextlib
import functools
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pillow_heif
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, ImageOps

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

_WHITE = 2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1  # in files of 16 bits; cameras may have fewer


class PictureError(ValueError):
    """A file cannot be read as a picture; the message names it."""


class Picture(NamedTuple):
    """A picture that was read."""

    image: UInt8[np.ndarray, "H W 3"]  # upright
    focal: Focal | None  # from EXIF
    warnings: tuple[str, ...] = ()  # a line each


def read(path: os.PathLike | str) -> Picture:
    """Reads a picture file; if it holds several pictures, the first.

    EXIF's orientation is applied. Grey, palette, CMYK and 16-bit pictures become RGB; transparent parts become grey.
    Raises PictureError.
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


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[ImageFile.ImageFile]:
    """Opens a picture of a kind in SUFFIXES, whatever its name. Pillow knows more kinds, and runs PostScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large pictures and odd metadata; errors are raised all the same
        with Image.open(path, formats=_formats()) as picture:
            yield picture


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
    ours = {name.replace("_3d.html", "_overlay.jpg") for name in names if name.endswith("_3d.html")}
    found = [folder / name for name in sorted(names - ours) if pathlib.Path(name).suffix.lower() in SUFFIXES]
    if not found:
        raise PictureError(f"{folder}: has no pictures ({', '.join(SUFFIXES)}); name videos one by one")
    return found


def _read(path: pathlib.Path, picture: ImageFile.ImageFile) -> Picture:
    size, focal, notes = picture.size, None, list[str]()
    if 0 in size:
        raise PictureError(f"{path}: has no pixels ({size[0]} x {size[1]})")
    picture.load()
    with contextlib.suppress(Exception):  # nonsense in EXIF does not spoil the picture
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        focal = lens.focal_of(picture, size)
        ImageOps.exif_transpose(picture, in_place=True)
        if focal and orientation in (5, 6, 7, 8):  # stored on its side
            focal = Focal(focal.fy, focal.fx, focal.source)
    return Picture(_to_rgb(picture, notes), focal, tuple(notes))


def _to_rgb(picture: Image.Image, notes: list[str]) -> np.ndarray:
    if picture.mode == "F" or picture.mode.startswith("I"):  # grey of 16 bits or more
        values = np.nan_to_num(np.asarray(picture, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        largest = float(values.max())
        white = 1.0 if picture.mode == "F" and largest <= 1 else next((w for w in _WHITE if largest <= w), largest)
        if white in _WHITE[1:-1]:
            bits = int(white).bit_length()
            notes.append(f"its values go up to {largest:g}, so {white}, of {bits} bits, was taken for white")
        grey = np.clip(values * (255 / white), 0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        behind = Image.new("RGBA", picture.size, (GREY, GREY, GREY, 255))
        picture = Image.alpha_composite(behind, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))

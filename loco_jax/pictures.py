"""Anybody's pictures, as arrays, and what their EXIF data says of the lens."""

import os
import pathlib

import numpy as np
from PIL import ExifTags, Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_FULL_FRAME_WIDTH = 36.0  # millimetres, of the film that "35 mm equivalent" speaks of


class PictureError(ValueError):
    """A file cannot be read as a picture; the message names it."""


def read(path: os.PathLike | str) -> tuple[np.ndarray, float | None]:
    """A picture `[H, W, 3]` uint8, upright, and its focal length in pixels if EXIF has it.

    Grey, palette, 16-bit and CMYK pictures become RGB; what is transparent becomes white. Raises PictureError.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            focal = _focal_length(picture)
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith(("I", "F")):  # 16 bits and more, as they come
                values = np.asarray(upright, np.float32)
                top = 65535.0 if values.max(initial=0) > 255 else 255.0
                grey = np.clip(values * (255 / top), 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1), focal
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
                upright = Image.alpha_composite(white, upright)
            return np.asarray(upright.convert("RGB")), focal
    except FileNotFoundError as error:
        raise PictureError(f"{path}: no such file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path}: cannot be read as a picture ({error})") from error


def find(folder: os.PathLike | str) -> list[pathlib.Path]:
    """The pictures in a folder, by name. Raises PictureError if there are none."""
    found = sorted(p for p in pathlib.Path(folder).iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise PictureError(f"{folder}: holds no picture ({', '.join(SUFFIXES)})")
    return found


def _focal_length(picture: Image.Image) -> float | None:
    """In pixels, from the 35 mm equivalent, which refers to the longer side."""
    try:
        exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
        millimetres = float(exif.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
    except (ValueError, TypeError, ZeroDivisionError, SyntaxError):
        return None
    return max(picture.size) * millimetres / _FULL_FRAME_WIDTH if 1 <= millimetres <= 2000 else None

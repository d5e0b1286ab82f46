"""Moving pictures from a video file, or from the pictures of a folder."""

import pathlib
import re
import warnings
from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from loco_jax.media import pictures, videos
from loco_jax.media.pictures import Focal

Frame = tuple[int, UInt8[np.ndarray, "H W 3"], float]


class Film(NamedTuple):
    """A film that can be read more than once.

    Attributes:
      fps: frames a second, as the header says.
      frames: how many, about; 0 if the header does not say.
      pixel_aspect: a pixel's width divided by its height.
      focal: of the first picture's EXIF; None for videos.
      read: gives all frames in order: the number from 0, the picture, and seconds since the first frame. Raises
        VideoError or PictureError at the frame that cannot be read.
    """

    fps: float
    frames: int
    pixel_aspect: float
    focal: Focal | None
    read: Callable[[], Generator[Frame, None, None]]


def of_video(path: pathlib.Path) -> Film:
    """The film in a video file. Raises VideoError."""
    info = videos.info(path)
    aspect = info.pixel_aspect
    if aspect != 1 and videos.is_turned(path):  # the file states the aspect before the turn
        aspect = 1 / aspect
    return Film(info.fps, info.frames, aspect, None, lambda: videos.read(path))


def of_pictures(folder: pathlib.Path, fps: float) -> Film:
    """The pictures of a folder as a film, in the order of the numbers in their names. Raises PictureError.

    Reading it warns of a picture's peculiarities, and of a focal length that differs from the first picture's.
    """
    paths = sorted(pictures.find(folder), key=_natural)
    first = pictures.read(paths[0])

    def read() -> Generator[Frame, None, None]:
        told = False
        for number, path in enumerate(paths):
            picture = pictures.read(path)
            for text in picture.warnings:
                warnings.warn(f"{path}: {text}", videos.DamageWarning, stacklevel=2)
            if picture.focal != first.focal and not told:
                told = True
                text = "has another focal length in EXIF than the first picture, whose camera counts for all"
                warnings.warn(f"{path}: {text}", videos.DamageWarning, stacklevel=2)
            yield number, picture.image, number / fps

    times = first.image.shape[1] / first.size[1]  # very large pictures are halved
    focal = first.focal and first.focal._replace(fx=first.focal.fx * times, fy=first.focal.fy * times)
    return Film(fps, len(paths), 1.0, focal, read)


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
    """A key that puts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]

"""Videos: frames in, one after the other, and out again as H.264; by PyAV."""

import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np


class VideoError(ValueError):
    """A video cannot be read or written; the message names the file, and the frame where there is one."""


class Info(NamedTuple):
    """What a video's header says: pixels before it is turned, frames a second, their number (0: it does not say)."""

    height: int
    width: int
    fps: float
    frames: int


def info(path: os.PathLike | str) -> Info:
    """What the header says. Raises VideoError for what is no video."""
    with _open(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or Fraction(30)
        frames = stream.frames or (round(float(container.duration * rate) / av.time_base) if container.duration else 0)
        return Info(stream.height, stream.width, float(rate), int(frames))


def read(path: os.PathLike | str) -> Iterator[tuple[int, np.ndarray, float | None]]:
    """Numbers, from 0, pictures `[H, W, 3]` uint8, turned as the header says, and seconds of all frames in order.

    Raises VideoError where the file is damaged or ends too early, after the frames before that; what is no video at
    once.
    """
    for number, frame in frames(path):
        image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        yield number, np.ascontiguousarray(image), frame.time


def frames(path: os.PathLike | str) -> Iterator[tuple[int, av.VideoFrame]]:
    """As `read`, but frames that are decoded and not yet turned into colours: for those who want only some of them."""
    count, expected = 0, info(path).frames
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                yield count, frame
                count += 1
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{path}: cannot be decoded at frame {count} (counted from 0): {error}") from error
    if count == 0:
        raise VideoError(f"{path}: has no frame that can be decoded; get the file again")
    # Containers may miscount by a frame or two at the end.
    if count < expected - 2:
        raise VideoError(
            f"{path}: ends after frame {count - 1} (counted from 0) of {expected}; it is cut off or damaged"
        )


class Writer:
    """Writes pictures as an H.264 video that players and browsers know; a context manager.

    An odd height or width loses its last row or column. The file appears when it is complete.
    """

    def __init__(self, path: os.PathLike | str, fps: float, size: tuple[int, int], quality: int = 20):
        """`size` is (height, width); `quality` is x264's constant rate factor: lower is better and larger."""
        self._path = pathlib.Path(path)
        self._part = self._path.with_name(f".{self._path.stem}.part{self._path.suffix}")
        self._height, self._width = (n - n % 2 for n in size)
        if min(self._height, self._width) < 2:
            raise VideoError(f"{path}: a video of {size[0]} x {size[1]} pixels is too small")
        self._container = av.open(os.fspath(self._part), "w")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.height, self._stream.width, self._stream.pix_fmt = self._height, self._width, "yuv420p"
        self._stream.options = {"crf": str(quality), "preset": "veryfast"}

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()
            if kind is None:
                self._part.replace(self._path)
            else:
                self._part.unlink(missing_ok=True)

    def write(self, image: np.ndarray) -> None:
        """Adds a picture `[H, W, 3]` uint8. Raises VideoError for one of another size."""
        cut = np.ascontiguousarray(image[: self._height, : self._width])
        if cut.shape != (self._height, self._width, 3):
            raise VideoError(f"{self._path}: a frame has the shape {image.shape}, not {(self._height, self._width, 3)}")
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")))


def _open(path: os.PathLike | str):
    try:
        container = av.open(os.fspath(path))
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: cannot be opened as a video ({error}); it is damaged, or none") from error
    if not container.streams.video:
        container.close()
        raise VideoError(f"{path}: has no pictures in it")
    return container

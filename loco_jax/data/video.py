"""Videos: frames in, one after the other, and out again as H.264; by PyAV."""

import os
import pathlib
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np


class VideoError(ValueError):
    """A video cannot be read or written; the message names the file, and the frame where there is one."""


class DamageWarning(UserWarning):
    """A frame of a video is damaged, and was mended from its neighbours; the message names file and frame."""


class Info(NamedTuple):
    """What a video's header says: pixels before it is turned, frames a second, about how many (0: it does not say)."""

    height: int
    width: int
    fps: float
    frames: int


def info(path: os.PathLike | str) -> Info:
    """What the header says. Raises VideoError for what is no video."""
    with _open(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or Fraction(30)
        seconds = Fraction(container.duration or 0, av.time_base)  # the sound's, where that is longer
        frames = stream.frames or round(seconds * rate)
        return Info(stream.height, stream.width, float(rate), int(frames))


def read(path: os.PathLike | str) -> Iterator[tuple[int, np.ndarray, float | None]]:
    """Numbers, from 0, pictures `[H, W, 3]` uint8, turned as the header says, and seconds of all frames in order.

    Warns of frames that are damaged, see `frames`. Raises VideoError where no more can be decoded or the file ends too
    early, after the frames before that; what is no video at once.
    """
    for number, frame in frames(path):
        image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        yield number, np.ascontiguousarray(image), frame.time


def frames(path: os.PathLike | str, strict: bool = False) -> Iterator[tuple[int, av.VideoFrame]]:
    """As `read`, but frames that are decoded and not yet turned into colours: for those who want only some of them.

    Of damaged frames, which the decoder patches with what it has, DamageWarning tells the first when it comes and at
    the end their number. With `strict` any damage that the decoder sees is a VideoError.
    """
    count, damaged = 0, 0
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if strict:
            stream.codec_context.options = {"err_detect": "explode"}
        expected = _least_frames(stream)
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    if strict:
                        raise VideoError(f"{path}: frame {count} (counted from 0) is damaged")
                    damaged += 1
                    if damaged == 1:
                        warnings.warn(f"{path}: frame {count} (counted from 0) is damaged", DamageWarning, stacklevel=2)
                yield count, frame
                count += 1
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{path}: cannot be decoded at frame {count} (counted from 0): {error}") from error
    if damaged > 1:
        warnings.warn(f"{path}: {damaged} of {count} frames are damaged", DamageWarning, stacklevel=2)
    if count == 0:
        raise VideoError(f"{path}: has no frame that can be decoded; get the file again")
    if count < expected:
        raise VideoError(
            f"{path}: ends after frame {count - 1} (counted from 0), and should have {expected} or more; it is cut off "
            "or damaged"
        )


def _least_frames(stream: av.VideoStream) -> int:
    """How many frames the pictures' own track promises; 0 where it does not say, as in Matroska and WebM."""
    if not stream.frames:
        return 0
    frames = stream.frames
    if stream.duration and stream.average_rate:  # less if the header says to show only a part
        frames = min(frames, int(stream.duration * stream.time_base * stream.average_rate))
    return frames - 2  # containers may miscount by a frame or two at the end


class Writer:
    """Writes pictures as an H.264 video that players and browsers know; a context manager.

    An odd height or width loses its last row or column. The file appears when it is complete; where anything fails,
    closing included, or no frame was written (VideoError), what was there before stays.
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
            try:
                if kind is None:
                    self._container.mux(self._stream.encode())
            finally:
                self._container.close()
            if kind is None and not self._part.exists():  # the file begins with the first frame
                raise VideoError(f"{self._path}: a video needs a frame, and none was written")
            if kind is None:
                self._part.replace(self._path)
        finally:
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

"""Reading videos frame by frame, and writing them as H.264, with PyAV."""

import contextlib
import os
import pathlib
import re
import warnings
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import UInt8

_CLOCK = 90_000  # ticks a second of the videos that we write
_TOLERATED = 1.0  # seconds by which times may go back before the clock counts as set back

# Colour matrices: from H.273's numbers to libswscale's. Others count as BT.601, as in FFmpeg. PyAV's own choice differs
# between its versions, but pictures must not.
_BT601, _BT709, _BT2020 = 5, 1, 9
_MATRICES = {1: _BT709, 4: 4, 7: 7, 9: _BT2020, 10: _BT2020}
_LIMITED, _FULL = 1, 2  # ranges of values

_LONGEST = 86_400.0  # seconds from one frame to the next; a longer step is an error of the clock
_MOST_PIXELS = 139_264 * 16**2  # of a frame, as in the highest level of H.264 and H.265; 8K has fewer
_FASTEST = 500  # frames a second; a higher rate is that of a clock, not of pictures

# Only the given file is read: no URLs, and no formats that name further files, such as playlists, which FFmpeg accepts
# under any name.
_FORMATS = (
    "mov", "mp4", "m4v", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "asf", "flv", "ogg", "mxf", "nut",
    "ivf", "obu", "h264", "hevc", "mjpeg", "dv", "gif", "apng", "yuv4mpegpipe",
)  # fmt: skip
# Decoders that may use a thread per frame. Others, such as VP8's, can hang at a damaged frame.
_THREADED = ("h264", "hevc")
_DECODER = {"max_pixels": str(_MOST_PIXELS)}
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS), **_DECODER}
# Titles in an unknown encoding must not be an error. PyAV 19 has no such argument, and needs none.
_METADATA = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


class VideoError(ValueError):
    """A video cannot be read or written; the message names the file and, if possible, the frame."""


class DamageWarning(UserWarning):
    """A frame of a video is damaged, and was filled in from its neighbours; the message names file and frame."""


class Info(NamedTuple):
    """The facts in a video's header."""

    height: int  # in pixels, before turning
    width: int
    fps: float
    frames: int  # about; 0 if the header does not say
    pixel_aspect: float  # a pixel's width divided by its height, before turning


def info(path: os.PathLike | str) -> Info:
    """The facts in a video's header. Raises VideoError if the file is no video."""
    with _open(path) as (container, stream):
        fps = _rate(stream)
        seconds = Fraction(container.duration or 0, av.time_base)  # the sound's, if it is longer
        frames = stream.frames or round(seconds * fps)
        aspect = float(stream.sample_aspect_ratio or 1)
        return Info(stream.height, stream.width, float(fps), int(frames), aspect)


def is_turned(path: os.PathLike | str) -> bool:
    """Whether the header swaps rows and columns, as `read` then does. Raises VideoError."""
    with warnings.catch_warnings(), contextlib.closing(frames(path)) as some:
        warnings.simplefilter("ignore", DamageWarning)  # `read` warns
        return _display(next(some)[1])[0]


def is_video(path: os.PathLike | str) -> bool:
    """Whether the content of a file is moving pictures: no still picture, no text, no cover art."""
    try:
        with _open(path) as (container, _):
            return bool(container.duration)
    except VideoError:
        return False


def read(path: os.PathLike | str) -> Generator[tuple[int, UInt8[np.ndarray, "H W 3"], float], None, None]:
    """All frames in order: numbers from 0, pictures, upright as the header says, and seconds since the first frame.

    Seconds always rise. If the file's own clock goes back, as in joined parts, or leaps by more than a day, it is
    corrected. Warns of damaged frames, see `frames`. Raises VideoError at once if the file is no video, and after the
    last good frame if decoding fails or the file ends too early.
    """
    step = 1 / info(path).fps
    start, time = 0.0, -step
    for number, frame in frames(path):
        if number == 0:
            start = frame.time or 0.0
        now = time + step if frame.time is None else frame.time - start
        if not time - _TOLERATED <= now <= time + _LONGEST:
            start -= time + step - now
            now = time + step
        time = max(now, time + 1 / _CLOCK)
        yield number, colours(path, number, frame), time


def read_one(path: os.PathLike | str, number: int) -> UInt8[np.ndarray, "H W 3"]:
    """The frame of a number, from 0, of a video whose frames follow each other at one rate.

    Decoding begins at the key frame before it. Raises VideoError if the file is no video, or ends before that frame.
    """
    with _open(path) as (container, stream):
        ticks = 1 / (_rate(stream) * Fraction(stream.time_base or Fraction(1, _CLOCK)))  # of a frame
        first = stream.start_time or 0
        try:
            container.seek(first + int(number * ticks), stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and round((frame.pts - first) / ticks) >= number:
                    return colours(path, number, frame)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{path}: frame {number} (counted from 0) cannot be decoded ({error})") from error
    raise VideoError(f"{path}: ends before frame {number} (counted from 0)")


def colours(path: os.PathLike | str, number: int, frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """A decoded frame as a picture, turned and mirrored as the header says. Raises VideoError."""
    try:
        rgb = frame.reformat(format="rgb24", **_conversion(frame))
        turned, right, down = _display(frame)
        image = rgb.to_ndarray()
        return np.ascontiguousarray((image.swapaxes(0, 1) if turned else image)[::down, ::right])
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: frame {number} (counted from 0) cannot be shown ({error})") from error


def _conversion(frame: av.VideoFrame) -> dict[str, int]:
    """How to turn a frame's colours into RGB. PyAV up to 16 ignores this unless something differs."""
    pixels = frame.format
    if pixels.is_rgb or len(pixels.components) < 3 or pixels.name.startswith("xyz"):  # not YUV
        return {}
    full = frame.color_range == _FULL or pixels.name.startswith("yuvj")
    return {
        "src_colorspace": _MATRICES.get(frame.colorspace, _BT601),
        "dst_colorspace": _BT601,
        "src_color_range": _FULL if full else _LIMITED,
        "dst_color_range": _FULL,
    }


def _display(frame: av.VideoFrame) -> tuple[bool, int, int]:
    """The nearest of the eight orientations to the display matrix: x' = a x + c y, y' = b x + d y.

    Returns whether rows become columns, and then the directions, 1 or -1, of columns and of rows.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # type: ignore[call-overload]
    turned = abs(a) + abs(d) < abs(b) + abs(c)
    if turned:
        a, d = c, b
    return turned, -1 if a < 0 else 1, -1 if d < 0 else 1


def frames(path: os.PathLike | str, strict: bool = False) -> Generator[tuple[int, av.VideoFrame]]:
    """The decoded frames of a video by number, without conversion to RGB, for callers that need only some of them.

    DamageWarning reports the first damaged frame when it comes, and their number at the end. With `strict`, any damage
    that the decoder notices is a VideoError.
    """
    count, damaged = 0, 0
    end, last, longest = 0.0, None, 0.0  # seconds: where the frames so far end, the last one, and the longest step
    with _open(path) as (container, stream):
        stream.thread_type = "AUTO" if stream.codec_context.name in _THREADED else "SLICE"
        stream.codec_context.options = _DECODER | ({"err_detect": "explode"} if strict else {})
        promised = _promised(stream)
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
                if frame.time is not None:
                    longest = longest if last is None else max(longest, frame.time - last)
                    last = frame.time
                    end = max(end, last + float((frame.duration or 0) * (frame.time_base or 0)))
        except (av.FFmpegError, OSError) as error:
            reason = error if stream.width else f"it has no size, or more than {_MOST_PIXELS:,} pixels"
            raise VideoError(f"{path}: cannot be decoded at frame {count} (counted from 0): {reason}") from error
    if damaged > 1:
        warnings.warn(f"{path}: {damaged} of {count} frames are damaged", DamageWarning, stacklevel=2)
    if count == 0:
        raise VideoError(f"{path}: has no frame that can be decoded; get the file again")
    if end < (promised or 0.0) - max(0.1, 2.5 * longest):  # headers may be wrong by a few frames
        where = f"ends after frame {count - 1} (counted from 0), at {end:.2f} of {promised:.2f} s"
        raise VideoError(f"{path}: {where}; it is cut off or damaged")


def _promised(stream: av.VideoStream) -> float | None:
    """When the pictures' own track should end, in seconds; None if it does not say.

    The container's duration is not used, because the sound may be longer. The number of frames is not used either,
    because a header can select a part of them.
    """
    # First the tag of Matroska and WebM, because FFmpeg gives some of their tracks the container's duration.
    if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
    return float((stream.duration + (stream.start_time or 0)) * (stream.time_base or 0)) if stream.duration else None


@contextlib.contextmanager
def _open(path: os.PathLike | str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file and selects its video: no cover or preview, most frames, then most pixels. Raises VideoError."""
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe may never end
        raise VideoError(f"{path}: is not a file")
    try:
        # An absolute path, because FFmpeg takes the part of a name before a colon for a protocol.
        container = av.open(os.path.abspath(path), options=_OPTIONS, **_METADATA)  # type: ignore[call-overload]
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: cannot be opened as a video ({reason}); it is damaged, not a video, or only refers to other files"
        ) from error
    with container:
        attached = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & attached]
        if not streams:
            raise VideoError(f"{path}: has no video stream" + ", only a cover picture" * bool(container.streams.video))
        counts = [stream.frames or (_promised(stream) or 0) * float(_rate(stream)) for stream in streams]
        # Headers are not exact. A stream whose header does not tell the number of frames counts as the longest.
        longest = [stream for stream, n in zip(streams, counts) if not n or n >= 0.9 * max(counts)]
        # PyAV knows no width of an unknown codec.
        stream = max(longest, key=lambda stream: stream.width * stream.height if stream.codec_context else 0)
        if stream.codec_context is None:
            raise VideoError(f"{path}: its codec is not known; convert it to H.264, or get it again")
        yield container, stream


def _rate(stream: av.VideoStream) -> Fraction:
    """Frames a second, 30 if the header has no sensible number."""
    rates = stream.average_rate, stream.guessed_rate, Fraction(30)
    found = next(r for r in rates if r and 1 / _LONGEST <= r <= _FASTEST)
    return Fraction(found.numerator, found.denominator)  # PyAV 19 has a type of its own


class Writer:
    """Writes pictures as an H.264 video that players and browsers can show; a context manager.

    Colours are BT.709 in the limited range, and tagged as such, because players guess those of a video without tags. An
    odd height or width loses its last row or column. The file appears when it is complete. If anything fails, closing
    included, or no frame was written (VideoError), an existing file stays as it was.
    """

    def __init__(
        self,
        path: os.PathLike | str,
        fps: float,
        size: tuple[int, int],
        quality: int = 20,
        pixel_aspect: float = 1.0,
    ):
        """`size` is (height, width); `quality` is x264's constant rate factor, lower for better and larger files.

        A pixel is `pixel_aspect` times as wide as high.
        """
        self._path = pathlib.Path(path)
        self._part = self._path.with_name(f".{self._path.stem}.part{self._path.suffix}")
        self._height, self._width = (n - n % 2 for n in size)
        if min(self._height, self._width) < 2:
            raise VideoError(f"{path}: a video of {size[0]} x {size[1]} pixels is too small")
        self._fps, self._count, self._first, self._last = fps, 0, 0, 0
        self._container = av.open(os.path.abspath(self._part), "w")  # absolute, as in `_open`
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.codec_context.time_base = Fraction(1, _CLOCK)
        self._stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(1000)
        self._stream.height, self._stream.width, self._stream.pix_fmt = self._height, self._width, "yuv420p"
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        # Without B-frames, the file's duration is right whatever the times of its frames.
        self._stream.options = {"crf": str(quality), "preset": "veryfast", "bf": "0"}

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            with self._container:
                if kind is None:
                    self._container.mux(self._finish())
            if kind is None and not self._count:
                raise VideoError(f"{self._path}: a video needs a frame, and none was written")
            if kind is None:
                self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, image: UInt8[np.ndarray, "H W 3"], time: float | None = None) -> None:
        """Adds a picture at `time` in seconds, or as `fps` says. Raises VideoError if it has another size."""
        cut = np.ascontiguousarray(image[: self._height, : self._width])
        if cut.shape != (self._height, self._width, 3):
            raise VideoError(f"{self._path}: a frame has the shape {image.shape}, not {(self._height, self._width, 3)}")
        tick = round((self._count / self._fps if time is None else time) * _CLOCK)
        self._last = max(tick, self._last + 1) if self._count else tick
        self._first = self._first if self._count else tick
        self._count += 1
        frame = av.VideoFrame.from_ndarray(cut, format="rgb24").reformat(
            format="yuv420p",
            src_colorspace=_BT601,  # has no meaning for RGB, but see `_conversion`
            dst_colorspace=_BT709,
            src_color_range=_FULL,
            dst_color_range=_LIMITED,
        )
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._container.mux(self._stream.encode(frame))

    def _finish(self) -> list[av.Packet]:
        """The encoder's last packets. The last frame is shown as long as the average of those before."""
        packets = self._stream.encode()
        step = (self._last - self._first) / (self._count - 1) if self._count > 1 else _CLOCK / self._fps
        for packet in packets:
            packet.duration = max(1, round(step / _CLOCK / packet.time_base))
        return packets

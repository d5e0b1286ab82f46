"""Videos: frames in, one after the other, and out again as H.264; by PyAV."""

import contextlib
import functools
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

_AS_MANY = 0.9  # of the frames of the longest, and a stream counts as long: headers tell about how many
_CLOCK = 90_000  # ticks a second of the videos that we write
_FASTEST = 500  # frames a second; more is the rate of a clock and not of pictures
_TOLERATED = 1.0  # seconds by which frames' times may go back before the clock counts as set back
_LONGEST = 86_400.0  # seconds from one frame to the next; a clock that leaps farther does not tell the time
_MOST_PIXELS = 139_264 * 16**2  # a frame: no level of H.264 or H.265 allows more, and 8K has fewer

# One file is read, whatever its name and its content: no URLs, and none of the formats that name further files, such as
# playlists, which FFmpeg would take for a video by any name.
_FORMATS = (
    "mov", "mp4", "m4v", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "asf", "flv", "ogg", "mxf", "nut",
    "ivf", "obu", "h264", "hevc", "mjpeg", "dv", "gif", "apng", "yuv4mpegpipe",
)  # fmt: skip
# Decoders that may take a frame a thread. With others that can wait for ever for a damaged frame: with VP8's it does.
_THREADED = ("h264", "hevc")
_DECODER = {"max_pixels": str(_MOST_PIXELS)}
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS), **_DECODER}
# Titles in an unknown encoding spoil no video. PyAV 19 takes no such argument, and needs none.
_METADATA = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}

# Matrices of colours: H.273's numbers to libswscale's. FFmpeg takes all others for BT.601, and so do we. What PyAV does
# by itself differs between its versions, and pictures must not.
_BT601, _BT709, _BT2020 = 5, 1, 9
_MATRICES = {1: _BT709, 4: 4, 7: 7, 9: _BT2020, 10: _BT2020}
_LIMITED, _FULL = 1, 2  # ranges of values


class VideoError(ValueError):
    """A video cannot be read or written; the message names the file, and the frame where there is one."""


class DamageWarning(UserWarning):
    """A frame of a video is damaged, and was mended from its neighbours; the message names file and frame."""


class Info(NamedTuple):
    """What a video's header says: pixels before it is turned, frames a second, about how many (0: it does not say), and
    how many times as wide as high a pixel is, before it is turned too."""

    height: int
    width: int
    fps: float
    frames: int
    pixel_aspect: float


def info(path: os.PathLike | str) -> Info:
    """What the header says. Raises VideoError for what is no video."""
    with _open(path) as (container, stream):
        rate = _rate(stream)
        seconds = Fraction(container.duration or 0, av.time_base)  # the sound's, where that is longer
        frames = stream.frames or round(seconds * rate)
        aspect = float(stream.sample_aspect_ratio or 1)
        return Info(stream.height, stream.width, float(rate), int(frames), aspect)


def _rate(stream: av.VideoStream) -> Fraction:
    rates = stream.average_rate, stream.guessed_rate, Fraction(30)
    return next(rate for rate in rates if rate and 1 / _LONGEST <= rate <= _FASTEST)


def is_turned(path: os.PathLike | str) -> bool:
    """Whether the header says to show rows as columns, as `read` then does. Raises VideoError."""
    with warnings.catch_warnings(), contextlib.closing(frames(path)) as some:
        warnings.simplefilter("ignore", DamageWarning)  # `read` tells
        return _display(next(some)[1])[0]


def is_video(path: os.PathLike | str) -> bool:
    """Whether a file holds pictures that move, whatever its name: no still picture, no text, no cover of a record."""
    try:
        with _open(path) as (container, _):
            return bool(container.duration) and container.format.name != "tty"
    except VideoError:
        return False


def read(path: os.PathLike | str) -> Iterator[tuple[int, np.ndarray, float]]:
    """Numbers, from 0, pictures `[H, W, 3]` uint8, upright as the header says, and seconds since the first, of all
    frames in order.

    Seconds always rise: where the file's own clock does not, as in parts put together, or leaps by more than a day, it
    is set right. Warns of frames that are damaged, see `frames`. Raises VideoError where no more can be decoded or the
    file ends too early, after the frames before that; what is no video at once.
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


def colours(path: os.PathLike | str, number: int, frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame as a picture `[H, W, 3]` uint8, turned and mirrored as the header says. Raises VideoError."""
    try:
        rgb = frame.reformat(format="rgb24", **(_conversion(frame) if _is_yuv(frame.format) else {}))
        return np.ascontiguousarray(_upright(rgb.to_ndarray(), frame))
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: frame {number} (counted from 0) cannot be shown ({error})") from error


def _is_yuv(pixels: av.VideoFormat) -> bool:
    return not pixels.is_rgb and len(pixels.components) >= 3 and not pixels.name.startswith("xyz")


def _conversion(frame: av.VideoFrame) -> dict[str, int]:
    """From a frame's colours to RGB. PyAV up to 16 looks at this only where something differs; RGB has no matrix."""
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    return {
        "src_colorspace": _MATRICES.get(frame.colorspace, _BT601),
        "dst_colorspace": _BT601,
        "src_color_range": _FULL if full else _LIMITED,
        "dst_color_range": _FULL,
    }


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    turned, right, down = _display(frame)
    return (image.swapaxes(0, 1) if turned else image)[::down, ::right]


def _display(frame: av.VideoFrame) -> tuple[bool, int, int]:
    """The nearest of the eight orientations to what the display matrix says: x' = a x + c y, y' = b x + d y.

    Whether rows become columns, and then the directions, 1 or -1, in which these and those are shown.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    turned = abs(a) + abs(d) < abs(b) + abs(c)
    if turned:
        a, d = c, b
    return turned, -1 if a < 0 else 1, -1 if d < 0 else 1


def frames(path: os.PathLike | str, strict: bool = False) -> Iterator[tuple[int, av.VideoFrame]]:
    """As `read`, but frames that are decoded and not yet turned into colours: for those who want only some of them.

    Of damaged frames, which the decoder patches with what it has, DamageWarning tells the first when it comes and at
    the end their number. With `strict` any damage that the decoder sees is a VideoError.
    """
    count, damaged, times = 0, 0, _Times()
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
                times.add(frame)
        except (av.FFmpegError, OSError) as error:
            reason = error if stream.width else f"it has no size, or more than {_MOST_PIXELS:,} pixels"
            raise VideoError(f"{path}: cannot be decoded at frame {count} (counted from 0): {reason}") from error
    if damaged > 1:
        warnings.warn(f"{path}: {damaged} of {count} frames are damaged", DamageWarning, stacklevel=2)
    if count == 0:
        raise VideoError(f"{path}: has no frame that can be decoded; get the file again")
    if times.end < (promised or 0.0) - times.tolerance:
        raise VideoError(
            f"{path}: ends after frame {count - 1} (counted from 0), at {times.end:.2f} of {promised:.2f} s; it is cut "
            "off or damaged"
        )


class _Times:
    """Where the frames so far end, in seconds, and how long they lasted at most."""

    def __init__(self):
        self.end, self._last, self._longest = 0.0, None, 0.0

    @property
    def tolerance(self) -> float:
        """By how much a header may be wrong: a few frames."""
        return max(0.1, 2.5 * self._longest)

    def add(self, frame: av.VideoFrame) -> None:
        if frame.time is None:
            return
        if self._last is not None:
            self._longest = max(self._longest, frame.time - self._last)
        self._last = frame.time
        self.end = max(self.end, frame.time + float((frame.duration or 0) * frame.time_base))


def _promised(stream: av.VideoStream) -> float | None:
    """When the pictures' own track should end, in seconds; None where it does not say.

    The container's duration says nothing, as the sound may be longer, and nor does a number of frames: a header may say
    to show only a part of them.
    """
    tagged = _tagged_end(stream)  # first: FFmpeg gives some of several tracks in Matroska the container's duration
    if tagged is None and stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    return tagged


def _tagged_end(stream: av.VideoStream) -> float | None:
    """What Matroska and WebM say of a track."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


class Writer:
    """Writes pictures as an H.264 video that players and browsers know; a context manager.

    Colours are BT.709's in the limited range, and tagged as such: players guess those of a video without tags. An odd
    height or width loses its last row or column. The file appears when it is complete; where anything fails, closing
    included, or no frame was written (VideoError), what was there before stays.
    """

    def __init__(
        self,
        path: os.PathLike | str,
        fps: float,
        size: tuple[int, int],
        quality: int = 20,
        pixel_aspect: float = 1.0,
    ):
        """`size` is (height, width); `quality` is x264's constant rate factor: lower is better and larger; a pixel is
        `pixel_aspect` times as wide as high."""
        self._path = pathlib.Path(path)
        self._part = self._path.with_name(f".{self._path.stem}.part{self._path.suffix}")
        self._height, self._width = (n - n % 2 for n in size)
        if min(self._height, self._width) < 2:
            raise VideoError(f"{path}: a video of {size[0]} x {size[1]} pixels is too small")
        self._fps, self._count, self._first, self._last = fps, 0, 0, 0
        self._container = av.open(os.path.abspath(self._part), "w")  # see `_open_container`
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.codec_context.time_base = Fraction(1, _CLOCK)
        self._stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(1000)
        self._stream.height, self._stream.width, self._stream.pix_fmt = self._height, self._width, "yuv420p"
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        # Without frames that wait for later ones, the file's duration is right whatever the frames' times.
        self._stream.options = {"crf": str(quality), "preset": "veryfast", "bf": "0"}

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            try:
                if kind is None:
                    self._container.mux(self._finish())
            finally:
                self._container.close()
            if kind is None and not self._part.exists():  # the file begins with the first frame
                raise VideoError(f"{self._path}: a video needs a frame, and none was written")
            if kind is None:
                self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, image: np.ndarray, time: float | None = None) -> None:
        """Adds a picture `[H, W, 3]` uint8, at `time` in seconds, or as `fps` says. Raises VideoError for one of
        another size."""
        cut = np.ascontiguousarray(image[: self._height, : self._width])
        if cut.shape != (self._height, self._width, 3):
            raise VideoError(f"{self._path}: a frame has the shape {image.shape}, not {(self._height, self._width, 3)}")
        tick = round((self._count / self._fps if time is None else time) * _CLOCK)
        self._last = max(tick, self._last + 1) if self._count else tick
        self._first = self._first if self._count else tick
        self._count += 1
        frame = av.VideoFrame.from_ndarray(cut, format="rgb24").reformat(
            format="yuv420p",
            src_colorspace=_BT601,  # of no meaning for RGB, but see `_conversion`
            dst_colorspace=_BT709,
            src_color_range=_FULL,
            dst_color_range=_LIMITED,
        )
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        self._container.mux(self._stream.encode(frame))

    def _finish(self) -> list[av.Packet]:
        """What the encoder holds back. The last frame is shown as long as those before on average."""
        packets = self._stream.encode()
        if self._count > 1:
            step = (self._last - self._first) / (self._count - 1)
        else:
            step = _CLOCK / self._fps
        for packet in packets:
            packet.duration = max(1, round(step / _CLOCK / packet.time_base))
        return packets


@contextlib.contextmanager
def _open(path: os.PathLike | str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A file, and its real video: no cover or preview, the most frames, then the most pixels. Raises VideoError."""
    with _open_container(path) as container:
        attached = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & attached]
        if not streams:
            raise VideoError(f"{path}: has no pictures in it" + " but a cover" * bool(container.streams.video))
        if len(streams) > 1:
            counts = _count_frames(path, streams)
            least = _AS_MANY * max(counts.values())
            streams = [stream for stream in streams if counts[stream.index] >= least]
        stream = max(streams, key=_pixels)
        if stream.codec_context is None:
            raise VideoError(
                f"{path}: its pictures are compressed in a way that is not known; convert it to H.264, or get it again"
            )
        yield container, stream


def _pixels(stream: av.VideoStream) -> int:
    """Of a frame; 0 where pictures are compressed in an unknown way, which leaves PyAV without a width."""
    return 0 if stream.codec_context is None else stream.width * stream.height


def _count_frames(path: os.PathLike | str, streams: Sequence[av.VideoStream]) -> dict[int, float]:
    """About how many frames there are, by the stream's index: what headers say, else all of the file is looked at."""
    told = {stream.index: _frames_told(stream) for stream in streams}
    unknown = tuple(index for index, count in told.items() if not count)
    if unknown:
        status = os.stat(path)
        told.update(zip(unknown, _demuxed(os.path.abspath(path), unknown, status.st_size, status.st_mtime_ns)))
    return told


def _frames_told(stream: av.VideoStream) -> float:
    """How many frames the header promises; 0 where it does not say."""
    seconds = _tagged_end(stream) or float((stream.duration or 0) * stream.time_base)
    return stream.frames or seconds * float(_rate(stream))


@functools.lru_cache(maxsize=64)  # a file is opened several times, and may be large
def _demuxed(path: str, indices: tuple[int, ...], *_: int) -> list[int]:
    """How many frames these streams have; further arguments tell whether the file is still the same."""
    counts = dict.fromkeys(indices, 0)
    with _open_container(path) as container, contextlib.suppress(av.FFmpegError, OSError):  # damage is told later
        for packet in container.demux([container.streams[index] for index in indices]):
            counts[packet.stream.index] += packet.size > 0
    return list(counts.values())


def _open_container(path: os.PathLike | str) -> av.container.InputContainer:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise VideoError(f"{path}: is not a file")
    try:
        # From the root, since FFmpeg takes what a name has before a colon for a protocol.
        return av.open(os.path.abspath(path), options=_OPTIONS, **_METADATA)
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: cannot be opened as a video ({reason}); it is damaged, none, or one of other files"
        ) from error

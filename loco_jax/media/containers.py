"""Opening video files, and finding the real video among their streams."""

import contextlib
import os
import re
from collections.abc import Iterator
from fractions import Fraction

import av

LONGEST = 86_400.0  # seconds from one frame to the next; a longer step is an error of the clock
MOST_PIXELS = 139_264 * 16**2  # of a frame, as in the highest level of H.264 and H.265; 8K has fewer
_FASTEST = 500  # frames a second; a higher rate is that of a clock, not of pictures
_AS_MANY = 0.9  # a stream with this share of the longest stream's frames is as long: headers are not exact

# Only the given file is read: no URLs, and no formats that name further files, such as playlists, which FFmpeg accepts
# under any name.
_FORMATS = (
    "mov", "mp4", "m4v", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "asf", "flv", "ogg", "mxf", "nut",
    "ivf", "obu", "h264", "hevc", "mjpeg", "dv", "gif", "apng", "yuv4mpegpipe",
)  # fmt: skip
# Decoders that may use a thread per frame. Others, such as VP8's, can hang at a damaged frame.
THREADED = ("h264", "hevc")
DECODER = {"max_pixels": str(MOST_PIXELS)}
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS), **DECODER}
# Titles in an unknown encoding must not be an error. PyAV 19 has no such argument, and needs none.
_METADATA = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


class VideoError(ValueError):
    """A video cannot be read or written; the message names the file and, if possible, the frame."""


def rate(stream: av.VideoStream) -> Fraction:
    """Frames a second, 30 if the header has no sensible number."""
    rates = stream.average_rate, stream.guessed_rate, Fraction(30)
    found = next(r for r in rates if r and 1 / LONGEST <= r <= _FASTEST)
    return Fraction(found.numerator, found.denominator)  # PyAV 19 has a type of its own


def tagged_end(stream: av.VideoStream) -> float | None:
    """A track's end in seconds, from the tag in Matroska and WebM."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


@contextlib.contextmanager
def open_video(path: os.PathLike | str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file and selects its video: no cover or preview, most frames, then most pixels. Raises VideoError.

    A stream whose header does not tell the number of frames counts as the longest.
    """
    with _open_container(path) as container:
        attached = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & attached]
        if not streams:
            raise VideoError(f"{path}: has no pictures in it" + " but a cover" * bool(container.streams.video))
        counts = [_frames_told(stream) for stream in streams]
        least = _AS_MANY * max(counts)
        streams = [stream for stream, count in zip(streams, counts) if count >= least or not count]
        # PyAV knows no width of an unknown codec.
        stream = max(streams, key=lambda stream: stream.width * stream.height if stream.codec_context else 0)
        if stream.codec_context is None:
            raise VideoError(f"{path}: its codec is not known; convert it to H.264, or get it again")
        yield container, stream


def _frames_told(stream: av.VideoStream) -> float:
    """How many frames the header promises; 0 if it does not say."""
    seconds = tagged_end(stream) or float((stream.duration or 0) * (stream.time_base or 0))
    return float(stream.frames or seconds * rate(stream))


def _open_container(path: os.PathLike | str) -> av.container.InputContainer:
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe may never end
        raise VideoError(f"{path}: is not a file")
    try:
        # An absolute path, because FFmpeg takes the part of a name before a colon for a protocol.
        return av.open(os.path.abspath(path), options=_OPTIONS, **_METADATA)  # type: ignore[call-overload]
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: cannot be opened as a video ({reason}); it is damaged, is no video, or only refers to other files"
        ) from error

"""JTA's pictures: extracted frames and videos, and how much room they need."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image

from loco_jax.data.jta.annotations import AnnotationError
from loco_jax.media import pictures, videos

JPEG_QUALITY = 95  # of frames from videos and of files that are not JPEGs; extracted JPEGs are not changed
_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
_JPEG_BYTES = 0.4  # about, a pixel at that quality


class PictureSize(NamedTuple):
    """Pixels of stored pictures, and how many times larger they are than the source's."""

    height: int
    width: int
    factor: float


def collect_pictures(
    jta_dir: os.PathLike | str, folder: str, number: int, frames: Sequence[int], out: pathlib.Path, height: int = 0
) -> tuple[dict[int, pathlib.Path], PictureSize]:
    """JPEG files of the given `frames` of a sequence, by frame, and their size.

    Extracted JPEGs stay where they are. Other frames, and all that are resized, are written into `out`.

    Args:
      jta_dir: holds `frames` or `videos`; a sequence that is in both is taken from `frames`.
      folder: train, val or test.
      number: of the sequence.
      frames: ascending, from 1.
      out: a folder for the files that are written; it is created if needed.
      height: of the pictures in pixels, the width in proportion; 0 to leave them as they are.

    Raises AnnotationError with file and frame: a video is missing, damaged or short, or a picture is missing, damaged
    or of another size than the first.
    """
    extracted, movie = _places(jta_dir, folder, number)
    if extracted.is_dir():
        found, source = _extracted(extracted, frames), extracted
    elif movie.exists():
        found, source = _from_video(movie, frames), movie
    else:
        raise AnnotationError(f"{movie}: does not exist, and neither does the folder {extracted}; get one of them")
    files: dict[int, pathlib.Path] = {}
    size = (0, 0)
    for frame, picture, path in found:
        if files and size != picture.size:
            ours, first = ("{} x {}".format(*s) for s in (picture.size, size))
            raise AnnotationError(f"{source}: frame {frame} has {ours} pixels, but frame {frames[0]} has {first}")
        size = picture.size
        if height not in (0, picture.height):
            picture = picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.BOX)
            path = None
        if path is None:
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{frame}.jpg"
            picture.save(path, quality=JPEG_QUALITY)
        files[frame] = path
    width, old_height = size
    new_height = height or old_height
    return files, PictureSize(new_height, round(width * new_height / old_height), new_height / old_height)


def source_files(jta_dir: os.PathLike | str, folder: str, number: int, frames: Sequence[int]) -> list[pathlib.Path]:
    """The files of a sequence's pictures, whether they exist or not: extracted frames, or the video."""
    extracted, movie = _places(jta_dir, folder, number)
    return _extracted_files(extracted, frames) if extracted.is_dir() else [movie]


def size_of(path: pathlib.Path) -> tuple[int, int]:
    """Height and width of an extracted frame, or of a video. Raises any kind of error for a file that is neither."""
    if path.suffix != ".mp4":
        return _load_extracted(path)[0].size[::-1]
    return next(videos.read(path))[1].shape[:2]  # the header has those before turning


def bytes_needed(files: Sequence[pathlib.Path], num_frames: int, size: tuple[int, int], height: int) -> int:
    """About how many bytes a sequence's pictures need, if they come in this size (height, width).

    `files` are those of `source_files`; `height` is that of `collect_pictures`.
    """
    if files[0].suffix.lower() in _JPEG_SUFFIXES and not height:  # they are taken as they are
        return sum(path.stat().st_size for path in files if path.exists())
    return int(num_frames * size[0] * size[1] * ((height or size[0]) / size[0]) ** 2 * _JPEG_BYTES)


def _places(jta_dir: os.PathLike | str, folder: str, number: int) -> tuple[pathlib.Path, pathlib.Path]:
    """The folder of a sequence's extracted frames, and its video."""
    root = pathlib.Path(jta_dir)
    return root / "frames" / folder / f"seq_{number}", root / "videos" / folder / f"seq_{number}.mp4"


def _extracted_files(folder: pathlib.Path, frames: Sequence[int]) -> list[pathlib.Path]:
    """A picture file for each frame, with any suffix. F.jpg comes first, and stands for a file that is missing."""
    order = {suffix: i for i, suffix in enumerate(pictures.SUFFIXES)}  # .jpg first
    found = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in order),
        key=lambda path: (order[path.suffix.lower()], path.suffix != path.suffix.lower()),
    )
    by_number = {path.stem: path for path in reversed(found)}
    return [by_number.get(str(frame), folder / f"{frame}.jpg") for frame in frames]


# A frame's number, its picture, and its file if that can be taken as it is.
_Found = Iterator[tuple[int, Image.Image, pathlib.Path | None]]


def _extracted(folder: pathlib.Path, frames: Sequence[int]) -> _Found:
    for frame, path in zip(frames, _extracted_files(folder, frames)):
        try:
            if path.exists() and not path.is_file():
                raise OSError("not a file")  # reading a pipe may never end
            yield frame, *_load_extracted(path)
        except AnnotationError:
            raise
        except FileNotFoundError as error:
            raise AnnotationError(f"{path}: does not exist, so frame {frame} is missing; extract it again") from error
        except Exception as error:  # Pillow can raise nearly anything for a damaged file
            raise AnnotationError(f"{path}: frame {frame} is damaged ({error}); extract it again") from error


def _load_extracted(path: pathlib.Path) -> tuple[Image.Image, pathlib.Path | None]:
    """A frame, and its file if that is a JPEG that can be taken as it is."""
    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            pictures.check_scans(path, picture)
            picture.load()  # all of it, or a truncated file would only be noticed in training
            return picture.convert("RGB"), path if picture.mode == "RGB" else None
    except Image.UnidentifiedImageError:
        if pictures.is_deep(path):
            raise AnnotationError(
                f"{path}: has more than 8 bits a value, so the value of white is unknown; save all frames with 8 bits"
            ) from None
        return Image.fromarray(pictures.read(path).image), None


def _from_video(path: pathlib.Path, frames: Sequence[int]) -> _Found:
    wanted, last = set(frames), 0
    try:
        for number, frame in videos.frames(path, strict=True):
            last = number + 1
            if last in wanted:
                yield last, Image.fromarray(videos.colours(path, number, frame)), None
            if last >= frames[-1]:
                return
    except videos.VideoError as error:
        remedy = f"frame {frames[-1]} (counted from 1) is needed; get the file again, or put its frames into frames/"
        raise AnnotationError(f"{error}; {remedy}") from error
    raise AnnotationError(f"{path}: ends after frame {last}, but frame {frames[-1]} is needed; get the file again")

"""JTA's pictures: extracted frames and videos."""

import os
import pathlib
from collections.abc import Iterator, Sequence

from PIL import ExifTags, Image

from loco_jax.data.jta.annotations import CAMERA_FILE, AnnotationError
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.camera import Camera
from loco_jax.media import pictures, videos

JPEG_QUALITY = 95  # of frames from videos and PNGs, and of frames that are resized; other JPEGs are not changed

_ORIENTATION = ExifTags.Base.Orientation


def collect_pictures(
    jta_dir: os.PathLike | str, folder: str, number: int, frames: Sequence[int], out: pathlib.Path, height: int = 0
) -> tuple[dict[int, pathlib.Path], tuple[int, int]]:
    """JPEG files of the given `frames` of a sequence, by frame, and the frames' original height and width.

    Extracted JPEGs stay where they are. Other frames, and all that are resized, are written into `out`.

    Args:
      jta_dir: holds `frames` or `videos`; a sequence that is in both is taken from `frames`.
      folder: train, val or test.
      number: of the sequence.
      frames: ascending, from 1.
      out: a folder for the files that are written; it is created.
      height: of the JPEG files in pixels, the width in proportion; 0 to leave them as they are.

    Raises AnnotationError with file and frame: a video is missing, damaged or short, or a picture is missing, damaged
    or of another size than the first.
    """
    root, name = pathlib.Path(jta_dir), f"seq_{number}"
    source, movie = root / "frames" / folder / name, root / "videos" / folder / f"{name}.mp4"
    if not source.is_dir() and not movie.exists():
        raise AnnotationError(f"{movie}: does not exist, and neither does the folder {source}; get one of them")
    found = _extracted(source, frames) if source.is_dir() else _from_video(movie, frames)
    out.mkdir(parents=True, exist_ok=True)
    files: dict[int, pathlib.Path] = {}
    size = (0, 0)
    for frame, picture, path in found:
        if files and size != picture.size:
            ours, first = ("{} x {} pixels".format(*s) for s in (picture.size, size))
            raise AnnotationError(f"{folder}/{name}: frame {frame} has {ours}, but frame {frames[0]} has {first}")
        size = picture.size
        if height not in (0, picture.height):
            picture = picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.BOX)
            path = None
        if path is None:
            path = out / f"{frame}.jpg"
            picture.save(path, quality=JPEG_QUALITY)
        files[frame] = path
    return files, size[::-1]


def check_middle(camera: Camera, size: tuple[int, int]) -> None:
    """Raises AnnotationError if the camera does not look at about the middle of pictures of this height and width."""
    height, width = size
    # JTA's camera looks at the exact middle. If it is only assumed, this shows that pictures were made smaller.
    allowed = 0.02 if camera == cameras.JTA else 0.25
    if max(abs(float(camera.cx) / width - 0.5), abs(float(camera.cy) / height - 0.5)) > allowed:
        raise AnnotationError(
            f"the pictures have {width} x {height} pixels, but the camera looks at pixel ({camera.cx:g}, "
            f"{camera.cy:g}), which is not their middle. Give the camera of these pictures with --fx --fy --cx --cy or "
            f"in {CAMERA_FILE}. --picture_height needs no other camera: it shrinks the camera with the pictures"
        )


# A frame's number, its picture, and its file if that can be taken as it is.
_Found = Iterator[tuple[int, Image.Image, pathlib.Path | None]]


def _extracted(folder: pathlib.Path, frames: Sequence[int]) -> _Found:
    order = {suffix: i for i, suffix in enumerate(pictures.SUFFIXES)}  # .jpg first, .JPG after it
    there = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in order]
    files = {path.stem: path for path in sorted(there, key=lambda path: -order[path.suffix.lower()])}
    for frame in frames:
        path = files.get(str(frame), folder / f"{frame}.jpg")
        try:
            picture = pictures.read(path)  # decoded in full, or damage would only be noticed in training
            deep = pictures.is_deep(path)
        except pictures.PictureError as error:
            raise AnnotationError(f"{error}; frame {frame} is needed, extract it again") from error
        if deep:
            problem = "has more than 8 bits a value, so the value of white is unknown"
            raise AnnotationError(f"{path}: {problem}; save all frames with 8 bits")
        if picture.warnings:
            raise AnnotationError(f"{path}: {picture.warnings[0]}; extract frame {frame} again")
        with Image.open(path) as file:
            plain = file.format == "JPEG" and file.mode == "RGB" and file.getexif().get(_ORIENTATION, 1) == 1
        yield frame, Image.fromarray(picture.image), path if plain else None


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

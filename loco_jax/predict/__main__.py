"""People in your own pictures and videos.

    python -m loco_jax.predict [--weights=RUN_OR_FILE] picture.jpg folder/ video.mp4 --output=out/

Writes, for each picture and video, NAME.json, NAME_overlay.jpg (or .mp4) and NAME_3d.html. Coordinates are in metres
from the camera (x right, y down, z ahead) and in pixels from the picture's top left corner.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import math
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
from PIL import Image

from loco_jax import cli
from loco_jax.cli import compilation, disk, progress
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.media import overlays as overlay
from loco_jax.media import pictures
from loco_jax.media import videos as video
from loco_jax.media.overlays import Person
from loco_jax.media.pictures import Canvas, Focal
from loco_jax.predict import page as view3d
from loco_jax.predict.follow import Follower

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".wmv", ".asf", ".flv",
    ".f4v", ".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".ogv", ".qt", ".mxf", ".dv", ".y4m", ".mjpeg", ".h264", ".h265",
    ".hevc", ".ivf",
)  # fmt: skip
_LONGEST_NAME = 200  # bytes; file systems take 255, and ends like _overlay.jpg are added
_EDGE = 8  # pixels of the canvas by which a head may be found beside the picture: a voxel
_NARROWEST, _WIDEST = 1.0, 170.0  # degrees that --fov may be
_AXES = "metres from the camera (x right, y down, z ahead); pixels from the picture's top left corner"
_OURS = "weights", "coordinates"  # what JSON that we wrote has, near its beginning
_SAME_SHAPE = 0.02  # by which a video's later frames may be wider or narrower than the first
_ONE_PICTURE = "ids are of this picture alone"
_FOLLOWED = "ids follow people by their places; two who meet may swap, and who is gone may get a new one"


class Predictor(Protocol):
    """A trained LoCO, see `predictor.Predictor`.

    Attributes:
      camera: the one it was trained with, for pictures of `image_size` (height, width).
      description: what it is, in a line.
    """

    camera: Camera
    image_size: tuple[int, int]
    description: str

    def __call__(self, image: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Joints `[N, 14, 3]` in metres in that camera's coordinates, 0 for holes, and scores `[N, 14]`, best first, of
        a picture `[H, W, 3]` uint8."""


class Lens(NamedTuple):
    """What the user says of the camera, None where nothing: pixels of the user's picture, and degrees across it."""

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    fov: float | None = None


@dataclasses.dataclass(frozen=True)
class Done:
    """What was done with one picture or video: how many people were found in how many frames, where the camera is from,
    what to know about the results, and whether it was a video."""

    people: int
    frames: int
    camera_from: str
    warnings: tuple[str, ...] = ()
    video: bool = False


class InputError(ValueError):
    """Of a file, what could be read was done, and then it failed; `done` tells what."""

    def __init__(self, message: str, done: Done):
        super().__init__(message)
        self.done = done


# ---- The camera


def check_lens(lens: Lens) -> None:
    """Raises ValueError for numbers that cannot be, or that say two things."""
    for name, value in lens._asdict().items():
        if value is not None and not (math.isfinite(value) and (value > 0 or name in ("cx", "cy"))):
            raise ValueError(f"--{name}={value:g} must be a finite number" + " above 0" * (name not in ("cx", "cy")))
    if lens.fov is None:
        return
    if lens.fx is not None or lens.fy is not None:
        raise ValueError("--fov says the same as --fx and --fy: give one of them")
    if not _NARROWEST <= lens.fov <= _WIDEST:
        raise ValueError(f"--fov={lens.fov:g} is not between {_NARROWEST:g} and {_WIDEST:g} degrees")


def camera_of(
    size: tuple[int, int], lens: Lens, focal: Focal | None, predictor: Predictor, pixel_aspect: float = 1.0
) -> tuple[Camera, str]:
    """The camera of a picture of `size` (height, width), and where it comes from.

    The user comes first, then EXIF, then the field of view that the network was trained with, across the longer side.
    The last, and `--fov`, are for pixels that are `pixel_aspect` times as wide as high. Raises ValueError for numbers
    that cannot be.
    """
    check_lens(lens)
    height, width = size
    centre = {"cx": (lens.cx, width), "cy": (lens.cy, height)}
    for name, (value, length) in centre.items():
        if value is not None and not -length <= value <= 2 * length:
            raise ValueError(f"--{name}={value:g} is far outside the picture, which is {width} x {height} pixels")
    cx, cy = (length / 2 if value is None else value for value, length in centre.values())
    given = [f"--{name}={value:g}" for name, (value, _) in centre.items() if value is not None]
    if lens.fov is not None:
        fx = _focal_of_view(lens.fov, cx, width)
        fy, source = fx * pixel_aspect, f"--fov={lens.fov:g}"
    elif lens.fx is not None or lens.fy is not None:
        fx = lens.fx if lens.fx is not None else lens.fy
        fy = lens.fy if lens.fy is not None else lens.fx
        source = " ".join(f"--{n}={getattr(lens, n):g}" for n in ("fx", "fy") if getattr(lens, n) is not None)
    elif focal is not None:
        fx, fy, source = focal
    else:
        longer = max(width * pixel_aspect, height)  # in pixels' heights
        fy = float(predictor.camera.fx) * longer / max(predictor.image_size)
        fx = fy / pixel_aspect
        angle = 2 * math.degrees(math.atan(longer / 2 / fy))
        source = f"assumed: {angle:.1f} degrees across the longer side, as in training"
    if (lens.fov, lens.fx, lens.fy) != (None, None, None):
        for f in (fx, fy):
            if not 0.02 * max(size) < f < 200 * max(size):
                raise ValueError(f"a focal length of {f:g} pixels cannot be, for a picture of {width} x {height}")
    return Camera(float(fx), float(fy), float(cx), float(cy)), ", ".join([source, *given])


def _focal_of_view(fov: float, cx: float, width: float) -> float:
    """The f for which atan(cx / f) + atan((width - cx) / f) is `fov` (degrees); of two the longer."""
    half = 0.5 * width / math.tan(math.radians(fov))
    square = half * half + cx * (width - cx)
    if square < 0 or (f := half + math.sqrt(square)) <= 0:
        raise ValueError(f"--fov={fov:g} cannot be with --cx={cx:g}: give --fx")
    return f


# ---- Finding people


def find(image: np.ndarray, camera: Camera, predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    """Joints `[N, 14, 3]` in metres, NaN for holes, and scores `[N, 14]` of the people in a picture by any camera.

    The picture `[H, W, 3]`, uint8, is resampled so that a pixel is as wide an angle as in training, see
    `pictures.plan`. Whose head would be beside the picture, in what pads it, is left out.
    """
    size = image.shape[:2]
    canvas = pictures.plan(size, camera, predictor.camera, predictor.image_size)
    return _find_on(canvas, image, size, camera, predictor)


def _find_on(
    canvas: Canvas, image: np.ndarray, size: tuple[int, int], camera: Camera, predictor: Predictor
) -> tuple[np.ndarray, np.ndarray]:
    """As `find`, on a canvas for pictures of `size` (height, width), also where `image` has fewer pixels."""
    joints, scores = predictor(pictures.fill(canvas, image), canvas.camera)
    joints, scores = np.asarray(joints, np.float64).reshape(-1, 14, 3), np.asarray(scores, np.float64).reshape(-1, 14)
    scores = np.where(np.isfinite(scores), scores, 0.0)
    known = np.isfinite(joints).all(axis=-1) & (joints != 0).any(axis=-1)
    joints = pictures.to_user(canvas, np.where(known[..., None], joints, 0.0), known)
    joints = np.where(known[..., None], joints, np.nan)
    size = np.array(size[::-1])
    edge = _EDGE * size / canvas.picture_size[::-1]
    heads = project(camera, joints[:, 0])
    there = ((heads >= -edge) & (heads <= size + edge)).all(axis=-1)  # NaN compares false
    return joints[there], scores[there]


def project(camera: Camera, joints: np.ndarray) -> np.ndarray:
    """Pixels `[..., 2]` of `joints[..., 3]` in float64; NaN where they are not in front of the camera."""
    z = np.where(joints[..., 2] > 0, joints[..., 2], np.nan)
    return joints[..., :2] / z[..., None] * [camera.fx, camera.fy] + [camera.cx, camera.cy]


def to_people(joints: np.ndarray, scores: np.ndarray, camera: Camera, ids: Sequence[int] | None = None) -> list[Person]:
    """Found joints `[N, 14, 3]` and scores `[N, 14]` as people; a person's score is the mean of the joints'."""
    ids = range(1, len(joints) + 1) if ids is None else ids
    rows = zip(ids, joints, project(camera, joints), scores)
    return [Person(int(i), float(s.mean()), person, uv, s) for i, person, uv, s in rows]


def as_json(person: Person) -> dict[str, Any]:
    """What is known of a person: all 14 joints by name, null for what is not there."""
    joints = {
        name: {"xyz": _numbers(xyz, 4), "pixel": _numbers(uv, 2), "score": round(float(score), 4)}
        for name, xyz, uv, score in zip(skeleton.JOINTS, person.joints, person.pixels, person.scores)
    }
    return {"id": person.id, "score": round(person.score, 4), "joints": joints}


def _numbers(values: np.ndarray, digits: int) -> list[float] | None:
    return [round(float(x), digits) for x in values] if np.isfinite(values).all() else None


# ---- Files


def process(
    path: os.PathLike | str,
    name: str,
    output: os.PathLike | str,
    lens: Lens,
    predictor: Predictor,
    quiet: bool = False,
) -> Done:
    """Writes what is found in one picture or video to the folder `output`, as `name` and various ends.

    Raises ValueError or OSError, naming the file; InputError for a video that is damaged or otherwise fails, after what
    could be done of it, and so for Ctrl-C.
    """
    path, output = pathlib.Path(path), pathlib.Path(output)
    if _is_video(path):
        return _process_video(path, name, output, lens, predictor, quiet)
    image, focal, size, told = pictures.read(path)
    camera, source, canvas, warned = _prepare(path, size, lens, focal, predictor)
    warned = [*told, *warned]
    people = to_people(*_find_on(canvas, image, size, camera, predictor), camera)
    shown = [person._replace(pixels=person.pixels * image.shape[1::-1] / size[::-1]) for person in people]
    facts = _facts(path, size, camera, source, predictor) | {"ids": _ONE_PICTURE, "warnings": warned}
    text = json.dumps({**facts, "people": [as_json(p) for p in people]}, indent=1, allow_nan=False)
    with _whole(output / f"{name}.json") as part:
        part.write_text(text + "\n", encoding="utf-8")
    with _whole(output / f"{name}_overlay.jpg") as part:
        Image.fromarray(overlay.draw(image, shown)).save(part, "JPEG", quality=92, subsampling=0)
    frames = view3d.Frames()
    frames.add(0, people)
    notes = _notes(camera, source, predictor, warned)
    page = view3d.page(_shown(path.name), frames, camera, size, {0: view3d.jpeg(image)}, notes)
    with _whole(output / f"{name}_3d.html") as part:
        part.write_text(page, encoding="utf-8")
    return Done(len(people), 1, source, tuple(warned))


def _is_video(path: pathlib.Path) -> bool:
    """By the name, or where that says nothing by what is in the file."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in pictures.SUFFIXES + pictures.FOREIGN:
        return suffix in VIDEO_SUFFIXES
    return path.is_file() and not pictures.is_picture(path) and video.is_video(path)


def _process_video(
    path: pathlib.Path, name: str, output: pathlib.Path, lens: Lens, predictor: Predictor, quiet: bool
) -> Done:
    info, images = video.info(path), video.read(path)
    photos, frames, people, last, failure = view3d.Pictures(), view3d.Frames(), [], 0.0, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", video.DamageWarning)
        first = next(images)
        size, aspect = first[1].shape[:2], info.pixel_aspect
        if aspect != 1 and video.is_turned(path):  # the header's is that before turning
            aspect = 1 / aspect
        camera, source, canvas, warned = _prepare(path, size, lens, None, predictor, aspect)
        images = _of_size(path, itertools.chain([first], images), size, warned)
        facts = _facts(path, size, camera, source, predictor) | {"ids": _FOLLOWED}
        movie, label = output / f"{name}_overlay.mp4", {"desc": _shown(path.name)[-30:], "leave": False}
        with (
            video.Writer(movie, info.fps, overlay.drawn_size(size), pixel_aspect=aspect) as writer,
            _whole(output / f"{name}.json") as part,
            _JsonOfVideo(part, facts) as results,
            progress.bar(info.frames or None, " frames", quiet, **label) as bar,
        ):
            try:
                for number, image, time, now in _follow(images, canvas, camera, predictor):
                    writer.write(overlay.draw(image, now), time)
                    results.add({"frame": number, "time": round(time, 4), "people": [as_json(p) for p in now]})
                    frames.add(number, now, time)
                    photos.add(number, image)
                    people.append(len(now))
                    last = time
                    bar.update()
            except (ValueError, RuntimeError, KeyboardInterrupt) as error:  # the second of JAX: no memory left, say
                if not people:
                    raise
                failure = error
            warned += [str(w.message) for w in caught if issubclass(w.category, video.DamageWarning)]
            fps = round((len(people) - 1) / last, 4) if last else info.fps
            results.finish({"fps": fps, "warnings": warned, "complete": failure is None})
    page = view3d.page(_shown(path.name), frames, camera, size, photos.kept, _notes(camera, source, predictor, warned))
    with _whole(output / f"{name}_3d.html") as part:
        part.write_text(page, encoding="utf-8")
    done = Done(sum(people), len(people), source, tuple(warned), video=True)
    if failure is None:
        return done
    before = f"the {done.frames} frames before that were done"
    if isinstance(failure, KeyboardInterrupt):
        raise KeyboardInterrupt(f"{path}: stopped; {before}") from failure
    raise InputError(f"{_in_a_line(path, failure)} ({before})", done) from failure


def _follow(
    images: Iterator[tuple[int, np.ndarray, float]], canvas: Canvas, camera: Camera, predictor: Predictor
) -> Iterator[tuple[int, np.ndarray, float, list[Person]]]:
    """What is given, and the people of each frame, whose ids go on from frame to frame."""
    follower = Follower()
    for number, image, time in images:
        joints, scores = _find_on(canvas, image, image.shape[:2], camera, predictor)
        yield number, image, time, to_people(joints, scores, camera, follower.update(joints, time))


class _JsonOfVideo:
    """Writes facts and then frames, a line each, as they come, so that all is there whatever happens."""

    def __init__(self, path: pathlib.Path, facts: dict[str, Any]):
        self._path, self._facts, self._between = path, facts, ""

    def __enter__(self) -> "_JsonOfVideo":
        self._file = self._path.open("w", encoding="utf-8", buffering=1)
        self._file.write(self._text(self._facts)[:-1] + ', "frames": [\n')
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, frame: dict[str, Any]) -> None:
        self._file.write(self._between + self._text(frame) + "\n")
        self._between = ","

    def finish(self, facts: dict[str, Any]) -> None:
        """After the last frame, what is known then."""
        self._file.write("], " + self._text(facts)[1:] + "\n")

    @staticmethod
    def _text(content: dict[str, Any]) -> str:
        return json.dumps(content, allow_nan=False)


def _of_size(
    path: pathlib.Path, images: Iterator[tuple[int, np.ndarray, float]], size: tuple[int, int], warned: list[str]
) -> Iterator[tuple[int, np.ndarray, float]]:
    """Frames, all as large as the first, as recorded calls are not; `warned` gets a line. Raises ValueError for one of
    another shape: its camera would be another."""
    resized = False
    for number, image, time in images:
        height, width = image.shape[:2]
        if (height, width) != size:
            text = f"frame {number} (counted from 0) has {width} x {height} pixels, the first {size[1]} x {size[0]}"
            if abs(width * size[0] / (height * size[1]) - 1) > _SAME_SHAPE:
                raise ValueError(f"{path}: {text}; cut the video there")
            if not resized:
                warned.append(f"{text}; such frames were resized")
            resized = True
            image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
        yield number, image, time


def _prepare(
    path: pathlib.Path,
    size: tuple[int, int],
    lens: Lens,
    focal: Focal | None,
    predictor: Predictor,
    pixel_aspect: float = 1.0,
) -> tuple[Camera, str, Canvas, list[str]]:
    """The camera, where it comes from, how to show the picture to the network, and warnings."""
    try:
        camera, source = camera_of(size, lens, focal, predictor, pixel_aspect)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    canvas = pictures.plan(size, camera, predictor.camera, predictor.image_size)
    warned = []
    if canvas.shrink < 1:
        warned.append(
            "its field of view is so much wider than in training that the picture was shrunk to "
            f"{canvas.shrink:.0%} of equal angles, and people were brought nearer by as much: distances are less exact"
        )
    if max(canvas.picture_size) < max(predictor.image_size) / 8:
        warned.append(
            f"its field of view is so narrow that only {canvas.picture_size[1]} x {canvas.picture_size[0]} pixels are "
            "left of it at equal angles: check the focal length"
        )
    return camera, source, canvas, warned


def _facts(
    path: pathlib.Path, size: tuple[int, int], camera: Camera, source: str, predictor: Predictor
) -> dict[str, Any]:
    return {
        "file": _shown(path.name),
        "width": size[1],
        "height": size[0],
        "camera": {**{name: round(float(f), 4) for name, f in camera._asdict().items()}, "from": source},
        **dict(zip(_OURS, (predictor.description, _AXES))),
    }


def _notes(camera: Camera, source: str, predictor: Predictor, warned: Sequence[str]) -> list[str]:
    numbers = ", ".join(f"{name} {value:.1f}" for name, value in camera._asdict().items())
    return [f"Camera: {numbers} pixels ({source})", f"Weights: {predictor.description}", *warned]


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to write a file that appears whole or not at all; a link of that name is replaced and not followed."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _shown(text: os.PathLike | str) -> str:
    """A file's name as text that can be printed, whatever its bytes."""
    return os.fsencode(text).decode("utf-8", "replace")


def outputs(name: str) -> tuple[str, ...]:
    """The files that may be written for a name."""
    return f"{name}.json", f"{name}_overlay.jpg", f"{name}_overlay.mp4", f"{name}_3d.html"


def name_outputs(paths: Sequence[pathlib.Path], output: os.PathLike | str = ".") -> list[str]:
    """A name for each input's results: its own without the end, and a number where that is taken.

    No two names are alike, not even for file systems that ignore case, and no result has the place of an input, or of
    a file that is there and that we did not write.
    """
    inputs = {os.path.realpath(path).lower() for path in paths}
    folder = os.path.realpath(output)
    names, taken = [], set()
    for path in paths:
        stem = os.fsencode(pathlib.Path(path).stem)[:_LONGEST_NAME].decode("utf-8", "ignore").strip()
        stem = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in stem)
        name, number = stem or "picture", 1
        while (
            name.lower() in taken
            or any(os.path.join(folder, f).lower() in inputs for f in outputs(name))
            or _is_foreign(pathlib.Path(folder), name)
        ):
            number += 1
            name = f"{stem or 'picture'}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def _is_foreign(folder: pathlib.Path, name: str) -> bool:
    """Whether files have a name's places that are no results of ours: those have our JSON beside them."""
    if not any(os.path.lexists(folder / file) for file in outputs(name)):
        return False
    try:
        with (folder / outputs(name)[0]).open("rb") as file:
            beginning = file.read(16_384)
    except OSError:
        return True
    return not all(f'"{key}": '.encode() in beginning for key in _OURS)


def collect(inputs: Sequence[str]) -> tuple[list[pathlib.Path], list[str], list[str]]:
    """The files that are meant, each once, with the pictures of folders; what is wrong with the others; and what of
    folders is left out, a line each."""
    paths, failures, notes = [], [], []
    for text in inputs:
        path = pathlib.Path(text).expanduser()
        try:
            paths += pictures.find(path) if path.is_dir() else [path]
            notes += _left_out(path) if path.is_dir() else []
        except (OSError, ValueError) as error:
            failures.append(str(error))
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1], failures, notes


def _left_out(folder: pathlib.Path) -> list[str]:
    """What somebody may miss of a folder."""
    notes = []
    for suffixes, text in (
        (pictures.FOREIGN, "cannot be read; convert them to JPEG or PNG"),
        (VIDEO_SUFFIXES, "are videos, which are named one by one"),
    ):
        names = sorted(
            path.name
            for path in folder.iterdir()
            if path.suffix.lower() in suffixes and not path.name.startswith(".") and not _is_overlay(path)
        )
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        notes += [f"{folder}: left out {shown}: they {text}"] if names else []
    return notes


def _is_overlay(path: pathlib.Path) -> bool:
    """Whether it is a video that we wrote."""
    stem = path.name.removesuffix("_overlay.mp4")
    return stem != path.name and not _is_foreign(path.parent, stem)


# ---- The command


def run(paths: Sequence[pathlib.Path], output: pathlib.Path, lens: Lens, predictor: Predictor, quiet: bool = False):
    """Does all files, telling how each went; one that fails does not stop the others. Returns what failed."""
    failures = []
    for path, name in zip(paths, name_outputs(paths, output)):
        try:
            done = process(path, name, output, lens, predictor, quiet)
        except InputError as error:
            _tell(failures, str(error))
            done = error.done
        except (ValueError, OSError, RuntimeError, MemoryError, av.FFmpegError) as error:  # RuntimeError: of JAX
            _tell(failures, _in_a_line(path, error))
            continue
        for warning in done.warnings:
            print(f"loco_jax: {_in_a_line(path, warning)}", file=sys.stderr)
        print(f"{_shown(path)}: {_count(done)} (camera {done.camera_from})")
        ending = ".mp4" if done.video else ".jpg"
        print(f"  {_shown(output / name)}.json, {name}_overlay{ending}, {name}_3d.html", flush=True)
    return failures


def _in_a_line(path: pathlib.Path, told: Exception | str) -> str:
    """What is told of a file, with its name."""
    text = str(told).strip().split("\n")[0] or type(told).__name__
    return _shown(text if str(path) in text else f"{path}: {text}")


def _count(done: Done) -> str:
    if done.video:
        return f"{done.frames} frame{'s' * (done.frames != 1)}, {done.people / max(done.frames, 1):.1f} people in each"
    return "no people" if not done.people else "1 person" if done.people == 1 else f"{done.people} people"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loco_jax.predict",
        usage="%(prog)s [options] INPUT [INPUT ...] --output=FOLDER",
        description="Finds the people in pictures and videos, in metres from the camera. For every input NAME it "
        "writes NAME.json, NAME_overlay.jpg (or .mp4), and NAME_3d.html, a page to look at from all sides.",
        epilog="Without a camera the focal length comes from EXIF, and if there is none, the field of view that the "
        "network was trained with is assumed. Distances are as right as the focal length is. What is said of the "
        "camera holds for all inputs.",
        allow_abbrev=False,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="a picture, a folder of pictures, or a video")
    parser.add_argument(
        "--output", default="out", metavar="FOLDER", help="where results go, replacing earlier ones; out if absent"
    )
    parser.add_argument(
        "--weights", metavar="RUN_OR_FILE", help="a run's folder or a file of weights; the released weights if absent"
    )
    parser.add_argument(
        "--min_score",
        type=float,
        metavar="X",
        help="the least score of a person, from 0 to 1; what the weights' config says if absent",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    camera = parser.add_argument_group("camera")
    for name, text in {
        "fx": "focal length in pixels of your picture; --fy is the same if absent",
        "fy": "focal length downwards, where pixels are not square",
        "cx": "the optical axis from the left in pixels; the middle if absent",
        "cy": "the same from the top",
        "fov": "horizontal field of view in degrees, from edge to edge, in place of --fx and --fy",
    }.items():
        camera.add_argument(f"--{name}", type=float, metavar="X", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status: 0, 1 if anything failed, 130 for Ctrl-C and SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show ends nothing
            stream.reconfigure(errors="replace")
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    arguments = parser.parse_args(argv)
    lens = Lens(*(getattr(arguments, name) for name in Lens._fields))
    try:
        return cli.call(_main, arguments, lens)
    except (ValueError, OSError) as error:
        print(f"loco_jax: {error}", file=sys.stderr)
        return 1


def _main(arguments: argparse.Namespace, lens: Lens) -> int:
    check_lens(lens)  # before any work
    if arguments.min_score is not None and not 0 <= arguments.min_score <= 1:
        raise ValueError(f"--min_score={arguments.min_score:g} must be from 0 to 1")
    paths, failures, notes = collect(arguments.inputs)
    for text in [*notes, *failures]:
        print(f"loco_jax: {_shown(text)}", file=sys.stderr)
    if paths:
        output = _make_folder(arguments.output)
        from absl import logging

        from loco_jax.predict import predictor as predictors  # after the arguments, so that --help is quick

        logging.set_verbosity(logging.ERROR)
        compilation.use_cache()
        cli.check_devices()
        predictor = predictors.load_predictor(arguments.weights, arguments.min_score)
        print(f"Using {predictor.description}", flush=True)
        failures += run(paths, output, lens, predictor, arguments.quiet)
    return 1 if failures else 0


def _tell(failures: list[str], failure: str) -> None:
    """At once, since the next file may be long."""
    failures.append(failure)
    print(f"loco_jax: {_shown(failure)}", file=sys.stderr)


def _make_folder(name: str) -> pathlib.Path:
    """The folder for results, in which a file can be written: better known before the work than after."""
    if not name:
        raise ValueError("--output= names no folder")
    output = pathlib.Path(name).expanduser()
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output={output} is a file; name a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        disk.check_writable(output)
    except OSError as error:
        raise ValueError(f"--output={output}: cannot be written to ({error.strerror}); name another folder") from error
    return output


if __name__ == "__main__":
    sys.exit(main())

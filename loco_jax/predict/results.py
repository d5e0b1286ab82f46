"""Output files of a picture or a video: JSON, an overlay, and a 3D page."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import av
import numpy as np
from PIL import Image

from loco_jax.cli import progress
from loco_jax.geometry import skeleton
from loco_jax.media import overlays, pictures, videos
from loco_jax.media.overlays import Person
from loco_jax.predict import files, page
from loco_jax.predict.camera import Lens
from loco_jax.predict.files import OUR_KEYS, printable
from loco_jax.predict.follow import Follower
from loco_jax.predict.people import View, find, look, to_people, view_of
from loco_jax.predict.predictor import Predictor

_AXES = "metres from the camera (x right, y down, z ahead); pixels from the picture's top left corner"
_FOLLOWED = (
    "ids are tracks, by people's places; two people who meet may swap ids, and a person who returns may get a new id"
)
_text = functools.partial(json.dumps, allow_nan=False)


@dataclasses.dataclass(frozen=True)
class Done:
    """The result of one picture or video.

    `people` is the sum over all frames. `failure` says what stopped a video after these frames, or is empty.
    """

    people: int
    frames: int
    camera_from: str
    warnings: tuple[str, ...] = ()
    video: bool = False
    failure: str = ""


def process_all(
    paths: Sequence[pathlib.Path], output: pathlib.Path, lens: Lens, predictor: Predictor, quiet: bool = False
) -> list[str]:
    """Processes all files and prints the result of each. One that fails does not stop the others. Returns errors."""
    failures: list[str] = []
    for path, name in zip(paths, files.name_outputs(paths, output)):
        try:
            done = process(path, name, output, lens, predictor, quiet)
        except (ValueError, OSError, RuntimeError, MemoryError, av.FFmpegError) as error:  # JAX raises RuntimeError
            failures.append(_in_a_line(path, error))
            print(f"loco_jax: {failures[-1]}", file=sys.stderr)
            continue
        if done.failure:
            failures.append(done.failure)
        for line in filter(None, (*done.warnings, done.failure)):
            print(f"loco_jax: {_in_a_line(path, line)}", file=sys.stderr)
        people = "no people" if not done.people else "1 person" if done.people == 1 else f"{done.people} people"
        if done.video:
            people = f"{done.frames} frame{'s' * (done.frames != 1)}, {done.people / done.frames:.1f} people in each"
        print(f"{printable(path)}: {people} (camera {done.camera_from})")
        ending = ".mp4" if done.video else ".jpg"
        print(f"  {printable(output / name)}.json, {name}_overlay{ending}, {name}_3d.html", flush=True)
    return failures


def process(
    path: os.PathLike | str, name: str, output: os.PathLike | str, lens: Lens, predictor: Predictor, quiet: bool = False
) -> Done:
    """Finds the people in one picture or video, and writes the results into the folder `output` under `name`.

    Raises ValueError or OSError. If an error or Ctrl-C stops a video after some frames, their results stay.
    """
    path, base = pathlib.Path(path), os.path.join(output, name)  # a name may be ".", which pathlib would drop
    if files.is_video(path):
        return _process_video(path, base, lens, predictor, quiet)
    people = look(pictures.read(path), lens, predictor)
    view = people.view
    facts = {**_facts(path, view, predictor), "ids": "ids are of this picture alone", "warnings": view.warnings}
    with _whole(f"{base}.json") as part:
        part.write_text(_text({**facts, "people": [_as_json(p) for p in people]}, indent=1) + "\n", encoding="utf-8")
    with _whole(f"{base}_overlay.jpg") as part:
        Image.fromarray(people.overlay()).save(part, "JPEG", quality=92, subsampling=0)
    frames = page.Frames()
    frames.add(0, people)
    _write_page(path, base, frames, {0: page.jpeg(people.image)}, view, predictor)
    return Done(len(people), 1, view.camera_from, view.warnings)


def _process_video(path: pathlib.Path, base: str, lens: Lens, predictor: Predictor, quiet: bool) -> Done:
    info, images = videos.info(path), videos.read(path)
    photos, frames, last, failure = page.Pictures(), page.Frames(), 0.0, None
    people: list[int] = []  # how many in each frame
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", videos.DamageWarning)
        first = next(images)
        size, aspect = first[1].shape[:2], info.pixel_aspect
        if aspect != 1 and videos.is_turned(path):  # the file states the aspect before the turn
            aspect = 1 / aspect
        view, follower = view_of(size, lens, None, predictor, aspect), Follower()
        with (
            videos.Writer(f"{base}_overlay.mp4", info.fps, overlays.drawn_size(size), pixel_aspect=aspect) as writer,
            _whole(f"{base}.json") as part,
            part.open("w", encoding="utf-8", buffering=1) as file,
            progress.bar(info.frames or None, " frames", quiet, desc=printable(path.name)[-30:], leave=False) as bar,
        ):
            # Each frame is a line of its own, written at once: all are kept whatever happens later.
            file.write(_text(_facts(path, view, predictor) | {"ids": _FOLLOWED})[:-1] + ', "frames": [\n')
            try:
                for number, image, time in itertools.chain([first], images):
                    if image.shape[:2] != size:  # as in recorded calls
                        raise ValueError(f"frame {number} (counted from 0) has another size; cut the video there")
                    joints, scores = find(image, view, predictor)
                    now = to_people(joints, scores, view.camera, follower.update(joints, time))
                    writer.write(overlays.draw(image, now), time)
                    line = {"frame": number, "time": round(time, 4), "people": [_as_json(p) for p in now]}
                    file.write("," * bool(people) + _text(line) + "\n")
                    frames.add(number, now, time)
                    photos.add(number, image)
                    people.append(len(now))
                    last = time
                    bar.update()
            except (ValueError, RuntimeError, KeyboardInterrupt) as error:  # JAX raises RuntimeError without memory
                if not people:
                    raise
                failure = error
            damage = (str(w.message) for w in caught if issubclass(w.category, videos.DamageWarning))
            view = view._replace(warnings=(*view.warnings, *damage))
            fps = round((len(people) - 1) / last, 4) if last else info.fps
            file.write("], " + _text({"fps": fps, "warnings": view.warnings, "complete": failure is None})[1:] + "\n")
    _write_page(path, base, frames, photos.kept, view, predictor)
    before = f"the {len(people)} frames before that were done"
    if isinstance(failure, KeyboardInterrupt):
        raise KeyboardInterrupt(f"{path}: stopped; {before}") from failure
    failed = "" if failure is None else f"{_in_a_line(path, failure)} ({before})"
    return Done(sum(people), len(people), view.camera_from, view.warnings, video=True, failure=failed)


def _as_json(person: Person) -> dict[str, Any]:
    """A person for the JSON file: all 14 joints by name, with null for unknown values."""
    joints = {
        name: {"xyz": _numbers(xyz, 4), "pixel": _numbers(uv, 2), "score": round(float(score), 4)}
        for name, xyz, uv, score in zip(skeleton.JOINTS, person.joints, person.pixels, person.scores)
    }
    return {"id": person.id, "score": round(person.score, 4), "joints": joints}


def _numbers(values: np.ndarray, digits: int) -> list[float] | None:
    return [round(float(x), digits) for x in values] if np.isfinite(values).all() else None


def _facts(path: pathlib.Path, view: View, predictor: Predictor) -> dict[str, Any]:
    camera = {name: round(float(value), 4) for name, value in view.camera._asdict().items()}
    return {
        "file": printable(path.name),
        "width": view.size[1],
        "height": view.size[0],
        "camera": {**camera, "from": view.camera_from},
        **dict(zip(OUR_KEYS, (predictor.description, _AXES))),
    }


def _write_page(
    path: pathlib.Path, base: str, frames: page.Frames, photos: Mapping[int, bytes], view: View, predictor: Predictor
) -> None:
    numbers = ", ".join(f"{name} {value:.1f}" for name, value in view.camera._asdict().items())
    notes = [f"Camera: {numbers} pixels ({view.camera_from})", f"Weights: {predictor.description}", *view.warnings]
    with _whole(f"{base}_3d.html") as part:
        text = page.to_html(printable(path.name), frames, view.camera, view.size, photos, notes)
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _whole(name: str) -> Iterator[pathlib.Path]:
    """Gives a path to write to. The file appears completely or not at all. A link of its name is replaced."""
    part = pathlib.Path(name).with_name(f".{os.path.basename(name)}.part")
    try:
        yield part
        part.replace(name)
    finally:
        part.unlink(missing_ok=True)


def _in_a_line(path: pathlib.Path, message: Exception | str) -> str:
    """The first line of a message, with the file's name."""
    text = str(message).strip().split("\n")[0] or type(message).__name__
    return printable(text if str(path) in text else f"{path}: {text}")

"""Output files of a picture or a film: JSON, an overlay, and a 3D page."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from loco_jax.cli.disk import whole
from loco_jax.geometry import skeleton
from loco_jax.media import pictures
from loco_jax.media.overlays import Person
from loco_jax.predict import page
from loco_jax.predict.camera import Lens
from loco_jax.predict.files import OUR_KEYS, is_film, outputs, printable
from loco_jax.predict.people import People, View
from loco_jax.predict.predictor import Predictor

_AXES = "metres from the camera (x right, y down, z ahead); pixels from the picture's top left corner"

ERRORS = (ValueError, OSError, RuntimeError, MemoryError, av.FFmpegError)  # of one input; JAX raises RuntimeError
to_json = functools.partial(json.dumps, allow_nan=False)


class Options(NamedTuple):
    """What the user asks for, beside weights and files.

    Attributes:
      lens: the camera, as far as it is given.
      smooth: whether the tracks of films are smoothed.
      fps: pictures a second of folders that are films; 0 if folders hold single pictures.
    """

    lens: Lens = Lens()
    smooth: bool = True
    fps: float = 0.0


@dataclasses.dataclass(frozen=True)
class Done:
    """The result of one picture or film.

    `people` is the sum over all frames of those who were found there, and `tracks` the number of identities of a film.
    `failure` says what stopped a film after these frames, or is empty.
    """

    people: int
    frames: int
    camera_from: str
    warnings: tuple[str, ...] = ()
    tracks: int | None = None
    failure: str = ""


def facts(path: pathlib.Path, view: View, predictor: Predictor, options: Options) -> dict[str, Any]:
    """The beginning of the JSON."""
    camera = {name: round(float(value), 4) for name, value in view.camera._asdict().items()}
    return {
        "file": printable(path.resolve().name),
        "width": view.size[1],
        "height": view.size[0],
        "camera": {**camera, "from": view.camera_from},
        **dict(zip(OUR_KEYS, (predictor.description, _AXES))),
        "made_of": _made_of(path, predictor, options),
    }


def are_done(path: pathlib.Path, base: str, predictor: Predictor, options: Options) -> bool:
    """Whether an input's results are there, complete, and made of the same files, weights and options."""
    try:
        written = pathlib.Path(f"{base}.json")
        found = json.loads(written.read_text(encoding="utf-8"))
        # The JSON comes first, so whatever is older belongs to an earlier run.
        times = [os.stat(name).st_mtime_ns for name in (_overlay(base, "frames" in found), f"{base}_3d.html")]
        whole = written.stat().st_mtime_ns <= min(times) and found.get("complete", True)
        return whole and found.get("made_of") == _made_of(path, predictor, options)
    except (OSError, ValueError):
        return False


def write_picture(path: pathlib.Path, base: str, people: People, predictor: Predictor, options: Options) -> Done:
    """Writes the results of one picture."""
    view = people.view
    about = {**facts(path, view, predictor, options), "ids": "ids are of this picture alone", "warnings": view.warnings}
    with whole(f"{base}.json") as part:
        part.write_text(to_json({**about, "people": [as_json(p) for p in people]}, indent=1) + "\n", encoding="utf-8")
    with whole(_overlay(base, film=False)) as part:
        Image.fromarray(people.overlay()).save(part, "JPEG", quality=92, subsampling=0)
    frames = page.Frames()
    frames.add(0, people)
    write_page(path, base, frames, {0: page.jpeg(people.image)}, view, predictor)
    return Done(len(people), 1, view.camera_from, view.warnings)


def as_json(person: Person) -> dict[str, Any]:
    """A person for the JSON file: all 14 joints by name, with null for unknown values."""
    joints = {
        name: {"xyz": _numbers(xyz, 4), "pixel": _numbers(uv, 2), "score": round(float(score), 4)}
        for name, xyz, uv, score in zip(skeleton.JOINTS, person.joints, person.pixels, person.scores)
    }
    return {"id": person.id, "score": round(person.score, 4), "joints": joints}


def write_page(
    path: pathlib.Path, base: str, frames: page.Frames, photos: Mapping[int, bytes], view: View, predictor: Predictor
) -> None:
    """Writes the 3D page."""
    numbers = ", ".join(f"{name} {value:.1f}" for name, value in view.camera._asdict().items())
    notes = [f"Camera: {numbers} pixels ({view.camera_from})", f"Weights: {predictor.description}", *view.warnings]
    with whole(f"{base}_3d.html") as part:
        text = page.to_html(printable(path.resolve().name), frames, view.camera, view.size, photos, notes)
        part.write_text(text, encoding="utf-8")


def _overlay(base: str, film: bool) -> str:
    return outputs(base)[2 if film else 1]


def _made_of(path: pathlib.Path, predictor: Predictor, options: Options) -> dict[str, Any]:
    """What the results of an input depend on. Files are told apart by their sizes and times."""
    lens = {name: value for name, value in options.lens._asdict().items() if value is not None}
    made_of = {**lens, "min_score": predictor.min_score, "parameters": predictor.checksum}
    inputs = [path]
    if is_film(path):
        made_of["smooth"] = options.smooth
    if path.is_dir():
        made_of["fps"], inputs = options.fps, pictures.find(path)
    stats = [os.stat(each) for each in inputs]
    changed = max(stat.st_mtime_ns for stat in stats)
    return {**made_of, "files": len(inputs), "bytes": sum(stat.st_size for stat in stats), "changed": changed}


def _numbers(values: np.ndarray, digits: int) -> list[float] | None:
    return [round(float(x), digits) for x in values] if np.isfinite(values).all() else None

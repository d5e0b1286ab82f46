"""People in your own pictures and videos.

    python -m loco_jax.predict [--weights=RUN_OR_FILE] picture.jpg folder/ video.mp4 --output=out/

Writes, for each, NAME.json, NAME_overlay.jpg (or .mp4) and NAME_3d.html. Without --weights the released ones are used.
Coordinates are in metres from the camera: x right, y down, z ahead. Ids are of a frame; nobody is tracked.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from loco_jax import camera as cameras
from loco_jax import overlay, pictures, progress, skeleton, view3d
from loco_jax.camera import Camera
from loco_jax.data import video

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_CELL = 32  # pixels; canvases are whole numbers of these, so that few sizes are compiled
_GREY = 114
_MOST = 4.0  # a canvas of more than so many times the trained picture's pixels is shrunk


class Predictor(Protocol):
    """A trained LoCO, see `tasks.loco.Predictor`."""

    camera: Camera
    image_size: tuple[int, int]
    description: str

    def __call__(self, image: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]: ...


class Lens(NamedTuple):
    """What the user says of the camera; None where nothing is said. Pixels of the user's picture, degrees."""

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    fov: float | None = None


def camera_of(size: tuple[int, int], lens: Lens, exif_focal: float | None, predictor: Predictor) -> tuple[Camera, str]:
    """The camera of a picture of `size` (height, width), and where it comes from.

    What the user says comes first, then EXIF, then the field of view that the network was trained with. Raises
    ValueError for numbers that cannot be.
    """
    height, width = size
    for name, value in lens._asdict().items():
        if value is not None and not (math.isfinite(value) and (value > 0 or name in ("cx", "cy"))):
            raise ValueError(f"--{name}={value} must be a finite number" + ("" if name in ("cx", "cy") else " above 0"))
    if lens.fov is not None and (lens.fx is not None or lens.fy is not None):
        raise ValueError("--fov and --fx or --fy say the same thing: give one of them")
    if lens.fov is not None and lens.fov >= 175:
        raise ValueError(f"--fov={lens.fov} must be below 175 degrees")
    if lens.fov is not None:
        fx, source = width / 2 / math.tan(math.radians(lens.fov) / 2), "--fov"
    elif lens.fx is not None or lens.fy is not None:
        fx, source = lens.fx if lens.fx is not None else lens.fy, "--fx, --fy"
    elif exif_focal is not None:
        fx, source = exif_focal, "EXIF"
    else:
        fx, source = (
            predictor.camera.fx * width / predictor.image_size[1],
            "assumed: the trained camera's field of view",
        )
    fy = lens.fy if lens.fy is not None else fx
    cx = lens.cx if lens.cx is not None else width / 2
    cy = lens.cy if lens.cy is not None else height / 2
    return Camera(float(fx), float(fy), float(cx), float(cy)), source


def find(image: np.ndarray, camera: Camera, predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    """Joints `[N, 14, 3]` in metres and scores `[N, 14]` of the people in a picture `[H, W, 3]` uint8 by any camera.

    The picture is resampled so that a pixel is as wide an angle as in training. One that would become too large for
    that is shrunk further, and the people in it, who look smaller then, are brought nearer by as much.
    """
    height, width = image.shape[:2]
    scale = np.array([predictor.camera.fy / camera.fy, predictor.camera.fx / camera.fx])
    shrink = min(1.0, math.sqrt(_MOST * math.prod(predictor.image_size) / (height * width * scale.prod())))
    rows, columns = (max(1, round(n * s * shrink)) for n, s in zip((height, width), scale))
    small = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
    canvas = np.full((-(-rows // _CELL) * _CELL, -(-columns // _CELL) * _CELL, 3), _GREY, np.uint8)
    canvas[:rows, :columns] = small
    x, y = columns / width, rows / height
    joints, scores = predictor(canvas, Camera(camera.fx * x, camera.fy * y, camera.cx * x, camera.cy * y))
    return np.asarray(joints) * shrink, np.asarray(scores)


def describe(joints: np.ndarray, scores: np.ndarray, camera: Camera) -> list[dict[str, Any]]:
    """People as JSON: id, score, and by name the joints: metres, pixels of the picture, score; holes are left out."""
    pixels = _pixels(joints, camera)
    return [
        {
            "id": number,
            "score": round(float(confidence[0]), 4),
            "joints": {
                name: {
                    "xyz": [round(float(x), 4) for x in joint],
                    "pixel": [round(float(x), 2) for x in uv] if np.isfinite(uv).all() else None,
                    "score": round(float(score), 4),
                }
                for name, joint, uv, score in zip(skeleton.JOINTS, person, places, confidence)
                if joint.any()
            },
        }
        for number, (person, places, confidence) in enumerate(zip(joints, pixels, scores))
    ]


def process(
    path: pathlib.Path, name: str, output: pathlib.Path, lens: Lens, predictor: Predictor, quiet: bool = False
) -> int:
    """Writes the results of one picture or video; returns how many people there were in all. Raises PictureError or
    VideoError; of a damaged video, what could be read is written before that."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _process_video(path, name, output, lens, predictor, quiet)
    image, focal = pictures.read(path)
    camera, source = camera_of(image.shape[:2], lens, focal, predictor)
    joints, scores = find(image, camera, predictor)
    picture = overlay.draw(image, _pixels(joints, camera), (joints != 0).any(axis=-1))
    Image.fromarray(picture).save(output / f"{name}_overlay.jpg", quality=92)
    facts = _facts(path, image.shape[:2], camera, source, predictor)
    _write(output / f"{name}.json", json.dumps({**facts, "people": describe(joints, scores, camera)}, indent=1))
    _write(output / f"{name}_3d.html", view3d.page(path.name, [(joints, scores)], camera, image.shape[:2]))
    return len(joints)


def _process_video(path, name, output, lens, predictor, quiet) -> int:
    info = video.info(path)
    size = info.height, info.width
    camera, source = camera_of(size, lens, None, predictor)
    found, failure = [], None
    with (
        video.Writer(output / f"{name}_overlay.mp4", info.fps, size) as writer,
        progress.bar(info.frames or None, " frames", quiet, desc=path.name, leave=False) as bar,
    ):
        try:
            for _, image in video.read(path):
                joints, scores = find(image, camera, predictor)
                found.append((joints, scores))
                writer.write(overlay.draw(image, _pixels(joints, camera), (joints != 0).any(axis=-1)))
                bar.update()
        except video.VideoError as error:
            failure = error
    frames = [{"frame": i, "people": describe(*people, camera)} for i, people in enumerate(found)]
    facts = {**_facts(path, size, camera, source, predictor), "fps": info.fps}
    _write(output / f"{name}.json", json.dumps({**facts, "frames": frames}, indent=1))
    _write(output / f"{name}_3d.html", view3d.page(path.name, found, camera, size, info.fps))
    if failure is not None:
        raise video.VideoError(f"{failure} (the {len(found)} frames before that were done)") from failure
    return sum(len(joints) for joints, _ in found)


def name_outputs(paths: Sequence[pathlib.Path]) -> Iterator[str]:
    """A name for each file's results: its own, with a number where that is taken."""
    taken = set()
    for path in paths:
        stem = path.stem or "picture"
        name, number = stem, 2
        while name.lower() in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.lower())
        yield name


def _facts(path, size, camera, source, predictor) -> dict[str, Any]:
    return {
        "file": path.name,
        "height": size[0],
        "width": size[1],
        "camera": camera._asdict(),
        "camera_from": source,
        "weights": predictor.description,
        "axes": "metres from the camera: x right, y down, z ahead; ids are of one frame",
    }


def _pixels(joints: np.ndarray, camera: Camera) -> np.ndarray:
    return np.asarray(cameras.project(camera, np.asarray(joints, np.float32))) if len(joints) else np.zeros((0, 14, 2))


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _collect(inputs: Sequence[str], failures: list[str]) -> list[pathlib.Path]:
    paths = []
    for text in inputs:
        path = pathlib.Path(text).expanduser()
        try:
            paths += pictures.find(path) if path.is_dir() else [path]
        except (OSError, ValueError) as error:
            failures.append(str(error))
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loco_jax.predict", description="Finds the people in pictures and videos, in metres."
    )
    parser.add_argument("inputs", nargs="+", help="pictures, folders of pictures, videos")
    parser.add_argument("--output", required=True, help="a folder for the results; made if needed")
    parser.add_argument("--weights", help="a run's folder or a file of weights; without, the released ones")
    for name in Lens._fields:
        unit = "horizontal field of view in degrees" if name == "fov" else "of the camera, in pixels of the picture"
        parser.add_argument(f"--{name}", type=float, help=unit)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args(argv)
    from loco_jax.tasks import loco  # after the arguments, so that --help is quick

    lens = Lens(*(getattr(args, name) for name in Lens._fields))
    failures = []
    try:
        predictor = loco.load_predictor(args.weights)
        camera_of(predictor.image_size, lens, None, predictor)  # says what is wrong with the numbers before any work
        output = pathlib.Path(args.output).expanduser()
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"loco_jax: {error}", file=sys.stderr)
        return 1
    print(f"Using {predictor.description}")
    paths = _collect(args.inputs, failures)
    try:
        for path, name in zip(paths, name_outputs(paths)):
            try:
                count = process(path, name, output, lens, predictor, args.quiet)
                print(f"{path}: {count or 'no'} {'person' if count == 1 else 'people'} -> {output / name}.json")
            except (ValueError, OSError) as error:
                failures.append(str(error))
    except KeyboardInterrupt:
        return 130
    for failure in failures:
        print(f"loco_jax: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

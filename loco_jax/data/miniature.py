"""A miniature JTA: sequences of the crowd in JTA's format, to try everything that reads JTA.

    python -m loco_jax.data.miniature --output=DIR [--train=8 --validation=2 --test=2] [--scale=demo] [--seed=0]
        [--videos] [--frames] [--num_frames=900]

writes `DIR/annotations/{train,val,test}/seq_N.json`, numbered as JTA's, and `DIR/camera.json`, the intrinsics (and the
number of frames, if it is not JTA's 900), which `loco_jax.data.jta` reads. `--videos` adds
`DIR/videos/{train,val,test}/seq_N.mp4`, `--frames` adds `DIR/frames/{train,val,test}/seq_N/F.jpg`. With either, the
annotations have the occlusion flags, which are all 0 otherwise. `DIR/miniature.json` marks the folder: `--overwrite`
replaces only folders with this mark.
"""

import contextlib
import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from jaxtyping import Bool, Int, PRNGKeyArray
from PIL import Image

from loco_jax import cli
from loco_jax.cli import compilation, progress
from loco_jax.data import crowd as crowds
from loco_jax.data import scratch
from loco_jax.data.crowd import Crowd, Scene
from loco_jax.data.jta.annotations import MINIATURE_FILE, NUM_FRAMES
from loco_jax.data.jta.camera_file import CAMERA_FILE, check_camera
from loco_jax.data.jta.pictures import JPEG_QUALITY
from loco_jax.media import videos

SCALES = {"demo": crowds.DEMO, "full": crowds.FULL}


class Numbering(NamedTuple):
    """A split's folder, the first of its sequence numbers, the step to the next, and how many JTA has of them."""

    folder: str
    first: int
    step: int
    most: int


NUMBERS = {
    "train": Numbering("train", 0, 1, 256),
    "validation": Numbering("val", 257, 2, 128),
    "test": Numbering("test", 256, 2, 128),
}

# A pixel to a thousandth, a metre to a tenth of a millimetre.
_ROW = "[%d,%d,%d,%.3f,%.3f,%.4f,%.4f,%.4f,%d,%d]"
_FPS = 30


def write(
    output: os.PathLike | str,
    sequences: dict[str, int],
    crowd: Crowd,
    *,
    seed: int = 0,
    overwrite: bool = False,
    videos: bool = False,
    frames: bool = False,
    num_frames: int = NUM_FRAMES,
) -> None:
    """Writes a miniature JTA. `output` appears when it is complete, or stays as it was.

    Args:
      output: a new or empty folder, or with `overwrite` one that holds an earlier miniature.
      sequences: how many of `train`, `validation` and `test`. Splits of the crowd stay apart.
      crowd: the kind of scenes.
      seed: selects other scenes.
      overwrite: replace an earlier miniature, and nothing else.
      videos, frames: write videos, or each frame as a picture; with either, annotations have the occlusion flags.
      num_frames: of a sequence, 10 to 900.

    Raises:
      ValueError: a split is missing or unknown, JTA's numbering has no room for so many sequences, the seed is
        negative, or `num_frames` is out of range.
      FileExistsError: `output` is in use.
    """
    _check_arguments(sequences, seed, num_frames)
    output = pathlib.Path(output).expanduser().resolve()
    _check_free(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    with scratch.folder(output.parent, ".miniature_writing_") as work:
        new = work / "new"
        new.mkdir()
        facts = check_camera(crowd.camera)._asdict() | ({} if num_frames == NUM_FRAMES else {"num_frames": num_frames})
        (new / CAMERA_FILE).write_text(json.dumps(facts) + "\n")
        mark = {"what": "a miniature JTA, made by loco_jax.data.miniature", "sequences": sequences, "seed": seed}
        (new / MINIATURE_FILE).write_text(json.dumps(mark) + "\n")
        jobs = [(split, i) for split, count in sequences.items() for i in range(count)]
        with progress.bar(len(jobs) * num_frames, " frames", desc="Writing", leave=False, dynamic_ncols=True) as bar:
            for split, i in jobs:
                folder, first, step, most = NUMBERS[split]
                key, name = crowds.scene_key(split, seed * most + i), f"{folder}/seq_{first + step * i}"
                scene, flags = _sample(key, crowd, num_frames), None
                if videos or frames:
                    movie = new / "videos" / f"{name}.mp4" if videos else None
                    pictures = new / "frames" / name if frames else None
                    flags = _write_pictures(scene, crowd, jax.random.fold_in(key, 1), movie, pictures, bar.update)
                else:
                    bar.update(num_frames)
                path = new / "annotations" / f"{name}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(sequence_text(scene, crowd, flags))
        scratch.replace_folder(output, new, work / "old")


def _write_pictures(
    scene: Scene,
    crowd: Crowd,
    key: PRNGKeyArray,
    movie: pathlib.Path | None,
    folder: pathlib.Path | None,
    done: Callable[[], Any],
) -> Bool[np.ndarray, "2 T P 22"]:
    """Writes a sequence as a video, as pictures, or both; returns `occluded` and `self_occluded`."""
    stage_key, noise_key = jax.random.split(key)
    stage, flags = _set_up(stage_key, scene, crowd), []
    for path in filter(None, (movie and movie.parent, folder)):
        path.mkdir(parents=True, exist_ok=True)
    with videos.Writer(movie, _FPS, crowd.volume.image_size) if movie else contextlib.nullcontext() as writer:
        for t in range(len(scene.joints)):
            picture = _shoot(stage, scene, crowd, noise_key, t)
            image, *hidden = jax.device_get((picture.image, picture.occluded, picture.self_occluded))
            flags.append(hidden)
            if writer:
                writer.write(image)
            if folder:
                Image.fromarray(image).save(folder / f"{t + 1}.jpg", quality=JPEG_QUALITY)
            done()
    return np.stack(flags, axis=1)


@functools.partial(jax.jit, static_argnums=2)
def _set_up(key: PRNGKeyArray, scene: Scene, crowd: Crowd) -> crowds.Stage:
    return crowds.sample_stage(key, scene, crowd)


@functools.partial(jax.jit, static_argnums=2)
def _shoot(
    stage: crowds.Stage, scene: Scene, crowd: Crowd, key: PRNGKeyArray, t: int | Int[jax.Array, ""]
) -> crowds.Picture:
    instant = scene._replace(joints=scene.joints[t], present=scene.present[t])
    return crowds.render(stage, instant, crowd, jax.random.fold_in(key, t))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sample(key: PRNGKeyArray, crowd: Crowd, num_frames: int) -> Scene:
    return crowds.sample_sequence(key, crowd, num_frames)


def sequence_text(scene: Scene, crowd: Crowd, flags: Bool[np.ndarray, "2 T P 22"] | None = None) -> str:
    """A sequence of T frames as the text of an annotation file, its rows sorted by frame, person and joint.

    A person is in a frame if one of its joints is in view there, and then with all of its joints, also those outside
    the picture. Only joints beside or behind the camera are left out, because they have no pixel. `flags` are
    `occluded` and `self_occluded`; without them all are 0.
    """
    camera = check_camera(crowd.camera)
    joints = np.asarray(scene.joints, np.float64).round(4)  # as written, so that the pixels fit
    in_front = joints[..., 2] > 0
    rays = joints[..., :2] / np.where(in_front, joints[..., 2], 1)[..., None]
    pixels = rays * [camera.fx, camera.fy] + [camera.cx, camera.cy]  # `camera.project` has too few digits
    in_view = np.asarray(crowd.volume.in_view(crowd.camera, joints.astype(np.float32)))
    written = (np.asarray(scene.present) & in_view.any(axis=-1))[..., None] & in_front
    frame, person, joint = np.nonzero(written)
    ids = np.asarray(scene.person_id)[person]
    hidden = np.zeros((2, *written.shape)) if flags is None else flags
    rows = np.column_stack([frame + 1, ids, joint, pixels[written], joints[written], hidden[:, written].T])
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    template = "[" + ",\n".join([_ROW] * len(rows)) + "]\n"
    return template % tuple(rows.ravel().tolist())


def _check_arguments(sequences: dict[str, int], seed: int, num_frames: int) -> None:
    for split, count in sequences.items():
        if split not in NUMBERS:
            raise ValueError(f"no split {split!r}; there are {', '.join(NUMBERS)}")
        if not 1 <= count <= NUMBERS[split].most:
            raise ValueError(f"{split}={count}: JTA's numbering has room for 1 to {NUMBERS[split].most} sequences")
    if missing := set(NUMBERS) - set(sequences):
        raise ValueError(f"sequences lacks {', '.join(sorted(missing))}: a JTA has all splits")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    if not 10 <= num_frames <= NUM_FRAMES:
        raise ValueError(f"num_frames={num_frames} is not one of 10 to {NUM_FRAMES}")


def _check_free(output: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError unless `output` is new or empty, or a miniature that may be replaced."""
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; choose another --output")
    names = {path.name for path in output.iterdir()} if output.exists() else set()
    if not names:
        return
    if not {"annotations", MINIATURE_FILE} <= names <= {"annotations", "videos", "frames", CAMERA_FILE, MINIATURE_FILE}:
        raise FileExistsError(
            f"{output} is not empty and not a miniature JTA alone, with its {MINIATURE_FILE}; choose another --output"
        )
    if not overwrite:
        raise FileExistsError(f"{output} holds a miniature JTA already; replace it with --overwrite")


def _define_flags() -> None:
    flags.DEFINE_string("output", None, "A new folder for the miniature.", required=True)
    for split, count in {"train": 8, "validation": 2, "test": 2}.items():
        flags.DEFINE_integer(split, count, f"Number of {split} sequences.")
    flags.DEFINE_enum("scale", "demo", list(SCALES), "The kind of scenes.")
    flags.DEFINE_integer("seed", 0, "Selects other scenes.")
    flags.DEFINE_bool("videos", False, "Write videos too, and occlusion flags.")
    flags.DEFINE_bool("frames", False, "Write each frame as a picture too, and occlusion flags.")
    flags.DEFINE_integer("num_frames", NUM_FRAMES, "Frames of a sequence, 10 to 900.")
    flags.DEFINE_bool("overwrite", False, "Replace an earlier miniature.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; all options start with --")
    logging.set_verbosity(logging.WARNING)  # JAX reports accelerators that it does not find
    compilation.use_cache()
    values = flags.FLAGS
    crowd = SCALES[values.scale]
    given: dict[str, Any] = values.flag_values_dict()
    sequences = {split: given[split] for split in NUMBERS}
    options = {name: given[name] for name in ("seed", "overwrite", "videos", "frames", "num_frames")}
    start = time.time()
    try:
        cli.check_devices()
        write(values.output, sequences, crowd, **options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    camera = ", ".join(f"{field} {value:g}" for field, value in check_camera(crowd.camera)._asdict().items())
    counts = ", ".join(f"{split} {count}" for split, count in sequences.items())
    pictures = " --pictures" if values.videos or values.frames else ""
    print(f"Wrote a miniature JTA in {time.time() - start:.1f} s: {values.output}")
    print(f"{sum(sequences.values())} sequences ({counts}) of {values.num_frames} frames")
    print(f"camera: {camera} (in {CAMERA_FILE}, which loco_jax.data.jta reads)")
    print(f"Prepare it with\n  python -m loco_jax.data.jta --jta_dir={values.output} --data_dir=DATA{pictures}")


if __name__ == "__main__":
    _define_flags()
    cli.start(main)

"""Writes a miniature JTA: sequences of the crowd in JTA's format."""

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int, PRNGKeyArray
from PIL import Image

from loco_jax.cli import progress
from loco_jax.data import crowd as crowds
from loco_jax.data import scratch
from loco_jax.data.crowd import Crowd, Scene
from loco_jax.data.jta.annotations import CAMERA_FILE, MINIATURE_FILE, NUM_FRAMES
from loco_jax.data.jta.pictures import JPEG_QUALITY
from loco_jax.geometry.camera import project_on_host
from loco_jax.media.videos import Writer

# Of each split, as in JTA: the folder, the first sequence's number, the step to the next, and how many there can be.
NUMBERS = {"train": ("train", 0, 1, 256), "validation": ("val", 257, 2, 128), "test": ("test", 256, 2, 128)}
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
      sequences: how many of `train`, `validation` and `test`, as `NUMBERS` allows. They share no scene.
      crowd: the kind of scenes.
      seed: selects other scenes; 0 or more.
      overwrite: replace an earlier miniature, and nothing else.
      videos, frames: write videos, or each frame as a picture; with either, annotations have the occlusion flags.
      num_frames: of a sequence, 10 to 900.

    Raises FileExistsError if `output` is in use.
    """
    output = pathlib.Path(output).expanduser().resolve()
    _check_free(output, overwrite)
    with scratch.folder(output.parent / f".{output.name}_writing") as work:
        new = work / "new"
        for folder in ("train", "val", "test"):
            (new / "annotations" / folder).mkdir(parents=True)
        facts = crowd.camera._asdict() | ({} if num_frames == NUM_FRAMES else {"num_frames": num_frames})
        (new / CAMERA_FILE).write_text(json.dumps(facts) + "\n")
        mark = {"what": "a miniature JTA, made by loco_jax.data.miniature", "sequences": sequences, "seed": seed}
        (new / MINIATURE_FILE).write_text(json.dumps(mark) + "\n")
        jobs = [(split, i) for split, count in sequences.items() for i in range(count)]
        with progress.bar(len(jobs) * num_frames, " frames", desc="Writing", leave=False, dynamic_ncols=True) as bar:
            for split, i in jobs:
                folder, first, step, most = NUMBERS[split]
                key, name = crowds.scene_key(split, seed * most + i), f"{folder}/seq_{first + step * i}"
                scene, flags = sample(key, crowd, num_frames), None
                if videos or frames:
                    movie = new / "videos" / f"{name}.mp4" if videos else None
                    pictures = new / "frames" / name if frames else None
                    flags = _write_pictures(scene, crowd, jax.random.fold_in(key, 1), movie, pictures, bar.update)
                else:
                    bar.update(num_frames)
                (new / "annotations" / f"{name}.json").write_text(sequence_text(scene, crowd, flags))
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
    stage, flags = set_up(stage_key, scene, crowd), []
    for path in filter(None, (movie and movie.parent, folder)):
        path.mkdir(parents=True, exist_ok=True)
    with Writer(movie, _FPS, crowd.volume.image_size) if movie else contextlib.nullcontext() as writer:
        for t in range(len(scene.joints)):
            picture = shoot(stage, scene, crowd, noise_key, t)
            image, *hidden = jax.device_get((picture.image, picture.occluded, picture.self_occluded))
            flags.append(hidden)
            if writer:
                writer.write(image)
            if folder:
                Image.fromarray(image).save(folder / f"{t + 1}.jpg", quality=JPEG_QUALITY)
            done()
    return np.stack(flags, axis=1)


set_up = jax.jit(crowds.sample_stage, static_argnums=2)
sample = jax.jit(crowds.sample_sequence, static_argnums=(1, 2, 3))


@functools.partial(jax.jit, static_argnums=2)
def shoot(
    stage: crowds.Stage, scene: Scene, crowd: Crowd, key: PRNGKeyArray, t: int | Int[jax.Array, ""]
) -> crowds.Picture:
    """The picture of frame `t` of a sequence."""
    instant = scene._replace(joints=scene.joints[t], present=scene.present[t])
    return crowds.render(stage, instant, crowd, jax.random.fold_in(key, t))


def sequence_text(scene: Scene, crowd: Crowd, flags: Bool[np.ndarray, "2 T P 22"] | None = None) -> str:
    """A sequence of T frames as the text of an annotation file, its rows sorted by frame, person and joint.

    A person is in a frame if one of its joints is in view there, and then with all of its joints, also those outside
    the picture. Only joints beside or behind the camera are left out, because they have no pixel. `flags` are
    `occluded` and `self_occluded`; without them all are 0.
    """
    camera = crowd.camera
    joints = np.asarray(scene.joints, np.float64).round(4)  # as written, so that the pixels fit
    in_front = joints[..., 2] > 0
    pixels = project_on_host(camera, joints)
    in_view = np.asarray(crowd.volume.in_view(camera, joints.astype(np.float32)))
    written = (np.asarray(scene.present) & in_view.any(axis=-1))[..., None] & in_front
    frame, person, joint = np.nonzero(written)
    ids = np.asarray(scene.person_id)[person]
    hidden = np.zeros((2, *written.shape)) if flags is None else flags
    rows = np.column_stack([frame + 1, ids, joint, pixels[written], joints[written], hidden[:, written].T])
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    template = "[" + ",\n".join([_ROW] * len(rows)) + "]\n"
    return template % tuple(rows.ravel().tolist())


def _check_free(output: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError unless `output` is new or empty, or a miniature that may be replaced."""
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output}: is a file; choose another --output")
    names = set(os.listdir(output)) if output.exists() else set()
    if not names:
        return
    if MINIATURE_FILE not in names or names - {"annotations", "videos", "frames", CAMERA_FILE, MINIATURE_FILE}:
        problem = f"has other files than a miniature JTA, or no {MINIATURE_FILE}"
        raise FileExistsError(f"{output}: {problem}; choose another --output")
    if not overwrite:
        raise FileExistsError(f"{output}: holds a miniature JTA already; replace it with --overwrite")

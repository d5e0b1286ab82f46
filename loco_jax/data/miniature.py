"""A miniature JTA: sequences of the crowd, written as JTA's annotation files, to try everything that reads JTA.

    python -m loco_jax.data.miniature --output=DIR [--train=8 --validation=2 --test=2] [--scale=demo] [--seed=0]

writes `DIR/annotations/{train,val,test}/seq_N.json`, numbered as JTA's, 900 frames each, and `DIR/camera.json`, the
intrinsics, which `loco_jax.data.jta` picks up. The occlusion flags are all 0: only pictures can tell.
"""

import functools
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from absl import app, flags, logging

from loco_jax.camera import Camera
from loco_jax.data import crowd as crowds
from loco_jax.data.crowd import Crowd, Scene
from loco_jax.data.jta import CAMERA_FILE, NUM_FRAMES, check_camera, replace_folder

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
_ROW = "[%d,%d,%d,%.3f,%.3f,%.4f,%.4f,%.4f,0,0]"


def write(
    output: os.PathLike, sequences: dict[str, int], crowd: Crowd, *, seed: int = 0, overwrite: bool = False
) -> None:
    """Writes a miniature JTA. `output` appears when it is complete, or stays as it was.

    Args:
      output: a new or empty folder, or with `overwrite` one that holds an earlier miniature.
      sequences: how many of `train`, `validation` and `test`.
      crowd: the kind of scenes; the same as elsewhere for a split, so that train stays apart from test.
      seed: other scenes for another seed.
      overwrite: replace an earlier miniature. Anything else is never replaced.

    Raises:
      ValueError: no such split, a number of sequences that JTA's numbering has no room for, or a negative seed.
      FileExistsError: `output` is in use.
    """
    _check_arguments(sequences, seed)
    output = pathlib.Path(output).expanduser().resolve()
    _check_free(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}_") as work:
        new = pathlib.Path(work) / "new"
        new.mkdir()
        (new / CAMERA_FILE).write_text(json.dumps(check_camera(crowd.camera)._asdict()) + "\n")
        jobs = [(split, i) for split, count in sequences.items() for i in range(count)]
        for split, i in tqdm.tqdm(jobs, "Writing", leave=False, unit=" sequences", disable=None, dynamic_ncols=True):
            folder, first, step, most = NUMBERS[split]
            scene = _sample(crowds.scene_key(split, seed * most + i), crowd)
            path = new / "annotations" / folder / f"seq_{first + step * i}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(sequence_text(scene, crowd))
        replace_folder(output, new, pathlib.Path(work) / "old")


def sequence_text(scene: Scene, crowd: Crowd) -> str:
    """A sequence of T frames as the text of an annotation file, its rows sorted by frame, person and joint.

    A person is in a frame if one of its joints is in view there, and then with all of them, also those off the picture.
    Only joints beside or behind the camera are left out: they have no pixel.
    """
    joints = np.asarray(scene.joints, np.float64).round(4)  # as written, so that the pixels fit
    pixels, in_front = _project(check_camera(crowd.camera), joints)
    in_view = np.asarray(crowd.volume.in_view(crowd.camera, joints.astype(np.float32)))
    written = (np.asarray(scene.present) & in_view.any(axis=-1))[..., None] & in_front
    frame, person, joint = np.nonzero(written)
    ids = np.asarray(scene.person_id)[person]
    rows = np.column_stack([frame + 1, ids, joint, pixels[written], joints[written]])
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    template = "[" + ",\n".join([_ROW] * len(rows)) + "]\n"
    return template % tuple(rows.ravel().tolist())


@functools.partial(jax.jit, static_argnums=1)
def _sample(key: jax.Array, crowd: Crowd) -> Scene:
    return crowds.sample_sequence(key, crowd, NUM_FRAMES)


def _project(camera: Camera, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `[..., 2]` in float64, and whether there are any `[...]`; `camera.project` has float32, too few digits."""
    in_front = joints[..., 2] > 0
    rays = joints[..., :2] / np.where(in_front, joints[..., 2], 1)[..., None]
    return rays * [camera.fx, camera.fy] + [camera.cx, camera.cy], in_front


def _check_arguments(sequences: dict[str, int], seed: int) -> None:
    for split, count in sequences.items():
        if split not in NUMBERS:
            raise ValueError(f"no split {split!r}; there are {', '.join(NUMBERS)}")
        if not 1 <= count <= NUMBERS[split].most:
            raise ValueError(f"{split}={count}: JTA's numbering has room for 1 to {NUMBERS[split].most} sequences")
    if missing := set(NUMBERS) - set(sequences):
        raise ValueError(f"sequences lacks {', '.join(sorted(missing))}: a JTA has all splits")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")


def _check_free(output: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError unless `output` is new or empty, or a miniature that may be replaced."""
    if not output.exists():
        return
    if not output.is_dir():
        raise FileExistsError(f"{output} is a file; choose another --output")
    names = {path.name for path in output.iterdir()}
    if not names:
        return
    if names != {"annotations", CAMERA_FILE}:  # the real JTA has no camera.json, so it is safe from --overwrite
        raise FileExistsError(f"{output} is not empty and not a miniature JTA; choose another --output")
    if not overwrite:
        raise FileExistsError(f"{output} holds a miniature JTA already; replace it with --overwrite")


def _define_flags() -> None:
    flags.DEFINE_string("output", None, "A new folder for the miniature.", required=True)
    for split, count in {"train": 8, "validation": 2, "test": 2}.items():
        flags.DEFINE_integer(split, count, f"Number of {split} sequences.")
    flags.DEFINE_enum("scale", "demo", list(SCALES), "The kind of scenes.")
    flags.DEFINE_integer("seed", 0, "Other scenes for another seed.")
    flags.DEFINE_bool("overwrite", False, "Replace an earlier miniature.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; all options start with --")
    logging.set_verbosity(logging.WARNING)  # JAX tells which accelerators it did not find
    values = flags.FLAGS
    crowd = SCALES[values.scale]
    sequences = {split: values[split].value for split in NUMBERS}
    start = time.time()
    try:
        write(values.output, sequences, crowd, seed=values.seed, overwrite=values.overwrite)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    camera = ", ".join(f"{field} {value:g}" for field, value in check_camera(crowd.camera)._asdict().items())
    counts = ", ".join(f"{split} {count}" for split, count in sequences.items())
    print(f"Wrote a miniature JTA in {time.time() - start:.1f} s: {values.output}")
    print(f"{sum(sequences.values())} sequences ({counts}) of {NUM_FRAMES} frames")
    print(f"camera: {camera} (in {CAMERA_FILE}, which loco_jax.data.jta reads)")
    print(f"Prepare it with\n  python -m loco_jax.data.jta --jta_dir={values.output} --data_dir=DATA")


if __name__ == "__main__":
    _define_flags()
    app.run(main)

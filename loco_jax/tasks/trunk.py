"""Pretraining of the compact trunk: joints in the picture, poses of people and the camera's stance, and no codes yet.

It takes the place of the paper's ImageNet weights. A step costs a third of LoCO's, so a network sees three times as
many people in the same time, and it is what tells left from right, see docs/experiments.md.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from loco_jax import ops
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import compact
from loco_jax.models.compact import CompactPredictor
from loco_jax.pose import reading
from loco_jax.report import tables as report
from loco_jax.tasks import Task, teaching

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAIRS = {name: teaching.RIGHT.index(right) for name, (right, _) in skeleton.PAIRS.items()}


class Found(NamedTuple):
    """Of a batch of pictures: what is read at the people's places, the truth, and whom it can be read of `[B, P]`.

    `view` and `ground` are `[B, 4]`, see `Frames.ground`; the height of `view` is its logarithm.
    """

    poses: reading.Pose
    true: reading.Pose
    there: jax.Array
    view: jax.Array
    ground: jax.Array | None


@dataclasses.dataclass(frozen=True)
class TrunkTask(Task):
    """Pictures to what the features are taught.

    Attributes:
      volume: the voxel grid; its cells are those of the joints' heatmaps.
      network: whose trunk is trained; its head is not.
    """

    volume: Volume
    network: CompactPredictor

    stages = 1

    def init(self, key: jax.Array) -> Any:
        """New parameters of all but the head."""
        return without_head(init(self.network, self.volume, key))

    def describe(self) -> str:
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        count = sum(x.size for x in jax.tree.leaves(shapes))
        return f"Trunk of CompactPredictor({self.network.level}): {count:,} parameters"

    def loss(self, params: Any, frames: Frames, key: jax.Array, stage: int) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The sum of what `teaching.losses` gives."""
        features = ops.apply(self.network, params, frames.image, frames.camera, method="features")
        found = teaching.losses(self.network, params, features, frames, self.volume, key)
        return sum(found.values()), found

    def predict(self, params: Any, frames: Frames, key: jax.Array, thorough: bool) -> Found:
        """Reads the poses in the middle of everybody who is there."""
        del key, thorough
        features = ops.apply(self.network, params, frames.image, frames.camera, method="features")
        there = teaching.readable(frames, self.volume)
        camera = jax.tree.map(lambda f: f[:, None], frames.camera)
        places = jnp.where(there[..., None], teaching.places(frames.joints, camera), 0)
        numbers = ops.apply(self.network, params, features, places, method="read_poses")
        view = ops.apply(self.network, params, features, method="read_view")
        return Found(reading.unpack(numbers), teaching.true_poses(frames.joints), there, view, frames.ground)

    def score(self, predicted: Found, frames: Frames) -> list[dict[str, np.ndarray]]:
        """For each frame, the errors of its people."""
        focals = np.asarray(frames.camera.fx)
        return [self._score(_of_frame(predicted, i), focal) for i, focal in enumerate(focals)]

    def _score(self, found: Found, focal: float) -> dict[str, np.ndarray]:
        there = np.asarray(found.there)
        poses, true = (jax.tree.map(lambda x: np.asarray(x)[there], p) for p in (found.poses, found.true))
        distance = np.exp(true.distance)

        def across(pose):
            return pose.offsets[:, teaching.RIGHT, 0] - pose.offsets[:, teaching.LEFT, 0]

        right = (across(poses) > 0) == (across(true) > 0)
        told = np.abs(across(true)) * focal / distance[:, None] >= teaching.APART * self.volume.stride
        record = {
            "pose": np.linalg.norm(poses.offsets - true.offsets, axis=-1).mean(axis=-1),
            "distance": np.abs(np.exp(poses.distance) - distance) / distance,
            **{name: right[:, i][told[:, i]] for name, i in _PAIRS.items()},
        }
        if found.ground is not None:
            up = found.view[:3] / np.linalg.norm(found.view[:3])
            record["up"] = np.degrees(np.arccos(np.clip(np.sum(up * found.ground[:3]), -1, 1)))[None]
            record["height"] = np.abs(np.exp(found.view[3]) / found.ground[3] - 1)[None]
        return record

    def summary(self, records: list[dict[str, np.ndarray]]) -> dict[str, Any]:
        """Errors of all frames' people together: poses in cm, distances and heights in %, sides told right in %."""
        all_of = {name: np.concatenate([r[name] for r in records]) for name in records[0]}

        def number(value):
            return float(value) if np.isfinite(value) else None

        sides = {name: number(100 * all_of[name].mean()) if len(all_of[name]) else None for name in _PAIRS}
        view = {}
        if "up" in all_of:
            view["up_degrees"] = number(np.median(all_of["up"]))
            view["height_percent"] = number(100 * np.median(all_of["height"]))
        people = len(all_of["pose"])
        return {
            "frames": len(records),
            "people": people,
            "pose_cm": number(100 * all_of["pose"].mean()) if people else None,
            "distance_percent": number(100 * np.median(all_of["distance"])) if people else None,
            "sides": sides,
            **view,
        }

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        numbers = {name: value for name, value in summary.items() if name not in ("frames", "people", "sides")}
        numbers |= {f"told_{name}": value / 100 for name, value in summary["sides"].items() if value is not None}
        return {name: value for name, value in numbers.items() if isinstance(value, float)}

    def table(self, summary: Mapping[str, Any]) -> str:
        names = {
            "pose_cm": "joints relative to the mid-hip, mean error (cm)",
            "distance_percent": "distance, median error (%)",
            "up_degrees": "the world's up, median error (degrees)",
            "height_percent": "the camera's height, median error (%)",
        }
        rows = [[text, f"{summary[name]:.1f}"] for name, text in names.items() if summary.get(name) is not None]
        rows += [[f"right and left told, {n} (%)", f"{v:.1f}"] for n, v in summary["sides"].items() if v is not None]
        text = f"Over {summary['people']:,} people in {summary['frames']:,} frames of {summary.get('data', '')}."
        return f"{report.table(['trunk', 'value'], rows)}\n\n{text}"

    def picture(self, predicted: Found, frames: Frames, index: int, title: str) -> "Figure":
        from loco_jax.report import drawings as draw  # here, since predict does without matplotlib

        found = _of_frame(predicted, index)
        there = found.there
        known = np.ones((there.sum(), skeleton.NUM_JOINTS), bool)
        rows = {"read": (found.poses.offsets[there], known)}
        return draw.poses(found.true.offsets[there], rows, f"Trunk, {title}")


def init(network: CompactPredictor, volume: Volume, key: jax.Array) -> Any:
    """New parameters of a compact predictor; their shapes do not depend on the picture's size."""
    image = jnp.zeros((1, *volume.image_size, 3), jnp.uint8)
    camera = Camera(*(jnp.ones(1, jnp.float32) for _ in Camera._fields))
    return jax.jit(network.init)(key, image, camera)


def without_head(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A compact predictor's variables but for those that make codes of the features."""
    return {"params": {name: value for name, value in variables["params"].items() if name != "head"}}


def _of_frame(predicted: Found, index: int) -> Found:
    return jax.tree.map(lambda x: np.asarray(x[index]), predicted)


def create(config: ConfigDict) -> TrunkTask:
    """The task of a config. Raises ValueError for a predictor that has no such trunk, or data without pictures."""
    if config.predictor.trunk != "compact":
        raise ValueError(f"config.predictor.trunk={config.predictor.trunk!r} must be compact for config.task=trunk")
    if not config.data.pictures:
        raise ValueError("config.data.pictures must be True: this task looks at pictures")
    volume = streams.volume_of(config)
    return TrunkTask(volume, compact.create(config, volume))

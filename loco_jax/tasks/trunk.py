"""Pretraining of the compact predictor's trunk on joints in the picture, poses of people and the camera's pose.

It replaces the paper's ImageNet weights. A step has no codes and costs less than half of LoCO's, so a network sees more
than twice as many people in the same time. It teaches the network to tell left from right, see docs/experiments.md.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from loco_jax import ops
from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models.compact import CompactPredictor
from loco_jax.pose import reading
from loco_jax.tasks import Task, count, finite, pretrained, sides, teaching

_PAIRS = {name: sides.RIGHT.index(right) for name, (right, _) in skeleton.PAIRS.items()}


class Found(NamedTuple):
    """The numbers that are read from a batch of pictures, and the true ones.

    Attributes:
      poses: read at the people's places.
      true: the true poses.
      there: whose pose can be read.
      view: as `ground`, but with the logarithm of the height.
      ground: see `Frames.ground`.
    """

    poses: reading.Pose
    true: reading.Pose
    there: Bool[Array, "*batch P"]
    view: Float[Array, "*batch 4"]
    ground: Float[Array, "*batch 4"] | None


@dataclasses.dataclass(frozen=True)
class TrunkTask(Task):
    """The trunk learns features from which joints, poses and the camera's pose can be read.

    Attributes:
      volume: the voxel grid; the joints' heatmaps have its rows and columns.
      network: all of it is trained, except the head.
    """

    volume: Volume
    network: CompactPredictor

    stages = 1

    def init(self, key: PRNGKeyArray) -> Any:
        """New parameters, without the head's."""
        return pretrained.without_head(init(self.network, self.volume, key))

    def describe(self) -> str:
        return f"Trunk of CompactPredictor({self.network.level}): {count(self.shapes()):,} parameters"

    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """The sum of `teaching.losses`."""
        features: Any = ops.apply(self.network, params, frames.image, frames.camera, method="features")
        found = teaching.losses(self.network, params, features, frames, self.volume, key)
        return functools.reduce(operator.add, found.values()), found

    def predict(self, params: Any, frames: Frames, key: PRNGKeyArray, thorough: bool) -> Found:
        """Reads a pose in the middle of every person."""
        del key, thorough
        features = ops.apply(self.network, params, frames.image, frames.camera, method="features")
        there = teaching.readable(frames, self.volume)
        camera = frames.camera.expanded()
        places = jnp.where(there[..., None], teaching.places(frames.joints, camera), 0)
        numbers: Any = ops.apply(self.network, params, features, places, method="read_poses")
        view: Any = ops.apply(self.network, params, features, method="read_view")
        return Found(reading.unpack(numbers), teaching.true_poses(frames.joints), there, view, frames.ground)

    def score_frame(self, found: Found, frame: Frames) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The errors of a frame's people, by name."""
        poses, true = (jax.tree.map(lambda x: x[found.there], p) for p in (found.poses, found.true))
        distance = np.exp(true.distance)

        def across(pose):
            return pose.offsets[:, sides.RIGHT, 0] - pose.offsets[:, sides.LEFT, 0]

        right = (across(poses) > 0) == (across(true) > 0)
        told = np.abs(across(true)) * frame.camera.fx / distance[:, None] >= sides.APART * self.volume.stride
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

    def summary(self, records: list[dict[str, Shaped[np.ndarray, "..."]]]) -> dict[str, Any]:
        """Errors over all frames' people: poses in cm, distances and heights in %, and correct sides in %."""
        all_of = {name: np.concatenate([r[name] for r in records]) for name in records[0]}
        people = len(all_of["pose"])
        summary = {
            "frames": len(records),
            "people": people,
            "pose_cm": finite(100 * all_of["pose"].mean()) if people else None,
            "distance_percent": finite(100 * np.median(all_of["distance"])) if people else None,
            "sides": {name: finite(100 * all_of[name].mean()) if len(all_of[name]) else None for name in _PAIRS},
        }
        if "up" in all_of:
            summary["up_degrees"] = finite(np.median(all_of["up"]))
            summary["height_percent"] = finite(100 * np.median(all_of["height"]))
        return summary

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        numbers = {name: value for name, value in summary.items() if name not in ("frames", "people", "sides")}
        numbers |= {f"told_{name}": value / 100 for name, value in summary["sides"].items() if value is not None}
        return {name: value for name, value in numbers.items() if isinstance(value, float)}


def init(network: Any, volume: Volume, key: PRNGKeyArray) -> Any:
    """New parameters of a code predictor. Their shapes do not depend on the picture's size."""
    image = jnp.zeros((1, *volume.image_size, 3), jnp.uint8)
    camera = Camera(*(jnp.ones(1, jnp.float32) for _ in Camera._fields))
    return jax.jit(network.init)(key, image, camera)

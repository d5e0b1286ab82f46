"""The common part of tasks whose network predicts maps or volumes at 8 pixels a cell, without a code."""

import abc
import dataclasses
from typing import Any

import jax
from jax import lax
from jaxtyping import PRNGKeyArray, UInt8

from loco_jax import ops
from loco_jax.data.frames import Frames
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.pose.association import People
from loco_jax.pose.people import Points, find_people
from loco_jax.tasks import count, trunk
from loco_jax.tasks.people import Found, PeopleTask, targets, timed, touching, true_heatmaps


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellsTask(PeopleTask):
    """People are read from the network's output for a picture: maps, or a volume.

    Attributes:
      volume: the voxel grid; maps have its rows and columns.
      sigma: of the Gaussians of volumetric heatmaps, in voxels.
      max_peaks: K.
    """

    volume: Volume
    sigma: float
    max_peaks: int

    @abc.abstractmethod
    def points_of(self, made: Any, camera: Camera) -> Points:
        """The points of the network's output for one picture."""

    def true_points(self, frame: Frames) -> dict[str, Points]:
        """The points of systems that are made of a frame's true people, by name."""
        return true_heatmaps(frame, self.volume, self.sigma, self.max_peaks)

    def init(self, key: PRNGKeyArray) -> Any:
        """New parameters."""
        return {"predictor": trunk.init(self.network, self.volume, key)}

    def describe(self) -> str:
        (height, width), grid = self.volume.image_size, " x ".join(map(str, self.volume.shape))
        return (
            f"{self.name}, {type(self.network).__name__}: {count(self.shapes()):,} parameters; pictures of {height} x "
            f"{width}, a volume of {grid}"
        )

    def look(self, params: Any, image: UInt8[Array, "B height width 3"], camera: Camera) -> Any:
        """The network's output for pictures by cameras with fields `[B]`."""
        return ops.apply(self.network, params["predictor"], image, camera)

    def look_at(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> Any:
        """The network's output for one picture."""
        made = self.look(params, image[None], camera.as_batch())
        return jax.tree.map(lambda x: x[0], made)

    def people_of_picture(self, params: Any, image: UInt8[Array, "height width 3"], camera: Camera) -> People:
        """The people in a picture, corrected by the refiner if there is one, before suppression."""
        found = find_people(self.points_of(self.look_at(params, image, camera), camera))
        corrected = self.correct(params, found, None, camera)
        return found if corrected is None else corrected

    def predict(self, params: Any, frames: Frames, key: PRNGKeyArray, thorough: bool) -> Found:
        """The people in pictures. If `thorough`, also those in the maps or volumes of the true people."""
        del key

        def one(frame):
            points = self.points_of(self.look_at(params, frame.image, frame.camera), frame.camera)
            found = find_people(points)
            corrected = self.correct(params, found, None, frame.camera)
            known = self.true_points(frame) if thorough else {}
            systems, groups = self.results(points, found, corrected, frame.camera, known)
            voxels, present = targets(frame, self.volume)
            overflow = (points.count > self.max_peaks).any()
            return Found(systems, groups, present, touching(voxels, present), overflow)

        return lax.map(one, frames)

    def stage_seconds(self, params: Any, frames: Frames) -> dict[str, float]:
        """Seconds of the stages from a picture to people, measured on the first frame of a batch."""
        frame, stages = jax.tree.map(lambda x: x[0], frames), {}
        made, stages["picture to maps"] = timed(jax.jit(self.look_at), params, frame.image, frame.camera)
        points, stages["maps to points"] = timed(jax.jit(self.points_of), made, frame.camera)
        found, stages["points to people"] = timed(jax.jit(find_people), points)
        if "refiner" in params:
            _, stages["refinement"] = timed(jax.jit(self.refine), params, found, None, frame.camera)
        return stages

"""Training and scoring of Location Maps, a system that LoCO is compared with (Mehta et al., "VNect", 2017)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, PRNGKeyArray

from loco_jax.data.frames import Frames, only_annotated
from loco_jax.geometry.camera import Camera
from loco_jax.models.location_maps import LocationMapsPredictor, Maps
from loco_jax.pose import location_maps
from loco_jax.pose.people import Points
from loco_jax.tasks import each_joint
from loco_jax.tasks.cells import CellsTask
from loco_jax.tasks.people import targets

TRUE_MAPS = "GT Location Maps"
_UNIT = 0.5  # metres: the Huber loss is quadratic below one unit and linear above
_LEAST = 0.5  # the value of the true heatmap above which positions count


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocationMapsTask(CellsTask):
    """The network learns the location maps of pictures.

    Attributes:
      location_weight: weight of the error of positions, beside that of heatmaps.
    """

    network: LocationMapsPredictor
    location_weight: float = 1.0

    @property
    def name(self) -> str:
        return "Location Maps"

    def true_maps(self, frame: Frames) -> Maps:
        """The maps of a frame's true people, see `location_maps.true_maps`."""
        _, present = targets(frame, self.volume)
        return location_maps.true_maps(frame.joints, present, frame.camera, self.volume)

    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """The cross-entropy of heatmaps, a true joint, and the mean Huber error of positions where joints are.

        Positions are weighted by the true heatmap's value, where that is above 0.5.
        """
        del key, stage
        assert frames.image is not None
        found = self.look(params, frames.image, frames.camera)
        frames = frames._replace(image=None, ground=None)
        true = jax.vmap(self.true_maps)(frames)
        _, present = jax.vmap(lambda frame: targets(frame, self.volume))(frames)
        entropy = optax.sigmoid_binary_cross_entropy(found.heatmaps, true.heatmaps)
        entropy = each_joint(jnp.sum(only_annotated(entropy, frames)), present)
        weight = jnp.where(true.heatmaps > _LEAST, true.heatmaps, 0.0)
        error = jnp.mean(optax.huber_loss((found.xyz - true.xyz) / _UNIT), axis=-1)
        location = jnp.sum(weight * error) / jnp.maximum(jnp.sum(weight), 1.0)
        errors = {"heatmap_error": entropy, "location_error": location}
        return entropy + self.location_weight * location, errors

    def points_of(self, made: Maps, camera: Camera) -> Points:
        """The points of one picture's maps, whose heatmaps are logits."""
        return location_maps.read(made._replace(heatmaps=jax.nn.sigmoid(made.heatmaps)), self.max_peaks)

    def true_points(self, frame: Frames) -> dict[str, Points]:
        """The points of true location maps, and of true volumetric heatmaps."""
        return {TRUE_MAPS: location_maps.read(self.true_maps(frame), self.max_peaks), **super().true_points(frame)}

"""Training and scoring of uncompressed volumetric heatmaps: the network predicts the volume itself, without a code."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, PRNGKeyArray

from loco_jax.data.frames import Frames, only_annotated
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.models.volumetric import VolumetricPredictor
from loco_jax.pose import heatmaps
from loco_jax.pose.people import Points, find_points
from loco_jax.tasks import each_joint
from loco_jax.tasks.cells import CellsTask
from loco_jax.tasks.people import targets

LOSSES = ("entropy", "squared")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VolumetricTask(CellsTask):
    """The network learns the heatmaps of pictures.

    Attributes:
      subvoxel: whether Gaussians are centred on the joints, and peaks read between voxels.
      kind: of the loss, one of `LOSSES`: the cross-entropy, or the squared error of the heatmaps.
    """

    network: VolumetricPredictor
    subvoxel: bool = True
    kind: str = "entropy"

    @property
    def name(self) -> str:
        return "uncompressed volumetric heatmaps" + ", squared error" * (self.kind == "squared")

    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """The error of heatmaps, summed over voxels, a true joint."""
        del key, stage
        assert frames.image is not None
        logits = self.look(params, frames.image, frames.camera)
        frames = frames._replace(image=None, ground=None)
        voxels, present = jax.vmap(lambda frame: targets(frame, self.volume))(frames)
        shape, sigma, subvoxel = self.volume.shape, self.sigma, self.subvoxel
        render = functools.partial(heatmaps.render, shape=shape, sigma=sigma, subvoxel=subvoxel)
        true = jax.vmap(render)(voxels, present)
        return each_joint(jnp.sum(only_annotated(self._error(logits, true), frames)), present), {}

    def _error(self, logits: Array, true: Array) -> jax.Array:
        if self.kind == "squared":
            return jnp.square(jax.nn.sigmoid(logits) - true)
        return optax.sigmoid_binary_cross_entropy(logits, true)

    def points_of(self, made: Float[Array, "J H W D"], camera: Camera) -> Points:
        """The points of one picture's heatmaps, given as logits."""
        return find_points(jax.nn.sigmoid(made), camera, self.volume, self.max_peaks, self.subvoxel)

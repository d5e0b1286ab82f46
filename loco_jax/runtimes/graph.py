"""The function that other runtimes run: pictures and cameras to people, of fixed sizes and without fast paths."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, UInt8

import loco_jax
from loco_jax import experiment, ops, weights
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array
from loco_jax.geometry.camera import Camera
from loco_jax.tasks.loco import LocoTask

INPUTS, OUTPUTS = ("picture", "camera"), ("joints", "scores")
ANY = "any"  # in place of a number of pictures: a graph for any number

Find = Callable[
    [UInt8[Array, "B height width 3"], Float[Array, "B 4"]],
    tuple[Float[jax.Array, "B N 14 3"], Float[jax.Array, "B N 14"]],
]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A trained LoCO to be written for other runtimes.

    Attributes:
      task, params: the LoCO. Its network and its autoencoder must be ours, the compact one and the PatchVHA.
      camera: of the training pictures.
      description: the weights in a line.
      half: whether the file stores numbers in half precision. The arithmetic is that of float32.
    """

    task: LocoTask
    params: Any
    camera: Camera
    description: str = ""
    half: bool = False

    @property
    def find(self) -> Find:
        """The function: pictures, and cameras as rows (fx, fy, cx, cy) in pixels, to joints in metres and scores.

        People are as `PeopleTask.named_people` finds them. Those whose first score is 0 do not exist.
        """
        params = jax.tree.map(halved, self.params) if self.half else self.params

        def find(picture, camera):
            # Staged, so that the numbers are constants of half the size in the graph.
            whole = jax.tree.map(lambda x: lax.convert_element_type(x, jnp.float32), params)
            cameras = Camera(*(camera[:, i] for i in range(4)))
            with ops.plain():
                found = jax.vmap(self.task.named_people, in_axes=(None, 0, 0))(whole, picture, cameras)
            return found.joints, found.scores

        return find

    def rounded(self) -> "Graph":
        """The graph with the numbers that the file stores, in float32."""
        params = jax.tree.map(lambda x: halved(x).astype(np.float32), self.params) if self.half else self.params
        return dataclasses.replace(self, params=params, half=False)

    def inputs(self, batch: int | str) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """The shapes and types of a batch of pictures and of their cameras; `batch` is a number, or ANY."""
        size = jax.export.symbolic_shape("B")[0] if batch == ANY else int(batch)
        picture = (size, *self.task.vha.volume.image_size, 3)
        return jax.ShapeDtypeStruct(picture, jnp.uint8), jax.ShapeDtypeStruct((size, 4), jnp.float32)

    def about(self) -> dict[str, str]:
        """The facts that a user of the file needs, as JSON by name."""
        facts = {
            "version": loco_jax.__version__,
            "weights": self.description,
            "image_size": list(self.task.vha.volume.image_size),  # height and width
            "camera": [float(f) for f in self.camera],  # of the training pictures: fx, fy, cx, cy in pixels
            "joints": list(skeleton.JOINTS),
            "people": self.task.vha.max_peaks,
        }
        return {name: json.dumps(value) for name, value in facts.items()}


def halved(x: Float[Array, "..."]) -> Float[np.ndarray, "..."]:
    """An array in half precision, or as it is if a number is too large for that."""
    return weights.cast(x, np.float16)


def load(source: str, half: bool = False) -> Graph:
    """The graph of a trained LoCO in a run's folder or a file of weights, or of the "released" one.

    Raises WeightsError or CheckpointError if there are no weights, or if they are those of another task or network.
    """
    path = weights.path_of(source)
    task, params, config, camera = experiment.load(source)
    if not isinstance(task, LocoTask):
        raise weights.WeightsError(f"{path}: holds a run of the task {config.task}; only a loco becomes a graph")
    if config.predictor.trunk != "compact" or config.model.variant != "patch":
        raise weights.WeightsError(
            f"{path}: a graph needs predictor.trunk=compact and model.variant=patch; these weights have "
            f"{config.predictor.trunk} and {config.model.variant}"
        )
    return Graph(task, params, camera, source if source == weights.RELEASED else path.name, half)


def batch_of(text: str) -> int | str:
    """The number of pictures that a flag's text names, or ANY. Raises ValueError for something else."""
    if text == ANY:
        return ANY
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
        raise ValueError(f"--batch={text}: want a number of pictures from 1 to 1024, or {ANY}")
    return int(text)

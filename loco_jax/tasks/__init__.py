"""Tasks that can be trained. A task initialises a network, defines its loss, predicts, and scores predictions."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.arrays import Array


class Task(abc.ABC):
    """The interface between tasks and the loops of training and evaluation.

    Methods are pure. Those that take arrays of JAX run under jit. Tasks return numbers; `report` draws them.
    """

    stages: int  # of training, one after the other, see `loco_jax.step.Stages`
    frozen: ClassVar[tuple[str, ...]] = ()  # top-level names of the parameters that training does not change
    # Those of `frozen` that belong to no network: files of weights do not hold them, `pretrained` makes them.
    frozen_data: ClassVar[tuple[str, ...]] = ()
    ranked_by: ClassVar[str] = ""  # the name of the score that `rank` returns; "" for a task that does not rank frames

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray) -> Any:
        """New parameters."""

    def shapes(self) -> Any:
        """Shapes and types of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def pretrained(self, params: Any, initialised: bool = False) -> Any:
        """The parameters that a new run starts from: `params`, with those that come from files in place.

        With `initialised`, `config.init` has already given all networks' parameters: only `frozen_data` is made.
        """
        return params

    def for_evaluation(self, params: Any) -> Any:
        """The parameters, and those from files that only an evaluation needs."""
        return params

    def describe(self) -> str:
        """One line for the log: the network, its size, its volume."""
        return type(self).__name__

    @abc.abstractmethod
    def loss(
        self, params: Any, frames: Frames, key: PRNGKeyArray, stage: int
    ) -> tuple[Shaped[jax.Array, ""], Mapping[str, Shaped[jax.Array, ""]]]:
        """The scalar to minimise and further scalars to log, over a batch.

        In training, `jax.set_mesh` is in force with the mesh of the devices that share the batch.
        """

    def predict(self, params: Any, frames: Frames, key: PRNGKeyArray, thorough: bool) -> Any:
        """The results of the network on a batch: arrays with a leading batch axis. More of them if `thorough`."""
        raise NotImplementedError

    def score(self, predicted: Any, frames: Frames) -> list[Any]:
        """A record for each frame of a batch. Arguments are NumPy arrays."""
        both, count = (predicted, frames._replace(image=None)), len(frames.present)
        return [self.score_frame(*jax.tree.map(lambda x, i=i: np.asarray(x[i]), both)) for i in range(count)]

    def score_frame(self, found: Any, frame: Frames) -> Any:
        """The record of one frame, from its part of the predictions."""
        raise NotImplementedError

    def rank(self, record: Any) -> float:
        """A frame's score, by its record. Evaluation draws the best frame, the worst, and some between them."""
        raise NotImplementedError

    def summary(self, records: list[Any]) -> dict[str, Any]:
        """The scores of many frames' records, as JSON."""
        raise NotImplementedError

    def stage_seconds(self, params: Any, frames: Frames) -> dict[str, float]:
        """Seconds a frame that each stage of `predict` takes, by the stage's name, measured on a batch."""
        return {}

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """The few numbers of a summary that go into curves and progress lines."""
        raise NotImplementedError


def count(params: Any) -> int:
    """The number of parameters in a tree of arrays, or of their shapes and types."""
    return sum(x.size for x in jax.tree.leaves(params))


def each_joint(total: Float[jax.Array, ""], present: Bool[Array, "B P J"]) -> Float[jax.Array, ""]:
    """A sum over a batch, divided by the number of its true joints.

    An empty batch counts as one person, so that its loss is not divided by nearly nothing.
    """
    return total / jnp.maximum(present.sum(dtype=jnp.int32), skeleton.NUM_JOINTS)


def finite(value: Any) -> float | None:
    """A number for JSON: None if it is not finite."""
    return float(value) if np.isfinite(value) else None


def network_shapes(task: Task) -> Any:
    """Shapes and types of the parameters that files of weights hold: of all but the `frozen_data`."""
    return {name: value for name, value in task.shapes().items() if name not in task.frozen_data}

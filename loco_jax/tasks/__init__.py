"""What can be trained. A task says how to start, what to minimise, what to predict and how to score it."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Protocol

import jax
from ml_collections import ConfigDict

from loco_jax.data.frames import Frames


class Task(Protocol):
    """All that the training and evaluation loops know of a task. Methods are pure; those on arrays run under jit."""

    stages: int  # of training, one after the other; the loop moves on when the loss no longer falls
    frozen: ClassVar[tuple[str, ...]] = ()  # top-level names of the parameters that training leaves as they are
    # Those of them that are no network's: no weights have them, `pretrained` makes them whatever a run starts from.
    frozen_data: ClassVar[tuple[str, ...]] = ()
    ranked_by: ClassVar[str] = ""  # what `rank` gives, in words; "" for a task whose frames have no ranks

    def init(self, key: jax.Array) -> Any:
        """New parameters."""

    def check_sources(self, initialised: bool = False) -> None:
        """Raises WeightsError, naming the config's field, if a file that a new run starts from will not do.

        With `initialised` all networks' parameters that training needs come from elsewhere, `config.init`.
        """

    def check_weights(self, source: str, field: str) -> None:
        """Raises WeightsError, naming the field, if a run's or file's weights were trained for something else."""

    def with_parts_of(self, source: str, given: Collection[str] = ()) -> "Task":
        """The task that takes from weights to be scored what else they hold, and what their config says suits them.

        Not in place of the fields of the config that are `given`, by their dotted names.
        """
        return self

    def pretrained(self, params: Any, initialised: bool = False) -> Any:
        """The parameters with those in place that come from files: what a new run starts from.

        With `initialised`, see `check_sources`, only `frozen_data`.
        """
        return params

    def for_evaluation(self, params: Any) -> Any:
        """The parameters with those beside them that only `predict` with `thorough` needs, from files."""
        return params

    def describe(self) -> str:
        """One line for the log: the network, its size, its volume."""

    def loss(
        self, params: Any, frames: Frames, key: jax.Array, stage: int
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """The scalar to minimise and further scalars to log, over a batch.

        In training the mesh of the devices that share the batch is in force, see `jax.set_mesh`.
        """

    def predict(self, params: Any, frames: Frames, key: jax.Array, thorough: bool) -> Any:
        """What the network finds in a batch: arrays with a leading batch axis. More of it if `thorough`."""

    def score(self, predicted: Any, frames: Frames) -> list[Any]:
        """A record for each frame of a batch; NumPy arrays in."""

    def rank(self, record: Any) -> float:
        """How good a frame is, by its record: evaluation draws the best, the worst and what lies between."""
        raise NotImplementedError

    def summary(self, records: list[Any]) -> dict[str, Any]:
        """The scores of many frames' records, as JSON."""

    def stage_seconds(self, params: Any, frames: Frames) -> dict[str, float]:
        """Seconds a frame that each stage of `predict` takes, by the stage's name, measured on a batch."""
        return {}

    def headline(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """The few numbers of a summary that go into curves and progress lines."""

    def table(self, summary: Mapping[str, Any]) -> str:
        """A summary as Markdown, beside the poster's figures."""

    def picture(self, predicted: Any, frames: Frames, index: int, title: str) -> Any:
        """A matplotlib Figure of frame `index` of a batch, with `title` in its heading; NumPy arrays in."""


def network_shapes(task: Task) -> Any:
    """Shapes and types of the parameters that weights hold: of all but the `frozen_data`."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return {name: value for name, value in shapes.items() if name not in task.frozen_data}


def create(config: ConfigDict) -> Task:
    """The task a config names. Raises ValueError if there is none of that name."""
    from loco_jax.tasks import loco, refiner, trunk, vha  # tasks import this module's protocol

    kinds = {"vha": vha.create, "loco": loco.create, "refiner": refiner.create, "trunk": trunk.create}
    if config.task not in kinds:
        raise ValueError(f"config.task={config.task!r}; there are {', '.join(kinds)}")
    return kinds[config.task](config)

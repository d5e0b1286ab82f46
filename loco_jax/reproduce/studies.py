"""What is measured on the trained systems beside their scores: compression, and time over the number of people."""

from collections.abc import Callable
from typing import Any

from loco_jax import experiment, tasks, weights
from loco_jax.reproduce import compression, crowding, experiments
from loco_jax.reproduce.experiments import Settings
from loco_jax.tasks import Task


def compress(settings: Settings) -> dict[str, Any]:
    """Bytes a frame against F1 for all ways to store a heatmap; see `compression.measure`."""
    names = experiments.BY_NAME["compression"].needs
    config = experiments.config_of(experiments.BY_NAME[names[0]], settings)
    networks: Any = [trained(name, settings) for name in names]
    return compression.measure(networks, config, config.test_frames)


def count_people(settings: Settings) -> dict[str, Any]:
    """Seconds a picture by system, for each number of people in `crowding.PEOPLE`."""
    found = {}
    for name in experiments.BY_NAME["crowding"].needs:
        row = experiments.BY_NAME[name]
        task, params = trained(name, settings)
        found[row.label] = crowding.seconds(task, params, experiments.config_of(row, settings))  # type: ignore[arg-type]
    return found


def trained(name: str, settings: Settings) -> tuple[Task, Any]:
    """The task of a row that is trained, and its parameters."""
    config = experiments.config_of(experiments.BY_NAME[name], settings)
    config.vha = str(settings.folder / name / "autoencoder")
    task = experiment.create_task(config)
    return task, weights.read(config.task, str(settings.folder / name / "run"), tasks.network_shapes(task))


STUDIES: dict[str, Callable[[Settings], dict[str, Any]]] = {"compression": compress, "crowding": count_people}

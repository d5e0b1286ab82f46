"""What is measured on the trained systems beside their scores: compression, and time over the number of people."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from loco_jax import experiment, tasks, weights
from loco_jax.reproduce import compression, crowding, experiments
from loco_jax.reproduce.experiments import Settings
from loco_jax.tasks import Task

_FULL_FRAMES = 8  # for compression at full scale, where zstd's best level takes minutes a heatmap


class Study(NamedTuple):
    """A measurement.

    Attributes:
      minutes: that it is expected to take, by scale.
      measure: does it, given the settings, the folder of its results, and when its networks were finished, see
        `running.finished`. Returns JSON.
    """

    minutes: Mapping[str, float]
    measure: Callable[[Settings, epath.Path, Mapping[str, Any]], dict[str, Any]]


def compress(settings: Settings, folder: epath.Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes a frame against F1 for all ways to store a heatmap; see `compression.measure`."""
    names = experiments.BY_NAME["compression"].needs
    config = experiments.config_of(experiments.BY_NAME[names[0]], settings)
    networks: Any = [trained(name, settings) for name in names]
    frames = min(config.test_frames, _FULL_FRAMES) if settings.scale == "full" else config.test_frames
    return compression.measure(networks, config, frames, kept=compression.Kept(folder / "frames.jsonl", made_of))


def count_people(settings: Settings, folder: epath.Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds a picture by system, for each number of people in `crowding.PEOPLE`; all could find that many."""
    del folder, made_of
    found = {}
    for name in experiments.BY_NAME["crowding"].needs:
        row = experiments.BY_NAME[name]
        task, params = trained(name, settings, max_peaks=max(crowding.PEOPLE))
        found[row.label] = crowding.seconds(task, params, experiments.config_of(row, settings))  # type: ignore[arg-type]
    return found


def trained(name: str, settings: Settings, **fields: Any) -> tuple[Task, Any]:
    """The task of a row that is trained, with other values of some fields of its config; and its parameters."""
    config = experiments.config_of(experiments.BY_NAME[name], settings)
    config.update(fields)
    if "vha" in config:
        config.vha = str(settings.folder / name / "autoencoder")
    task = experiment.create_task(config)
    return task, weights.read(config.task, str(settings.folder / name / "run"), tasks.network_shapes(task))


STUDIES = {
    "compression": Study({"demo": 35.0, "full": 60.0, "test": 1.0}, compress),
    "crowding": Study({"demo": 4.0, "full": 4.0, "test": 1.0}, count_people),
}

"""Studies on rows beside their scores: bytes of heatmaps and codes, and time over the number of people."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from loco_jax import experiment, tasks, weights
from loco_jax.reproduce import compression, crowding, experiments
from loco_jax.reproduce.compression import Origin
from loco_jax.reproduce.experiments import Row, Settings
from loco_jax.tasks import Task

_FULL_FRAMES = 8  # for compression at full scale, where zstd's best level takes minutes a heatmap


class Study(NamedTuple):
    """A measurement on a row.

    Attributes:
      name: of its folder.
      label: names it on the page.
      minutes: that it is expected to take, by scale.
      measure: does it, given the row, the settings, the folder of its results, and when the row's network was finished,
        see `running.finished`. Returns JSON.
    """

    name: str
    label: str
    minutes: Mapping[str, float]
    measure: Callable[[Row, Settings, epath.Path, Mapping[str, Any]], dict[str, Any]]


def compress_heatmaps(row: Row, settings: Settings, folder: epath.Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes a frame against F1 for heatmaps of both kinds: around joints (PatchVHA), and around whole voxels (VHA)."""
    del row
    kinds: Any = [_task(experiments.BY_NAME[name], settings) for name in ("patch_vha1", "vha1")]
    return _compress([compression.of_heatmaps(task) for task in kinds], kinds[0], settings, folder, made_of)


def compress_codes(row: Row, settings: Settings, folder: epath.Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes a frame against F1 for the codes of an autoencoder."""
    task, params = _trained(row, settings)
    return _compress([compression.of_network(task, params)], task, settings, folder, made_of)


def count_people(row: Row, settings: Settings, folder: epath.Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds a picture for each number of people in `crowding.PEOPLE`; the system can find that many."""
    del folder, made_of
    task, params = _trained(row, settings, max_peaks=max(crowding.PEOPLE))
    return {"seconds": crowding.seconds(task, params, experiments.config_of(row, settings))}


def _compress(
    origins: Sequence[Origin], task: Any, settings: Settings, folder: epath.Path, made_of: Mapping[str, Any]
) -> dict[str, Any]:
    config = experiments.config_of(experiments.BY_NAME["vha1"], settings)
    frames = min(config.test_frames, _FULL_FRAMES) if settings.scale == "full" else config.test_frames
    kept = compression.Kept(folder / "frames.jsonl", made_of)
    return compression.measure(origins, task, config, frames, kept=kept)


def _task(row: Row, settings: Settings, **fields: Any) -> Task:
    """The task of a row, with other values of some fields of its config."""
    config = experiments.config_of(row, settings)
    config.update(fields)
    if "vha" in config:
        config.vha = str(settings.folder / row.name / "autoencoder")
    return experiment.create_task(config)


def _trained(row: Row, settings: Settings, **fields: Any) -> tuple[Any, Any]:
    """The task of a row that is trained, and its parameters."""
    task = _task(row, settings, **fields)
    name = experiments.config_of(row, settings).task
    return task, weights.read(name, str(settings.folder / row.name / "run"), tasks.network_shapes(task))


_CODES = Study("codes", "bytes of codes", {"demo": 5.0, "full": 20.0, "test": 0.5}, compress_codes)
_HEATMAPS = Study("heatmaps", "bytes of heatmaps", {"demo": 20.0, "full": 40.0, "test": 0.5}, compress_heatmaps)
CROWDING = Study("crowding", "time over the number of people", {"demo": 2.0, "full": 2.0, "test": 0.5}, count_people)
OF_ROW: Mapping[str, Study] = {
    "heatmaps": _HEATMAPS,
    **dict.fromkeys(experiments.AUTOENCODERS, _CODES),
    **dict.fromkeys(("top_down", "loco2"), CROWDING),
}

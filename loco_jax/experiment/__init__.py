"""From configs to tasks: `check` reports errors in a config, `create_task` makes its task.

Configs come from `configs/`, or with trained weights. `load` makes a whole system from such weights;
`check_weights` and `with_parts_of` compare them with a task.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
from ml_collections import ConfigDict

from loco_jax import weights
from loco_jax.cli import progress
from loco_jax.data import datasets, streams
from loco_jax.experiment import checks
from loco_jax.experiment.checks import check as check
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import code_predictor, compact, location_maps, patch_vha, top_down, vha, volumetric
from loco_jax.pose import suppression
from loco_jax.tasks import Task, pretrained
from loco_jax.tasks.cells import CellsTask
from loco_jax.tasks.location_maps import LocationMapsTask
from loco_jax.tasks.loco import PICTURE, LocoTask
from loco_jax.tasks.people import PeopleTask
from loco_jax.tasks.refiner import RefinerTask, find
from loco_jax.tasks.top_down import TopDownTask
from loco_jax.tasks.trunk import TrunkTask
from loco_jax.tasks.vha import VhaTask
from loco_jax.tasks.volumetric import VolumetricTask
from loco_jax.weights import NobodyFound, WeightsError

_SCENES_AT_ONCE = 4  # in which a predictor looks for people
# Fields of the config, beside those of `people`, that weights may set, and the task's attributes.
_OF_WEIGHTS = {
    "refiner": "refiner_weights", "refine.least_joints": "least_joints", "refine.least_stray": "least_stray",
}  # fmt: skip


def create_task(config: ConfigDict) -> Task:
    """The task of a config. Raises ValueError for a field whose value cannot work."""
    checks.check_task(config)
    if config.task == "refiner":
        spoil = config.spoil.to_dict()
        finder = functools.partial(find_people, config) if spoil.pop("predictor") else None
        return RefinerTask(**spoil, find_people=finder)
    volume = streams.volume_of(config)
    if config.task == "trunk":
        return TrunkTask(volume, _compact(config, volume))
    if config.task in checks.CELLS:
        return _create_cells(config, volume)
    if config.task == "top_down":
        return _create_top_down(config, volume)
    autoencoder = _create_vha(config, volume)
    if config.task == "vha":
        return autoencoder
    c, level = config.predictor, config.model.level
    published = code_predictor.CodePredictor(level, volume.depth_bins, dtype=autoencoder.network.dtype)
    return LocoTask(
        vha=autoencoder,
        network=_compact(config, volume) if c.trunk == "compact" else published,
        code_weight=c.code_weight,
        heatmap_weight=c.heatmap_weight,
        vha_weights=config.vha,
        refiner_weights=config.refiner,
        trunk_weights=c.trunk_weights,
        side_weight=c.side_weight,
        teaching_weight=c.teaching_weight,
        **_rules(config),
    )


def _create_vha(config: ConfigDict, volume: Volume) -> VhaTask:
    m, dtype = config.model, getattr(jnp, config.model.dtype)
    published = vha.VHA(m.level, volume.depth_bins, dtype)
    patch = patch_vha.PatchVHA(m.level, volume.depth_bins, m.width, m.blocks, dtype=dtype)
    return VhaTask(
        volume,
        published if m.variant == "published" else patch,
        tuple(config.sigmas),
        config.subvoxel,
        m.code_noise,
        config.max_peaks,
    )


def _create_cells(config: ConfigDict, volume: Volume) -> LocationMapsTask | VolumetricTask:
    c, options = config.predictor, _finder_options(config, volume)
    network = {"width": c.width, "blocks": c.blocks, "coarsest": c.coarsest, "dtype": jnp.dtype(config.model.dtype)}
    if config.task == "location_maps":
        maps = location_maps.LocationMapsPredictor(**network)
        return LocationMapsTask(network=maps, location_weight=c.location_weight, **options)
    volumes = volumetric.VolumetricPredictor(volume.depth_bins, **network)
    return VolumetricTask(network=volumes, subvoxel=config.subvoxel, kind=config.model.loss, **options)


def _create_top_down(config: ConfigDict, volume: Volume) -> TopDownTask:
    c = config.predictor
    network = top_down.TopDown(c.width, c.blocks, c.coarsest, c.lifting, jnp.dtype(config.model.dtype))
    return TopDownTask(network=network, **_finder_options(config, volume))


def _finder_options(config: ConfigDict, volume: Volume) -> dict[str, Any]:
    """The attributes that the baselines of LoCO have in common."""
    heatmaps = {"volume": volume, "sigma": config.sigmas[-1], "max_peaks": config.max_peaks}
    return {**heatmaps, "refiner_weights": config.refiner, **_rules(config)}


def _compact(config: ConfigDict, volume: Volume) -> compact.CompactPredictor:
    c, m = config.predictor, config.model
    dtype = jnp.dtype(m.dtype)
    return compact.CompactPredictor(m.level, volume.depth_bins, c.width, c.blocks, c.coarsest, dtype)


def _rules(config: ConfigDict) -> dict[str, Any]:
    """The attributes of a `PeopleTask` that `config.refine` and `config.people` set, if the config has those."""
    checks.check_rules(config)
    rules = {name: config.refine[name] for name in ("least_joints", "least_stray")} if "refine" in config else {}
    return rules | ({"kept": suppression.Options(**config.people)} if "people" in config else {})


# ---- Weights that come with a config of their own


@contextlib.contextmanager
def stated_by(whose: Any) -> Iterator[None]:
    """Turns errors of a config that came with weights into WeightsError, which names the weights, `whose`."""
    try:
        yield
    except WeightsError:
        raise
    except (KeyError, AttributeError) as error:
        lacks = weights.brief(error)
        raise WeightsError(f"{whose}: made by another version of loco_jax: its config lacks {lacks}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise WeightsError(f"{whose}: its config is not valid: {weights.brief(error, 400)}") from error


def load(source: str) -> tuple[PeopleTask, Any, ConfigDict, Camera]:
    """Task, parameters (the refiner's too if there is one), config and camera of a system that finds people.

    `source` is a run's folder, a file of weights, or "released". Raises WeightsError or CheckpointError if there are no
    weights of such a system.
    """
    path = weights.path_of(source)
    if path.is_dir():
        config = weights.run_config(path)
        task = people_task_of(path, config)
        params = weights.read_run(path, config, task.shapes())
        return task, task.for_evaluation(params), config, datasets.of(config).camera
    params, about = weights.load(path)
    if about.get("kind") not in checks.FINDERS:
        kind = weights.brief(repr(about.get("kind")))
        raise WeightsError(f"{path}: holds weights of kind {kind}, not a whole loco")
    config = weights.as_config(path, about.get("config", {}))
    task = people_task_of(path, config)
    camera = _camera_of(path, about["camera"], config) if "camera" in about else datasets.of(config).camera
    like = task.shapes()
    if "refiner" in params:
        like["refiner"] = jax.eval_shape(pretrained.init_refiner, jax.random.key(0))
    weights.check_fit(params, like, str(path))
    return task, params, config, camera


def trained_camera(source: str) -> Camera | None:
    """The camera of the pictures that weights were trained with; None if the file does not tell.

    Raises WeightsError for weights that cannot be read.
    """
    path = weights.path_of(source)
    if path.is_dir():
        return datasets.of(weights.run_config(path)).camera
    _, about = weights.load(path)
    if "camera" not in about:
        return None
    return _camera_of(path, about["camera"], weights.as_config(path, about.get("config", {})))


def people_task_of(path: Any, config: ConfigDict) -> PeopleTask:
    """The task of the config that a run or a file of weights comes with.

    Raises WeightsError for a task that finds no people.
    """
    if config.get("task") not in (*checks.FINDERS, None):
        raise WeightsError(f"{path}: holds a run of the task {weights.brief(config.task)}, not loco")
    with stated_by(path):
        task = create_task(config)
    assert isinstance(task, PeopleTask)
    return task


def _camera_of(path: Any, numbers: Any, config: ConfigDict) -> Camera:
    """The camera that a file of weights was trained with. Raises WeightsError for an impossible one."""
    with stated_by(path):
        camera = Camera(*map(float, numbers))
        streams.check_camera(camera, streams.volume_of(config), os.fspath(path))
        longest = max(config.volume.image_size)
        if not all(0.02 * longest < f < 200 * longest for f in camera[:2]):
            raise ValueError(f"focal lengths of {camera.fx:g} and {camera.fy:g} pixels are not possible")
        return camera


def check_sources(config: ConfigDict, task: Task) -> None:
    """Raises WeightsError, naming the config's field, if a new run cannot start from a file that it names.

    With `config.init`, all networks' parameters that training needs come from there.
    """
    if isinstance(task, RefinerTask) and task.find_people:
        with pretrained.naming("spoil.predictor", config.spoil.predictor):
            load(config.spoil.predictor)
    if not isinstance(task, PeopleTask):
        return
    if isinstance(task, LocoTask) and not config.init:
        with pretrained.naming("vha", task.vha_weights):
            if not task.vha_weights:
                raise WeightsError("no weights given")
            check_weights(task, task.vha_weights, "config.vha")
        if task.trunk_weights:
            pretrained.with_trunk(task.shapes(), task.trunk_weights)
    if task.needs_refiner:
        with pretrained.naming("refiner", task.refiner_weights):
            weights.config_of(task.refiner_weights)


def check_weights(task: Task, source: str, field: str) -> None:
    """Raises WeightsError, naming the field, if a run or file was trained for another volume or other heatmaps.

    Shapes alone do not show this, because a network fits any volume. A file without a config is not checked.
    """
    ours = task.vha if isinstance(task, LocoTask) else task
    if not isinstance(ours, VhaTask | CellsTask):
        return
    config = weights.config_of(source)
    if config is None or config.get("task") not in (("vha", "loco") if isinstance(ours, VhaTask) else checks.CELLS):
        return
    with stated_by(f"{field}={source}"):
        checks.check_model(config)
        volume = streams.volume_of(config)
        theirs = (_create_vha if isinstance(ours, VhaTask) else _create_cells)(config, volume)
    there, here = _traits(theirs), _traits(ours)
    wrong = [
        f"{name} is {weights.brief(there[name])} there, {here[name]} here"
        for name in there
        if name in here and there[name] != here[name]
    ]
    if wrong:
        raise WeightsError(f"{field}={source}: trained for something else: {'; '.join(wrong)}")


def _traits(task: VhaTask | CellsTask) -> dict[str, Any]:
    """The settings that weights are trained for and that their shapes do not show, by the config's field."""
    volume = {f"volume.{name}": getattr(task.volume, name) for name in ("depth_bins", "max_distance", "stride")}
    if isinstance(task, VhaTask):
        network = {"model.level": task.network.level, "model.variant": type(task.network).__name__}
        return {**network, **volume, "subvoxel": task.subvoxel, "the last of sigmas": task.sigmas[-1]}
    heatmaps = {"subvoxel": task.subvoxel, "the last of sigmas": task.sigma} if isinstance(task, VolumetricTask) else {}
    return {**volume, **heatmaps}


def with_parts_of(task: Task, source: str, given: Collection[str] = ()) -> Task:
    """The task with the refiner and the rules that come with the weights `source`, if it finds people.

    The fields of the config that are `given`, by their dotted names, keep the task's own values.
    """
    if not isinstance(task, PeopleTask):
        return task
    path, config = weights.path_of(source), weights.config_of(source)
    with stated_by(path):
        changes = {} if config is None else _rules(config)
    if not path.is_dir() and "refiner" in weights.load(path)[0]:
        changes["refiner_weights"] = source
    elif config is not None and config.get("refiner") == PICTURE:
        changes["refiner_weights"] = PICTURE
    own = {name: getattr(task, name) for field, name in _OF_WEIGHTS.items() if field in given}
    kept = {name: getattr(task.kept, name) for name in suppression.Options._fields if f"people.{name}" in given}
    return dataclasses.replace(task, **{**changes, **own, "kept": changes.get("kept", task.kept)._replace(**kept)})


def find_people(config: ConfigDict) -> dict[str, Float[np.ndarray, "N 14 3"]]:
    """People as `config.spoil.predictor` finds them in training scenes, see `tasks.refiner.find`.

    It looks at no more scenes than the number of people to find. The crowd's scenes are not those of its training.
    Raises NobodyFound if it finds none, other WeightsErrors if the predictor cannot be read.
    """
    source, number = config.spoil.predictor, config.spoil.found
    with pretrained.naming("spoil.predictor", source):
        task, params, theirs, camera = load(source)
    params = {name: value for name, value in params.items() if name != "refiner"}
    task, theirs = dataclasses.replace(task, refiner_weights=""), theirs.copy_and_resolve_references()
    theirs.seed += 1
    theirs.data.update(batch_size=_SCENES_AT_ONCE, augment=False, workers=0, render_batch=1)
    theirs.data.source, theirs.data.dir = config.data.source, config.data.dir
    if not streams.is_made_for(config):
        with theirs.unlocked():
            theirs.data.update({name: config.data[name] for name in ("train_split", "max_people", "head_of_ears")})
            theirs.data.camera = tuple(map(float, camera))
        size = tuple(streams.fitted(theirs, theirs.data.train_split).volume.image_size)
        if size != tuple(theirs.volume.image_size):
            raise WeightsError(
                f"config.spoil.predictor={source}: was trained on pictures of {tuple(theirs.volume.image_size)}, but "
                f"those of {config.data.dir} need {size} pixels; give another predictor"
            )
    sharding = NamedSharding(Mesh(np.array(jax.local_devices()[:1]), ("batch",)), PartitionSpec("batch"))
    params = jax.device_put(params, sharding.mesh.devices.item())
    batches = itertools.islice(datasets.of(theirs).training_stream(sharding), -(-number // _SCENES_AT_ONCE))
    with progress.bar(number, " people", config.quiet, desc="finding", leave=False) as bar:
        found = find(task, params, batches, number, bar.update)
    if found is None:
        raise NobodyFound(
            f"config.spoil.predictor={source}: finds nobody in {number} training scenes; train it for longer, or give "
            '"" for none'
        )
    return found

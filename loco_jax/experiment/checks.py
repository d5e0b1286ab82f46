"""All checks of a config, for every command."""

import functools
import math
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from loco_jax.data import datasets
from loco_jax.geometry import skeleton
from loco_jax.geometry.volume import Volume
from loco_jax.pose import suppression
from loco_jax.tasks.loco import PICTURE
from loco_jax.tasks.volumetric import LOSSES

CELLS = ("location_maps", "volumetric")  # tasks whose networks predict maps or volumes, without a code
CODELESS = (*CELLS, "top_down")  # tasks with the compact trunk and no code
FINDERS = ("loco", *CODELESS)  # tasks that find people in pictures
TASKS = ("vha", "refiner", "trunk", *FINDERS)
_DTYPES = ("float32", "bfloat16")


def check(config: ConfigDict) -> None:
    """Raises ValueError for the first field whose value cannot work, before anything is computed or written."""
    counts = ("steps", "log_every", "checkpoint_every", "keep_checkpoints", "eval_frames", "test_frames")
    peaks = ("max_peaks",) if "max_peaks" in config else ()
    for name in (*counts, *peaks, "data.batch_size", "data.max_people", "data.render_batch"):
        value = functools.reduce(getattr, name.split("."), config)
        if value < 1:
            raise ValueError(f"config.{name}={value} must be at least 1")
    if config.seed < 0:
        raise ValueError(f"config.seed={config.seed} must be at least 0")
    if not 0 <= config.budget_minutes < math.inf:
        raise ValueError(f"config.budget_minutes={config.budget_minutes} must be a number of minutes, or 0 for none")
    if config.mesh.rows < 1 or (config.mesh.rows > 1 and config.task not in ("vha", "loco")):
        raise ValueError(f"config.mesh.rows={config.mesh.rows} must be 1 or more; and 1 for a task without a VHA")
    if not (config.spike == 0 or config.spike > 1):
        raise ValueError(f"config.spike={config.spike} must be above 1, or 0 to log no spikes")
    _check_data(config)
    _check_optimizer(config.optimizer)
    check_task(config)
    if "tracks" in config:
        _check_tracks(config)


def _check_data(config: ConfigDict) -> None:
    _check_choice("config.data.validation_split", config.data.validation_split, ("validation", "test"))
    datasets.of(config).check()


def _check_optimizer(c: ConfigDict) -> None:
    _check_choice("config.optimizer.name", c.name, ("adam", "muon"))
    _check_choice("config.optimizer.schedule", c.schedule, ("constant", "cosine"))
    _check_choice("config.optimizer.orthogonalise_dtype", c.orthogonalise_dtype, _DTYPES)
    if c.max_skipped < 0:
        raise ValueError(f"config.optimizer.max_skipped={c.max_skipped} must be at least 0")


def check_task(config: ConfigDict) -> None:
    """Raises ValueError for the first field that `create_task` reads and that cannot work."""
    _check_choice("config.task", config.task, TASKS)
    if config.task == "refiner":
        _check_spoil(config.spoil)
        return
    check_model(config)
    if config.task in CODELESS:
        _check_codeless(config)
    elif config.task != "vha":
        _check_predictor(config)
    if config.task in FINDERS:
        check_rules(config)


def check_model(config: ConfigDict) -> None:
    """Raises ValueError for the first field of an autoencoder, or of heatmaps, that cannot work."""
    m = config.model
    if config.task in CODELESS:
        _check_heatmaps(config)
        return
    if m.level not in (1, 2, 3) or min(m.width, m.blocks) < 1:
        raise ValueError(f"config.model: want level 1, 2 or 3, and width and blocks of at least 1; have {m.to_dict()}")
    _check_heatmaps(config)
    _check_choice("config.model.variant", m.variant, ("published", "patch"))


def _check_heatmaps(config: ConfigDict) -> None:
    if not config.sigmas or min(config.sigmas) <= 0:
        raise ValueError(f"config.sigmas={tuple(config.sigmas)} must be one or more positive numbers")
    _check_choice("config.model.dtype", config.model.dtype, _DTYPES)


def _check_codeless(config: ConfigDict) -> None:
    c = config.predictor
    _check_trunk(config)
    if len(config.sigmas) != 1:
        raise ValueError(f"config.sigmas={tuple(config.sigmas)} must be one number: this task has one stage")
    if config.task == "location_maps" and not 0 <= c.location_weight < math.inf:
        raise ValueError(f"config.predictor.location_weight={c.location_weight} must not be negative")
    if config.task == "top_down" and c.lifting < 1:
        raise ValueError(f"config.predictor.lifting={c.lifting} must be at least 1")
    if config.task == "volumetric":
        _check_choice("config.model.loss", config.model.loss, LOSSES)
    _check_stride(config)
    if config.refiner == PICTURE:
        raise ValueError(f'config.refiner={PICTURE} is for config.task=loco; give a run, a file of weights, or ""')


def _check_trunk(config: ConfigDict) -> None:
    """Raises ValueError for the first field of the compact trunk, or of pictures, that cannot work."""
    c = config.predictor
    if min(c.width, c.blocks) < 1:
        raise ValueError(f"config.predictor: width and blocks must be at least 1; have {c.width}, {c.blocks}")
    if c.coarsest not in (32, 64, 128):
        raise ValueError(f"config.predictor.coarsest={c.coarsest} must be 32, 64 or 128 pixels")
    _check_pictures(config)


def _check_pictures(config: ConfigDict) -> None:
    if not config.data.pictures:
        raise ValueError("config.data.pictures must be True: this task looks at pictures")


def _check_stride(config: ConfigDict) -> None:
    if config.volume.stride != Volume.stride:
        raise ValueError(
            f"config.volume.stride={config.volume.stride} must be {Volume.stride} here: the predictors' layers are "
            "made for it"
        )


def _check_predictor(config: ConfigDict) -> None:
    c = config.predictor
    _check_choice("config.predictor.trunk", c.trunk, ("inception", "compact"))
    (_check_trunk if c.trunk == "compact" else _check_pictures)(config)
    if config.task == "trunk":
        if c.trunk != "compact":
            raise ValueError(f"config.predictor.trunk={c.trunk!r} must be compact for config.task=trunk")
        _check_stride(config)
        return
    weight = c.code_weight, c.heatmap_weight, c.side_weight, c.teaching_weight
    if not (min(weight) >= 0 and c.code_weight + c.heatmap_weight > 0):
        raise ValueError(
            "config.predictor: the weights must not be negative, nor code_weight and heatmap_weight both 0"
        )
    _check_stride(config)
    # (a field and its value, whether it works, the field that it needs, why)
    needs = [
        (f"predictor.teaching_weight={c.teaching_weight}", not c.teaching_weight or c.trunk == "compact",
         "config.predictor.trunk=compact", "the published network's features have no other losses"),
        (f"refiner={PICTURE}", config.refiner != PICTURE or c.trunk == "compact",
         "config.predictor.trunk=compact", "the published network reads no poses"),
        (f"refiner={PICTURE}", config.refiner != PICTURE or c.teaching_weight,
         'config.predictor.teaching_weight above 0, or give config.refiner=""', "that weight trains the readout"),
        (f"predictor.heatmap_weight={c.heatmap_weight}", not c.heatmap_weight or config.model.variant == "patch",
         "config.model.variant=patch", "the loss of heatmaps compares a PatchVHA's cells"),
        (f"predictor.side_weight={c.side_weight}", not c.side_weight or c.heatmap_weight,
         "config.predictor.heatmap_weight above 0 and config.model.variant=patch", "it reads the same heatmaps"),
    ]  # fmt: skip
    for field, works, needed, reason in needs:
        if not works:
            raise ValueError(f"config.{field} needs {needed}: {reason}")


def check_rules(config: ConfigDict) -> None:
    """Raises ValueError if `config.refine` or `config.people` cannot work, where the config has those."""
    if "refine" in config:
        r = config.refine
        if not (1 <= r.least_joints <= skeleton.NUM_JOINTS and 0 <= r.least_stray <= 1):
            raise ValueError(
                f"config.refine: want least_joints of 1 to {skeleton.NUM_JOINTS}, least_stray of 0 to 1; have "
                f"{r.to_dict()}"
            )
    if "people" in config:
        suppression.Options(**config.people).check("config.people")


def _check_tracks(config: ConfigDict) -> None:
    c = config.tracks
    for name, least in (("sequences", 0), ("frames", 1)):
        if c[name] < least:
            raise ValueError(f"config.tracks.{name}={c[name]} must be at least {least}")
    if not 0 < c.fps < math.inf:
        raise ValueError(f"config.tracks.fps={c.fps} must be a positive number of frames a second")
    if c.sequences and config.task not in FINDERS:
        raise ValueError(
            f"config.tracks.sequences={c.sequences} must be 0 for config.task={config.task}, which finds no people"
        )


def _check_spoil(s: ConfigDict) -> None:
    shares = s.missing, s.swapped, s.missing + s.swapped, s.moved, s.share
    if not (min(shares) >= 0 and max(shares) <= 1 and s.move_by >= 0 and s.along_ray >= 1 and s.found >= 1):
        raise ValueError(
            "config.spoil: want missing, swapped, the two together, moved and share of 0 to 1, move_by of at least 0, "
            f"and along_ray and found of at least 1; have {s.to_dict()}"
        )


def _check_choice(field: str, value: Any, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{field}={value!r}; there are {', '.join(choices)}")

"""The config of a run, `config.json` in its folder. A folder belongs to one config; FREE_FIELDS may change."""

import copy
import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from loco_jax.ops import distributed
from loco_jax.runs import checkpoints, files
from loco_jax.runs.checkpoints import CheckpointError

CONFIG_FILE = "config.json"
# Fields that may change between starts of a run. The name of a section stands for all its fields.
FREE_FIELDS = (
    "max_minutes", "eval_every", "eval_frames", "test_frames", "pictures", "checkpoint_every", "keep_checkpoints",
    "quiet", "spike", "optimizer.max_skipped", "mesh.rows", "data.dir", "data.workers", "refiner",
    "refine.least_joints", "refine.least_stray", "people", "tracks",
)  # fmt: skip
# Fields for the length of a run. These may change too if the learning rate is constant. A run keeps its stage.
LENGTHS = ("steps", "budget_minutes")
# Fields that may differ between the processes of one run.
OWN_FIELDS = ("data.dir", "data.workers", "quiet")
# Fields that evaluation takes from the run: those that only training reads, and the mistakes in a refiner's test poses.
TRAINING_FIELDS = (
    "steps", "budget_minutes", "budget_clock", "seed", "ema", "optimizer", "plateau", "log_every", "vha", "init",
    "init_missing", "spoil", "model.code_noise", "predictor.trunk_weights",
    "predictor.code_weight", "predictor.heatmap_weight", "predictor.side_weight", "predictor.teaching_weight",
    "predictor.location_weight", "model.loss", "data.train_split", "data.validation_split", "data.augment",
    "data.render_batch", "data.crowd", "data.head_of_ears",
)  # fmt: skip
# Fields in which an evaluation may differ from the run, if the user gives them: a network may see other data.
OTHER_DATA = ("data.source", "data.max_people", "data.camera")
# Fields that older runs and weights of OLD_TASKS lack, with the values that reproduce the code of that time.
LATER_FIELDS: dict[str, Any] = {
    "init": "", "init_missing": False, "budget_minutes": 0.0, "budget_clock": "wall", "spoil.predictor": "",
    "spoil.found": 2000, "spoil.share": 0.5, "predictor.side_weight": 0.0, "data.render_batch": 1,
    "data.crowd": {"min_people": 0, "mean_people": 0.0, "most_people": 0},
}  # fmt: skip
# Fields that older runs and weights of any task lack.
LATEST_FIELDS: dict[str, Any] = {"data.camera": [], "data.head_of_ears": False}
# Fields that only older runs have, with the values that match the current code.
EARLIER_FIELDS = {
    "model.volume_dtype": "float32", "model.pad_channels": False, "optimizer.orthogonalise_every": 1,
    "model.positive_weight": 0.0,
}  # fmt: skip
OLD_TASKS = ("loco", "vha", "refiner", "trunk")


def check(workdir: str, config: ConfigDict, free: Sequence[str] = FREE_FIELDS, older: bool = False) -> None:
    """Raises CheckpointError that names every field in which the config of `workdir`'s checkpoints differs.

    Fields in `free` may differ, and those in LENGTHS if the learning rate is constant. With `older`, fields that the
    run's config lacks may differ too. Without checkpoints any config is accepted.
    """
    path = _path(workdir)
    if not checkpoints.exist(workdir):
        return
    if not path.exists():
        raise CheckpointError(
            f"{path.parent}: has checkpoints but no {CONFIG_FILE}, to which they belong; put it back, or give "
            "another --workdir"
        )
    theirs, ours = read(workdir), _plain(config)
    differences = _differences(theirs, ours, (*free, *_free_lengths(theirs, ours)))
    differences = [(name, old, new) for name, old, new in differences if not (older and old is None)]
    if differences:
        listed = "\n".join(f"  {name}: {old!r} there, {new!r} now" for name, old, new in differences)
        schedule = theirs.get("optimizer", {}).get("schedule")
        why = ""
        if schedule != "constant" and any(name in LENGTHS for name, *_ in differences):
            why = f"The learning rate falls over the whole run (config.optimizer.schedule={schedule}). "
        raise CheckpointError(
            f"{path.parent}: holds a run of another config:\n{listed}\n{why}"
            "Give the same config to go on with it, or another --workdir to start anew."
        )


def check_same(config: ConfigDict) -> None:
    """Raises ValueError in all processes unless they have the same config, except for OWN_FIELDS."""
    first, *others = distributed.gather([_plain(config)])
    for number, other in enumerate(others, start=1):
        if differences := _differences(first, other, OWN_FIELDS):
            listed = "\n".join(f"  {name}: {old!r} in process 0, {new!r} in {number}" for name, old, new in differences)
            raise ValueError(f"process {number} has another config:\n{listed}\nGive all processes the same.")


def as_trained(workdir: str, config: ConfigDict, given: Collection[str] = ()) -> ConfigDict:
    """The config, with TRAINING_FIELDS as they were when the run of `workdir` was trained.

    Raises CheckpointError if there is no run, or if other fields differ, see `check`. The batch may have any size. The
    data may be others where the user has `given` those of OTHER_DATA, by their dotted names.
    """
    path = _path(workdir)
    if not path.exists():
        raise CheckpointError(f"{path.parent}: no run here; train first, or give the right --workdir")
    theirs, config = _flat(read(workdir)), config.copy_and_resolve_references()
    ours = [name for name in _flat(_plain(config)) if _is_of(name, TRAINING_FIELDS)]
    config.update_from_flattened_dict({name: theirs[name] for name in ours if name in theirs})  # older runs lack some
    others = [field for field in OTHER_DATA if field in given]
    free = (*FREE_FIELDS, *EARLIER_FIELDS, "data.batch_size", *others)  # EARLIER_FIELDS matter to training only
    check(workdir, config, free, older=True)
    return config


def claim(workdir: str, config: ConfigDict) -> None:
    """Writes the config into the run's folder, after `check`."""
    check(workdir, config)
    files.write_text(_path(workdir), json.dumps(_plain(config), indent=2, sort_keys=True) + "\n")


def completed(content: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON, with the LATEST_FIELDS and LATER_FIELDS that its sections lack, without the EARLIER_FIELDS.

    Other tasks than OLD_TASKS do not get the LATER_FIELDS.
    """
    _add(content, LATEST_FIELDS)
    if content.get("task", OLD_TASKS[0]) in OLD_TASKS:
        _add(content, LATER_FIELDS)
    for field, value in EARLIER_FIELDS.items():
        section, name = section_of(content, field)
        if section.get(name) == value:
            del section[name]
    return content


def _add(content: dict[str, Any], fields: Mapping[str, Any]) -> None:
    for field, value in fields.items():
        section, name = section_of(content, field)
        section.setdefault(name, copy.deepcopy(value))


def section_of(config: Any, field: str) -> tuple[Any, str]:
    """The section of a config that has the dotted `field`, {} if there is none; and the field's name in it."""
    *above, name = field.split(".")
    for part in above:
        config = config.get(part) if isinstance(config, dict | ConfigDict) else None
    return (config if isinstance(config, dict | ConfigDict) else {}), name


def _path(workdir: os.PathLike | str) -> epath.Path:
    return epath.Path(workdir).expanduser() / CONFIG_FILE


def read(folder: os.PathLike | str) -> dict[str, Any]:
    """The config of a run's folder, `completed`. Raises OSError without one, CheckpointError if it is no config."""
    path = _path(folder)
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not a JSON config ({error}); put it back, or name another folder") from error
    return completed(content)


def _plain(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort())


def _free_lengths(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of LENGTHS that may change between two configs, because the learning rate does not depend on them.

    A run has a budget of time from its first step on, or none.
    """
    schedules = {config.get("optimizer", {}).get("schedule") for config in (old, new)}
    if schedules != {"constant"}:
        return ()
    return LENGTHS if old.get("budget_minutes") and new.get("budget_minutes") else LENGTHS[:1]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(config, sep=".")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]) -> list[tuple[str, Any, Any]]:
    """Names and both values of the fields, but for `free`, that differ; None stands for one that is missing."""
    old, new = _flat(old), _flat(new)
    found = [(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys()) if not _is_of(name, free)]
    return [(name, a, b) for name, a, b in found if a != b]


def _is_of(name: str, fields: Sequence[str]) -> bool:
    """Whether a field is one of `fields`, or in a section that is."""
    return any(f"{name}.".startswith(f"{field}.") for field in fields)

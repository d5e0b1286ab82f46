"""Checkpoints of a run: the training state, the data's position and the schedule, by Orbax; the config beside them.

A workdir belongs to one config. Fields that only say how long to run, or how often to look, may change between runs.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

CONFIG_FILE = "config.json"
FREE_FIELDS = (
    "max_minutes", "eval_every", "eval_frames", "test_frames", "pictures", "checkpoint_every", "keep_checkpoints",
    "quiet", "mesh.rows", "data.dir", "data.workers", "refiner", "refine.least_joints", "refine.least_stray",
)  # fmt: skip
# What only training reads, and how a refiner's test poses are spoilt: taken from a run whose scores are asked for.
TRAINING_FIELDS = (
    "steps", "seed", "ema", "optimizer", "plateau", "log_every", "vha", "spoil", "model.positive_weight",
    "model.code_noise", "predictor.trunk_weights", "predictor.code_weight", "predictor.heatmap_weight",
    "data.train_split", "data.augment",
)  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or belongs to another config."""


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`, newest last; saving goes on in the background.

    Use as a context manager: leaving it waits for the saves under way. With `read_only` it leaves the folder alone, so
    that a run which is still training there is not disturbed.
    """

    def __init__(self, workdir: str, keep: int = 2, read_only: bool = False):
        self.folder = _folder(workdir)
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("state", "position"))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Starts saving; `position` is JSON: where data and schedule are. A step that is saved already stays."""
        if step == self.latest:
            return
        # A copy, because the next step may reuse the state's memory before the save in the background has read it.
        # And a save is a transfer that was asked for, whatever guard the training loop is under.
        with jax.transfer_guard("allow"):
            state = ocp.args.StandardSave(jax.tree.map(jnp.copy, state))
            self._manager.save(step, args=ocp.args.Composite(state=state, position=ocp.args.JsonSave(position)))

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]]:
        """Step, state and position of the newest checkpoint.

        `like` is a state of arrays, or of `jax.ShapeDtypeStruct` with shardings, that says shapes and places.
        Raises CheckpointError if there is none, or if it does not fit.
        """
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), position=ocp.args.JsonRestore())
        step, restored = self._restore(args)
        return step, restored.state, restored.position

    def restore_params(self, like: Any, sharding: jax.sharding.Sharding, averaged: bool) -> tuple[int, Any]:
        """Step and parameters (or their moving average) of the newest checkpoint, without the rest of its state.

        `like` are shapes and types. Raises CheckpointError if there is none, or if it does not fit.
        """
        like = {"ema" if averaged else "params": like}
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
        args = ocp.args.PyTreeRestore(
            like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
        )
        step, restored = self._restore(ocp.args.Composite(state=args))
        return step, next(iter(restored.state.values()))

    def shapes(self, averaged: bool) -> Any:
        """What `restore_params` would find, as a tree of things that have a `shape`; {} if there is no checkpoint."""
        if self.latest is None:
            return {}
        try:
            metadata = ocp.PyTreeCheckpointer().metadata(self.folder / str(self.latest) / "state")
            return metadata.item_metadata.tree.get("ema" if averaged else "params") or {}
        except Exception as error:  # Orbax raises many kinds
            raise CheckpointError(f"{self.folder / str(self.latest)}: cannot be read: {error}") from error

    def _restore(self, args: ocp.args.Composite) -> tuple[int, Any]:
        step = self.latest
        if step is None:
            raise CheckpointError(f"{self.folder}: no checkpoint here; train first, or give the right --workdir")
        try:
            return step, self._manager.restore(step, args=args)
        except Exception as error:  # Orbax raises many kinds
            raise CheckpointError(
                f"{self.folder / str(step)}: cannot be read as a checkpoint of this config: {error}\n"
                "If it is damaged, remove that folder to go on from the one before; else use another --workdir."
            ) from error


def exist(workdir: str) -> bool:
    """Whether there is a checkpoint in `workdir`."""
    return _folder(workdir).exists() and bool(ocp.utils.checkpoint_steps(_folder(workdir)))


def check(workdir: str, config: ConfigDict, free: Sequence[str] = FREE_FIELDS) -> None:
    """Raises CheckpointError naming every field in which the config of `workdir`'s checkpoints differs from `config`.

    Those in `free` may differ.
    Without checkpoints there is nothing to protect, and any config will do.
    """
    path = epath.Path(workdir).expanduser() / CONFIG_FILE
    if not (path.exists() and exist(workdir)):
        return
    theirs = _read_config(path)
    differences = [
        f"  {name}: {old!r} there, {new!r} now"
        for name, old, new in _differences(theirs, _plain(config))
        if not any(name == f or f.startswith(f"{name}.") for f in free)
    ]
    if differences:
        raise CheckpointError(
            f"{path.parent}: holds a run of another config:\n" + "\n".join(differences) + "\n"
            "Give the same config to go on with it, or another --workdir to start anew."
        )


def as_trained(workdir: str, config: ConfigDict) -> ConfigDict:
    """The config with those fields that only training reads as they were when the run of `workdir` was trained.

    Raises CheckpointError if the other fields differ, see `check`, or if there is no run. The batch may be of any size.
    """
    path = epath.Path(workdir).expanduser() / CONFIG_FILE
    if not path.exists():
        raise CheckpointError(f"{path.parent}: no run here; train first, or give the right --workdir")
    theirs, config = _read_config(path), config.copy_and_resolve_references()
    for name in TRAINING_FIELDS:
        *above, last = name.split(".")
        ours, trained = (functools.reduce(lambda c, part: c.get(part, {}), above, c) for c in (config, theirs))
        if last in ours and last in trained:
            ours[last] = trained[last]
    check(workdir, config, (*FREE_FIELDS, "data.batch_size"))
    return config


def claim(workdir: str, config: ConfigDict) -> None:
    """Writes the config beside a run's checkpoints, after `check`."""
    check(workdir, config)
    write_text(
        epath.Path(workdir).expanduser() / CONFIG_FILE, json.dumps(_plain(config), indent=2, sort_keys=True) + "\n"
    )


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file whole or not at all, with its folder; leaves one that says so already."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.part"
    part.write_text(text)
    part.replace(path)


def _read_config(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); use another --workdir") from error


def _folder(workdir: str) -> epath.Path:
    path = epath.Path(workdir).expanduser()
    return (path if "://" in str(path) else path.absolute()) / "checkpoints"


def _plain(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort())


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if old == new else [(name, old, new)]

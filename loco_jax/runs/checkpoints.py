"""Checkpoints of a run: the training state, the data's position and the schedule, by Orbax; the config beside them.

Sums over every array's bits are saved with it: of a bit that flips on the disk Orbax notices little.

Of several processes the first alone reads and writes: the state is the same in all of them.

A workdir belongs to one config, and to one run at a time. Fields that only say how long to run, or how often to look,
may change between runs.
"""

import contextlib
import dataclasses
import datetime
import errno
import functools
import json
import os
import re
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from loco_jax.cli import disk
from loco_jax.ops import distributed

CONFIG_FILE = "config.json"
FREE_FIELDS = (
    "max_minutes", "eval_every", "eval_frames", "test_frames", "pictures", "checkpoint_every", "keep_checkpoints",
    "quiet", "spike", "optimizer.max_skipped", "mesh.rows", "data.dir", "data.workers", "refiner",
    "refine.least_joints", "refine.least_stray", "people",
)  # fmt: skip
# How long to run: free where the learning rate is constant.
LENGTHS = ("steps", "budget_minutes")
_CONSTANT = "constant"
# In what processes that compute as one may differ.
OWN_FIELDS = ("data.dir", "data.workers", "quiet")
# What only training reads, and how a refiner's test poses are spoilt: taken from a run whose scores are asked for.
TRAINING_FIELDS = (
    "steps", "budget_minutes", "seed", "ema", "optimizer", "plateau", "log_every", "vha", "init", "init_missing",
    "spoil", "model.positive_weight", "model.code_noise", "predictor.trunk_weights", "predictor.code_weight",
    "predictor.heatmap_weight", "predictor.side_weight", "predictor.teaching_weight", "data.train_split",
    "data.validation_split", "data.augment", "data.render_batch", "data.crowd",
)  # fmt: skip
# Of runs and weights of before there was such a field: what they did, as its value.
LATER_FIELDS = {
    "init": "", "init_missing": False, "budget_minutes": 0.0, "spoil.predictor": "", "spoil.found": 2000,
    "spoil.share": 0.5, "predictor.side_weight": 0.0,
}  # fmt: skip

_LOCK_FILE = ".lock"
_DAMAGED = "damaged"  # folder for checkpoints that could not be read
# Of errors that say nothing about what the files hold: what a disk's start with, and what is said of others.
_NO_SUCH_FILE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_NOT_NOW = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED")
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in errors of TensorStore, which Orbax reads with


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, cannot be written, or belongs to another config or run."""


class _DamagedError(CheckpointError):
    """A checkpoint holds something else than was saved."""


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`, newest last; saving goes on in the background.

    Of this process alone, see `SharedCheckpoints`. Use as a context manager: leaving it waits for the saves under way.
    With `read_only` it leaves the folder alone, so that a run which is still training there is not disturbed.
    """

    def __init__(self, workdir: str, keep: int = 2, read_only: bool = False):
        self.folder, self._read_only, self._left_out = _folder(workdir), read_only, {}
        options = {"read_only": True} if read_only else {"max_to_keep": keep, "cleanup_tmp_directories": True}
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._manager = self._open(**options)
        except Exception:
            self._leave_out_unopened()
            self._manager = self._open(**options)

    def _leave_out_unopened(self) -> None:
        """Sets aside those checkpoints for whose sake Orbax does not open the folder at all.

        Raises CheckpointError if no other would be left, or if this is `read_only`.
        """
        steps = sorted(ocp.utils.checkpoint_steps(self.folder), reverse=True)
        for step in steps:
            try:
                with self._reading(step):  # what Orbax reads of every checkpoint
                    _ = ocp.path.step.standard_name_format().find_step(self.folder, step).commit_timestamp
            except CheckpointError as error:
                if self._read_only or not isinstance(error, _DamagedError):
                    raise
                self._left_out[step] = error
        if self._left_out and len(self._left_out) == len(steps):
            raise self._left_out[steps[0]]
        self._move_away(self._left_out)

    def _open(self, **options: Any) -> ocp.CheckpointManager:
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )
        options = ocp.CheckpointManagerOptions(multiprocessing_options=alone, create=False, **options)
        return ocp.CheckpointManager(self.folder, options=options, item_names=("state", "position"))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        try:
            with self._saving():
                self._manager.wait_until_finished()
        except CheckpointError:
            if kind is None:  # else what went wrong first is told
                raise
        finally:
            with contextlib.suppress(Exception):  # the same once more
                self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Of all complete checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Starts saving; `position` is JSON: where data and schedule are. A step that is saved already stays.

        The state's arrays may be spread over devices, and over processes, as long as every device has all of them.
        """
        if step == self.latest:
            return
        # A save is a transfer that was asked for, whatever guard the training loop is under.
        with self._saving(), jax.transfer_guard("allow"):
            state = jax.tree.map(_on_one_device, state)
            position = _sealed(position, _bit_sums(state))
            # A copy, because the next step may reuse the state's memory before the save in the background has read it.
            # Of several processes' arrays Orbax wants to save those that all of them hold, and NumPy's.
            state = jax.tree.map(jnp.copy, state) if jax.process_count() == 1 else jax.device_get(state)
            args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with self._saving():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """What Orbax raises, perhaps of an earlier save in the background, becomes a CheckpointError."""
        try:
            yield
        except Exception as error:  # of many kinds
            complete = sorted(ocp.utils.checkpoint_steps(self.folder))
            kept = f"that of step {complete[-1]} is intact" if complete else "there is none before it"
            raise CheckpointError(
                f"{self.folder}: a checkpoint could not be saved; {kept}. If the disk is full, make room: the same "
                f"command then goes on from there. {_first_line(error)}"
            ) from error

    def restore(
        self,
        like: Any,
        last: int | None = None,
        say: Callable[[str], None] = lambda text: None,
        newer: Mapping[str, Any] = {},
    ) -> tuple[int, Any, dict[str, Any]]:
        """Step, state and position of the newest checkpoint, or of the newest up to step `last`; NumPy arrays.

        One that is damaged is told, and the one before is taken; unless this is `read_only`, the damaged one goes into
        the folder `damaged` of the workdir. One that cannot be read just now (a disk or a server that does not answer,
        no memory) stays where it is, and raises.

        `like` is a dataclass of arrays, or of their shapes and types; `newer` has what goes into those of its fields
        that an older version did not save, or not as it is now. Raises CheckpointError if there is no checkpoint, or
        none that fits.
        """
        steps = [step for step in self.steps if last is None or step <= last]
        first_error = None
        for step, error in self._left_out.items():
            before = next((f"; the one before is of step {other}" for other in self.steps if other < step), "")
            say(f"{_first_line(error)}\nDamaged, so it is left out{before}.")
        for number, step in enumerate(steps):
            try:
                state, position = self._read_state(step, like, newer)
            except _DamagedError as error:
                first_error = first_error or error
                if number + 1 < len(steps):
                    before = steps[number + 1]
                    say(f"{_first_line(error)}\nDamaged, so it is left out; the one before is of step {before}.")
                continue
            if not self._read_only:
                self._set_aside(steps[:number])
            return step, state, position
        raise first_error or self._none()

    def _read_state(self, step: int, like: Any, newer: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        if newer:
            saved = self._fields(step)
            newer = {name: value for name, value in newer.items() if _names(value) != _names(saved.get(name))}
        if not newer:
            return self._read(step, _empty(like))
        fields = {field.name: getattr(like, field.name) for field in dataclasses.fields(like)}
        some = {name: value for name, value in fields.items() if name not in newer}
        some, position = self._read(step, _empty(some), partial=True)
        return dataclasses.replace(like, **some, **newer), position

    def _set_aside(self, steps: Sequence[int]) -> None:
        if steps:
            self._move_away(steps)
            self._manager.reload()

    def _move_away(self, steps: Iterable[int]) -> None:
        """Moves damaged checkpoints out of the way, so that these steps can be saved again."""
        folder = self.folder.parent / _DAMAGED
        for step in steps:
            folder.mkdir(parents=True, exist_ok=True)
            count = sum(path.name.split(".")[0] == str(step) for path in folder.iterdir())
            (self.folder / str(step)).rename(folder / (f"{step}.{count}" if count else str(step)))

    def restore_params(self, like: Any, averaged: bool) -> tuple[int, Any]:
        """Step and parameters (or their moving average) of the newest checkpoint, without the rest of its state.

        `like` are shapes and types; NumPy arrays come. Raises CheckpointError if there is none, or if it does not fit.
        """
        if self.latest is None:
            raise self._none()
        state, _ = self._read(self.latest, _empty({"ema" if averaged else "params": like}), partial=True)
        return self.latest, next(iter(state.values()))

    def shapes(self, averaged: bool) -> Any:
        """What `restore_params` would find, as a tree of things that have a `shape`; {} if there is no checkpoint."""
        if self.latest is None:
            return {}
        return self._fields(self.latest).get("ema" if averaged else "params") or {}

    def _fields(self, step: int) -> Mapping[str, Any]:
        """What a checkpoint's state is made of, as trees of things that have a `shape`. Raises CheckpointError."""
        with self._reading(step):  # by the handler: a checkpointer would keep back why it failed
            return ocp.PyTreeCheckpointHandler().metadata(self.folder / str(step) / "state").tree

    def _read(self, step: int, like: Any, partial: bool = False) -> tuple[Any, dict[str, Any]]:
        """State, all or `partial`, and position of a checkpoint, with their bits as they were saved; NumPy arrays.

        Raises CheckpointError.
        """
        args, manager = ocp.args.StandardRestore(like), contextlib.nullcontext(self._manager)
        if partial:  # by a manager of its own: one handles a state in one way only
            manager = self._open(read_only=True)
            places = ocp.checkpoint_utils.construct_restore_args(like)
            args = ocp.args.PyTreeRestore(like, restore_args=places, partial_restore=True)
        with self._reading(step), manager as opened:
            restored = opened.restore(step, args=ocp.args.Composite(state=args, position=ocp.args.JsonRestore()))
            position, wanted = _unsealed(restored.position)
            jax.tree.map_with_path(_check_shape, restored.state, like)
        changed = [name for name, value in _bit_sums(restored.state).items() if wanted.get(name, value) != value]
        if changed:
            raise _DamagedError(
                f"{self.folder / str(step)}: is damaged: other bits than were saved in {', '.join(changed[:5])}\n"
                "Remove that folder to go on from the one before."
            )
        return restored.state, position

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """What Orbax raises becomes a CheckpointError: a damaged checkpoint's, or that of a bad moment."""
        try:
            yield
        except Exception as error:  # of many kinds
            path = self.folder / str(step)
            if _may_pass(error):
                raise CheckpointError(
                    f"{path}: cannot be read now: {_first_line(error)}\n"
                    "Try again. If that does not help, remove that folder to go on from the one before."
                ) from error
            raise _DamagedError(
                f"{path}: cannot be read as a checkpoint of this config: {error}\n"
                "If it is damaged, remove that folder to go on from the one before; else use another --workdir."
            ) from error

    def _none(self) -> CheckpointError:
        return CheckpointError(f"{self.folder}: no checkpoint here; train first, or give the right --workdir")


class SharedCheckpoints:
    """The checkpoints of a run of several processes, which all call its methods, and at the same time.

    Only the first looks into the folder, which the others need not see. What it cannot do raises in all of them.
    """

    def __init__(self, workdir: str, keep: int):
        with distributed.together():
            self._own = Checkpoints(workdir, keep) if distributed.is_first() else None
        self._latest = distributed.from_first(lambda: self._own.latest)

    def __enter__(self) -> "SharedCheckpoints":
        return self

    def __exit__(self, *error) -> None:
        if self._own:
            self._own.__exit__(*error)

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None. In other processes than the first it may be under way."""
        return self._own.latest if self._own else self._latest

    def restore(
        self, like: Any, say: Callable[[str], None], newer: Mapping[str, Any]
    ) -> tuple[int, Any, dict[str, Any]]:
        """As `Checkpoints.restore` in the first process; in the others `like` takes the place of the state."""
        state = like

        def read():
            nonlocal state
            step, state, position = self._own.restore(like, say=say, newer=newer)
            return step, position

        self._latest, position = distributed.from_first(read)
        return self._latest, state, position

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """As `Checkpoints.save`; nobody waits for the first process, which ends with an error where it cannot save."""
        self._latest = step
        if self._own:
            self._own.save(step, state, position)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with distributed.together():
            if self._own:
                self._own.wait()


def _on_one_device(x: Any) -> Any:
    return x.addressable_data(0) if isinstance(x, jax.Array) else x


def _empty(like: Any) -> Any:
    """NumPy arrays for Orbax to fill."""
    return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)


def _names(tree: Any) -> set[str]:
    """Of a tree's leaves."""
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}


def _check_shape(path: Any, x: np.ndarray, like: np.ndarray) -> None:
    if x.shape != like.shape or x.dtype != like.dtype:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(f"{name} is {x.dtype}{list(x.shape)}, not {like.dtype}{list(like.shape)}")


def _may_pass(error: BaseException | None) -> bool:
    """Whether something, of all that led to an error, says nothing about what the files hold."""
    while error is not None:
        if isinstance(error, MemoryError) or any(word in str(error) for word in _NOT_NOW):
            return True
        numbers = [error.errno] if isinstance(error, OSError) else []
        numbers += map(int, _OS_ERROR.findall(str(error)))
        if any(number not in _NO_SUCH_FILE for number in numbers):
            return True
        error = error.__cause__ or error.__context__
    return False


def _bit_sums(tree: Any) -> dict[str, int]:
    """For each array, by its path, a sum over its bits that any single flipped bit changes, made on the device."""
    sums = jax.device_get(_compute_bit_sums(tree))
    named = jax.tree_util.tree_leaves_with_path(sums)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): int(value) for path, value in named}


@jax.jit
def _compute_bit_sums(tree: Any) -> Any:
    def one(x):
        x = x.astype(jnp.uint8) if x.dtype == bool else x
        size = min(x.dtype.itemsize, 4)
        words = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size])
        words = words.reshape(-1).astype(jnp.uint32)
        # Odd factors, modulo 2^32: no bit's change is lost, and the order of addition does not matter.
        factors = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(0x9E3779B8) + jnp.uint32(1)
        return jnp.sum(words * factors, dtype=jnp.uint32)

    return jax.tree.map(one, tree)


def _sealed(position: dict[str, Any], sums: dict[str, int]) -> dict[str, Any]:
    content = {"position": position, "bit_sums": sums}
    return {**content, "crc32": zlib.crc32(json.dumps(content, sort_keys=True).encode())}


def _unsealed(sealed: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """The position and the sums of the state that it was saved with. Raises ValueError if it was changed since."""
    if "data" in sealed:  # of an older version, which had no checksums
        return sealed, {}
    content = {name: value for name, value in sealed.items() if name != "crc32"}
    if zlib.crc32(json.dumps(content, sort_keys=True).encode()) != sealed.get("crc32"):
        raise ValueError("its position is not what was saved")
    return content["position"], content["bit_sums"]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def owned(workdir: str, say: Callable[[str], None] = print) -> Iterator[None]:
    """While entered, no other run can be in `workdir`, on this machine or another that sees the same disk.

    The system gives the lock back however a process ends. In buckets there are no locks, and some network disks have
    none: that is told. Of several processes the first has it. Raises CheckpointError if another run is there, or if
    the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        with distributed.together():
            if distributed.is_first():
                stack.enter_context(_locked(workdir, say))
        yield


@contextlib.contextmanager
def _locked(workdir: str, say: Callable[[str], None]) -> Iterator[None]:
    folder = epath.Path(workdir).expanduser()
    unguarded = f"{folder}: no locks there, so two runs at once in this workdir would not be noticed"
    if "://" in str(folder):
        say(unguarded)
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / _LOCK_FILE, "a+")
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written to ({error.strerror}); give another --workdir, or make this one writable"
        ) from error
    with file:
        try:
            if not disk.lock(file):
                say(unguarded)
        except BlockingIOError as error:
            file.seek(0)
            raise CheckpointError(
                f"{folder}: another run is in there ({file.read().strip() or 'just started'}); wait for it, stop "
                "it, or give another --workdir"
            ) from error
        file.truncate(0)
        now = datetime.datetime.now().isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        file.flush()
        yield


def exist(workdir: str) -> bool:
    """Whether there is a checkpoint in `workdir`."""
    return _folder(workdir).exists() and bool(ocp.utils.checkpoint_steps(_folder(workdir)))


def check(workdir: str, config: ConfigDict, free: Sequence[str] = FREE_FIELDS, older: bool = False) -> None:
    """Raises CheckpointError naming every field in which the config of `workdir`'s checkpoints differs from `config`.

    Fields in `free` may differ. Those in LENGTHS may differ where the learning rate is constant. With `older`, fields
    may differ that the run's config lacks.
    Without checkpoints there is nothing to protect, and any config will do.
    """
    path = epath.Path(workdir).expanduser() / CONFIG_FILE
    if not exist(workdir):
        return
    if not path.exists():
        raise CheckpointError(
            f"{path.parent}: has checkpoints but no {CONFIG_FILE}, which says what they are of; put it back, or give "
            "another --workdir"
        )
    theirs, ours = _read_config(path), _plain(config)
    free = (*free, *_free_lengths(theirs, ours))
    differences = {
        name: f"  {name}: {old!r} there, {new!r} now"
        for name, old, new in _differences(theirs, ours)
        if not _is_one_of(name, free) and not (older and old is None)
    }
    if differences:
        why = ""
        if _schedule(theirs) != _CONSTANT and not differences.keys().isdisjoint(LENGTHS):
            why = (
                f"The learning rate falls over the whole run (config.optimizer.schedule={_schedule(theirs)}), so one "
                "of another length takes other steps from the first on. "
            )
        raise CheckpointError(
            f"{path.parent}: holds a run of another config:\n" + "\n".join(differences.values()) + f"\n{why}"
            "Give the same config to go on with it, or another --workdir to start anew."
        )


def _free_lengths(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of LENGTHS that may change between two configs: where the learning rate does not follow them.

    A run has a budget of time from the first step on, or none.
    """
    if (_schedule(old), _schedule(new)) != (_CONSTANT, _CONSTANT):
        return ()
    return LENGTHS if old.get("budget_minutes") and new.get("budget_minutes") else LENGTHS[:1]


def _schedule(config: Mapping[str, Any]) -> Any:
    optimizer = config.get("optimizer")
    return optimizer.get("schedule") if isinstance(optimizer, dict) else None


def check_same(config: ConfigDict) -> None:
    """Raises ValueError, in all processes, if theirs are not the same config, but for OWN_FIELDS."""
    first, *others = distributed.gather([_plain(config)])
    for number, other in enumerate(others, start=1):
        differences = [found for found in _differences(first, other) if found[0] not in OWN_FIELDS]
        if differences:
            listed = "\n".join(f"  {name}: {old!r} in process 0, {new!r} in {number}" for name, old, new in differences)
            raise ValueError(f"process {number} has another config:\n{listed}\nGive all processes the same.")


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
        if last in ours and last in trained and isinstance(ours[last], ConfigDict):  # older runs lack some fields
            ours[last].update({name: value for name, value in trained[last].items() if name in ours[last]})
        elif last in ours and last in trained:
            ours[last] = trained[last]
    check(workdir, config, (*FREE_FIELDS, "data.batch_size"), older=True)
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


def completed(content: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON, with those `LATER_FIELDS` that it lacks of sections that it has."""
    for field, value in LATER_FIELDS.items():
        *above, last = field.split(".")
        section = functools.reduce(lambda c, name: c.get(name) if isinstance(c, dict) else None, above, content)
        if isinstance(section, dict):
            section.setdefault(last, value)
    return content


def _read_config(path: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no config as JSON ({error}); use another --workdir") from error
    return completed(content)


def _folder(workdir: str) -> epath.Path:
    path = epath.Path(workdir).expanduser()
    return (path if "://" in str(path) else path.absolute()) / "checkpoints"


def _plain(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort())


def _is_one_of(name: str, fields: Sequence[str]) -> bool:
    """Whether a field is among those, or in a section that is."""
    return any(name == field or name.startswith(f"{field}.") for field in fields)


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Fields by name, with None for those that one of the two lacks."""
    both = old, new
    if any(isinstance(x, dict) for x in both) and all(isinstance(x, dict | None) for x in both):
        found, (old, new) = [], (x or {} for x in both)
        for key in sorted(old.keys() | new.keys()):
            found += _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if old == new else [(name, old, new)]

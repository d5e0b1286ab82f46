"""Checkpoints of a run, written by Orbax: the training state, and the positions of data and schedule.

A sum over the bits of every array is saved as well, because Orbax hardly notices bits that flip on the disk. If there
are several processes, only the first reads and writes. All of them have the same state.
"""

import contextlib
import errno
import functools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import Shaped, UInt32

_ITEMS = "state", "position"
_DAMAGED = "damaged"  # folder for checkpoints that could not be read
# Errors that say nothing about the content of the files: OSErrors except those with these numbers, and errors with one
# of these words.
_NO_SUCH_FILE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_NOT_NOW = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED")
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in errors of TensorStore, with which Orbax reads


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, cannot be written, or belongs to another config or run."""


class _DamagedError(CheckpointError):
    """The content of a checkpoint has changed since it was saved."""


class Checkpoints(contextlib.AbstractContextManager):
    """The checkpoints in `workdir/checkpoints`, for this process alone.

    Saving goes on in the background. Use it as a context manager: leaving it waits for the saves under way. With
    `read_only` it changes nothing in the folder, so that a run which is still training there is not disturbed.
    """

    def __init__(self, workdir: str, keep: int = 2, read_only: bool = False):
        self.folder, self._read_only, me = _folder(workdir), read_only, jax.process_index()
        self._left_out: dict[int, CheckpointError] = {}
        options: dict[str, Any] = {"read_only": True}
        if not read_only:
            options = {"max_to_keep": keep, "cleanup_tmp_directories": True}
            self.folder.mkdir(parents=True, exist_ok=True)
        options["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )
        all_options = ocp.CheckpointManagerOptions(create=False, **options)
        start = functools.partial(ocp.CheckpointManager, self.folder, None, all_options, item_names=_ITEMS)
        try:
            self._manager = start()
        except Exception:  # of many kinds
            self._leave_out_unopened()
            self._manager = start()

    def _leave_out_unopened(self) -> None:
        """Moves the checkpoints away that keep Orbax from opening the folder.

        Raises CheckpointError if none would be left, or if the folder was opened `read_only`.
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
        self._move_away(list(self._left_out))

    def __exit__(self, kind: type | None, *_) -> None:
        try:
            self.wait()
        except CheckpointError:
            if kind is None:  # otherwise the first error is reported
                raise
        finally:
            with contextlib.suppress(Exception):  # the same error again
                self._manager.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Starts to save. `position` is JSON: the positions of data and schedule. A step that is already saved is kept.

        The state's arrays must be replicated on their devices, which may belong to several processes.
        """
        if step == self.latest:
            return
        # The training loop forbids transfers from a device, but this one is intended.
        with self._saving(), jax.transfer_guard("allow"):
            state = jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, state)
            content = {"position": position, "bit_sums": _sums(state, position)}
            # A copy, because the next step may reuse the state's memory before the background save has read it.
            # With several processes Orbax saves only NumPy arrays and arrays that all processes share.
            state = jax.tree.map(jnp.copy, state) if jax.process_count() == 1 else jax.device_get(state)
            args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), position=ocp.args.JsonSave(content))
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with self._saving():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns exceptions of Orbax, perhaps about an earlier background save, into a CheckpointError."""
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
        self, like: Any, last: int | None = None, say: Callable[[str], None] = lambda text: None
    ) -> tuple[int, Any, dict[str, Any]]:
        """Step, state and position of the newest checkpoint, or of the newest up to step `last`; arrays of NumPy.

        A damaged checkpoint is reported, and the one before is used. The damaged one is moved to the folder `damaged`
        of the workdir, unless the folder was opened `read_only`. A checkpoint that cannot be read at the moment (a disk
        or server that does not answer, no memory) stays in its place, and CheckpointError is raised.

        `like` is a tree of arrays, or of their shapes and types. Raises CheckpointError if no checkpoint fits.
        """
        steps = [step for step in self.steps if last is None or step <= last]
        first_error = None

        def tell(error, step):
            before = next((f"; the one before is of step {other}" for other in self.steps if other < step), "")
            say(f"{_first_line(error)}\nDamaged, so it is left out{before}.")

        for step, error in self._left_out.items():
            tell(error, step)
        for number, step in enumerate(steps):
            try:
                state, position = self._read(step, like)
            except _DamagedError as error:
                first_error = first_error or error
                if number + 1 < len(steps):
                    tell(error, step)
                continue
            if number and not self._read_only:
                self._move_away(steps[:number])
                self._manager.reload()
            return step, state, position
        raise first_error or self._none()

    def _move_away(self, steps: list[int]) -> None:
        """Moves damaged checkpoints into another folder, so that these steps can be saved again."""
        folder = self.folder.parent / _DAMAGED
        for step in steps:
            folder.mkdir(exist_ok=True)
            count = sum(path.name.split(".")[0] == str(step) for path in folder.iterdir())
            (self.folder / str(step)).rename(folder / (f"{step}.{count}" if count else str(step)))

    def restore_params(self, like: Any, averaged: bool) -> tuple[int, Any]:
        """Step and parameters, or their moving average, of the newest checkpoint, without the rest of its state.

        `like` has shapes and types; the result has arrays of NumPy. Raises CheckpointError if there is no checkpoint,
        or if it does not fit.
        """
        if self.latest is None:
            raise self._none()
        state, _ = self._read(self.latest, {"ema" if averaged else "params": like})
        return self.latest, next(iter(state.values()))

    def shapes(self, averaged: bool) -> Any:
        """A tree like that of `restore_params`, of objects with a `shape`, of the newest checkpoint."""
        assert self.latest is not None
        with self._reading(self.latest):  # by the handler, because a checkpointer would hide the cause of an error
            fields = ocp.PyTreeCheckpointHandler().metadata(self.folder / str(self.latest) / "state").tree
        return fields.get("ema" if averaged else "params") or {}

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State and position of a checkpoint, with their bits as they were saved; arrays of NumPy.

        `like` may lack fields of the state. Raises CheckpointError.
        """
        like = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)  # for Orbax to fill
        places = ocp.checkpoint_utils.construct_restore_args(like)
        args = ocp.args.PyTreeRestore(like, restore_args=places, partial_restore=True)
        with self._reading(step):
            args = ocp.args.Composite(state=args, position=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=args)
            position, wanted = restored.position["position"], restored.position["bit_sums"]
            jax.tree.map_with_path(_check_shape, restored.state, like)
            sums = _sums(restored.state, position)
        if changed := [name for name, value in sums.items() if wanted.get(name, value) != value]:
            raise _DamagedError(
                f"{self.folder / str(step)}: is damaged: other bits than were saved in {', '.join(changed[:5])}\n"
                "Remove that folder to go on from the one before."
            )
        return restored.state, position

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns exceptions of Orbax into a _DamagedError, or a CheckpointError if the files may be intact."""
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


def _check_shape(path: Any, x: np.ndarray, like: np.ndarray) -> None:
    if x.shape != like.shape or x.dtype != like.dtype:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(f"{name} is {x.dtype}{list(x.shape)}, not {like.dtype}{list(like.shape)}")


def _may_pass(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, says nothing about the content of the files."""
    while error is not None:
        if isinstance(error, MemoryError) or any(word in str(error) for word in _NOT_NOW):
            return True
        numbers = [error.errno] if isinstance(error, OSError) else []
        numbers += map(int, _OS_ERROR.findall(str(error)))
        if any(number not in _NO_SUCH_FILE for number in numbers):
            return True
        error = error.__cause__ or error.__context__
    return False


def _sums(state: Any, position: dict[str, Any]) -> dict[str, int]:
    """For each array, by its path, and for the position a sum over its bits, which any single flipped bit changes."""
    named = jax.tree_util.tree_leaves_with_path(jax.device_get(jax.tree.map(_bit_sum, state)))
    sums = {jax.tree_util.keystr(path, simple=True, separator="/"): int(value) for path, value in named}
    return {**sums, "position": zlib.crc32(json.dumps(position, sort_keys=True).encode())}


@jax.jit  # array by array: one function of hundreds of arrays takes the tests far longer to compile
def _bit_sum(x: Shaped[jax.Array, "*N"]) -> UInt32[jax.Array, ""]:
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    size = min(x.dtype.itemsize, 4)
    words = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size])
    words = words.reshape(-1).astype(jnp.uint32)
    # With odd factors modulo 2^32 every changed bit changes the sum, and the order of addition does not matter.
    factors = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(0x9E3779B8) + jnp.uint32(1)
    return jnp.sum(words * factors, dtype=jnp.uint32)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def exist(workdir: str) -> bool:
    """Whether there is a checkpoint in `workdir`."""
    return _folder(workdir).exists() and bool(ocp.utils.checkpoint_steps(_folder(workdir)))


def _folder(workdir: str) -> epath.Path:
    path = epath.Path(workdir).expanduser()
    return (path if "://" in str(path) else path.absolute()) / "checkpoints"

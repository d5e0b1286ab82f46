"""The lock of a run's folder: only one run at a time may be in it."""

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator

from etils import epath

from loco_jax.cli import disk
from loco_jax.ops import distributed
from loco_jax.runs.checkpoints import CheckpointError

_LOCK_FILE = ".lock"


@contextlib.contextmanager
def owned(workdir: str, say: Callable[[str], None] = print) -> Iterator[None]:
    """While entered, no other run can be in `workdir`, on this machine or another that sees the same disk.

    The operating system releases the lock however a process ends. Buckets and some network disks have no locks, which
    `say` reports. If there are several processes, the first holds the lock.

    Raises CheckpointError in all processes if another run is there, or if the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        with distributed.together():
            if distributed.is_first():
                stack.enter_context(locked(workdir, say))
        yield


@contextlib.contextmanager
def locked(workdir: str, say: Callable[[str], None]) -> Iterator[None]:
    """The lock of `owned`, held by this process alone."""
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

"""The lock of a run's folder: only one run at a time may be in it."""

import contextlib
import datetime
import os
import socket
from collections.abc import Callable

from etils import epath

from loco_jax.cli import disk
from loco_jax.ops import distributed
from loco_jax.runs.checkpoints import CheckpointError


def owned(workdir: str, say: Callable[[str], None] = print) -> contextlib.AbstractContextManager:
    """Locks `workdir` until the result is left, against other runs on this machine or others that see the same disk.

    The operating system releases the lock however a process ends. Buckets and some network disks have no locks, which
    `say` reports. If there are several processes, the first holds the lock.

    Raises CheckpointError in all processes if another run is there, or if the folder cannot be written to.
    """
    with distributed.together():
        return locked(workdir, say) if distributed.is_first() else contextlib.nullcontext()


def locked(workdir: str, say: Callable[[str], None]) -> contextlib.AbstractContextManager:
    """The lock of `owned`, held by this process alone."""
    folder = epath.Path(workdir).expanduser()
    unguarded = f"{folder}: files cannot be locked there, so two runs at once in this workdir would not be noticed"
    if "://" in str(folder):
        say(unguarded)
        return contextlib.nullcontext()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written to ({error.strerror}); give another --workdir") from error
    try:
        if not disk.lock(file):
            say(unguarded)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "just started"
        raise CheckpointError(
            f"{folder}: another run is in there ({owner}); wait for it, stop it, or give another --workdir"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}\n")
    file.flush()
    return file

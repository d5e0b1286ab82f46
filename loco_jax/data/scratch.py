"""Folders for work in progress: removed when the work ends, or moved to their place when it is complete."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from loco_jax.cli import disk

_LOCK_FILE = ".lock"


@contextlib.contextmanager
def folder(parent: pathlib.Path, prefix: str) -> Iterator[pathlib.Path]:
    """A new folder in `parent`, named `prefix` and some letters. It is removed on exit.

    On entry, such folders of processes that were killed are removed. Folders of running processes are locked. On a disk
    without locks the two cannot be told apart, so all stay.
    """
    with contextlib.ExitStack() as stack:
        with _alone(parent) as can_lock:
            for path in parent.glob(f"{prefix}*") if can_lock else ():
                if path.is_dir() and not path.is_symlink() and not _is_in_use(path):
                    shutil.rmtree(path, ignore_errors=True)
            new = tempfile.TemporaryDirectory(dir=parent, prefix=prefix, ignore_cleanup_errors=True)
            path = pathlib.Path(stack.enter_context(new))
            if can_lock:
                file = stack.enter_context(open(path / _LOCK_FILE, "w"))
                disk.lock(file)
        yield path


@contextlib.contextmanager
def _alone(parent: pathlib.Path) -> Iterator[bool]:
    """While entered, no other process makes or removes such folders in `parent`. Yields whether the disk has locks."""
    number = os.open(parent, os.O_RDONLY)
    try:
        yield disk.lock(number, wait=True)
    finally:
        os.close(number)  # and so the lock


def _is_in_use(path: pathlib.Path) -> bool:
    try:
        with open(path / _LOCK_FILE, "r+") as file:
            return not disk.lock(file)
    except FileNotFoundError:  # killed before it had a lock
        return False
    except OSError:
        return True


def replace_folder(target: pathlib.Path, new: pathlib.Path, old: pathlib.Path) -> None:
    """Moves `new` to `target`. What was there moves to `old`, and back if this fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        new.rename(target)
        return
    try:
        target.rename(old)
        new.rename(target)
    except BaseException:  # also a signal, which comes as soon as a system call is over
        if old.exists() and not target.exists():
            old.rename(target)
        raise

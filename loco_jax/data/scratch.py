"""Folders for work in progress: removed when the work ends, or moved to their place when it is complete."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from loco_jax.cli import disk


@contextlib.contextmanager
def folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder in `path`, which is for this process alone; both are removed on exit.

    Leftovers of a killed process in `path` are removed on entry. Raises OSError if another process works there, which
    is not noticed on a disk without locks.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            disk.lock(lock)
        except BlockingIOError as error:
            raise OSError(f"{path}: another process works there; wait until it ends, or stop it") from error
        work = path / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def replace_folder(target: pathlib.Path, new: pathlib.Path, old: pathlib.Path) -> None:
    """Moves `new` to `target`. An existing `target` first moves to `old`, and back if this fails."""
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

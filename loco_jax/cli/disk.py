"""Atomic writing of files, locks of files, and a check before long work that a folder is writable."""

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any


def check_writable(folder: Any) -> None:
    """Raises OSError, with the place as `filename`, unless files can be written to `folder`, or to its nearest parent
    if it does not exist."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(folder)) from error


def lock(file: IO | int) -> bool:
    """Locks an open file, or a folder's descriptor, until it is closed; returns False if the disk has no file locks.

    Raises BlockingIOError if another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # the error differs between network disks
        return False
    return True


@contextlib.contextmanager
def whole(name: str) -> Iterator[pathlib.Path]:
    """Gives a path to write to. The file appears completely or not at all, and replaces a link of the same name."""
    part = pathlib.Path(name).with_name(f".{os.path.basename(name)}.part")
    try:
        yield part
        part.replace(name)
    finally:
        part.unlink(missing_ok=True)

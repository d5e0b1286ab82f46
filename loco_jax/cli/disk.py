"""Checks of a disk before long work: whether files can be written, and whether they can be locked."""

import fcntl
import os
import tempfile
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


def lock(file: IO | int, wait: bool = False) -> bool:
    """Locks an open file, or a folder's descriptor, until it is closed; returns False if the disk has no locks.

    If another process holds the lock, it waits, or raises BlockingIOError unless `wait`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # which error it is differs between network disks
        return False
    return True

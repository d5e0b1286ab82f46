"""What commands ask of a disk before long work: whether it takes files, and locks."""

import fcntl
import os
import pathlib
import tempfile
from typing import IO


def check_writable(folder: pathlib.Path) -> None:
    """Raises OSError, whose `filename` is that place, unless files can be written to `folder`, or where it would be."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(folder)) from error


def lock(file: IO | int, wait: bool = False) -> bool:
    """Locks an open file, or a folder's number, until it is closed; whether there are locks on that disk.

    Raises BlockingIOError if another process has it, unless that is to be waited for.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # which one differs between network disks
        return False
    return True

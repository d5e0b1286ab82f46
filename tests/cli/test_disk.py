"""What is asked of a disk: whether files can be written, and whether there are locks."""

import errno
import os
import subprocess
import sys

import pytest

from loco_jax.cli import disk

HOLD = """import sys
from loco_jax.cli import disk
file = open(sys.argv[1], "a")
print(disk.lock(file), flush=True)
sys.stdin.read()"""


def test_a_folder_takes_files_or_would(tmp_path):
    disk.check_writable(tmp_path)
    disk.check_writable(tmp_path / "not" / "there")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["file", "file/in/it"])
def test_what_cannot_be_written_to_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        disk.check_writable(tmp_path / name)
    assert (caught.value.filename, caught.value.errno) == (str(tmp_path / "file"), errno.ENOTDIR)


def test_one_process_has_a_lock_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    command, pipe = [sys.executable, "-c", HOLD, path], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other, open(path, "a") as file:
        assert other.stdout.readline() == "True\n"
        with pytest.raises(BlockingIOError):
            disk.lock(file)
        other.stdin.close()
        assert other.wait() == 0
        assert disk.lock(file)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_no_error(tmp_path, monkeypatch, number):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk.fcntl, "flock", none)
    with open(tmp_path / "lock", "a") as file:
        assert disk.lock(file) is False

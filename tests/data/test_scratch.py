"""Folders for work in progress are removed on exit or after a process was killed; others are left alone."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from loco_jax.cli import disk
from loco_jax.data import scratch

HOLD = """import pathlib, sys, time
from loco_jax.data import scratch
with scratch.folder(pathlib.Path(sys.argv[1]), ".work_") as folder:
    (folder / "large").write_text("x")
    print(folder.name, flush=True)
    time.sleep(60)"""


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_it_is_gone_when_it_is_left(tmp_path, error):
    try:
        with scratch.folder(tmp_path, ".work_") as folder:
            assert folder.parent == tmp_path and folder.name.startswith(".work_")
            (folder / "some" / "thing").mkdir(parents=True)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        assert error
    assert os.listdir(tmp_path) == []


def test_only_those_of_killed_processes_are_removed(tmp_path):
    others = [".workshop", "work_1", ".work_file", ".work_link"]
    for name in others[:2]:
        (tmp_path / name).mkdir()
    (tmp_path / others[2]).write_text("a file")
    (tmp_path / others[3]).symlink_to(tmp_path / others[0])
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        in_use = process.stdout.readline().strip()
        with scratch.folder(tmp_path, ".work_") as mine, scratch.folder(tmp_path, ".work_") as second:
            names = {*others, in_use, mine.name, second.name}
            assert len(names) == 7 and set(os.listdir(tmp_path)) == names
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert set(os.listdir(tmp_path)) == {*others, in_use}  # nobody removed it
    with scratch.folder(tmp_path, ".work_") as mine:
        assert set(os.listdir(tmp_path)) == {*others, mine.name}


def test_without_locks_nothing_is_taken_for_stale(tmp_path, monkeypatch):
    def none(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(disk.fcntl, "flock", none)
    (tmp_path / ".work_of_somebody").mkdir()
    with scratch.folder(tmp_path, ".work_") as mine:
        assert set(os.listdir(tmp_path)) == {".work_of_somebody", mine.name}
    assert os.listdir(tmp_path) == [".work_of_somebody"]


def test_a_signal_right_after_the_old_data_has_moved_brings_it_back(tmp_path, monkeypatch):
    for name in ("target", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of_{name}").touch()
    rename = pathlib.Path.rename

    def moves_and_stops(self, to):
        rename(self, to)
        if self.name == "target":
            raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "rename", moves_and_stops)
    with pytest.raises(KeyboardInterrupt):
        scratch.replace_folder(tmp_path / "target", tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path / "target") == ["of_target"] and not (tmp_path / "old").exists()


@pytest.mark.parametrize("how", ["it fails", "a signal"])
def test_what_cannot_be_replaced_stays(tmp_path, monkeypatch, how):
    for name in ("target", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of_{name}").touch()
    rename, error = pathlib.Path.rename, {"it fails": OSError, "a signal": KeyboardInterrupt}[how]

    def stops(self, to):
        if self.name == "new":
            raise error
        return rename(self, to)

    monkeypatch.setattr(pathlib.Path, "rename", stops)
    with pytest.raises(error):
        scratch.replace_folder(tmp_path / "target", tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path / "target") == ["of_target"] and not (tmp_path / "old").exists()

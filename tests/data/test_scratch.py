"""Folders for work in progress are removed on exit or after a process was killed; others are left alone."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from loco_jax.data import scratch

HOLD = """import pathlib, sys, time
from loco_jax.data import scratch
with scratch.folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "large").write_text("x")
    print(folder.name, flush=True)
    time.sleep(60)"""


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_it_is_gone_when_it_is_left(tmp_path, error):
    try:
        with scratch.folder(tmp_path / "data" / ".work") as folder:
            (folder / "some" / "thing").mkdir(parents=True)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        assert error
    assert os.listdir(tmp_path / "data") == []


def test_only_that_of_a_killed_process_is_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "work"], stdout=subprocess.PIPE, text=True)
    try:
        name = process.stdout.readline().strip()
        with pytest.raises(OSError, match="work: another process works there"), scratch.folder(tmp_path / "work"):
            pass
        assert os.listdir(tmp_path / "work" / name) == ["large"]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert os.listdir(tmp_path / "work" / name) == ["large"]  # nobody removed it
    with scratch.folder(tmp_path / "work") as folder:
        assert os.listdir(folder) == []
    assert os.listdir(tmp_path) == []


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

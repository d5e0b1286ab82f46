"""The lock of a workdir."""

import os

import pytest

from loco_jax.runs import checkpoints, lock
from tests.support import python, quietly, tiny


def test_a_workdir_is_of_one_run_at_a_time(toy, tmp_path):
    with lock.owned(str(tmp_path)):
        with pytest.raises(checkpoints.CheckpointError, match=f"another run is in there .process {os.getpid()} on"):
            quietly(tiny(steps=1), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    quietly(tiny(steps=1), tmp_path)
    said = []
    with lock.owned("gs://bucket/run", said.append):
        assert "files cannot be locked there" in said[0]


def test_a_killed_run_leaves_its_workdir_free(toy, tmp_path):
    hold = "import sys, time; from loco_jax.runs import lock\nwith lock.owned(sys.argv[1]): print(flush=True), "
    process = python("-c", hold + "time.sleep(99)", str(tmp_path))
    process.stdout.readline()
    with pytest.raises(checkpoints.CheckpointError, match=f"another run is in there .process {process.pid} on"):
        quietly(tiny(steps=1), tmp_path)
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert quietly(tiny(steps=1), tmp_path)[1][-1] == f"{tmp_path}: 1 steps done"


def test_workdir_that_cannot_be_written_to():
    with pytest.raises(checkpoints.CheckpointError, match="/proc/run: cannot be written to"):
        with lock.owned("/proc/run"):
            pass

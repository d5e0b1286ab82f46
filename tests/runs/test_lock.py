"""The lock of a workdir."""

import os

import pytest

from loco_jax.runs import checkpoints, lock
from tests.support import quietly, tiny

pytestmark = pytest.mark.usefixtures("toy_frames")


def test_a_workdir_is_of_one_run_at_a_time(toy, tmp_path):
    with lock.owned(str(tmp_path)):
        with pytest.raises(checkpoints.CheckpointError, match=f"another run is in there .process {os.getpid()} on"):
            quietly(tiny(steps=1), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    quietly(tiny(steps=1), tmp_path)
    said = []
    with lock.owned("gs://bucket/run", said.append):
        assert "no locks there" in said[0]


def test_workdir_that_cannot_be_written_to():
    with pytest.raises(checkpoints.CheckpointError, match="/proc/run: cannot be written to"):
        with lock.owned("/proc/run"):
            pass

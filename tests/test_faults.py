"""A few of `python -m tests.faults`, in no particular order; the others are in tests of what they concern."""

import pytest

from tests import faults


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return faults.Lab(tmp_path_factory.mktemp("lab"), seed=1)


def test_kill_9(lab):
    assert "killed 3 times" in faults.killed(lab, kills=3)


def test_disk_full(lab):
    assert "with room again" in faults.disk_full(lab)


def test_flipped_bits(lab):
    assert "of 24 single bits" in faults.many_flips(lab, flips=24)


def test_damaged_shard(lab):
    assert "With the file back" in faults.damaged_shard(lab)


def test_two_runs(lab):
    assert "the second ends with" in faults.two_runs(lab)


def test_workdir_that_cannot_be_written_to(lab):
    assert "cannot be written to" in faults.not_writable(lab)

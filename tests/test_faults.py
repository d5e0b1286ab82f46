"""A few of `python -m tests.faults`, in no particular order; the others are in tests of what they concern."""

import os

import pytest

from loco_jax.data import jta
from tests import faults
from tests.support.annotations import prepare_small_jta


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return faults.Lab(tmp_path_factory.mktemp("lab"), seed=1, steps=120)


def test_kill_9(lab):
    assert "killed 1 times" in faults.killed(lab, kills=1)


def test_disk_full(lab):
    assert "with room again" in faults.disk_full(lab)


def test_flipped_bits(lab):
    assert "of 24 single bits" in faults.many_flips(lab, flips=24)


def test_a_shard_that_cannot_be_read(tmp_path):
    data = prepare_small_jta(tmp_path)
    (shard,) = data.rglob("*train_vha*array_record*")
    told = "split 'train_vha': example 3 cannot be read .*prepare the data again"
    whole, opened = shard.read_bytes(), jta.load(data, "train_vha")
    assert opened[2]["frame"] is not None
    shard.write_bytes(whole[:-50_000])
    with pytest.raises(ValueError, match=told):
        jta.load(data, "train_vha")[3]
    os.truncate(shard, 1000)  # under a run
    with pytest.raises(ValueError, match=told):
        opened[3]

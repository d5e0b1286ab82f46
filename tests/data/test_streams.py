"""Batches of the crowd: those made at once are the same as those made one by one."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from loco_jax.data import crowd as crowds
from loco_jax.data import streams
from tests.support import noise

LAST = 2**31 - 3  # scenes are numbered up to 2^31 - 1, then begin anew


@pytest.fixture(autouse=True)
def noise_for_frames(monkeypatch):
    monkeypatch.setattr(streams, "crowd_frame", noise)
    streams._compile_crowd.cache_clear()
    yield
    streams._compile_crowd.cache_clear()


@pytest.mark.parametrize("pictures", [False, True])
def test_batches_made_at_once_are_the_same(pictures):
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), "batch"), PartitionSpec("batch"))
    single, several = (
        streams.CrowdStream(crowds.DEMO, "train", 2, sharding, LAST, pictures, render_batch) for render_batch in (1, 3)
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, single.like(), several.like()))
    expected = [jax.device_get(next(single)) for _ in range(5)]
    assert not np.array_equal(expected[0].joints, expected[1].joints)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(next(several)), batch)
    assert several.get_state() == single.get_state() == {"batches": 5}
    for position in (4, 1, 1, 3):  # in any order, in and out of what is made
        several.set_state({"batches": position})
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(next(several)), expected[position])

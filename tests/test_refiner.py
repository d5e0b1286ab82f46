"""The refiner's task: what is spoilt, what is counted, and that it learns to do better than the spoilt poses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import refiner as refiner_config
from loco_jax import distributed, tasks, train
from loco_jax.data import streams
from loco_jax.models import refiner as network
from loco_jax.tasks import refiner


@functools.lru_cache
def _setting():
    config = refiner_config.get_config("scale=demo")
    config.steps = 150
    config.optimizer.warmup = 20
    sharding = NamedSharding(distributed.make_mesh(1), PartitionSpec("batch"))
    stream = streams.CrowdStream(streams.crowd_of(config), "train", config.data.batch_size, sharding)
    return config, tasks.create(config), next(stream)


def test_what_is_spoilt_is_what_it_says():
    _, task, frames = _setting()
    spoilt = jax.device_get(jax.jit(task.spoil)(frames, jax.random.key(1)))
    joints = np.asarray(frames.joints)
    assert set(np.unique(spoilt.kind[..., 0])) == {0, 1} and spoilt.known[..., 0].all()
    np.testing.assert_array_equal(spoilt.joints[spoilt.kind == 0], joints[spoilt.kind == 0])
    assert not spoilt.joints[spoilt.kind == 3].any()
    np.testing.assert_array_equal(spoilt.known, spoilt.kind != 3)
    changed = (spoilt.kind == 1) & np.asarray(frames.present)
    moved = np.linalg.norm((spoilt.joints - joints)[changed], axis=-1)
    ray = joints[changed] / np.linalg.norm(joints[changed], axis=-1, keepdims=True)
    along = np.sum((spoilt.joints - joints)[changed] * ray, axis=-1)
    across = np.sqrt((np.square(moved) - np.square(along)) / 2)  # a mean over the two axes
    rms = np.sqrt(np.mean(np.square(across)))
    assert rms == pytest.approx(task.move_by * np.sqrt(4 / 3), rel=0.15)  # sizes uniform up to twice `move_by`
    assert np.sqrt(np.mean(np.square(along))) == pytest.approx(task.along_ray * rms, rel=0.15)
    shares = [(spoilt.kind[..., 1:] == k).mean() for k in range(4)]
    assert shares[3] == pytest.approx(task.missing, abs=0.05)
    assert shares[0] == pytest.approx((1 - task.moved) * (shares[0] + shares[1]), abs=0.03)


def test_normalising_and_back():
    rng = np.random.default_rng(0)
    joints = jnp.asarray(rng.normal(0, 0.3, (5, 14, 3)) + [1, 2, 9], jnp.float32)
    offsets = network.normalise(joints, jnp.ones((5, 14), bool))
    np.testing.assert_allclose(network.restore(offsets, joints[:, 0]), joints, atol=1e-5)
    holes = network.normalise(joints, jnp.zeros((5, 14), bool))
    np.testing.assert_array_equal(holes, np.full((5, 39), -1))


def test_errors_are_summed_by_what_happened():
    _, task, frames = _setting()
    there = np.asarray(frames.present).all(axis=-1)
    joints = np.asarray(frames.joints)
    kind = np.random.default_rng(0).integers(0, 4, joints.shape[:3])
    away = np.array([0.1, 0.2, 0.3, 0.4])[kind]
    found = refiner.Found(joints, joints + away[..., None] * [0, 1, 0], joints + [0.05, 0, 0], kind)
    summary = task.summary(task.score(found, frames))
    for k, name in enumerate(refiner.KINDS):
        assert summary["after_cm"][name] == pytest.approx(10 * (k + 1), rel=1e-3)
        assert summary["joints"][name] == (kind[..., 1:] == k)[there].sum()
    assert summary["clean_cm"] == pytest.approx(5, rel=1e-3)
    assert "missing" in task.table(summary)


def test_it_learns_to_fill_holes():
    config, task, frames = _setting()
    optimizer = train.make_optimizer(config)
    state = train.init_state(task, optimizer, config, frames)
    step = jax.jit(functools.partial(train.train_step, task=task, optimizer=optimizer, stage=0, seed=0, ema=0.0))
    predict = jax.jit(functools.partial(task.predict, thorough=False))

    def errors(params):
        found = jax.device_get(predict(params, frames, jax.random.key(5)))
        return task.summary(task.score(found, jax.device_get(frames)))

    before = errors(state.params)
    for _ in range(config.steps):
        state, _ = step(state, frames)
    after = errors(state.params)
    assert after["after_cm"]["missing"] < 0.5 * before["after_cm"]["missing"]
    assert len(task.picture(jax.device_get(predict(state.params, frames, jax.random.key(5))), frames, 0, "x").axes) >= 2


def test_shares_that_cannot_be():
    config = refiner_config.get_config()
    config.spoil.missing = 0.98
    with pytest.raises(ValueError, match="config.spoil"):
        tasks.create(config)

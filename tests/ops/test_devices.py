"""The fast paths of autoencoders where several devices share a batch: as on one device, each its own frames only."""

import functools
import math

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from loco_jax import ops
from loco_jax import step as training
from loco_jax.data import crowd as crowds
from loco_jax.data import streams
from loco_jax.data.frames import Frames
from loco_jax.geometry import camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import patch_vha, vha
from loco_jax.ops.cpu import encoding
from loco_jax.pose import peaks
from loco_jax.step import TrainState, train_step
from loco_jax.tasks.vha import VhaTask
from tests.support import devices, noise, python
from tests.support.autoencoders import random_crowd, random_params

VOLUME = Volume(image_size=(512, 480), stride=32, depth_bins=18, max_distance=25.0)  # 16 x 15 x 18
NETWORKS = [patch_vha.PatchVHA(1, 18, width=8, blocks=0), vha.VHA(1, 18)]
BATCH = 4
RATE = 1e6


def test_two_devices_are_as_one():
    command = "from tests.ops import test_devices; test_devices.check()"
    process = python("-c", command, **devices(2))
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said


def check():
    """What is asserted in a process of two devices."""
    # The ways of large volumes, for a small one.
    encoding.pays = lambda *arguments: True
    ops._LEAST_TO_SUM = ops._LEAST_TO_SEARCH = 0
    peaks.CAPACITIES = ((512, 4),)  # sooner compiled
    for network in NETWORKS:
        task = VhaTask(VOLUME, network, (1.0,), True, 0.1, 8)
        params = jax.device_get(random_params(network, network.depth_bins))
        grids = [(1,), (2,)]
        if network is NETWORKS[1]:  # tests/test_multihost.py shares the rows of the other
            grids += [(1, 2)]
        one, *others = (step(task, params, grid) for grid in grids)
        for other in others:
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
                assert np.abs(a).max() > 0
                np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4 * np.abs(a).max())
    check_peaks()
    check_crowd()


def step(task, params, grid):
    """Loss and gradient of a batch on a grid of devices that share the frames, and then the rows of each."""
    voxels, present = random_crowd(1, VOLUME.shape, BATCH)
    joints = jax.device_get(VOLUME.to_camera(camera.JTA, voxels))
    frames = Frames(joints, present, camera.Camera(*(np.full(BATCH, f, np.float32) for f in camera.JTA)))
    optimizer = optax.sgd(RATE)
    state = TrainState(np.int32(0), params, optimizer.init(params), None)

    count = math.prod(grid)
    mesh = Mesh(np.array(jax.devices()[:count]).reshape(grid), ("batch", "rows")[: len(grid)])
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    frames = jax.device_put(frames, NamedSharding(mesh, PartitionSpec("batch")))
    options = {"task": task, "optimizer": optimizer, "stage": 0, "seed": 0, "ema": 0.0}
    compiled = training.compile_step(functools.partial(train_step, **options), mesh, state, frames)
    if len(grid) == 1:
        assert "while" in compiled.as_text()
        assert "all-gather" not in compiled.as_text()  # nobody needs the others' frames
    after, scalars = compiled(state, frames)
    loss = scalars["loss"]
    assert len(loss.sharding.device_set) == count
    return float(loss), jax.tree.map(lambda x, y: (x - y) / RATE, params, jax.device_get(after.params))


def check_peaks():
    """Those that `decode_peaks` finds on a device each, and on one."""
    network = NETWORKS[0]
    params = random_params(network, network.depth_bins)
    shape = BATCH, *vha.code_shape(VOLUME.shape, network.level)
    codes = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def find(params, codes):
        decode = functools.partial(ops.decode_peaks, network, params, size=VOLUME.shape[:2])
        return jax.lax.map(functools.partial(decode, max_peaks=16), codes)

    whole, batch = PartitionSpec(), PartitionSpec("batch")
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    shared = jax.shard_map(find, mesh=mesh, in_specs=(whole, batch), out_specs=batch, check_vma=False)
    one, other = (jax.device_get(jax.jit(way)(params, codes)) for way in (find, shared))
    assert len(set(one.count.ravel())) > 9, one.count
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def check_crowd():
    """Batches that are made at once are those that are made one by one, and as evenly shared."""
    streams.crowd_frame = noise
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "batch"), PartitionSpec("batch"))
    single, several = (streams.CrowdStream(crowds.DEMO, "train", BATCH, sharding, 0, True, n) for n in (1, 2))
    for _ in range(3):
        one, other = next(single), next(several)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(other), jax.device_get(one))
        assert other.joints.sharding.is_equivalent_to(sharding, other.joints.ndim)

"""Uncompressed volumetric heatmaps: the loss is a sum over voxels, and a true volume scores as the ground truth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.data.frames import Origin
from loco_jax.models.volumetric import VolumetricPredictor
from loco_jax.tasks import volumetric
from loco_jax.tasks.people import GROUND_TRUTH, SUBVOXEL
from tests.tasks.test_location_maps import FRAMES, VOLUME

SIGMA = 2.0
PARAMS = {"predictor": {}}


class Oracle(VolumetricPredictor):
    """Says some volume of any picture."""

    depth_bins: int = VOLUME.depth_bins
    logits: Any = None

    def __call__(self, image, camera):
        return self.logits


def _task(logits, **options) -> volumetric.VolumetricTask:
    network = Oracle(logits=jnp.asarray(logits, jnp.float32))
    return volumetric.VolumetricTask(network=network, volume=VOLUME, sigma=SIGMA, max_peaks=8, **options)


def _true(subvoxel: bool) -> np.ndarray:
    """The heatmaps `[1, 14, H, W, D]` of FRAMES in NumPy, Gaussian by Gaussian."""
    fx, fy, cx, cy = (float(f[0]) for f in FRAMES.camera)
    volume = np.zeros((1, 14, *VOLUME.shape))
    grid = np.stack(np.mgrid[tuple(slice(n) for n in VOLUME.shape)], axis=-1)
    for who in range(2):
        for j, (x, y, z) in enumerate(FRAMES.joints[0, who].astype(np.float64)):
            away = np.sqrt(x * x + y * y + z * z)
            at = np.array([(fy * y / z + cy) / 8, (fx * x / z + cx) / 8, away * (VOLUME.depth_bins - 1) / 16])
            inside = (np.abs(grid - np.round(at)) <= 5).all(axis=-1)  # the cube of side 5 sigma, rounded up to odd
            centre = at if subvoxel else np.round(at)
            gaussian = np.exp(-np.sum((grid - centre) ** 2, axis=-1) / SIGMA**2)
            volume[0, j] = np.maximum(volume[0, j], np.where(inside, gaussian, 0))
    return volume


@pytest.mark.parametrize("subvoxel", [True, False])
@pytest.mark.parametrize("kind", ["entropy", "squared"])
def test_the_loss_is_a_sum_over_voxels(kind, subvoxel):
    true = _true(subvoxel)
    logits = np.random.default_rng(0).normal(-3, 1, true.shape).astype(np.float32)
    task = _task(logits, kind=kind, subvoxel=subvoxel)
    loss, _ = jax.jit(lambda frames: task.loss(PARAMS, frames, jax.random.key(0), 0))(FRAMES)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    error = (p - true) ** 2 if kind == "squared" else -true * np.log(p) - (1 - true) * np.log(1 - p)
    assert float(loss) == pytest.approx(error.sum() / 28, rel=1e-4)  # two people with 14 joints


def test_joints_that_a_data_set_lacks_are_no_targets():
    """They have neither loss nor gradients, whatever the network says of them."""
    present = FRAMES.present.copy()
    present[..., 0] = False
    origin = Origin(
        np.zeros(1, np.int32), np.ones(1, np.float32), np.arange(14)[None] > 0, np.zeros_like(FRAMES.present)
    )
    frames = FRAMES._replace(present=present, origin=origin)
    logits = np.random.default_rng(0).normal(-3, 1, _true(True).shape).astype(np.float32)

    @jax.value_and_grad
    def loss(logits):
        return _task(logits).loss(PARAMS, frames, jax.random.key(0), 0)[0]

    value, gradients = jax.jit(loss)(logits)
    p, true = (1 / (1 + np.exp(-logits.astype(np.float64))))[:, 1:], _true(True)[:, 1:]
    assert float(value) == pytest.approx(-np.sum(true * np.log(p) + (1 - true) * np.log(1 - p)) / 26, rel=1e-4)
    assert not gradients[:, 0].any() and all(gradients[0, j].any() for j in range(1, 14))


def test_the_true_volume_has_the_least_loss():
    clipped = np.clip(_true(True), 1e-6, 1 - 1e-6)
    logits = np.log(clipped / (1 - clipped))

    def loss(logits, kind):
        task = _task(logits, kind=kind)
        return float(jax.jit(lambda frames: task.loss(PARAMS, frames, jax.random.key(0), 0)[0])(FRAMES))

    for kind in volumetric.LOSSES:
        least = loss(logits, kind)
        assert least < loss(logits + 0.3, kind) and least < loss(logits - 0.3, kind)
    assert loss(logits, "squared") == pytest.approx(0, abs=1e-5)


def test_a_true_volume_scores_as_the_ground_truth():
    clipped = np.clip(_true(subvoxel=True), 1e-30, 1 - 1e-7)
    task = _task(np.log(clipped / (1 - clipped)))
    predict = jax.jit(lambda frames: task.predict(PARAMS, frames, jax.random.key(0), thorough=True))
    summary = task.summary(task.score(jax.device_get(predict(FRAMES)), FRAMES))
    systems = summary["systems"]
    assert list(systems) == [task.name, GROUND_TRUTH, SUBVOXEL]
    mine, best = systems[task.name], systems[SUBVOXEL]
    assert mine["hungarian"] == best["hungarian"] and mine["nearest"] == best["nearest"]
    assert mine["hungarian"]["0.8 m"]["f1"] == 1.0 and mine["people"]["found"] == 2
    assert mine["error_cm"] == pytest.approx(best["error_cm"], abs=0.1)
    assert summary["frames_with_too_many_peaks"] == 0


def test_the_second_loss_has_a_name_of_its_own():
    logits = np.zeros((1, 14, *VOLUME.shape))
    names = [_task(logits, kind=kind).name for kind in volumetric.LOSSES]
    assert names == ["uncompressed volumetric heatmaps", "uncompressed volumetric heatmaps, squared error"]

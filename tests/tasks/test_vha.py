"""The autoencoders' task against the formulas."""

import functools
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax import report
from loco_jax.data import crowd as crowds
from loco_jax.data.frames import Frames, Origin
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume
from loco_jax.models import patch_vha, vha
from loco_jax.tasks.vha import NOISES, VhaTask
from tests.support.autoencoders import code_and_heatmaps, random_params

SMALL = Volume(image_size=(64, 96), stride=8, depth_bins=16, max_distance=25.0)  # 8 x 12 x 16
CAMERA = Camera(60.0, 60.0, 48.0, 32.0)


def point(camera: Camera, volume: Volume, voxel) -> np.ndarray:
    """Metres of a continuous voxel (row, column, bin), as method.md has it in section 2."""
    row, column, bin = voxel
    ray = np.array([(volume.stride * column - camera.cx) / camera.fx, (volume.stride * row - camera.cy) / camera.fy, 1])
    return bin * volume.max_distance / (volume.depth_bins - 1) * ray / np.linalg.norm(ray)


def frames_of(camera: Camera, joints: np.ndarray, present: np.ndarray) -> Frames:
    batch = len(joints)
    return Frames(joints.astype(np.float32), present, Camera(*(np.full(batch, value, np.float32) for value in camera)))


@pytest.fixture(scope="module")
def crowded() -> Frames:
    """Two frames of three people in `SMALL`, among them joints off the picture, too far, behind, and absent."""
    rng = np.random.default_rng(1)
    voxels = rng.uniform([0.6, 0.6, 3], [7.4, 11.4, 14.4], (2, 3, 14, 3))
    joints = np.stack([point(CAMERA, SMALL, v) for v in voxels.reshape(-1, 3)]).reshape(2, 3, 14, 3)
    present = rng.uniform(size=(2, 3, 14)) < 0.8
    present[0, :, :4] = True
    joints[0, 0, 0] = point(CAMERA, SMALL, (4, 12.3, 8))  # right of the picture
    joints[0, 1, 0] = point(CAMERA, SMALL, (-0.2, 5, 8))  # above it, though its Gaussian would be seen
    joints[0, 2, 0] = point(CAMERA, SMALL, (4, 5, 15.3))  # too far
    joints[0, 0, 1] = -joints[0, 0, 1]  # behind
    joints[0, 0, 2] = point(CAMERA, SMALL, (7.9, 5, 8))  # below, but in the padded grid: 7.9 rows are 63.2 pixels
    joints[0, 0, 3] = point(CAMERA, SMALL, (8.1, 5, 8))
    return frames_of(CAMERA, joints, present)


def task_of(volume: Volume, network: nn.Module, **changes) -> VhaTask:
    arguments = {"sigmas": (2.0,), "subvoxel": False, "code_noise": 0.0, "max_peaks": 4}
    return VhaTask(volume, network, **{**arguments, **changes})


def targets_by_hand(
    frames: Frames, volume: Volume, camera: Camera, sigma: float, subvoxel: bool = False
) -> tuple[np.ndarray, int]:
    """Heatmaps of everyone in view, the dense formula, and how many joints are in them."""
    at = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    half = {2.0: 5, 3.0: 7}[sigma]
    height, width = volume.image_size
    heatmaps, count = np.zeros((len(frames.joints), 14, *volume.shape)), 0
    for b, p, j in np.argwhere(frames.present):
        x, y, z = map(float, frames.joints[b, p, j])
        distance = math.sqrt(x * x + y * y + z * z)
        if z <= 0 or distance > volume.max_distance:
            continue
        u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        if not (0 <= u <= width and 0 <= v <= height):
            continue
        count += 1
        bin = distance * (volume.depth_bins - 1) / volume.max_distance
        voxel = np.array([v / volume.stride, u / volume.stride, bin])
        centre = voxel if subvoxel else np.rint(voxel)
        squared = ((at - centre) ** 2).sum(-1)
        gauss = np.where((abs(at - np.rint(voxel)) <= half).all(-1), np.exp(-squared / sigma**2), 0)
        heatmaps[b, j] = np.maximum(heatmaps[b, j], gauss)
    return heatmaps, count


def test_published_loss_is_the_mean_squared_error(crowded):
    network = vha.VHA(1, 16)
    params = random_params(network, 16)
    task = task_of(SMALL, network, sigmas=(3.0, 2.0))
    for stage, sigma in enumerate((3.0, 2.0)):
        target, _ = targets_by_hand(crowded, SMALL, CAMERA, sigma)
        found = np.asarray(code_and_heatmaps(network, params, target.astype(np.float32))[1], np.float64)
        wanted = np.mean((found - target) ** 2)
        loss, logged = jax.jit(functools.partial(task.loss, stage=stage))(params, crowded, jax.random.key(0))
        assert loss == pytest.approx(wanted, rel=1e-4)
        assert all(np.isfinite(value) for value in logged.values())


@pytest.mark.parametrize("subvoxel", [False, True])
def test_patch_loss_is_the_cross_entropy_a_joint_in_view(crowded, subvoxel):
    """Of as many joints as the formula counts; and a tenth of how far the code's mean square is from one, squared."""
    network = patch_vha.PatchVHA(1, 16, width=8, blocks=1)
    params = random_params(network, 16)
    task = task_of(SMALL, network, subvoxel=subvoxel)
    target, count = targets_by_hand(crowded, SMALL, CAMERA, 2.0, subvoxel)
    assert 30 < count < crowded.present.sum() - 4
    code, found = (np.asarray(x, np.float64) for x in code_and_heatmaps(network, params, target.astype(np.float32)))
    entropy = -(target * np.log(found) + (1 - target) * np.log1p(-found))
    wanted = np.sum(entropy) / count + 0.1 * (np.mean(code**2) - 1) ** 2
    loss, logged = jax.jit(functools.partial(task.loss, stage=0))(params, crowded, jax.random.key(0))
    assert loss == pytest.approx(wanted, rel=1e-3)
    assert logged["code_mean"] == pytest.approx(code.mean(), rel=1e-3)
    assert logged["code_std"] == pytest.approx(code.std(axis=(1, 2, 3)).mean(), rel=1e-3)


@pytest.mark.parametrize("network", [vha.VHA(1, 16), patch_vha.PatchVHA(1, 16, width=8, blocks=1)])
def test_heatmaps_of_joints_that_a_data_set_lacks_do_not_count(crowded, network):
    """Neither in the loss, nor for its gradients; other frames of the batch keep theirs."""
    params = random_params(network, 16)
    frames = crowded._replace(present=crowded.present & (np.arange(14) != 3))
    batch = len(frames.present)
    annotated = np.ones((batch, 14), bool)
    annotated[0, 3] = False
    origin = Origin(np.zeros(batch, np.int32), np.ones(batch, np.float32), annotated, np.zeros_like(frames.present))
    task = task_of(SMALL, network)
    target, count = targets_by_hand(frames, SMALL, CAMERA, 2.0)
    code, found = (np.asarray(x, np.float64) for x in code_and_heatmaps(network, params, target.astype(np.float32)))
    counts = annotated[..., None, None, None]
    if isinstance(network, vha.VHA):
        wanted = np.mean((found - target) ** 2 * counts)
    else:
        entropy = -(target * np.log(found) + (1 - target) * np.log1p(-found))
        wanted = np.sum(entropy * counts) / count + 0.1 * (np.mean(code**2) - 1) ** 2
    of = jax.jit(lambda frames: task.loss(params, frames, jax.random.key(0), 0)[0])
    assert float(of(frames._replace(origin=origin))) == pytest.approx(wanted, rel=1e-3)
    assert abs(float(of(frames)) - wanted) > 1e-2 * wanted


class Identity(nn.Module):
    """A network whose code is the heatmaps themselves: `[B, J * H, W, D]`."""

    level: int = 1
    dtype: jnp.dtype = jnp.float32
    depth_bins: int = 40

    def encode(self, heatmaps):
        batch, joints, rows, columns, bins = heatmaps.shape
        return heatmaps.reshape(batch, joints * rows, columns, bins)

    def decode(self, code, size=None):
        return code.reshape(code.shape[0], 14, -1, *code.shape[2:])


def test_noise_on_the_code_is_a_random_part_of_its_deviation(crowded):
    def losses(noise):
        task = task_of(SMALL, Identity(), code_noise=noise)
        keys = jax.random.split(jax.random.key(3), 60)
        return np.asarray(jax.jit(jax.vmap(lambda key: task.loss({}, crowded, key, 0)[0]))(keys))

    assert (losses(0.0) == 0).all()
    variances = targets_by_hand(crowded, SMALL, CAMERA, 2.0)[0].var(axis=(1, 2, 3, 4))
    noisy = losses(0.5)
    assert len(set(noisy.tolist())) == 60
    np.testing.assert_array_equal(noisy, losses(0.5))
    assert noisy.max() < 1.1 * 0.25 * variances.mean()
    # The mean square of a uniform part up to c is c^2 / 3.
    assert noisy.mean() == pytest.approx(0.25 / 3 * variances.mean(), rel=0.25)


GRID = Volume(image_size=(270, 480), stride=16, depth_bins=40, max_distance=25.0)  # 24 x 30 x 40


@pytest.fixture(scope="module")
def identity():
    """Two people far from each other, and an empty frame, through the identity; and the true joints' voxels."""
    rng = np.random.default_rng(2)
    camera = crowds.DEMO.camera
    base = np.array([[8, 7, 12], [9, 22, 27]])
    voxels = base[:, None] + rng.integers(-2, 3, (2, 14, 3)) + rng.uniform(-0.45, 0.45, (2, 14, 3))
    joints = np.zeros((2, 3, 14, 3))
    joints[0, :2] = np.stack([point(camera, GRID, v) for v in voxels.reshape(-1, 3)]).reshape(2, 14, 3)
    present = np.zeros((2, 3, 14), bool)
    present[0, :2] = True
    present[0, 2, 0] = True
    joints[0, 2, 0] = point(camera, GRID, (8, -0.3, 20))  # off the picture: neither target nor miss
    present[0, 1, 13] = False
    true = [(j, p, voxels[p, j]) for p in range(2) for j in range(14) if (p, j) != (1, 13)]
    task = task_of(GRID, Identity())
    frames = frames_of(camera, joints, present)
    predicted, frames = jax.device_get((jax.jit(task.predict, static_argnums=3)({}, frames, KEY, True), frames))
    return task, predicted, frames, true


KEY = jax.random.key(7)


def test_perfect_heatmaps_give_every_joints_voxel(identity):
    task, predicted, frames, true = identity
    found = {
        (j, *predicted.peaks.voxels[0, 0, j, k].astype(int)) for j, k in np.argwhere(predicted.peaks.scores[0, 0] > 0)
    }
    assert found == {(j, *np.rint(v).astype(int)) for j, _, v in true} and len(found) == 27
    assert not predicted.peaks.scores[1].any()
    summary = task.summary(task.score(predicted, frames))
    for matching in ("hungarian", "nearest"):
        for threshold in ("0 vx", "1 vx", "2 vx"):
            scores = summary["scores"][matching]["noise 0"][threshold]
            assert scores == {"tp": 27, "fp": 0, "fn": 0, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert task.headline(summary) == {"f1_0vx": 1.0, "f1_1vx": 1.0, "f1_2vx": 1.0}
    assert summary["frames"] == 2 and summary["frames_with_too_many_peaks"] == 0


def test_errors_are_those_of_rounding_to_voxels(identity):
    task, predicted, frames, true = identity
    camera = crowds.DEMO.camera
    exact = np.array([point(camera, GRID, v) for _, _, v in true])
    errors = np.linalg.norm(np.array([point(camera, GRID, np.rint(v)) for _, _, v in true]) - exact, axis=-1)
    summary = task.summary(task.score(predicted, frames))
    assert summary["error_cm"] == pytest.approx(100 * errors.mean(), rel=1e-3)
    for matching in ("hungarian", "nearest"):
        for threshold in (0.4, 0.8, 1.2):  # the two people are farther apart than that
            score = summary["scores"][matching]["noise 0"][f"{threshold} m"]
            tp = int((errors <= threshold).sum())
            assert (score["tp"], score["fp"], score["fn"]) == (tp, 27 - tp, 27 - tp)
    assert (errors > 0.4).any() and (errors < 0.4).any()
    distances = np.linalg.norm(exact, axis=-1)
    bands = [(0, 10), (10, 20), (20, 25)]
    assert [tuple(band["metres"]) for band in summary["by_distance"]] == bands
    for band, (low, high) in zip(summary["by_distance"], bands):
        inside = (distances >= low) & (distances < high)
        assert band["joints"] == inside.sum()
        if inside.any():
            assert band["recall"] == 1.0 and band["error_cm"] == pytest.approx(100 * errors[inside].mean(), rel=1e-3)
        else:
            assert band["recall"] is None and band["error_cm"] is None


def test_subvoxel_targets_leave_next_to_no_error(identity):
    """The tops of parabolas through the logarithms are exact for Gaussians that stand alone (method section 2)."""
    _, _, frames, true = identity
    task = task_of(GRID, Identity(), subvoxel=True)
    predicted = jax.device_get(jax.jit(task.predict, static_argnums=3)({}, frames, KEY, False))
    assert predicted.peaks.scores.shape == (2, 1, 14, 4)  # without noise only
    summary = task.summary(task.score(predicted, frames))
    assert summary["scores"]["hungarian"]["noise 0"]["0 vx"]["tp"] == len(true)
    assert summary["error_cm"] < 0.1  # a bin is 64 cm
    assert list(summary["scores"]["hungarian"]) == ["noise 0"]


def test_noise_in_scoring_is_each_part_of_the_deviation(identity):
    """A peak of 1 becomes 1 + noise, and stays the highest of its surroundings."""
    _, predicted, _, true = identity
    deviation = predicted.code[0].std()
    for n, part in enumerate(NOISES):
        scores = predicted.peaks.scores[0, n]
        errors = scores[scores > 0.5] - 1
        assert len(errors) == len(true)
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(part * deviation, rel=0.35, abs=1e-6)
    assert NOISES == (0.0, 0.05, 0.1, 0.2)


def test_misses_and_false_alarms_count(identity):
    """One true joint moved by 2 voxels, one taken away, one added: counted by hand."""
    task, predicted, frames, _ = identity
    moved = jax.tree.map(np.copy, predicted)
    moved.true_voxels[0, 0, 3, 2] += 2
    moved.true_present[0, 0, 4] = False
    moved.true_present[0, 1, 13] = True
    moved.true_voxels[0, 1, 13] = (1, 1, 1)
    record = task.score(moved, frames)[0]
    for threshold, tp in ((0, 25), (1, 25), (2, 26)):
        scores = record.scores["hungarian", "noise 0", f"{threshold} vx"]
        assert (scores.tp, scores.fp, scores.fn) == (tp, 27 - tp, 27 - tp)
    assert record.bands[0].sum() == 27 and record.bands[1].sum() == 26


def test_joints_that_a_data_set_lacks_are_not_scored(identity):
    """The heads, which are found but are not annotated, are false alarms only where the data set has heads."""
    task, predicted, frames, _ = identity
    present = predicted.true_present.copy()
    present[:, :, 0] = False
    lacks = np.tile(np.arange(14) > 0, (2, 1))
    origin = Origin(np.zeros(2, np.int32), np.ones(2, np.float32), lacks, np.zeros_like(present))
    headless = predicted._replace(true_present=present)
    for given, false in ((None, 2), (origin, 0)):
        scores = task.score(headless, frames._replace(origin=given))[0].scores
        counts = {key: (s.tp, s.fp, s.fn) for key, s in scores.items()}
        assert all(counts["hungarian", "noise 0", f"{n} vx"] == (25, false, 0) for n in range(3))
        assert sum(counts["hungarian", "noise 0", "1.2 m"]) == 25 + false


def test_too_many_peaks_are_told(identity):
    task, predicted, frames, _ = identity
    assert not task.score(predicted, frames)[0].overflow
    crammed = predicted._replace(peaks=predicted.peaks._replace(count=predicted.peaks.count + 3))
    assert task.score(crammed, frames)[0].overflow  # 2 of a type, 4 places, 5 peaks


def test_summary_is_json_without_nan(identity):
    task, predicted, frames, _ = identity
    nobody = jax.tree.map(lambda x: x[1:], (predicted, frames))
    for records in (task.score(predicted, frames), task.score(*nobody)):
        summary = task.summary(records)
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert set(summary["scores"]) == {"hungarian", "nearest"}
        assert list(summary["scores"]["nearest"]) == ["noise 0", "noise 0.05", "noise 0.1", "noise 0.2"]
    assert summary["error_cm"] is None  # of an empty frame
    assert summary["scores"]["hungarian"]["noise 0"]["0 vx"]["f1"] == 1.0
    assert summary["code"] == {"mean": 0.0, "std": 0.0}


def test_picture_is_a_figure(identity):
    task, predicted, frames, _ = identity
    flat = predicted._replace(code=predicted.code[:, :24])  # drawing wants the grid of a code
    figure = report.picture(task, flat, frames, 0, "frame 0")
    assert len(figure.axes) >= 4


def test_description_has_the_papers_figures():
    """method.md: 3,448,442 parameters, and 144,399,360 numbers to 161,160: 896 times fewer."""
    text = task_of(Volume(), vha.VHA(2, 316)).describe()
    for part in ("VHA(2)", "3,448,442 parameters", "14 x 136 x 240 x 316", "34 x 60 x 79", "896 times"):
        assert part in text

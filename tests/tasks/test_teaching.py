"""What the features are taught: true poses in closed form, and losses that vanish for the truth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.data.frames import Origin
from loco_jax.geometry import skeleton
from loco_jax.models.compact import POSE_SIZE, CompactPredictor
from loco_jax.pose import reading
from loco_jax.tasks import teaching
from tests.support.standing import CAMERA, VOLUME, frames_of, person


@pytest.mark.parametrize("turn", [0.0, 0.7, 2.0, -1.5])
def test_a_pose_straight_ahead_is_in_camera_axes(turn):
    pose = teaching.true_poses(jnp.asarray(person((0, 0, 5), turn)))
    np.testing.assert_allclose(pose.offsets, person((0, 0, 0), turn), atol=1e-5)
    np.testing.assert_allclose(pose.side, [np.cos(turn), np.sin(turn)], atol=1e-5)
    assert float(jnp.exp(pose.distance)) == pytest.approx(5, rel=1e-5)


def test_a_pose_looks_the_same_wherever_it_is_seen():
    """Turned about the vertical with the ray to it, a person has the same offsets, side and distance."""
    ahead = teaching.true_poses(jnp.asarray(person((0, 0, 7), 0.4)))
    angle = 0.5
    aside = teaching.true_poses(jnp.asarray(person((-7 * np.sin(-angle), 0, 7 * np.cos(angle)), 0.4 - angle)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), aside, ahead)


def test_absent_people_give_finite_numbers():
    assert all(np.isfinite(v).all() for v in teaching.true_poses(jnp.zeros((3, 14, 3))))


def test_the_error_is_zero_for_the_truth_and_grows_for_each_part():
    true = teaching.true_poses(jnp.asarray(person((1, 0.2, 6), 1.0)))
    numbers = jnp.concatenate([true.offsets.ravel(), true.side, true.distance[None]])
    assert numbers.shape == (POSE_SIZE,)
    error = jax.jit(lambda numbers: teaching.pose_error(reading.unpack(numbers), true))
    assert float(error(numbers)) == 0
    for i in (0, 41, 42, 43, 44):
        assert float(error(numbers.at[i].add(0.1))) > 1e-6
    mirrored = true._replace(offsets=true.offsets[jnp.array(skeleton.MIRROR)])
    assert float(teaching.pose_error(mirrored, true)) > 0.1


def test_poses_are_read_of_those_in_the_picture_and_near_enough():
    frames = frames_of(person((0, 0, 5)), person((9, 0, 5)), person((0, 0, 30)), person((0, 0, -5)))
    np.testing.assert_array_equal(teaching.readable(frames, VOLUME), [[True, False, False, False]])


def test_places_lie_between_hips_and_neck():
    camera = jax.tree.map(lambda f: f[0], CAMERA)
    who = jnp.asarray(person((0, 0, 5)))
    np.testing.assert_allclose(teaching.places(who, camera, 0.0), [64, 48], atol=1e-4)
    np.testing.assert_allclose(teaching.places(who, camera, 1.0), [64, 48 - 100 * 0.5 / 5], atol=1e-4)


class _Oracle:
    """Stands for a network: says the true joints, poses and view, or some logits."""

    def __init__(self, frames, logits):
        true = teaching.true_poses(frames.joints)
        offsets = true.offsets.reshape(*true.offsets.shape[:2], -1)
        self._said = {
            "read_joints": logits,
            "read_poses": jnp.concatenate([offsets, true.side, true.distance[..., None]], axis=-1),
            "read_view": jnp.concatenate([frames.ground[:, :3], jnp.log(frames.ground[:, 3:])], axis=-1),
        }

    def apply(self, variables, features, *arguments, method):
        said = self._said[method]
        return jnp.repeat(said, arguments[0].shape[1] // said.shape[1], axis=1) if arguments else said


def test_the_truth_has_no_error_and_its_joints_the_least_entropy():
    frames = frames_of(person((0, 0, 5)), person((0.6, 0.1, 8), 1.0))
    uv = np.stack([frames.joints[0, :2, :, 0], frames.joints[0, :2, :, 1]]) / frames.joints[0, :2, :, 2] * 100
    columns, rows = (uv[0] + 64) / 8 - 0.5, (uv[1] + 48) / 8 - 0.5
    i, k = np.mgrid[:12, :16]
    away = (rows[..., None, None] - i) ** 2 + (columns[..., None, None] - k) ** 2
    target = np.exp(-away).max(axis=0).transpose(1, 2, 0)[None]  # sigma of one cell
    clipped = np.clip(target, 1e-6, 1 - 1e-6)
    logits = np.log(clipped / (1 - clipped)).astype(np.float32)
    want = -(target * np.log(clipped) + (1 - target) * np.log(1 - clipped)).sum() / 28

    @jax.jit
    def of(logits):
        return teaching.losses(_Oracle(frames, logits), None, None, frames, VOLUME, jax.random.key(0))

    want = 0.2 * want  # it counts a fifth
    found = of(jnp.asarray(logits))
    assert float(found["joints_error"]) == pytest.approx(want, rel=1e-3)
    assert float(found["pose_error"]) < 1e-9 and float(found["view_error"]) < 1e-9
    assert float(of(jnp.asarray(logits).at[0, 5, 8, 0].add(0.5))["joints_error"]) > want
    assert "view_error" not in teaching.losses(
        _Oracle(frames, logits), None, None, frames._replace(ground=None), VOLUME, jax.random.key(0)
    )


def test_joints_that_a_data_set_lacks_are_no_targets():
    frames = frames_of(person((0, 0, 5)))
    frames.present[..., 0] = False
    origin = Origin(
        np.zeros(1, np.int32), np.ones(1, np.float32), np.arange(14)[None] > 0, np.zeros_like(frames.present)
    )

    @jax.jit
    @jax.grad
    def of(logits):
        frame = frames._replace(origin=origin)
        oracle = _Oracle(frame, logits)
        return teaching.losses(oracle, None, None, frame, VOLUME, jax.random.key(0))["joints_error"]

    gradients = of(jnp.ones((1, 12, 16, 14), jnp.float32))
    assert not gradients[..., 0].any() and all(gradients[..., j].any() for j in range(1, 14))


def test_gradients_reach_the_trunk_and_absent_people_do_not_matter():
    network = CompactPredictor(2, 16, width=8, blocks=1, coarsest=32)
    frames = frames_of(person((0, 0, 5)))
    params = jax.jit(network.init)(jax.random.key(0), frames.image, CAMERA)

    @jax.jit
    @jax.value_and_grad
    def total(params, frames):
        features = network.apply(params, frames.image, frames.camera, method="features")
        return sum(teaching.losses(network, params, features, frames, VOLUME, jax.random.key(1)).values())

    value, grads = total(params, frames)
    joints = frames.joints.copy()
    joints[0, 2] = person((1, 0, 4))  # there, but not present
    assert float(total(params, frames._replace(joints=joints))[0]) == float(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["params"]["trunk"]["Conv_0"]))
    assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(grads["params"]["head"]))

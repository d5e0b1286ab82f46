"""BVH, read by bvhio, whose forward kinematics has to give the joints back."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loco_jax import motion
from loco_jax.geometry import skeleton
from loco_jax.motion import bvh, chains
from tests.support.walking import RATE, frames_of, standing, walker

bvhio = pytest.importorskip("bvhio")
J = {name: j for j, name in enumerate(skeleton.JOINTS)}


def read(path):
    """Joints `[T, 14, 3]`, and the rotations of all nodes in the world by name, `[T, 4]`, as bvhio computes them."""
    root = bvhio.readAsHierarchy(str(path))
    frames = bvhio.readAsBvh(str(path)).FrameCount
    nodes = [node for node, *_ in root.layout()]
    joints, rotations = np.full((frames, 14, 3), np.nan), {node.Name: np.zeros((frames, 4)) for node in nodes}
    for t in range(frames):
        root.loadPose(t)
        for node in nodes:
            q = node.RotationWorld
            rotations[node.Name][t] = q.x, q.y, q.z, q.w
            if node.Name in J:
                joints[t, J[node.Name]] = tuple(node.PositionWorld)
    return joints, rotations


def steps(rotations):
    """The angles in radians from frame to frame."""
    turns = Rotation.from_quat(rotations)
    return (turns[:-1].inv() * turns[1:]).magnitude()


@pytest.mark.parametrize("turn", [0.0, 2 * np.pi, 7 * np.pi])
def test_forward_kinematics_gives_the_joints_back(tmp_path, turn):
    frames = frames_of({3: walker(turn=turn), 8: walker(at=(2, 9), swing=1.2, arms=3.0)})
    written = motion.write(frames, tmp_path / "v", ["bvh"])
    assert written == [tmp_path / "v_p3.bvh", tmp_path / "v_p8.bvh"]
    true = motion.tracks_of(frames, RATE).joints
    for path, joints in zip(written, true):
        found, _ = read(path)
        assert np.abs(found - joints).max() < 1e-3
        assert bvhio.readAsBvh(str(path)).FrameTime == pytest.approx(1 / RATE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_pose_of_a_picture_is_given_back(tmp_path, seed):
    """One frame, where no limb has to have the length of another frame."""
    joints = np.random.default_rng(seed).normal(size=(1, 14, 3))
    bvh.write(joints, 30.0, tmp_path / "p.bvh")
    found, _ = read(tmp_path / "p.bvh")
    np.testing.assert_allclose(found, joints, atol=1e-3)


def test_up_is_y_and_people_stand_on_the_ground(tmp_path):
    motion.write(frames_of({1: standing(), 2: standing(at=(2, 9))}), tmp_path / "v", ["bvh"])
    for number in (1, 2):
        found, _ = read(tmp_path / f"v_p{number}.bvh")
        ankles = found[:, [J["left_ankle"], J["right_ankle"]]]
        np.testing.assert_allclose(ankles[..., 1], 0.08, atol=0.03)  # metres
        np.testing.assert_allclose(found[:, J["head_top"], 1], 1.68, atol=0.03)
        # They look at the camera, along z, so their left is +x.
        assert (found[:, J["left_hip"], 0] > found[:, J["right_hip"], 0] + 0.15).all()


def test_bones_do_not_roll_where_a_limb_folds_against_its_rest_direction(tmp_path):
    """The left forearm sweeps 10° a frame past the direction against which the shortest rotation is not unique."""
    joints = np.repeat(motion.tracks_of(frames_of({1: standing(1)}), RATE).joints[0], 19, axis=0)
    shoulder, elbow, wrist = (J[f"left_{name}"] for name in ("shoulder", "elbow", "wrist"))
    joints[:, elbow] = joints[:, shoulder] + [0.3, 0, 0]
    angles = np.radians(90 + 10 * np.arange(19))
    for tilt in (0.0, 0.01, -0.01):
        sweep = np.stack([np.cos(angles), np.sin(angles), np.full(19, tilt)], axis=1)
        joints[:, wrist] = joints[:, elbow] + 0.25 * sweep / np.linalg.norm(sweep, axis=1, keepdims=True)
        bvh.write(joints, RATE, tmp_path / "f.bvh")
        found, rotations = read(tmp_path / "f.bvh")
        np.testing.assert_allclose(found, joints, atol=1e-3)
        assert max(steps(each).max() for each in rotations.values()) < np.radians(10) + 0.11


def test_bones_turn_little_from_frame_to_frame_and_angles_do_not_jump(tmp_path):
    joints = motion.tracks_of(frames_of({1: walker(80, turn=6 * np.pi, arms=2.5)}), RATE).joints[0]
    bvh.write(joints, RATE, tmp_path / "w.bvh")
    _, rotations = read(tmp_path / "w.bvh")
    assert max(steps(each).max() for each in rotations.values()) < 1.1  # elbows bend and the body turns, together 60°
    rows = np.loadtxt((tmp_path / "w.bvh").read_text().splitlines()[-80:])
    turned = np.diff(rows[:, 3:6], axis=0)
    np.testing.assert_allclose(turned[:, 2], np.degrees(6 * np.pi / 79), atol=0.01)  # also past 180°
    np.testing.assert_allclose(turned[:, :2], 0, atol=0.01)


def test_rolls_go_back_to_those_of_the_rest_pose(tmp_path):
    """After an arm went round in circles, a minute of rest leaves no roll."""
    joints = np.repeat(motion.tracks_of(frames_of({1: standing(1)}), RATE).joints[0], 200, axis=0)
    shoulder, elbow, wrist = (J[f"left_{name}"] for name in ("shoulder", "elbow", "wrist"))
    angles = np.minimum(np.arange(200), 100) * 2 * np.pi / 20
    arm = np.stack([np.full(200, 0.3), np.sin(angles), np.cos(angles)], axis=1) / np.hypot(1, 0.3)
    joints[:, elbow], joints[:, wrist] = joints[:, shoulder] + 0.3 * arm, joints[:, shoulder] + 0.55 * arm
    rotations = chains.move(joints).rotations
    alone = chains.move(joints[-1:]).rotations
    assert (Rotation.from_quat(rotations[-1]).inv() * Rotation.from_quat(alone[0])).magnitude().max() < 1e-6


def test_bones_with_unknown_ends_hold_their_last_rotation(tmp_path):
    whole = motion.tracks_of(frames_of({1: walker(20, turn=0.0)}), RATE).joints[0]
    joints = whole.copy()
    elbow, wrist, knee = J["left_elbow"], J["left_wrist"], J["right_knee"]
    joints[8:14, wrist] = np.nan  # for a while
    joints[:5, knee] = np.nan  # at first
    bvh.write(joints, RATE, tmp_path / "h.bvh")
    found, _ = read(tmp_path / "h.bvh")
    known = np.isfinite(joints).all(axis=-1)
    known[:5, J["right_ankle"]] = False
    np.testing.assert_allclose(found[known], whole[known], atol=1e-3)

    def bend(joints, t):  # the cosine of the elbow's angle does not depend on the frame that the arm is in
        upper, lower = joints[t, elbow] - joints[t, J["left_shoulder"]], joints[t, wrist] - joints[t, elbow]
        return upper @ lower / np.linalg.norm(upper) / np.linalg.norm(lower)

    for t in range(8, 14):
        assert bend(found, t) == pytest.approx(bend(whole, 7), abs=1e-3)
    assert abs(bend(whole, 13) - bend(whole, 7)) > 0.1
    thigh = found[:5, knee] - found[:5, J["right_hip"]]
    np.testing.assert_allclose(np.linalg.norm(thigh, axis=-1), 0.41, atol=1e-3)


def test_bones_that_are_never_known_keep_the_rest_pose(tmp_path):
    joints = motion.tracks_of(frames_of({1: standing()}), RATE).joints[0]
    joints[:, [J["left_elbow"], J["left_wrist"]]] = np.nan
    joints[2] = np.nan
    bvh.write(joints, RATE, tmp_path / "n.bvh")
    found, _ = read(tmp_path / "n.bvh")
    arm = found[:, J["left_wrist"]] - found[:, J["left_shoulder"]]
    assert (arm[:, 0] > 0.4).all() and np.abs(arm[:, 1:]).max() < 0.05  # stretched out to the side
    np.testing.assert_allclose(found[2], found[1], atol=1e-5)


@pytest.mark.parametrize("known", [[0], [1], [4], [1, 8], [2, 5], [8, 11]])
def test_a_few_joints_suffice(tmp_path, known):
    joints = np.full((3, 14, 3), np.nan)
    joints[1, known] = np.random.default_rng(0).normal(size=(len(known), 3))
    bvh.write(joints, RATE, tmp_path / "f.bvh")
    found, _ = read(tmp_path / "f.bvh")
    assert np.isfinite(found).all()
    heights = found[:, 0, 1] - found[:, [J["left_ankle"], J["right_ankle"]], 1].min(axis=1)
    assert (heights > 0.2).all()

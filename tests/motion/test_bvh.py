"""BVH, read by bvhio, whose forward kinematics has to give the joints back."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from loco_jax import motion
from loco_jax.geometry import skeleton
from loco_jax.motion import bvh, chains
from tests.support.upright import STANDING
from tests.support.walking import RATE, alone, frames_of, in_world, standing, walker

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


def save(joints, path):
    """Writes one person, whose joints are in the world already."""
    tracks = alone(joints)
    bvh.write(tracks, tracks.people[0], path)


def steps(rotations):
    """The angles in radians from frame to frame."""
    turns = Rotation.from_quat(rotations)
    return (turns[:-1].inv() * turns[1:]).magnitude()


@pytest.mark.parametrize("turn", [0.0, 2 * np.pi, 7 * np.pi])
def test_forward_kinematics_gives_the_joints_back(tmp_path, turn):
    frames = frames_of({3: walker(turn=turn), 8: walker(at=(2, 9), swing=1.2, arms=3.0)})
    written = motion.write(frames, tmp_path / "v", ["bvh"]).written
    assert written == [tmp_path / "v_p3.bvh", tmp_path / "v_p8.bvh"]
    for path, (_, _, joints) in zip(written, motion.tracks_of(frames).people):
        found, _ = read(path)
        assert np.abs(found - joints).max() < 1e-3
        assert bvhio.readAsBvh(str(path)).FrameTime == pytest.approx(1 / RATE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_pose_of_a_picture_is_given_back(tmp_path, seed):
    """One frame, where no limb has to have the length of another frame."""
    joints = np.random.default_rng(seed).normal(size=(1, 14, 3))
    save(joints, tmp_path / "p.bvh")
    found, _ = read(tmp_path / "p.bvh")
    np.testing.assert_allclose(found, joints, atol=1e-3)


def test_up_is_y_and_people_stand_on_the_ground(tmp_path):
    motion.write(frames_of({1: standing(), 2: standing(at=(2, 9))}), tmp_path / "v", ["bvh"])
    for number in (1, 2):
        found, _ = read(tmp_path / f"v_p{number}.bvh")
        ankles = found[:, [J["left_ankle"], J["right_ankle"]]]
        np.testing.assert_allclose(ankles[..., 1], 0.08, atol=0.03)  # metres
        np.testing.assert_allclose(found[:, J["head_top"], 1], STANDING["head_top"][1], atol=0.03)
        # They look at the camera, along z, so their left is +x.
        assert (found[:, J["left_hip"], 0] > found[:, J["right_hip"], 0] + 0.15).all()


def test_bones_do_not_roll_where_a_limb_folds_against_its_rest_direction(tmp_path):
    """The left forearm sweeps 10° a frame past the direction against which the shortest rotation is not unique."""
    joints = np.repeat(in_world({1: standing(1)})[0], 19, axis=0)
    shoulder, elbow, wrist = (J[f"left_{name}"] for name in ("shoulder", "elbow", "wrist"))
    joints[:, elbow] = joints[:, shoulder] + [0.3, 0, 0]
    angles = np.radians(90 + 10 * np.arange(19))
    for tilt in (0.0, 0.01, -0.01):
        sweep = np.stack([np.cos(angles), np.sin(angles), np.full(19, tilt)], axis=1)
        joints[:, wrist] = joints[:, elbow] + 0.25 * sweep / np.linalg.norm(sweep, axis=1, keepdims=True)
        save(joints, tmp_path / "f.bvh")
        found, rotations = read(tmp_path / "f.bvh")
        np.testing.assert_allclose(found, joints, atol=1e-3)
        assert max(steps(each).max() for each in rotations.values()) < np.radians(10) + 0.11


def test_bones_turn_little_from_frame_to_frame_and_angles_do_not_jump(tmp_path):
    joints = in_world({1: walker(80, turn=6 * np.pi, arms=2.5)})[0]
    save(joints, tmp_path / "w.bvh")
    _, rotations = read(tmp_path / "w.bvh")
    assert max(steps(each).max() for each in rotations.values()) < 1.1  # elbows bend and the body turns, together 60°
    rows = np.loadtxt((tmp_path / "w.bvh").read_text().splitlines()[-80:])
    turned = np.diff(rows[:, 3:6], axis=0)
    np.testing.assert_allclose(turned[:, 2], np.degrees(6 * np.pi / 79), atol=0.01)  # also past 180°
    np.testing.assert_allclose(turned[:, :2], 0, atol=0.01)


def test_rolls_go_back_to_those_of_the_rest_pose(tmp_path):
    """After an arm went round in circles, a minute of rest leaves no roll."""
    joints = np.repeat(in_world({1: standing(1)})[0], 200, axis=0)
    shoulder, elbow, wrist = (J[f"left_{name}"] for name in ("shoulder", "elbow", "wrist"))
    angles = np.minimum(np.arange(200), 100) * 2 * np.pi / 20
    arm = np.stack([np.full(200, 0.3), np.sin(angles), np.cos(angles)], axis=1) / np.hypot(1, 0.3)
    joints[:, elbow], joints[:, wrist] = joints[:, shoulder] + 0.3 * arm, joints[:, shoulder] + 0.55 * arm
    rotations = chains.move(joints, np.arange(200) / RATE).rotations
    rest = chains.move(joints[-1:], np.zeros(1)).rotations
    assert (Rotation.from_quat(rotations[-1]).inv() * Rotation.from_quat(rest[0])).magnitude().max() < 1e-6


def test_bones_with_unknown_ends_hold_their_last_rotation(tmp_path):
    whole = in_world({1: walker(20, turn=0.0)})[0]
    joints = whole.copy()
    elbow, wrist, knee = J["left_elbow"], J["left_wrist"], J["right_knee"]
    joints[8:14, wrist] = np.nan  # for a while
    joints[:5, knee] = np.nan  # at first
    save(joints, tmp_path / "h.bvh")
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
    np.testing.assert_allclose(
        np.linalg.norm(thigh, axis=-1), np.linalg.norm(whole[0, knee] - whole[0, J["right_hip"]]), atol=1e-3
    )


def test_bones_that_are_never_known_keep_the_rest_pose(tmp_path):
    joints = in_world({1: standing()})[0]
    joints[:, [J["left_elbow"], J["left_wrist"]]] = np.nan
    joints[2] = np.nan
    save(joints, tmp_path / "n.bvh")
    found, _ = read(tmp_path / "n.bvh")
    arm = found[:, J["left_wrist"]] - found[:, J["left_shoulder"]]
    assert (arm[:, 0] > 0.4).all() and np.abs(arm[:, 1:]).max() < 0.05  # stretched out to the side
    np.testing.assert_allclose(found[2], found[1], atol=1e-5)


@pytest.mark.parametrize("known", [[0], [1], [4], [1, 8], [2, 5], [8, 11]])
def test_a_few_joints_suffice(tmp_path, known):
    joints = np.full((3, 14, 3), np.nan)
    joints[1, known] = np.random.default_rng(0).normal(size=(len(known), 3))
    save(joints, tmp_path / "f.bvh")
    found, _ = read(tmp_path / "f.bvh")
    assert np.isfinite(found).all()
    heights = found[:, 0, 1] - found[:, [J["left_ankle"], J["right_ankle"]], 1].min(axis=1)
    assert (heights > 0.2).all()


@pytest.mark.parametrize("missing", ["left_hip", "left_hip right_hip", "right_shoulder"])
def test_joints_that_come_and_go_do_not_turn_the_torso(tmp_path, missing):
    """The person turns by 1° a frame, and the shoulders are turned 40° further than the hips. Some joints are known in
    every second frame only."""
    held = [J[name] for name in missing.split()]
    whole = np.repeat(in_world({1: standing(1)})[0], 20, axis=0)
    whole -= whole[:, [J["neck"]]] * [1, 0, 1]
    for name, j in J.items():
        angles = np.arange(20) + (20 if "shoulder" in name else -20 if "hip" in name else 0)
        whole[:, j] = Rotation.from_euler("y", angles[:, None], degrees=True).apply(whole[:, j])
    joints = whole.copy()
    joints[1::2, held] = np.nan
    save(joints, tmp_path / "b.bvh")
    found, rotations = read(tmp_path / "b.bvh")
    np.testing.assert_allclose(steps(rotations["neck"]), np.radians(1), atol=1e-3)
    np.testing.assert_allclose(found[0::2], whole[0::2], atol=1e-3)
    # What is not known turns with the torso.
    np.testing.assert_allclose(found, whole, atol=0.02)


def test_the_torso_of_somebody_whose_hips_are_never_seen_turns_with_the_shoulders(tmp_path):
    joints = in_world({1: walker(31, turn=np.pi, swing=0.0)})[0]
    hidden = [J[f"{side}_{name}"] for side in ("left", "right") for name in ("hip", "knee", "ankle")]
    joints[:, hidden] = np.nan
    save(joints, tmp_path / "d.bvh")
    found, rotations = read(tmp_path / "d.bvh")
    np.testing.assert_allclose(steps(rotations["neck"]), np.radians(6), atol=0.01)
    turned = Rotation.from_quat(rotations["neck"][-1]) * Rotation.from_quat(rotations["neck"][0]).inv()
    assert turned.magnitude() == pytest.approx(np.pi, abs=0.02)
    # The legs hang down from hips that are beside each other as the shoulders are.
    hips, shoulders = (found[:, J[f"left_{n}"]] - found[:, J[f"right_{n}"]] for n in ("hip", "shoulder"))
    sizes = np.linalg.norm(hips, axis=1) * np.linalg.norm(shoulders, axis=1)
    np.testing.assert_allclose((hips * shoulders).sum(axis=1) / sizes, 1, atol=1e-3)
    assert (found[:, J["left_ankle"], 1] < found[:, J["left_hip"], 1] - 0.5).all()


def test_known_joints_are_given_back_while_the_neck_is_unknown(tmp_path):
    """The body bobs by 15 cm up and down, so a neck that moves evenly would be wrong."""
    whole = in_world({1: walker(60, turn=0.0)})[0]
    whole[..., 1] += 0.15 * np.sin(0.4 * np.arange(60))[:, None]
    joints = whole.copy()
    joints[20:41, J["neck"]] = np.nan
    joints[25:35, J["left_shoulder"]] = np.nan
    save(joints, tmp_path / "n.bvh")
    found, _ = read(tmp_path / "n.bvh")
    known = np.isfinite(joints).all(axis=-1)
    known[25:35, [J["left_elbow"], J["left_wrist"]]] = False
    np.testing.assert_allclose(found[known], whole[known], atol=1e-3)
    np.testing.assert_allclose(found[20:41, J["neck"]], whole[20:41, J["neck"]], atol=1e-3)


def test_a_neck_without_neighbours_moves_evenly_in_time():
    joints = np.repeat(in_world({1: standing(1)})[0], 4, axis=0) + np.array([0, 0.1, 0.2, 1.0])[:, None, None]
    joints[1:3] = np.nan
    places = chains.move(joints, np.array([0, 0.1, 0.8, 1.0])).places
    np.testing.assert_allclose(places - places[0], np.array([0, 0.1, 0.8, 1.0])[:, None] * [1, 1, 1], atol=1e-9)


def test_people_stand_still_in_frames_without_them(tmp_path):
    people = {1: walker(30), 2: walker(30, at=(2, 9))}
    people[2][:7] = people[2][20:] = np.nan
    (tmp_path / "out").mkdir()
    motion.write(frames_of(people), tmp_path / "out" / "v", ["bvh"])
    found, _ = read(tmp_path / "out" / "v_p2.bvh")
    true = in_world(people)[1]
    assert len(found) == 30
    np.testing.assert_allclose(found[7:20], true[7:20], atol=1e-3)
    np.testing.assert_allclose(found[:7], np.repeat(true[7:8], 7, axis=0), atol=1e-3)
    np.testing.assert_allclose(found[20:], np.repeat(true[19:20], 10, axis=0), atol=1e-3)


def test_raw_tracks_with_noise_and_holes(tmp_path):
    """As with --smooth=off. Limbs get one length but keep their directions, and the torso does not jump."""
    rng = np.random.default_rng(0)
    joints = in_world({1: walker(60, turn=1.0)})[0] + rng.normal(0, 0.01, (60, 14, 3))
    joints[rng.random((60, 14)) < 0.2] = np.nan
    joints[:, J["neck"]] = in_world({1: walker(60, turn=1.0)})[0][:, J["neck"]]
    save(joints, tmp_path / "r.bvh")
    found, rotations = read(tmp_path / "r.bvh")
    for start, end in skeleton.LIMBS:
        true, limb = joints[:, end] - joints[:, start], found[:, end] - found[:, start]
        sizes = np.linalg.norm(true, axis=1) * np.linalg.norm(limb, axis=1)
        cosines = (true * limb).sum(axis=1) / sizes
        assert np.nanmin(cosines) > np.cos(1e-3) and np.isfinite(cosines).sum() > 30
    assert steps(rotations["neck"]).max() < np.radians(12)

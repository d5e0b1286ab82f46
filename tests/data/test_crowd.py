import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.data import crowd
from loco_jax.data.crowd import DEMO, FULL, Crowd
from loco_jax.data.crowd.people import people_shares
from loco_jax.geometry import camera as cameras
from loco_jax.geometry.skeleton import JTA_JOINTS

J = {name: i for i, name in enumerate(JTA_JOINTS)}
RIGHT_LEG = [J["right_hip"], J["right_knee"], J["right_ankle"]]
LEFT_LEG = [J["left_hip"], J["left_knee"], J["left_ankle"]]
ANKLES = [J["right_ankle"], J["left_ankle"]]
BONES = [
    (J[a], J[b])
    for a, b in [
        ("head_top", "head_center"), ("head_center", "neck"), ("neck", "spine0"), ("spine0", "spine1"),
        ("spine1", "spine2"), ("spine2", "spine3"), ("spine3", "spine4"), ("spine4", "right_hip"),
        ("spine4", "left_hip"), ("right_hip", "left_hip"), ("right_shoulder", "left_shoulder"),
        *[(f"{side}_{a}", f"{side}_{b}") for side in ("right", "left")
          for a, b in [("clavicle", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"),
                       ("knee", "ankle")]],
        ("neck", "right_clavicle"), ("neck", "left_clavicle"),
    ]
]  # fmt: skip
FPS = 20.0


@jax.jit
def full_scenes(indices):
    return jax.vmap(lambda i: crowd.sample_scene(crowd.scene_key("train", i), FULL))(indices)


@jax.jit
def demo_sequences(indices):
    return jax.vmap(lambda i: crowd.sample_sequence(crowd.scene_key("train", i), DEMO, 60, FPS))(indices)


def world(scene):
    """Joints over the ground: undoes `camera = rotation @ (world - (0, 0, height))` as documented."""
    xyz = np.einsum("n...i,nij->n...j", scene.joints.astype(np.float64), scene.rotation)
    xyz[..., 2] += scene.height.reshape(-1, *[1] * (xyz.ndim - 2))
    return xyz


@pytest.fixture(scope="module")
def scenes():
    return jax.tree.map(np.asarray, full_scenes(jnp.arange(256)))


@pytest.fixture(scope="module")
def sequences():
    return jax.tree.map(np.asarray, demo_sequences(jnp.arange(96)))


@pytest.fixture(scope="module")
def walks(sequences):
    """World joints [N, T, 22, 3] of the people of all sequences, and their speeds [N]."""
    people = np.moveaxis(world(sequences), 1, 2)[sequences.present[:, 0]]
    ways = people[:, -1, J["spine4"], :2] - people[:, 0, J["spine4"], :2]
    return people, np.linalg.norm(ways, axis=-1) / (59 / FPS)


def length(joints, a, b):
    return np.linalg.norm(joints[..., a, :] - joints[..., b, :], axis=-1)


def statures(joints):
    """Standing heights, bone by bone from the ground up; the foot is 0.039 / 0.246 of the shank (Drillis & Contini)."""
    shank = length(joints, *RIGHT_LEG[1:])
    hips = joints[..., [J["right_hip"], J["left_hip"]], :].mean(-2)
    pelvis = np.linalg.norm(joints[..., J["spine4"], :] - hips, axis=-1)
    spine = sum(length(joints, J[f"spine{i}"], J[f"spine{i + 1}"]) for i in range(4))
    neck = length(joints, J["spine0"], J["neck"]) + length(joints, J["neck"], J["head_top"])
    return shank * (1 + 0.039 / 0.246) + length(joints, *RIGHT_LEG[:2]) + pelvis + spine + neck


def test_shapes_and_types(scenes, sequences):
    assert scenes.joints.shape == (256, 64, 22, 3) and scenes.joints.dtype == np.float32
    assert scenes.present.shape == (256, 64) and scenes.present.dtype == bool
    assert scenes.person_id.shape == (256, 64) and scenes.person_id.dtype == np.int32
    assert scenes.rotation.shape == (256, 3, 3) and scenes.rotation.dtype == np.float32
    assert scenes.height.shape == (256,) and scenes.height.dtype == np.float32
    assert sequences.joints.shape == (96, 60, 8, 22, 3) and sequences.present.shape == (96, 60, 8)
    assert sequences.person_id.shape == (96, 8)
    assert np.isfinite(scenes.joints).all() and np.isfinite(sequences.joints).all()


def test_a_key_gives_one_scene_alone_or_in_a_batch_or_as_the_first_frame(sequences):
    # Of its own, whatever other tests compile.
    sample = jax.jit(lambda key, crowd_: crowd.sample_scene(key, crowd_), static_argnums=1)
    for i in (3, 40):
        alone, again = sample(crowd.scene_key("train", i), DEMO), sample(crowd.scene_key("train", i), DEMO)
        np.testing.assert_array_equal(alone.joints, again.joints)
        np.testing.assert_allclose(alone.joints, sequences.joints[i, 0], atol=1e-4)
        np.testing.assert_array_equal(alone.present, sequences.present[i, 0])
        np.testing.assert_array_equal(alone.person_id, sequences.person_id[i])
    assert sample._cache_size() == 1
    sample(crowd.scene_key("test", 0), Crowd(**vars(DEMO)))  # an equal crowd is the same static argument
    assert sample._cache_size() == 1


def test_scenes_differ(scenes):
    heads = scenes.joints[:, 0, 0]
    assert len(np.unique(heads.round(3), axis=0)) == len(heads)
    assert len(np.unique(scenes.height)) > 250


def test_padding(scenes, sequences):
    for s in (scenes, sequences._replace(joints=sequences.joints[:, 0], present=sequences.present[:, 0])):
        assert not s.joints[~s.present].any()
        assert s.joints[s.present].any((-1, -2)).all()
        assert (s.person_id[~s.present] == -1).all()
        for ids, present in zip(s.person_id, s.present):
            assert len(set(ids[present])) == present.sum() and (ids[present] >= 0).all()
    assert (sequences.present == sequences.present[:, :1]).all()


@pytest.mark.parametrize("kind", ["full", "demo"])
def test_number_of_people(scenes, sequences, kind):
    what, joints, present, low, high = {
        "full": (FULL, scenes.joints, scenes.present, 19, 23),
        "demo": (DEMO, sequences.joints[:, 0], sequences.present[:, 0], 4.3, 5.5),
    }[kind]
    count = present.sum(-1)
    assert count.min() >= what.min_people and count.max() <= what.most_people
    assert count.min() <= what.min_people + 1 and count.max() >= 0.9 * what.most_people
    seen = np.asarray(what.volume.in_view(what.camera, joints)) & present[..., None]
    assert low < seen.any(-1).sum(-1).mean() < high
    assert 0.85 < seen.sum() / (22 * count.sum()) < 0.99  # nearly all in the picture, some across its edge


@pytest.mark.parametrize("bounds", [(1, 22.0, 60), (2, 5.0, 8), (2, 7.5, 8), (3, 3.5, 60), (1, 1.0, 1)])
def test_law_of_the_number_of_people_has_the_stated_mean(bounds):
    fewest, mean, most = bounds
    shares = people_shares(fewest, mean, most)
    assert shares.shape == (most - fewest + 1,) and (shares >= 0).all()
    np.testing.assert_allclose([shares.sum(), shares @ np.arange(fewest, most + 1)], [1, mean], rtol=1e-4)


def test_distances(scenes, sequences):
    for what, joints, present in (
        (FULL, scenes.joints, scenes.present),
        (DEMO, sequences.joints[:, 0], sequences.present[:, 0]),
    ):
        distance = np.linalg.norm(joints[:, :, J["spine4"]], axis=-1)[present]
        # The bounds hold 0.9 m above the ground; who sits has the hips lower.
        assert distance.min() > what.min_distance - 0.2 and distance.max() < what.max_distance + 0.2
        low, middle, high = np.percentile(distance, [5, 50, 95])
        assert low < 0.5 * middle and high > 1.8 * middle  # near and far people both
        assert 0.2 * what.max_distance < middle < 0.5 * what.max_distance


def test_camera(scenes):
    identity = np.einsum("nij,nkj->nik", scenes.rotation, scenes.rotation)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(scenes.rotation), 1, atol=1e-5)
    assert scenes.height.min() >= 1 and scenes.height.max() <= 10 and np.ptp(scenes.height) > 8
    pitch = np.degrees(np.arcsin(-scenes.rotation[:, 2, 2]))  # how far the optical axis points below the horizon
    assert pitch.min() > -5 and pitch.max() < 45 and 5 < pitch.mean() < 20
    # What is up in the world is up in the picture.
    xyz, present = scenes.joints, scenes.present
    rows = np.asarray(cameras.project(FULL.camera, xyz[present]))[..., 1]
    assert (rows[:, 0] < rows[:, ANKLES].min(-1)).mean() > 0.99


def test_nobody_stands_inside_another(scenes):
    at = world(scenes)[:, :, J["spine4"], :2]
    apart = np.linalg.norm(at[:, :, None] - at[:, None], axis=-1)
    both = scenes.present[:, :, None] & scenes.present[:, None] & ~np.eye(64, dtype=bool)
    assert apart[both].min() > 0.45
    assert np.mean(np.where(both, apart, np.inf).min(-1)[scenes.present] < 2.0) > 0.5  # but most are in company


def test_bones_keep_their_length(walks):
    people, _ = walks
    lengths = np.stack([length(people, a, b) for a, b in BONES], axis=-1)
    assert np.ptp(lengths, axis=1).max() < 1e-3
    mean = lengths.mean(1)
    for i, (a, b) in enumerate(BONES):  # both sides alike
        twin = tuple(J[JTA_JOINTS[k].replace("right", "left")] for k in (a, b))
        if twin in BONES:
            np.testing.assert_allclose(mean[:, i], mean[:, BONES.index(twin)], atol=1e-4)


def test_bodies_have_human_measures(scenes):
    people = scenes.joints[scenes.present].astype(np.float64)
    size = statures(people)
    assert 1.0 < size.min() < 1.2 and 1.85 < size.max() < 1.98
    adults = size > 1.48
    assert 0.88 < adults.mean() < 0.97
    assert abs(size[adults].mean() - 1.70) < 0.02 and abs(size[adults].std() - 0.09) < 0.02
    # Drillis & Contini's fractions of stature.
    for a, b, fraction in (
        ("hip", "knee", 0.245),
        ("knee", "ankle", 0.246),
        ("shoulder", "elbow", 0.186),
        ("elbow", "wrist", 0.146),
    ):
        share = length(people, J[f"right_{a}"], J[f"right_{b}"]) / size
        assert abs(share[adults].mean() - fraction) < 0.003 and 0.005 < share.std() / fraction < 0.05
    # JTA's own bodies: the farthest a joint gets from the top of the head, from LoCO's refiner (method, section 5).
    for name, farthest in (("neck", 0.27), ("right_shoulder", 0.41), ("left_hip", 0.88), ("right_ankle", 1.70)):
        typical = np.median(length(people[adults], J["head_top"], J[name]))
        assert 0.85 * farthest < typical < 1.02 * farthest, name


def test_feet_are_on_the_ground(scenes, walks):
    people, speed = walks
    lower = people[:, :, ANKLES, 2].min(-1)
    assert lower.min() > 0.035  # an ankle is 4 to 8 cm above its sole
    assert lower[speed < 1.93].max() < 0.13 and lower.max() < 0.22  # runners fly a little
    assert np.median(lower) < 0.09
    crowds = world(scenes)[scenes.present]
    assert crowds[:, ANKLES, 2].min() > 0.03 and crowds[:, ANKLES, 2].min(-1).max() < 0.22
    assert (crowds[:, J["head_top"], 2] > 0.7).all() and (crowds[:, J["head_top"], 2] < 2.0).all()


def test_activities(walks):
    people, speed = walks
    knee = people[:, 0, [J["right_knee"], J["left_knee"]], 2].mean(-1)
    hip = people[:, 0, [J["right_hip"], J["left_hip"]], 2].mean(-1)
    sits = hip < knee + 0.15
    assert 0.04 < sits.mean() < 0.18 and (speed[sits] < 0.05).all()
    assert 0.28 < hip[sits].min() and 0.40 < np.median(hip[sits]) < 0.55  # a chair's height
    walks_, runs = (speed > 0.1) & (speed < 1.95), speed > 1.95
    assert 0.4 < walks_.mean() < 0.7 and 0.02 < runs.mean() < 0.14
    assert abs(speed[walks_].mean() - 1.34) < 0.08 and speed[runs].max() < 4.2  # Weidmann (1993)


def forward(people):
    """Where the hips face: up cross right, from the joints' names alone."""
    right = people[..., J["right_hip"], :2] - people[..., J["left_hip"], :2]
    ahead = np.stack([-right[..., 1], right[..., 0]], axis=-1)
    return ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)


def test_people_walk_forward(walks):
    people, speed = walks
    way = people[:, -1, J["spine4"], :2] - people[:, 0, J["spine4"], :2]
    ahead = np.sum(way * forward(people).mean(1), axis=-1) / (59 / FPS)
    moves = speed > 0.1
    np.testing.assert_allclose(ahead[moves], speed[moves], rtol=0.02)
    # and steadily: the way after any time is speed times time
    ways = np.linalg.norm(people[:, :, J["spine4"], :2] - people[:, :1, J["spine4"], :2], axis=-1)
    np.testing.assert_allclose(ways, speed[:, None] * np.arange(60) / FPS, atol=0.05)


def test_who_faces_the_camera_has_the_right_shoulder_on_the_left(sequences):
    joints = sequences.joints
    facing = joints[:, 0, :, J["spine4"], 2] - joints[:, -1, :, J["spine4"], 2] > 0.8 * 59 / FPS  # comes nearer
    ahead = np.abs(joints[:, 0, :, J["spine4"], 0]) < 0.4 * joints[:, 0, :, J["spine4"], 2]
    people = joints[:, 0][facing & ahead & sequences.present[:, 0]]
    u = np.asarray(cameras.project(DEMO.camera, people))[..., 0]
    assert len(u) > 20
    for part in ("shoulder", "hip", "clavicle"):
        assert (u[:, J[f"right_{part}"]] < u[:, J[f"left_{part}"]]).mean() > 0.9


def test_knees_and_elbows_bend_the_right_way(walks):
    people, speed = walks
    ahead = forward(people)

    def angle(a, b):  # of a limb against the downward vertical, forward positive, in the body's sagittal plane
        limb = people[..., b, :] - people[..., a, :]
        return np.degrees(np.arctan2(np.sum(limb[..., :2] * ahead, axis=-1), -limb[..., 2]))

    for hip, knee, ankle in (RIGHT_LEG, LEFT_LEG):
        flexion = angle(hip, knee) - angle(knee, ankle)
        assert flexion.min() > 0 and 90 < flexion.max() < 125
    for side in ("right", "left"):
        shoulder, elbow, wrist = (J[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist"))
        flexion = np.mod(angle(elbow, wrist) - angle(shoulder, elbow), 360)[speed > 0.1]
        assert (flexion < 160).mean() > 0.97  # hyperextension would be just below 360


def test_gait(walks):
    people, speed = walks
    walking = (speed > 0.9) & (speed < 1.9) & (statures(people[:, 0]) > 1.5)
    people, speed = people[walking], speed[walking]
    gap = people[:, :, ANKLES[0], :2] - people[:, :, ANKLES[1], :2]
    gap = np.sum(gap * forward(people), axis=-1)  # right foot before the left one
    steps = (np.diff(np.sign(gap), axis=1) != 0).sum(1) / (59 / FPS)  # feet pass each other once a step
    assert 1.7 < steps.mean() < 2.1  # 100 to 125 steps a minute
    assert 0.62 < (speed / steps).mean() < 0.85  # metres a step
    assert np.corrcoef(speed, steps)[0, 1] > 0.5
    # Arms against legs: the right wrist is forward with the left foot.
    reach = people[:, :, J["right_wrist"], :2] - people[:, :, J["left_wrist"], :2]
    reach = np.sum(reach * forward(people), axis=-1)
    assert np.mean([np.corrcoef(a, b)[0, 1] < -0.5 for a, b in zip(gap, reach)]) > 0.9
    # The foot that stands, stands: of the two ankles the slower one hardly moves in mid-stance.
    ankles = np.linalg.norm(np.diff(people[:, :, ANKLES, :2], axis=1), axis=-1) * FPS
    assert np.median(ankles.min(-1) / speed[:, None]) < 0.35
    assert 0.02 < np.median(np.ptp(people[:, :, J["spine4"], 2], axis=1)) < 0.07  # hips go up and down: Perry, 4 cm


def test_no_jumps(walks):
    people, speed = walks
    velocity = np.diff(people, axis=1) * FPS
    assert np.linalg.norm(velocity, axis=-1).max() < 12
    assert np.linalg.norm(velocity[speed < 0.05], axis=-1).max() < 0.3
    assert np.linalg.norm(velocity[speed < 0.05], axis=-1).max() > 0.01  # nobody is a statue


def test_splits_are_disjoint():
    ranges = sorted((first, first + count) for first, count in crowd.SPLITS.values())
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:]))
    assert ranges[0][0] >= 0 and ranges[-1][1] <= 2**31
    for split, (first, count) in crowd.SPLITS.items():
        for index in (0, 1, count - 1, count, 5 * count + 7, -1, 2**31 - 1):
            seed = int(jax.random.key_data(crowd.scene_key(split, index))[-1])
            assert first <= seed < first + count
            assert seed == first + index % count


def test_keys_of_traced_indices():
    for split, (_, count) in crowd.SPLITS.items():
        indices = [0, 1, 5, count - 1, min(count, 2**31 - 1), 2**31 - 1]
        keys = jax.jit(jax.vmap(lambda i, split=split: crowd.scene_key(split, i)))(jnp.array(indices))
        for key, index in zip(keys, indices):
            assert (jax.random.key_data(key) == jax.random.key_data(crowd.scene_key(split, index))).all()


def test_errors():
    with pytest.raises(ValueError, match="no split 'val'"):
        crowd.scene_key("val", 0)
    for wrong in ({"min_people": 0}, {"mean_people": 61.0}, {"most_people": 65}):
        with pytest.raises(ValueError, match="need"):
            Crowd(**wrong)

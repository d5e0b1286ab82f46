"""People by hand, turned, mirrored and moved; Procrustes beside SciPy's; boxes that overlap by known parts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.pose import metrics, people_metrics

CAMERA = Camera(500.0, 500.0, 240.0, 135.0)
RIGHT = [name.startswith("right") for name in skeleton.JOINTS]
LEFT = [name.startswith("left") for name in skeleton.JOINTS]
# Someone who faces the camera's way: x, y in metres from the middle of the hips, in the order of JOINTS.
PERSON = np.array(
    [[0, -0.8], [0, -0.55]]
    + [[0.2, -0.5], [0.3, -0.25], [0.35, 0.0], [-0.2, -0.5], [-0.3, -0.25], [-0.35, 0.0]]
    + [[0.1, 0.0], [0.12, 0.45], [0.15, 0.9], [-0.1, 0.0], [-0.12, 0.45], [-0.15, 0.9]]
)
PERSON = np.concatenate([PERSON, 0.05 * np.sin(np.arange(14))[:, None]], axis=1)
seeds = st.integers(0, 10**6)


def crowd(*places: tuple[float, float, float]) -> np.ndarray:
    """The person, at these places."""
    return np.array(places, float).reshape(-1, 1, 3) + PERSON


def everything(people: np.ndarray) -> np.ndarray:
    return np.ones(people.shape[:2], bool)


def measured(predicted, true, known=None, present=None, reach: float = 1.2) -> people_metrics.Found:
    known = everything(predicted) if known is None else known
    seen = people_metrics.see(true, everything(true) if present is None else present, CAMERA)
    rows = metrics.people_rows(predicted, known)
    pairs = metrics.match(rows, metrics.people_rows(seen.joints, seen.known), reach)
    return people_metrics.measure(seen, predicted, known, CAMERA, rows, pairs)


def summary(*arguments, **options) -> dict:
    return people_metrics.summarise([measured(*arguments, **options)])


# ---- Poses


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_aligned_errors_are_scipys(seed):
    rng = np.random.default_rng(seed)
    true, predicted = rng.normal(0, 1, (2, 3, 14, 3))
    known = rng.random((3, 14)) < 0.7
    known[:, :4] = True
    _, found = people_metrics.pose_errors(predicted, true, known)
    for error, p, t, k in zip(found, predicted, true, known):
        p, t = p[k] - p[k].mean(axis=0), t[k] - t[k].mean(axis=0)
        turned = Rotation.align_vectors(t, p)[0].apply(p)
        scale = (t * turned).sum() / np.square(p).sum()
        assert error == pytest.approx(np.linalg.norm(scale * turned - t, axis=-1).mean(), rel=1e-6)
        # What SciPy calls Procrustes mirrors people where that fits better; where it does not, it is the same.
        normal_t, aligned, _ = procrustes(t, p)
        if np.linalg.det(orthogonal_procrustes(p, t)[0]) > 0:
            size = np.linalg.norm(t)
            assert error == pytest.approx(size * np.linalg.norm(normal_t - aligned, axis=-1).mean(), rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.2, 5))
def test_turned_moved_and_scaled_people_have_no_aligned_error(seed, scale):
    rng = np.random.default_rng(seed)
    turn, shift = Rotation.random(rng=rng), rng.normal(0, 3, 3)
    other = scale * turn.apply(PERSON) + shift
    root, aligned = people_metrics.pose_errors(other[None], PERSON[None], everything(PERSON[None]))
    assert aligned[0] == pytest.approx(0, abs=1e-7)
    middle = PERSON[list(skeleton.PAIRS["hips"])].mean(axis=0)
    want = np.linalg.norm(scale * turn.apply(PERSON - middle) - (PERSON - middle), axis=-1).mean()
    assert root[0] == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_a_mirrored_person_is_not_the_same():
    flat = PERSON * [1, 1, 0]
    # Flat people are their own mirror image if right and left change places as well: only turned about.
    for person, same in ((PERSON, False), (flat, True)):
        mirrored = person * [-1, 1, 1]
        _, aligned = people_metrics.pose_errors(mirrored[None], person[None], everything(person[None]))
        assert aligned[0] == pytest.approx(0, abs=1e-7) if same else aligned[0] > 0.02
    # Who has right and left confused is somebody else, however turned.
    bent = PERSON + [[0, 0, 0.3 * (i in (3, 4, 12, 13))] for i in range(14)]
    swapped = bent[list(skeleton.MIRROR)]
    root, aligned = people_metrics.pose_errors(swapped[None], bent[None], everything(bent[None]))
    assert root[0] > 0.2 and aligned[0] > 0.05


def test_errors_need_joints():
    moved = PERSON + [[0, 0, 0.3 * (i == 0)] for i in range(14)]
    known = np.repeat(everything(PERSON[None]), 3, axis=0)
    known[1, skeleton.PAIRS["hips"][0]] = False
    known[2, 2:] = False
    root, aligned = people_metrics.pose_errors(np.stack([moved] * 3), np.stack([PERSON] * 3), known)
    assert root[0] == pytest.approx(0.3 / 14) and np.isnan(root[1:]).all()
    assert (aligned[:2] > 0).all() and np.isnan(aligned[2])
    same = np.zeros((1, 14, 3))  # all joints in one place: nothing to scale
    assert np.isnan(people_metrics.pose_errors(same, PERSON[None], everything(PERSON[None]))[1]).all()


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_errors_along_and_across_the_ray(seed):
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 4, (5, 3)) + [0, 0, 10]
    signs, along, aside = rng.choice([-1, 1], 5), rng.random(5), rng.random(5)
    ray = true / np.linalg.norm(true, axis=-1, keepdims=True)
    across = np.cross(ray, rng.normal(size=3))
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    predicted = true + (signs * along)[:, None] * ray + aside[:, None] * across
    found = people_metrics.ray_errors(predicted, true)
    np.testing.assert_allclose(found, [along, aside], atol=1e-12)


# ---- The picture


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    """A person whose 14 joints lie in a box, two of them in its corners."""
    inside = np.linspace(0, 1, 14)[:, None] * [width, height]
    return inside + [x, y]


@pytest.mark.parametrize(
    ("people", "want"),
    [
        ([], []),
        ([box(0, 0, 10, 30)], [0]),
        ([box(0, 0, 10, 10), box(5, 0, 10, 10)], [1, 1]),  # a half of each: 50 of 150
        ([box(0, 0, 10, 10), box(5.5, 0, 10, 10)], [0, 0]),  # 45 of 155
        ([box(0, 0, 10, 10), box(0, 0, 10, 10), box(2, 0, 10, 10), box(50, 0, 9, 9)], [2, 2, 2, 0]),
        ([box(0, 0, 10, 10), box(2, 2, 5, 5)], [0, 0]),  # inside, and a quarter as large
        ([box(0, 0, 0, 0), box(0, 0, 0, 0)], [0, 0]),  # points
    ],
)
def test_crowding(people, want):
    uv = np.array(people).reshape(-1, 14, 2)
    known = np.ones(uv.shape[:2], bool)
    assert people_metrics.overlaps(uv, known).tolist() == want
    if len(uv):  # joints that are not known count for nothing
        more = np.concatenate([uv, np.full((len(uv), 1, 2), 5.0)], axis=1)
        assert people_metrics.overlaps(more, np.pad(known, ((0, 0), (0, 1)))).tolist() == want


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_named_twice_by_counting(seed):
    """Word by word: every prediction goes to its nearest person; of those that are near, all beyond the first."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(0, 7), rng.integers(0, 4)
    predicted, true = 40 * rng.random((n, 14, 2)), 40 * rng.random((m, 14, 2))
    predicted_known, true_known = rng.random((n, 14)) < 0.8, rng.random((m, 14)) < 0.8
    true_known[:, 0] = True
    near = [0] * m
    for p in range(n):
        distances = []
        for t in range(m):
            both = [j for j in range(14) if predicted_known[p, j] and true_known[t, j]]
            distances.append(np.mean([np.hypot(*(predicted[p, j] - true[t, j])) for j in both]) if both else np.inf)
        if m:
            nearest = int(np.argmin(distances))
            rows = true[nearest][true_known[nearest], 1]
            near[nearest] += distances[nearest] < 0.25 * (rows.max() - rows.min())
    away = people_metrics.picture_distances(predicted, predicted_known, true, true_known)
    found = people_metrics.named_twice(away, people_metrics.heights(true, true_known))
    assert found.tolist() == [max(count - 1, 0) for count in near]


def test_twice_along_the_ray_and_beside():
    true = crowd((0, 0, 10), (3, 0, 10))
    height = 500 * 1.7 / 10
    behind = 1.3 * true[:1]  # the same pixels
    assert measured(np.concatenate([true, behind]), true).twice.tolist() == [1, 0]
    # Aside by a fifth of the height, and by three tenths.
    for part, want in ((0.2, 1), (0.3, 0)):
        aside = true[:1] + [part * height / 500 * 10, 0, 0]
        assert measured(np.concatenate([true, aside]), true).twice.tolist() == [want, 0]
    # Between two, it is the nearer one that is named twice.
    close = crowd((0, 0, 10), (0.4, 0, 10))
    between = crowd((0.25, 0, 10))
    assert measured(np.concatenate([close, between]), close).twice.tolist() == [0, 1]
    assert measured(true[:1], true).twice.tolist() == [0, 0]  # nobody twice who is named once


# ---- Pairs and summaries


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_pairs_are_the_most_and_then_the_nearest(seed):
    rng = np.random.default_rng(seed)
    predicted, true = (rng.normal(0, 0.6, (n, 5, 3)) for n in (3, 4))
    known, present = (rng.random((n, 5)) < 0.8 for n in (3, 4))

    def worth(p, t):
        both = known[p] & present[t]
        away = np.linalg.norm(predicted[p] - true[t], axis=-1)
        found = present[t].any() and 2 * (away[both] <= 0.9).sum() >= present[t].sum()
        return (1, -away[both].mean()) if found else (0, 0.0)

    best = max(
        tuple(np.sum([worth(p, t) for p, t in enumerate(pairing)], axis=0))
        for pairing in itertools.permutations(range(4), 3)
    )
    pairs = metrics.people_pairs(predicted, known, true, present, 0.9)
    assert (np.diff(pairs[:, 1]) > 0).all() and len(set(pairs[:, 0])) == len(pairs)
    total = np.sum([worth(p, t) for p, t in pairs], axis=0) if len(pairs) else (0, 0)
    np.testing.assert_allclose(total, best, atol=1e-9)


def test_perfect_people():
    people = crowd((0, 0, 5), (3, 0, 12), (-3, 0, 30))
    found = summary(people, people)
    assert [found[n] for n in ("true", "predicted", "found", "named_twice")] == [3, 3, 3, 0]
    assert [found[n] for n in ("precision", "recall", "f1")] == [1, 1, 1]
    assert found["widths"] == pytest.approx({"shoulders": 1, "hips": 1, "wrists": 1})
    for name in ("mpjpe_cm", "pa_mpjpe_cm"):
        assert found[name] == pytest.approx(0, abs=1e-6)
    assert found["along_cm"] == {"median": 0, "mean": 0} == found["across_cm"]
    by_distance = {tuple(b["metres"]): b["found"] for b in found["by_distance"]}
    assert by_distance == {(0, 6): 1, (6, 10): 0, (10, 15): 1, (15, 25): 0, (25, None): 1}
    assert [b["true"] for b in found["by_crowding"]] == [3, 0, 0]
    # They are 1.7 m high, and the camera's focal length is 500 pixels.
    by_height = {tuple(b["pixels"]): b["found"] for b in found["by_height"]}
    assert by_height == {(0, 20): 0, (20, 40): 1, (40, 80): 1, (80, 160): 0, (160, None): 1}
    assert [(b["pose"], b["found"]) for b in found["by_pose"] if b["true"]] == [("upright", 3)]


def test_sticks_have_narrow_shoulders():
    true = crowd((0, 0, 8), (2, 0, 8), (4, 0, 8))
    sticks = true.copy()
    for (right, left), part in zip(skeleton.PAIRS.values(), (0.3, 0.5, 0.7, 1.0)):
        middle = true[:, [right, left]].mean(axis=1, keepdims=True)
        sticks[:, [right, left]] = middle + part * (true[:, [right, left]] - middle)
    found = summary(sticks, true)
    assert found["widths"] == pytest.approx({"shoulders": 0.3, "hips": 0.5, "wrists": 0.7})
    shoulder, hip, wrist = (np.linalg.norm(true[0, a] - true[0, b]) / 2 for a, b in list(skeleton.PAIRS.values())[:3])
    assert found["mpjpe_cm"] == pytest.approx(100 * 2 * (0.7 * shoulder + 0.5 * hip + 0.3 * wrist) / 14)
    assert found["pa_mpjpe_cm"] > 1  # no turn makes a stick a person
    # Of whom a joint is missing, no width is known; medians are of the others.
    known = everything(sticks)
    known[0, skeleton.PAIRS["shoulders"][0]] = False
    sticks[1] = true[1]
    assert summary(sticks, true, known=known)["widths"]["shoulders"] == pytest.approx(0.65)


def test_a_person_too_far_away_stands_well_all_the_same():
    true = crowd((0, 0, 10), (4, 0, 10))
    farther = true * (1 + 0.5 / np.linalg.norm(true, axis=-1, keepdims=True))  # each joint half a metre farther
    found = summary(farther, true)
    assert found["found"] == 2 and found["along_cm"] == pytest.approx({"median": 50, "mean": 50}, rel=1e-5)
    assert found["across_cm"]["mean"] == pytest.approx(0, abs=1e-4) and found["mpjpe_cm"] < 5
    too_far = summary(true * (1 + 1.0 / np.linalg.norm(true, axis=-1, keepdims=True)), true)
    assert too_far["found"] == 0 and too_far["mpjpe_cm"] is None and too_far["widths"]["hips"] is None
    assert too_far["along_cm"]["mean"] == pytest.approx(100, rel=1e-5)  # joints are matched within 1.2 m


def test_predictions_belong_to_somebody():
    true = crowd((0, 0, 5), (5, 0, 20))
    ghosts = np.concatenate([true, 2 * true[:1], 2 * true[1:], 1.2 * true[1:]])
    found = summary(ghosts, true)
    assert (found["predicted"], found["found"], found["named_twice"]) == (5, 2, 3)
    assert found["precision"] == 2 / 5 and found["f1"] == pytest.approx(2 * 2 / (2 + 5))
    bands = {tuple(b["metres"]): b for b in found["by_distance"]}
    assert (bands[0, 6]["predicted"], bands[0, 6]["named_twice"]) == (2, 1)
    assert (bands[15, 25]["predicted"], bands[15, 25]["precision"]) == (3, 1 / 3)
    assert found["by_crowding"][0]["predicted"] == 5


def test_crowding_tells_people_apart():
    true = crowd((0, 0, 10), (0.1, 0, 10.5), (0.2, 0, 11), (6, 0, 10), (6.2, 0, 10.2), (-6, 0, 10))
    found = summary(true[[0, 3, 4]], true)
    assert [(b["overlapping"], b["true"], b["found"]) for b in found["by_crowding"]] == [
        ("0", 1, 0),
        ("1", 2, 2),
        ("2 or more", 3, 1),
    ]


def test_postures_tell_people_apart():
    true = crowd((0, 0, 10), (3, 0, 10), (6, 0, 10), (-3, 0, 10))
    knees, ankles = [skeleton.JOINTS.index(f"{side}_knee") for side in ("right", "left")], skeleton.PAIRS["ankles"]
    true[1, knees] += [0, -0.45, -0.45]  # thighs towards the camera
    true[1, ankles] += [0, -0.45, -0.45]
    true[2, ankles] += [[0, 0, -0.3], [0, 0, 0.3]]
    present = everything(true)
    present[3, knees[0]] = False  # outside the picture
    found = summary(true[1:], true, present=present)["by_pose"]
    names = ("upright", "striding", "sitting", "unknown")
    assert [(b["pose"], b["true"], b["found"]) for b in found] == list(zip(names, (1, 1, 1, 1), (0, 1, 1, 1)))


def test_frames_add_up():
    rng = np.random.default_rng(0)
    frames = []
    for n, m in ((3, 2), (0, 4), (2, 0), (0, 0), (5, 6)):
        true = crowd(*zip(rng.uniform(-4, 4, m), np.zeros(m), rng.uniform(4, 28, m)))
        predicted = np.concatenate([true, crowd(*[(9, 0, 20)] * n)])[:n] + rng.normal(0, 0.2, (n, 14, 3))
        frames.append(measured(predicted, true))
    whole = people_metrics.summarise(frames)
    counts = [(f.predicted, f.found.sum(), len(f.found), f.twice.sum()) for f in frames]
    names = ("predicted", "found", "true", "named_twice")
    assert [whole[n] for n in names] == np.sum(counts, axis=0).tolist() and whole["true"] == 12
    for grouping in ("by_distance", "by_height", "by_pose", "by_crowding"):
        for name in names[1:]:
            assert sum(part[name] for part in whole[grouping]) == whole[name]
    errors = np.concatenate([f.root_error for f in frames])
    assert whole["mpjpe_cm"] == pytest.approx(100 * np.nanmean(errors))
    along = np.concatenate([f.along for f in frames])
    assert whole["along_cm"] == pytest.approx({"median": 100 * np.median(along), "mean": 100 * along.mean()}, rel=1e-5)
    # Joints of a band are those of its people.
    for part in whole["by_distance"]:
        low, high = part["metres"][0], part["metres"][1] or np.inf
        some = [f.along[(low <= f.distance[f.owner]) & (f.distance[f.owner] < high)] for f in frames]
        some = np.concatenate(some)
        assert part["along_cm"]["mean"] == (pytest.approx(100 * some.mean(), rel=1e-5) if len(some) else None)


def test_nobody_there_and_nobody_named():
    nobody = crowd()
    found = summary(nobody, nobody)
    assert found["true"] == found["predicted"] == 0
    assert all(found[n] is None for n in ("precision", "recall", "f1", "mpjpe_cm", "pa_mpjpe_cm"))
    ghost = summary(crowd((0, 0, 5)), nobody)
    assert (ghost["predicted"], ghost["precision"], ghost["f1"]) == (1, 0, 0) and ghost["recall"] is None
    assert all(b["predicted"] == 0 for b in ghost["by_distance"])
    # Places for people that are empty are nobody, true or not.
    padded = np.concatenate([crowd((0, 0, 5)), np.zeros((2, 14, 3))])
    there = np.repeat([[True], [False], [False]], 14, axis=1)
    found = summary(padded, padded, known=there, present=there)
    assert (found["true"], found["predicted"], found["found"]) == (1, 1, 1)

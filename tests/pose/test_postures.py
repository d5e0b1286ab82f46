"""Postures by hand about the limits, turned as people may be, and beside what the crowd's people do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from loco_jax.data import crowd
from loco_jax.geometry import skeleton
from loco_jax.pose import postures

J = {name: i for i, name in enumerate(skeleton.JOINTS)}
NEEDED = {"neck"} | {f"{side}_{name}" for side in ("right", "left") for name in ("hip", "knee", "ankle")}


def ahead(degrees: float) -> np.ndarray:
    """The direction that points down at 0 degrees and ahead at 90."""
    return np.array([0, np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def person(right=(0.0, 0.0), left=(0.0, 0.0), lean: float = 0.0) -> np.ndarray:
    """Joints [14, 3] in metres of somebody whose thighs and shanks point ahead by these degrees."""
    joints = np.full((14, 3), np.nan)  # joints that play no role
    joints[J["neck"]] = -0.5 * ahead(-lean)
    for side, x, (thigh, shank) in (("right", 0.1, right), ("left", -0.1, left)):
        joints[J[f"{side}_hip"]] = [x, 0, 0]
        joints[J[f"{side}_knee"]] = joints[J[f"{side}_hip"]] + 0.45 * ahead(thigh)
        joints[J[f"{side}_ankle"]] = joints[J[f"{side}_knee"]] + 0.4 * ahead(shank)
    return joints


def named(*people: np.ndarray, known: np.ndarray | None = None) -> list[str]:
    joints = np.array(people).reshape(-1, 14, 3)
    known = np.ones(joints.shape[:2], bool) if known is None else known
    return [postures.POSTURES[i] for i in postures.classify(joints, known)]


def test_by_hand():
    cases = {
        "upright": [person(), person((10, -5), (0, -12)), person((49, 0), (49, 0)), person(lean=45)],
        "striding": [person((11, 0), (-11, 0)), person((0, -25), (0, 0)), person((80, 0), (0, 0))],
        "sitting": [person((51, 0), (51, 0)), person((90, 0), (85, 10)), person(lean=55)],
    }
    for want, people in cases.items():
        assert named(*people) == [want] * len(people)


def test_nobody():
    assert named() == []


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_turns_places_and_sizes_play_no_role(seed):
    rng = np.random.default_rng(seed)
    people = [person(), person((30, 20), (-10, -40)), person((88, 5), (84, 0), 10)]
    turned = [rng.uniform(0.2, 3) * Rotation.random(random_state=rng).apply(p) + rng.normal(0, 20, 3) for p in people]
    assert named(*turned) == ["upright", "striding", "sitting"]


@pytest.mark.parametrize("name", skeleton.JOINTS)
def test_a_joint_that_is_needed_and_not_known(name):
    known = np.ones((1, 14), bool)
    known[0, J[name]] = False
    assert named(person((90, 0), (90, 0)), known=known) == ["unknown" if name in NEEDED else "sitting"]


def test_what_the_crowds_people_do():
    """Who moves walks or runs. Of the others, those sit whose hips are lower than their legs are long."""

    @jax.jit
    @jax.vmap
    def half_a_second(index):
        return crowd.sample_sequence(crowd.scene_key("train", index), crowd.DEMO, num_frames=2, fps=2.0)

    scenes = jax.tree.map(np.asarray, half_a_second(jnp.arange(150)))
    there = scenes.present[:, 0]
    heights = (scenes.joints[:, 0].astype(np.float64) @ scenes.rotation[:, None])[there][..., 2]
    heights += np.broadcast_to(scenes.height[:, None], there.shape)[there][:, None]
    before, after = (scenes.joints[:, t][there][:, skeleton.FROM_JTA].astype(np.float64) for t in (0, 1))
    hips, knees, ankles = ([J[f"{side}_{name}"] for side in ("right", "left")] for name in ("hip", "knee", "ankle"))
    legs = (
        np.linalg.norm(before[:, hips] - before[:, knees], axis=-1)
        + np.linalg.norm(before[:, knees] - before[:, ankles], axis=-1)
    ).mean(axis=1)
    moved = np.linalg.norm((after - before)[:, hips].mean(axis=1), axis=-1) > 0.2
    low = heights[:, skeleton.FROM_JTA][:, hips].mean(axis=1) < 0.75 * legs
    found = np.array(named(*before))
    assert moved.sum() > 300 and (low & ~moved).sum() > 30 and (~low & ~moved).sum() > 100
    assert np.mean(found[moved] == "striding") > 0.98
    assert np.mean(found[low & ~moved] == "sitting") > 0.98
    assert (found[~low & ~moved] == "upright").mean() > 0.98 and "sitting" not in found[~low]

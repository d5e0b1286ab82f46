"""The ground where people stand."""

import math

import numpy as np
import pytest

from loco_jax.geometry import skeleton
from loco_jax.pose.ground import ground
from tests.support.upright import bodies, tilted


@pytest.mark.parametrize("angle", [-0.1, 0.0, 0.3, 0.8])
@pytest.mark.parametrize("roll", [0.0, 0.15])
@pytest.mark.parametrize("places", [[(0, 6)], [(-3, 5), (2, 8), (0, 20), (5, 12)]], ids=["one", "four"])
def test_the_ground_is_where_people_stand(angle, roll, places):
    rotation = tilted(angle, roll)
    up, height = ground(bodies(places, rotation, height=4.0))
    np.testing.assert_allclose(up, rotation[1], atol=0.01)
    assert height == pytest.approx(4.0, abs=0.05)


def test_the_ground_bears_noise_holes_and_somebody_in_the_air():
    rng = np.random.default_rng(0)
    rotation = tilted(0.35)
    people = bodies(rng.uniform([-8, 4], [8, 25], (12, 2)), rotation, height=5.0)
    for person in people:
        person += rng.normal(0, 0.08, (14, 3))
        person[rng.random(14) < 0.2] = np.nan
    people[4] -= 3 * rotation[1]
    up, height = ground(people)
    assert math.degrees(math.acos(up @ rotation[1])) < 3 and height == pytest.approx(5.0, abs=0.4)


def test_the_ground_without_feet_or_people():
    up, height = ground(np.zeros((0, 14, 3)))
    assert up.tolist() == [0, -1, 0] and height > 1
    person = bodies([(0, 3)], height=1.6)
    joints = person.copy()
    joints[:, [skeleton.JOINTS.index(f"{side}_ankle") for side in ("left", "right")]] = np.nan
    up, height = ground(joints)
    assert up.tolist() == [0, -1, 0] and height > 1
    assert np.isfinite(ground(np.full((1, 14, 3), np.nan)).up).all()
    lying = person[..., [0, 2, 1]]
    assert math.acos(-ground(lying).up[1]) < math.radians(66)


def test_axes_are_right_up_and_ahead():
    """They are the rotation of the camera, but for its roll about the vertical, which nothing tells."""
    place = ground(bodies([(-3, 5), (2, 8), (0, 20), (5, 12)], tilted(0.3), height=4.0))
    np.testing.assert_allclose(place.axes(), tilted(0.3), atol=0.02)
    np.testing.assert_allclose(place.axes() @ place.axes().T, np.eye(3), atol=1e-12)

"""The ground, as estimated from how people stand."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

from loco_jax.geometry import skeleton

_STEEPEST = math.radians(65)  # between the camera's up and the world's
_USUAL_HEIGHT = 1.6  # metres from the ground to the camera, if there are no ankles
_TRUST = 5.5  # metres: ankles that are farther apart count more than bodies for the ground's slope
_LEVEL = np.array([0.0, -1.0, 0.0])  # up, for a camera that is held level
_ANKLE = 0.08  # metres above the ground
_HEAD, _NECK = (skeleton.JOINTS.index(name) for name in ("head_top", "neck"))
_ANKLES = [skeleton.JOINTS.index(name) for name in ("right_ankle", "left_ankle")]


class Ground(NamedTuple):
    """The ground: `up`, a unit vector in camera coordinates, and the camera's height above it in metres."""

    up: Float[np.ndarray, "3"]
    height: float

    def axes(self) -> Float[np.ndarray, "3 3"]:
        """The unit vectors right, up and ahead in camera coordinates, by rows."""
        ahead = np.array([0.0, 0.0, 1.0]) - self.up[2] * self.up
        ahead /= np.linalg.norm(ahead)
        return np.stack([np.cross(ahead, self.up), self.up, ahead])


def ground(joints: Float[np.ndarray, "P J 3"]) -> Ground:
    """Estimates the ground from how people stand, because the camera's tilt is unknown. Unknown joints are NaN.

    The direction of bodies gives a first estimate of up. A plane is then fitted to the ankles. The farther they are
    apart, the more the plane follows them. Ankles far from the plane count less. Without ankles the ground is 1.6 m
    below the camera, and without people it is level.
    """
    joints = joints[:: max(1, len(joints) // 5000)]
    ankles = joints[:, _ANKLES]
    tops = np.where(np.isfinite(joints[:, _HEAD]), joints[:, _HEAD], joints[:, _NECK])
    bodies = tops - ankles.mean(axis=1)
    bodies = bodies[np.isfinite(bodies).all(axis=1)]
    bodies /= np.maximum(np.linalg.norm(bodies, axis=1, keepdims=True), 1e-6)
    up = _upright(np.median(bodies, axis=0)) if len(bodies) else _LEVEL
    ankles = ankles[np.isfinite(ankles).all(axis=-1)]
    if not len(ankles):
        return Ground(up, _USUAL_HEIGHT)
    centre, prior = np.median(ankles, axis=0), -up[[0, 2]] / up[1]
    x, y, z = (ankles - centre).T

    def errors(plane):  # of the plane y = a + b x + c z, and of its slope
        a, b, c = plane
        return np.concatenate([a + b * x + c * z - y, _TRUST * (plane[1:] - prior)])

    a, b, c = optimize.least_squares(errors, [0.0, *prior], loss="soft_l1", f_scale=0.15).x
    normal = _upright(np.array([b, -1.0, c]))
    return Ground(normal, float(_ANKLE - (centre + [0, a, 0]) @ normal))


def _upright(up: np.ndarray) -> np.ndarray:
    """A unit vector like `up`, at most _STEEPEST from the camera's own up."""
    up = up / max(np.linalg.norm(up), 1e-6)
    aside = up - (up @ _LEVEL) * _LEVEL
    if up @ _LEVEL >= math.cos(_STEEPEST) or not aside.any():
        return up if aside.any() else _LEVEL
    return math.cos(_STEEPEST) * _LEVEL + math.sin(_STEEPEST) * aside / np.linalg.norm(aside)

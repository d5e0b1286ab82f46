"""Bodies that stand on level ground, as a tilted camera above it sees them."""

import math

import numpy as np

from loco_jax.geometry import skeleton

# Somebody standing, facing us: x right, y up, z towards us, from the point between the feet.
STANDING = {
    "head_top": (0, 1.75, 0), "neck": (0, 1.48, 0),
    "right_shoulder": (-0.2, 1.43, 0), "right_elbow": (-0.26, 1.13, 0), "right_wrist": (-0.3, 0.88, 0.1),
    "left_shoulder": (0.2, 1.43, 0), "left_elbow": (0.26, 1.13, 0), "left_wrist": (0.3, 0.88, 0.1),
    "right_hip": (-0.11, 0.93, 0), "right_knee": (-0.13, 0.5, 0.05), "right_ankle": (-0.14, 0.08, 0),
    "left_hip": (0.11, 0.93, 0), "left_knee": (0.13, 0.5, 0.05), "left_ankle": (0.14, 0.08, 0),
}  # fmt: skip
BODY = np.array([STANDING[name] for name in skeleton.JOINTS])


def tilted(angle, roll=0.0):
    """Rows: right, up and ahead of the world, in the axes of a camera that looks down by `angle` and is rolled."""
    s, c = math.sin(angle), math.cos(angle)
    world = np.array([[1, 0, 0], [0, -c, -s], [0, -s, c]])
    return world @ np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])


def bodies(places, rotation=None, height=1.6):
    """Joints `[P, 14, 3]` in camera coordinates of people at `places` (metres right of and ahead of the camera's foot).

    `rotation` is as from `tilted`, and `height` is the camera's above the ground.
    """
    rotation = tilted(0.0) if rotation is None else rotation
    return np.array([(np.array([x, -height, z]) + BODY * [1, 1, -1]) @ rotation for x, z in places]).reshape(-1, 14, 3)

"""Upright people in small pictures."""

import numpy as np

from loco_jax.data.frames import Frames
from loco_jax.geometry import skeleton
from loco_jax.geometry.camera import Camera
from loco_jax.geometry.volume import Volume

VOLUME = Volume(image_size=(96, 128), depth_bins=16, max_distance=25.0)
CAMERA = Camera(*(np.full(1, f, np.float32) for f in (100.0, 100.0, 64.0, 48.0)))


def person(at, turn=0.0):
    """Somebody upright with the mid-hip at a place in camera axes; turned by 0 they face away from the camera."""
    joints = np.zeros((14, 3), np.float32)
    for name, place in {"head_top": (0, -0.8, 0), "neck": (0, -0.5, 0)}.items():
        joints[skeleton.JOINTS.index(name)] = place
    for side, x in (("right", 1), ("left", -1)):
        for part, (out, down) in {
            "shoulder": (0.2, -0.5),
            "elbow": (0.25, -0.2),
            "wrist": (0.25, 0.1),
            "hip": (0.1, 0),
            "knee": (0.1, 0.45),
            "ankle": (0.1, 0.9),
        }.items():
            joints[skeleton.JOINTS.index(f"{side}_{part}")] = x * out, down, 0
    c, s = np.cos(turn), np.sin(turn)
    return joints @ np.float32([[c, 0, s], [0, 1, 0], [-s, 0, c]]) + np.float32(at)


def frames_of(*people, present=None):
    """A batch of one frame of up to four people, of whom some may be absent; its picture is black."""
    joints = np.zeros((1, 4, 14, 3), np.float32)
    joints[0, : len(people)] = np.reshape(people, (-1, 14, 3))
    there = np.zeros((1, 4, 14), bool)
    there[0, : len(people)] = True if present is None else np.asarray(present)[:, None]
    image = np.zeros((1, *VOLUME.image_size, 3), np.uint8)
    ground = np.float32([[0, -1, 0, 2.0]])
    return Frames(joints, there, CAMERA, image, ground)

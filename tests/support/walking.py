"""Frames of people who walk, with arms and legs that swing, made of rotations, so that limbs keep their lengths."""

import numpy as np
from scipy.spatial.transform import Rotation

from loco_jax.geometry import skeleton
from loco_jax.pose.tracking import Tracked

RATE = 25.0
HEIGHT = 2.0  # of the camera above the ground, metres
# From which joint, and the direction and length in metres, when the person stands: x left, y up, z to the front.
BODY = {
    "neck": (None, (0, 1.40, 0)),
    "head_top": ("neck", (0, 0.28, 0.03)),
    "left_shoulder": ("neck", (0.19, -0.04, 0)),
    "left_elbow": ("left_shoulder", (0.03, -0.29, 0)),
    "left_wrist": ("left_elbow", (0.02, -0.25, 0.02)),
    "left_hip": ("neck", (0.11, -0.5, 0)),
    "left_knee": ("left_hip", (0, -0.41, 0)),
    "left_ankle": ("left_knee", (0, -0.41, 0)),
}


def walker(frames=40, at=(0.0, 6.0), turn=2 * np.pi, swing=0.7, arms=1.0):
    """Joints `[T, 14, 3]` in camera coordinates of somebody who walks to the right, turns by `turn`, and lifts the
    arms from the front to `arms` radians."""
    joints = np.zeros((frames, 14, 3))
    for t in range(frames):
        share = t / max(frames - 1, 1)
        whole = Rotation.from_euler("y", turn * share)
        places = {}
        for side, sign in (("left", 1), ("right", -1)):
            leg = Rotation.from_euler("x", sign * swing * np.sin(0.5 * t))
            knee = leg * Rotation.from_euler("x", 0.6 * swing * (1 + np.sin(0.5 * t)))
            arm = Rotation.from_euler("x", -arms * share) * Rotation.from_euler("z", sign * 0.4 * np.sin(0.3 * t))
            elbow = arm * Rotation.from_euler("x", -1 - np.cos(0.4 * t))
            turns = {"elbow": arm, "wrist": elbow, "knee": leg, "ankle": knee}
            for name, (start, offset) in BODY.items():
                name, start = (text and text.replace("left", side) for text in (name, start))
                limb = whole.apply(np.multiply(offset, (sign, 1, 1)))
                if name.partition("_")[2] in turns:
                    limb = (whole * turns[name.partition("_")[2]]).apply(np.multiply(offset, (sign, 1, 1)))
                places[name] = limb + (places[start] if start else 0)
        body = np.stack([places[name] for name in skeleton.JOINTS])
        joints[t] = [at[0] + 0.04 * t, HEIGHT, at[1]] + body * [1, -1, -1]
    return joints


def standing(frames=5, at=(0.0, 6.0)):
    """Somebody who stands still."""
    return walker(frames, at, turn=0.0, swing=0.0, arms=0.0) - np.arange(frames)[:, None, None] * [0.04, 0, 0]


def frames_of(people, rate=RATE):
    """Frames of tracks: joints `[T, 14, 3]` by identity. A person without known joints is not in the frame."""
    count = len(next(iter(people.values())))
    frames = []
    for t in range(count):
        ids = [number for number, joints in people.items() if np.isfinite(joints[t]).any()]
        joints = np.array([people[number][t] for number in ids]).reshape(-1, 14, 3)
        scores = np.where(np.isfinite(joints).all(axis=-1), 0.5, 0.0)
        frames.append(Tracked(t / rate, joints, scores, np.array(ids, int)))
    return frames

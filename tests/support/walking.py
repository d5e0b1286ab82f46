"""Frames of people who walk, with arms and legs that swing, made of rotations, so that limbs keep their lengths."""

import numpy as np
from scipy.spatial.transform import Rotation

from loco_jax.geometry import skeleton
from loco_jax.motion import Track, Tracks, tracks_of
from loco_jax.pose.tracking import Tracked
from tests.support.upright import STANDING

RATE = 25.0
HEIGHT = 2.0  # of the camera above the ground, metres
# From which joint, and the offset in metres, when the person stands: x left, y up, z to the front.
BEFORE = {
    "head_top": "neck", "left_shoulder": "neck", "left_elbow": "left_shoulder", "left_wrist": "left_elbow",
    "left_hip": "neck", "left_knee": "left_hip", "left_ankle": "left_knee",
}  # fmt: skip
BODY = {
    "neck": (None, STANDING["neck"]),
    **{name: (start, np.subtract(STANDING[name], STANDING[start])) for name, start in BEFORE.items()},
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


def in_world(people):
    """The joints `[N, T, 14, 3]` of such tracks in the world, with all frames."""
    tracks = tracks_of(frames_of(people))
    joints = np.full((len(tracks.people), len(tracks.times), 14, 3), np.nan)
    for row, (_, first, some) in zip(joints, tracks.people):
        row[first : first + len(some)] = some
    return joints


def alone(joints, times=None):
    """Tracks of one person, whose joints `[T, 14, 3]` are in the world already."""
    times = np.arange(len(joints)) / RATE if times is None else np.asarray(times, float)
    return Tracks(times, RATE, (Track(1, 0, joints),))

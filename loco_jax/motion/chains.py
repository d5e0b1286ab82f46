"""Skeletons of bones with one length, and the rotations that bring them from a rest pose to the poses of a track.

A limb is turned by the shortest rotation from its rest direction, as seen from the bone before it. That rotation
jumps where a limb points against its rest direction. So a bone is carried from frame to frame by the shortest rotation,
and its roll returns to that of the rest pose slowly. The torso has a rotation of its own, from the neck, shoulders and
hips.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from loco_jax.geometry import skeleton
from loco_jax.pose import smoothing

_J = {name: j for j, name in enumerate(skeleton.JOINTS)}
_ROOT = _J["neck"]
# The limbs as pairs that lead away from the neck.
_BONES = tuple((b, a) if b == _ROOT else (a, b) for a, b in skeleton.LIMBS)
_UNTWIST = 0.1  # radians a frame, of a bone's roll
_LEAST = 1e-6
# Metres, of an adult who stands with arms stretched out to the sides: x to the person's left, y up, z to the front.
_LEFT = {
    "head_top": (0.0, 1.7, 0.0), "neck": (0.0, 1.43, 0.0), "left_shoulder": (0.18, 1.4, 0.0),
    "left_elbow": (0.46, 1.4, 0.0), "left_wrist": (0.71, 1.4, 0.0), "left_hip": (0.1, 0.92, 0.0),
    "left_knee": (0.1, 0.5, 0.0), "left_ankle": (0.1, 0.08, 0.0),
}  # fmt: skip
_REST = np.array([np.multiply(_LEFT[name.replace("right", "left")], (1 - 2 * ("right" in name), 1, 1)) for name in _J])


class Node(NamedTuple):
    """A joint of the skeleton that is written.

    Attributes:
      name: that of a joint of the body, or like neck_to_left_hip for the beginning of a bone from the neck.
      parent: the index of the node before it; -1 for the root, which is the neck.
      limb: the limb, an index into `skeleton.LIMBS`, at whose end the node is; -1 if it is at its parent's place.
      turns: the limb that the node's rotation turns, or -1.
    """

    name: str
    parent: int
    limb: int
    turns: int


class Motion(NamedTuple):
    """A person's bones and their rotations.

    Attributes:
      offsets: of each of `NODES` from its parent in the rest pose, metres.
      places: of the neck in each frame, metres.
      rotations: of each node relative to its parent, as quaternions (x, y, z, w).
    """

    offsets: Float[np.ndarray, "N 3"]
    places: Float[np.ndarray, "T 3"]
    rotations: Float[np.ndarray, "T N 4"]


def _nodes() -> tuple[Node, ...]:
    """The nodes, each followed by all that hang on it."""
    nodes = [Node("neck", -1, -1, -1)]

    def add(joint: int, parent: int) -> None:
        for limb, (start, end) in enumerate(_BONES):
            if start != joint:
                continue
            before = parent
            # The bones of the neck turn apart from each other, so each has a node for its rotation.
            if joint == _ROOT:
                before = len(nodes)
                nodes.append(Node(f"neck_to_{skeleton.JOINTS[end]}", parent, -1, limb))
            after = next((i for i, (start, _) in enumerate(_BONES) if start == end), -1)
            nodes.append(Node(skeleton.JOINTS[end], before, limb, after))
            add(end, len(nodes) - 1)

    add(_ROOT, 0)
    return tuple(nodes)


NODES = _nodes()


def move(joints: Float[np.ndarray, "T J 3"]) -> Motion:
    """The motion of one person's joints, in metres with y up, NaN if unknown.

    Bones have the median lengths of the track. A bone without known ends keeps its last rotation, or the first that
    comes, and bones that are never known stay as in the rest pose. The neck moves evenly while it is not known.
    """
    directions, lengths = _rest(smoothing.limb_lengths(joints))
    offsets = np.stack([directions[n.limb] * lengths[n.limb] if n.limb >= 0 else np.zeros(3) for n in NODES])
    places = _places(joints, lengths)
    joints = joints.copy()
    joints[:, _ROOT] = places
    glob: list[Rotation] = [_torso(joints)]
    rotations = [glob[0]]
    for node in NODES[1:]:
        parent = glob[node.parent]
        local = Rotation.identity(len(joints))
        if node.turns >= 0:
            start, end = _BONES[node.turns]
            local = _swings(parent.inv().apply(joints[:, end] - joints[:, start]), directions[node.turns])
        glob.append(parent * local)
        rotations.append(local)
    return Motion(offsets, places, np.stack([each.as_quat() for each in rotations], axis=1))


def rest_places(offsets: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Where the nodes are in the rest pose, with the root at the origin."""
    places = np.zeros_like(offsets)
    for i, node in enumerate(NODES[1:], 1):
        places[i] = places[node.parent] + offsets[i]
    return places


def _rest(lengths: Float[np.ndarray, " L"]) -> tuple[Float[np.ndarray, "L 3"], Float[np.ndarray, " L"]]:
    """The limbs' directions in the rest pose, and their lengths; those that are not known fit to the others."""
    ends = np.array(_BONES)
    limbs = _REST[ends[:, 1]] - _REST[ends[:, 0]]
    usual = np.linalg.norm(limbs, axis=1)
    known = np.isfinite(lengths)
    times = np.median(lengths[known] / usual[known]) if known.any() else 1.0
    return limbs / usual[:, None], np.where(known, lengths, times * usual)


def _places(joints: Float[np.ndarray, "T J 3"], lengths: Float[np.ndarray, " L"]) -> Float[np.ndarray, "T 3"]:
    """Where the neck is; in a track without necks, where it would be in the rest pose."""
    places = joints[:, _ROOT]
    if not np.isfinite(places).any():
        body = _REST - _REST[_ROOT]
        known = np.isfinite(joints)
        count = known.sum(axis=1)
        total = np.where(known, joints - body, 0.0).sum(axis=1)
        places = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    t, known = np.arange(len(places)), np.isfinite(places).all(axis=1)
    if not known.any():
        return np.broadcast_to(_REST[_ROOT], places.shape).copy()
    return np.stack([np.interp(t, t[known], x[known]) for x in places.T], axis=1)


def _torso(joints: Float[np.ndarray, "T J 3"]) -> Rotation:
    """The torso's rotation from the rest pose: its y is from the hips to the neck, its x to the person's left."""
    left, right = (joints[:, [_J[f"{side}_shoulder"], _J[f"{side}_hip"]]] for side in ("left", "right"))
    hips = joints[:, [_J["left_hip"], _J["right_hip"]]]
    up, across = joints[:, _ROOT] - _mean(hips), _mean(left - right)
    up /= np.maximum(np.linalg.norm(up, axis=1, keepdims=True), _LEAST)
    across = across - (across * up).sum(axis=1, keepdims=True) * up
    size = np.linalg.norm(across, axis=1, keepdims=True)
    across /= np.maximum(size, _LEAST)
    known = np.isfinite(across).all(axis=1) & (size[:, 0] > _LEAST) & (np.linalg.norm(up, axis=1) > 0.5)
    if not known.any():
        return Rotation.identity(len(joints))
    axes = np.stack([across, up, np.cross(across, up)], axis=-1)
    return Rotation.from_matrix(axes[_held(known)])


def _swings(limbs: Float[np.ndarray, "T 3"], rest: Float[np.ndarray, "3"]) -> Rotation:
    """The rotations that turn `rest`, a unit vector, into the directions of limbs, NaN if unknown, without rolling."""
    sizes = np.linalg.norm(limbs, axis=1, keepdims=True)
    known = np.isfinite(sizes[:, 0]) & (sizes[:, 0] > _LEAST)
    if not known.any():
        return Rotation.identity(len(limbs))
    directions = (limbs / np.maximum(sizes, _LEAST))[_held(known)]
    direct = _shortest(np.broadcast_to(rest, directions.shape), directions)
    carried = _shortest(directions[:-1], directions[1:]) * direct[:-1]
    # Both turn `rest` to the same direction, so they differ by a roll about it.
    rolls = _angle_about(rest, carried.inv() * direct[1:])
    roll, kept = 0.0, [0.0]
    for change in rolls:
        roll = (roll - change + np.pi) % (2 * np.pi) - np.pi
        roll -= np.clip(roll, -_UNTWIST, _UNTWIST)
        kept.append(roll)
    return direct * Rotation.from_rotvec(np.array(kept)[:, None] * rest)


def _shortest(a: Float[np.ndarray, "T 3"], b: Float[np.ndarray, "T 3"]) -> Rotation:
    """The shortest rotations of unit vectors `a` into `b`. Opposite vectors have one of many."""
    cosines = (a * b).sum(axis=1, keepdims=True)
    aside = np.cross(a, np.eye(3)[np.abs(a).argmin(axis=1)])
    opposite = cosines < -1 + _LEAST**2
    axes, real = np.where(opposite, aside, np.cross(a, b)), np.where(opposite, 0.0, 1 + cosines)
    return Rotation.from_quat(np.concatenate([axes, real], axis=1))


def _angle_about(axis: Float[np.ndarray, "3"], rotations: Rotation) -> Float[np.ndarray, " T"]:
    """The angles, in radians, of rotations about an axis."""
    quaternions = rotations.as_quat()
    return 2 * np.arctan2(quaternions[:, :3] @ axis, quaternions[:, 3])


def _mean(vectors: Float[np.ndarray, "T K 3"]) -> Float[np.ndarray, "T 3"]:
    """The mean of the known vectors of each frame; NaN without any."""
    known = np.isfinite(vectors)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, vectors, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _held(known: Bool[np.ndarray, " T"]) -> np.ndarray:
    """For each frame, the last one that is known, or the first that comes."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    return np.where(last < 0, known.argmax(), last)

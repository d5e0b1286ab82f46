"""Skeletons of bones with one length, and the rotations that bring them from a rest pose to the poses of a track.

A limb is turned by the shortest rotation from its rest direction, as seen from the bone before it. That rotation
jumps where a limb points against its rest direction. So a bone is carried from frame to frame by the shortest rotation,
and its roll returns to that of the rest pose slowly. The torso has a rotation of its own, from the neck, shoulders and
hips.
"""

import math
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
_NEAR = [end for start, end in _BONES if start == _ROOT]  # the neck's neighbours
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
    """The nodes, each followed by its descendants."""
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


def move(joints: Float[np.ndarray, "T J 3"], times: Float[np.ndarray, " T"]) -> Motion:
    """The motion of one person's joints, in metres with y up, NaN if unknown, at rising times in seconds.

    Bones have the median lengths of the track. A bone without known ends keeps its last known rotation, or else takes
    the first one, and bones that are never known stay as in the rest pose. An unknown neck is placed to fit its known
    neighbours. Without these it is interpolated linearly in time.
    """
    directions, lengths = _rest(smoothing.limb_lengths(joints))
    offsets = np.stack([directions[n.limb] * lengths[n.limb] if n.limb >= 0 else np.zeros(3) for n in NODES])
    places = _places(joints, times)
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
    """The limbs' directions in the rest pose, and their lengths; unknown lengths are chosen to fit the known ones."""
    ends = np.array(_BONES)
    limbs = _REST[ends[:, 1]] - _REST[ends[:, 0]]
    usual = np.linalg.norm(limbs, axis=1)
    known = np.isfinite(lengths)
    times = np.median(lengths[known] / usual[known]) if known.any() else 1.0
    return limbs / usual[:, None], np.where(known, lengths, times * usual)


def _places(joints: Float[np.ndarray, "T J 3"], times: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 3"]:
    """Where the neck is; in a track without necks, where it would be in the rest pose."""
    neck = joints[:, _ROOT]
    if np.isfinite(neck).any():
        near = joints[:, _NEAR]
        guesses = near - _between(near - neck[:, None], times)
    else:
        guesses = joints - (_REST - _REST[_ROOT])
    places = np.where(np.isfinite(neck), neck, np.ma.masked_invalid(guesses).mean(axis=1).filled(np.nan))
    return _between(places, times) if np.isfinite(places).any() else np.tile(_REST[_ROOT], (len(times), 1))


def _between(values: Float[np.ndarray, "T *C"], times: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T *C"]:
    """The values, with NaN interpolated linearly between known ones. Values that are never known stay NaN."""
    result = values.reshape(len(times), -1).copy()
    for column in result.T:
        known = np.isfinite(column)
        if known.any():
            column[~known] = np.interp(times[~known], times[known], column[known])
    return result.reshape(values.shape)


def _torso(joints: Float[np.ndarray, "T J 3"]) -> Rotation:
    """The torso's rotation from the rest pose: its y is from the hips to the neck, its x to the person's left.

    A joint that comes and goes does not turn the torso. If the two hips are never known together, as for people at a
    desk, y is upright. The direction to the left is in the middle between those of the shoulders and of
    the hips. While one of these is not known, the angle between them stays as it was.
    """
    right, left = (joints[:, list(pair)] for pair in zip(skeleton.PAIRS["shoulders"], skeleton.PAIRS["hips"]))
    up = _unit(joints[:, _ROOT] - joints[:, list(skeleton.PAIRS["hips"])].mean(axis=1))
    seen = np.isfinite(up).all(axis=1)
    up = up[_held(seen)] if seen.any() else np.tile([0.0, 1.0, 0.0], (len(up), 1))
    across = left - right
    shoulders, hips = (_unit(x - (x * up).sum(axis=1, keepdims=True) * up) for x in (across[:, 0], across[:, 1]))
    twists = np.arctan2((np.cross(shoulders, hips) * up).sum(axis=1), (shoulders * hips).sum(axis=1))
    both = np.isfinite(twists)
    twists = twists[_held(both)] if both.any() else np.zeros(len(twists))
    across = np.where(np.isfinite(shoulders), _turned(shoulders, up, twists / 2), _turned(hips, up, -twists / 2))
    known = np.all(np.isfinite(across), axis=1)
    if not known.any():
        return Rotation.identity(len(joints))
    axes = np.stack([across, up, np.cross(across, up)], axis=-1)
    return Rotation.from_matrix(axes[_held(known)])


def _swings(limbs: Float[np.ndarray, "T 3"], rest: Float[np.ndarray, "3"]) -> Rotation:
    """The rotations that turn `rest`, a unit vector, into the directions of limbs, NaN if unknown, without rolling."""
    directions = _unit(limbs)
    known = np.isfinite(directions).all(axis=1)
    if not known.any():
        return Rotation.identity(len(limbs))
    directions = directions[_held(known)]
    direct = _shortest(np.broadcast_to(rest, directions.shape), directions)
    carried = _shortest(directions[:-1], directions[1:]) * direct[:-1]
    # Both turn `rest` to the same direction, so they differ by a roll about it.
    rolls = _angle_about(rest, carried.inv() * direct[1:])
    roll, kept = 0.0, [0.0]
    for change in rolls.tolist():
        roll = (roll - change + math.pi) % (2 * math.pi) - math.pi
        roll -= max(-_UNTWIST, min(roll, _UNTWIST))
        kept.append(roll)
    return direct * Rotation.from_rotvec(np.array(kept)[:, None] * rest)


def _shortest(a: Float[np.ndarray, "T 3"], b: Float[np.ndarray, "T 3"]) -> Rotation:
    """The shortest rotations of unit vectors `a` into `b`; one of many for opposite vectors."""
    cosines = (a * b).sum(axis=1, keepdims=True)
    aside = np.cross(a, np.eye(3)[np.abs(a).argmin(axis=1)])
    opposite = cosines < -1 + _LEAST**2
    axes, real = np.where(opposite, aside, np.cross(a, b)), np.where(opposite, 0.0, 1 + cosines)
    return Rotation.from_quat(np.concatenate([axes, real], axis=1))


def _angle_about(axis: Float[np.ndarray, "3"], rotations: Rotation) -> Float[np.ndarray, " T"]:
    """The angles, in radians, of rotations about an axis."""
    quaternions = rotations.as_quat()
    return 2 * np.arctan2(quaternions[:, :3] @ axis, quaternions[:, 3])


def _unit(vectors: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 3"]:
    """The vectors at length 1; NaN for those that are too short to have a direction."""
    sizes = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(sizes > _LEAST, sizes, np.nan)


def _turned(
    vectors: Float[np.ndarray, "T 3"], axes: Float[np.ndarray, "T 3"], angles: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 3"]:
    """The vectors turned by angles in radians about unit vectors that are at right angles to them."""
    return np.cos(angles)[:, None] * vectors + np.sin(angles)[:, None] * np.cross(axes, vectors)


def _held(known: Bool[np.ndarray, " T"]) -> np.ndarray:
    """For each frame, the last known one up to it, or else the first known one."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    return np.where(last < 0, known.argmax(), last)

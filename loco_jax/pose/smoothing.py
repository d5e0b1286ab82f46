"""Smooth tracks: each person's place and pose by a smoother over the whole track, with limbs of constant length."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from loco_jax.geometry import skeleton
from loco_jax.pose import kalman
from loco_jax.pose.tracking import Tracked, noise_at, place_of

# Chosen on the crowd's validation split. The place is a point that moves with the person, the pose is the joints
# relative to it. Each has a density of the acceleration's noise in m²/s³, and standard errors across the ray in metres
# and along it as a share of the distance.
_PLACE_DENSITY, _PLACE_ACROSS, _PLACE_ALONG = 0.5, 0.2, 0.05
_POSE_DENSITY, _POSE_ACROSS, _POSE_ALONG = 20.0, 0.05, 0.005
_SPEED = 1.5  # standard deviation of velocities at the beginning of a track, m/s


def smooth(frames: Sequence[Tracked]) -> list[Tracked]:
    """The same tracks with smooth joints, limbs of constant length, and without gaps.

    The smoother sees the whole track, so a frame's joints follow from earlier and from later frames. Between a track's
    first and last frame the person is in every frame. People and joints that are filled in have score 0. Joints that a
    track never has stay NaN. Tracks of one frame stay as they are.
    """
    found: dict[int, dict[int, int]] = {}  # by identity and frame: the row
    for t, frame in enumerate(frames):
        for row, number in enumerate(frame.ids):
            found.setdefault(int(number), {})[t] = row
    added: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in frames]
    for number, rows in found.items():
        first, last = min(rows), max(rows)
        part = frames[first : last + 1]
        joints = np.full((len(part), *frames[0].joints.shape[1:]), np.nan)
        scores = np.zeros(joints.shape[:2])
        for t, row in rows.items():
            joints[t - first], scores[t - first] = frames[t].joints[row], frames[t].scores[row]
        joints = smooth_person(np.array([frame.time for frame in part]), joints)
        for t, person in enumerate(zip(joints, scores), first):
            added[t].append((number, *person))
    return [_with(frame, people) for frame, people in zip(frames, added)]


def smooth_person(times: Float[np.ndarray, " T"], joints: Float[np.ndarray, "T J 3"]) -> Float[np.ndarray, "T J 3"]:
    """One person's joints in metres at rising times in seconds, NaN if unknown.

    The first frame has a known joint. Joints that are never known stay NaN. The joints of a single frame stay as they
    are.
    """
    if len(times) == 1:
        return joints
    known = np.isfinite(joints).all(axis=-1)
    places, poses = _split(joints)
    # The place is one more point, which the smoother treats in the same way.
    seen = np.concatenate([known, known.any(axis=1, keepdims=True)], axis=1)
    points = np.concatenate([np.where(known[..., None], poses, 0.0), places[:, None]], axis=1)
    density = np.append(np.full(joints.shape[1], _POSE_DENSITY), _PLACE_DENSITY)
    of_poses = np.repeat(noise_at(places, _POSE_ACROSS, _POSE_ALONG)[:, None], joints.shape[1], axis=1)
    noise = np.concatenate([of_poses, noise_at(places, _PLACE_ACROSS, _PLACE_ALONG)[:, None]], axis=1)
    first, each = seen.argmax(axis=0), np.arange(seen.shape[1])
    # Before a joint is first seen, the filter's state has no meaning. The smoother derives it from later frames.
    state = kalman.start(points[first, each], noise[first, each], _SPEED)
    filtered, predicted, gains = [state.mean], [], []
    for t, step in enumerate(np.diff(times), 1):
        expected = kalman.predict(state, float(step), density)
        gains.append(kalman.gain(state, expected, float(step)).astype(np.float32))  # of long tracks they are large
        state = kalman.update(expected, points[t], noise[t], seen[t])
        predicted.append(expected.mean)
        filtered.append(state.mean)
    means = np.stack(kalman.smooth(filtered, predicted, gains))[..., :3]
    poses = np.where(known.any(axis=0)[:, None], means[:, :-1], np.nan)
    return with_constant_limbs(_held(poses, known), limb_lengths(joints), known) + means[:, -1:]


def limb_lengths(joints: Float[np.ndarray, "T J 3"]) -> Float[np.ndarray, " L"]:
    """Metres of each of `skeleton.LIMBS`: the median over the frames that have it; NaN without any."""
    ends = np.array(skeleton.LIMBS)
    lengths = np.linalg.norm(joints[:, ends[:, 0]] - joints[:, ends[:, 1]], axis=-1)
    known = np.isfinite(lengths).any(axis=0)
    return np.where(known, np.nanmedian(np.where(known, lengths, 0.0), axis=0), np.nan)


def with_constant_limbs(
    joints: Float[np.ndarray, "T J 3"], lengths: Float[np.ndarray, " L"], trusted: Bool[np.ndarray, "T J"]
) -> Float[np.ndarray, "T J 3"]:
    """The same directions of limbs, but with these lengths in metres.

    The mean position of each frame's trusted joints stays, or of all joints where none is trusted. Limbs beyond an
    unknown joint keep their places.
    """
    result = joints.copy()
    # Limbs are listed outward from the neck.
    for (parent, child), length in zip(skeleton.LIMBS, lengths):
        limb = joints[:, child] - joints[:, parent]
        now = np.linalg.norm(limb, axis=-1, keepdims=True)
        moved = result[:, parent] + limb * np.where(now > 0, length / np.maximum(now, 1e-6), 1.0)
        result[:, child] = np.where(np.isfinite(moved), moved, joints[:, child])
    there = np.isfinite(joints).all(axis=-1)
    there &= trusted | ~(there & trusted).any(axis=1, keepdims=True)
    shift = np.where(there[..., None], result - joints, 0.0).sum(axis=1, keepdims=True)
    return result - shift / np.maximum(there.sum(axis=1), 1)[:, None, None]


def _held(poses: Float[np.ndarray, "T J 3"], known: Bool[np.ndarray, "T J"]) -> Float[np.ndarray, "T J 3"]:
    """Poses in which each joint rests before it is first and after it is last known. It would otherwise drift on."""
    last = len(known) - 1 - known[::-1].argmax(axis=0)
    t = np.clip(np.arange(len(known))[:, None], known.argmax(axis=0), last)
    return np.take_along_axis(poses, t[..., None], axis=0)


def _split(joints: Float[np.ndarray, "T J 3"]) -> tuple[Float[np.ndarray, "T 3"], Float[np.ndarray, "T J 3"]]:
    """Places, and joints relative to them. A joint that is missing in a frame does not move the place.

    A frame without joints has the place of the one before.
    """
    places: list[np.ndarray] = []
    poses: list[np.ndarray] = []
    pose = np.full_like(joints[0], np.nan)
    for person in joints:
        there = np.isfinite(person)
        place = place_of(person, pose) if there.any() else places[-1]
        pose = np.where(there, person - place, pose)
        places.append(place)
        poses.append(person - place)
    return np.array(places), np.array(poses)


def _with(frame: Tracked, people: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> Tracked:
    """A frame with these people: identity, joints and scores."""
    if not people:
        return frame
    ids, joints, scores = zip(*people)
    return Tracked(frame.time, np.stack(joints), np.stack(scores), np.array(ids))

"""Tracks: identities of people from frame to frame, by where they are and how they move.

Each track has a Kalman filter with constant velocity. In every frame, people are assigned to tracks so that the sum of
the distances between their joints is least. Appearance does not count, so two people who meet closely may swap
identities. Somebody who is absent for longer than `Settings.patience` comes back as somebody new.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from loco_jax.pose import kalman

_ROUNDING = 1e-6  # seconds, of times that are multiples of the time between frames
_NEVER = 1e6  # the cost of a pair that is too far apart


class Sighting(NamedTuple):
    """The people of one frame.

    Attributes:
      time: seconds.
      joints: metres in camera coordinates, NaN if unknown. Each person has a known joint.
      scores: of joints, 0 for those that were not found.
    """

    time: float
    joints: Float[np.ndarray, "P J 3"]
    scores: Float[np.ndarray, "P J"]


class Tracked(NamedTuple):
    """The people of one frame and their identities, from 1."""

    time: float
    joints: Float[np.ndarray, "P J 3"]
    scores: Float[np.ndarray, "P J"]
    ids: Int[np.ndarray, " P"]


class Settings(NamedTuple):
    """Numbers of the tracker. The defaults are chosen on the crowd's validation split.

    Attributes:
      patience: seconds that a person may be absent; the next frame is allowed however late it is.
      density: of the acceleration's noise, m²/s³.
      across: standard error of a person's place across the ray from the camera, metres.
      along: standard error along the ray, as a share of the distance.
      speed: standard deviation of a new person's velocity, m/s.
      reach: the greatest distance of joints from where a track expects them, in standard deviations.
    """

    patience: float = 1.0
    density: float = 1.0
    across: float = 0.2
    along: float = 0.05
    speed: float = 1.5
    reach: float = 3.0


DEFAULT = Settings()


class _Track(NamedTuple):
    """A person as last seen: `pose` are the joints relative to the place, which the filter follows."""

    number: int
    seen: float  # seconds
    state: kalman.State
    pose: Float[np.ndarray, "J 3"]


class Tracker:
    """Gives out identities frame by frame, in order of time."""

    def __init__(self, settings: Settings = DEFAULT):
        self._settings = settings
        self._tracks: list[_Track] = []
        self._next = 1
        self._before = 0.0  # the time of the frame before

    def update(self, frame: Sighting) -> Int[np.ndarray, " P"]:
        """The identities of the people in the next frame, from 1."""
        s, time = self._settings, frame.time
        # People in the previous frame were not absent, however long ago that frame was.
        oldest = min(self._before, time - s.patience - _ROUNDING)
        self._tracks, self._before = [track for track in self._tracks if track.seen >= oldest], time
        expected = [kalman.predict(track.state, time - track.seen, s.density) for track in self._tracks]
        cost = self._costs(expected, frame.joints)
        before, now = linear_sum_assignment(cost)
        whose = {int(j): int(i) for i, j in zip(before, now) if cost[i, j] < _NEVER}
        tracks = [track for i, track in enumerate(self._tracks) if i not in whose.values()]
        ids = np.zeros(len(frame.joints), int)
        for j, person in enumerate(frame.joints):
            if j in whose:
                number, pose = self._tracks[whose[j]].number, self._tracks[whose[j]].pose
                place = place_of(person, pose)
                state = kalman.update(expected[whose[j]], place, noise_at(place, s.across, s.along))
                pose = np.where(np.isfinite(person), person - place, pose)
            else:
                number, place = self._next, np.nanmean(person, axis=0)
                self._next += 1
                state = kalman.start(place, noise_at(place, s.across, s.along), s.speed)
                pose = person - place
            ids[j] = number
            tracks.append(_Track(number, time, state, pose))
        self._tracks = tracks
        return ids

    def _costs(self, expected: Sequence[kalman.State], joints: Float[np.ndarray, "P J 3"]) -> Float[np.ndarray, "N P"]:
        """Minus twice the log-likelihood of each person's place for each track, up to a constant.

        The error of a place is the root mean square of the errors of the joints that both have, or that of the mean
        position without such joints.
        """
        s = self._settings
        if not (len(expected) and len(joints)):
            return np.zeros((len(expected), len(joints)))
        places = np.stack([state.positions for state in expected])
        poses = np.stack([track.pose for track in self._tracks])
        errors_NxPxJx3 = joints - (places[:, None] + poses)[:, None]
        both = np.isfinite(errors_NxPxJx3).all(axis=-1)
        middles = np.nanmean(joints, axis=1) - places[:, None]
        errors_NxPxJx3 = np.where(both.any(axis=-1)[..., None, None], errors_NxPxJx3, middles[:, :, None])
        spread = np.stack([state.covariance[:3, :3] for state in expected]) + noise_at(places, s.across, s.along)
        weighted = errors_NxPxJx3 @ np.linalg.inv(spread)[:, None]
        squares = np.nanmean((errors_NxPxJx3 * weighted).sum(axis=-1), axis=-1)
        # Without the determinant, a track that was lost would win over one whose place is known better.
        return np.where(squares <= s.reach**2, squares + np.log(np.linalg.det(spread))[:, None], _NEVER)


def follow(frames: Iterable[Sighting]) -> list[Tracked]:
    """The same frames, which are in order of time, with identities."""
    tracker = Tracker()
    return [Tracked(*frame, tracker.update(frame)) for frame in frames]


def place_of(person: Float[np.ndarray, "J 3"], pose: Float[np.ndarray, "J 3"]) -> Float[np.ndarray, "3"]:
    """Where a person is, given joints relative to the place: the mean over the joints that both have.

    So a joint that is missing does not move the place. Without such joints it is the mean position.
    """
    relative = person - pose
    both = np.isfinite(relative).all(axis=-1)
    return relative[both].mean(axis=0) if both.any() else np.nanmean(person, axis=0)


def noise_at(place: Float[np.ndarray, "*N 3"], across: float, along: float) -> Float[np.ndarray, "*N 3 3"]:
    """The covariance of errors at a place: `across` metres across the ray, and `along` times the distance along it."""
    distance = np.linalg.norm(place, axis=-1)[..., None, None]
    ray = place[..., None] / np.maximum(distance, 1e-6)
    onto = ray @ np.swapaxes(ray, -1, -2)
    return across**2 * (np.eye(3) - onto) + np.maximum(across, along * distance) ** 2 * onto

"""Tracks: ids of people from one frame of a video to the next. The person nearest to a track's last place keeps its id.

Only places count, not appearance. Two people who pass each other closely may swap ids. A person who is absent for
longer than PATIENCE comes back with a new id.
"""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

# A person may be REACH + SPEED * time away from the last place, or REACH_AFAR of the distance from the camera.
REACH = 0.5  # metres, the error of a place
SPEED = 3.0  # metres a second, of a person who runs
REACH_AFAR = 0.06  # because far distances are uncertain
PATIENCE = 1.0  # seconds that a person may be absent


class Follower:
    """Gives out ids, from 1, frame by frame."""

    def __init__(self):
        self._places = np.zeros((0, 3))
        self._ids = np.zeros(0, int)
        self._seen = np.zeros(0)  # when, in seconds
        self._next = 1

    def update(self, joints: Float[np.ndarray, "P J 3"], time: float) -> list[int]:
        """The ids of the people in the next frame. Joints are in metres (NaN if unknown), the time is in seconds.

        As many people as possible keep their ids, with the smallest sum of distances between mean joint positions.
        """
        places = np.array([np.nanmean(person, axis=0) for person in joints]).reshape(-1, 3)
        away = np.linalg.norm(self._places[:, None] - places, axis=-1)
        reach = np.maximum(REACH + SPEED * (time - self._seen)[:, None], REACH_AFAR * np.linalg.norm(places, axis=-1))
        cost = np.where(away <= reach, away, 1e6)
        before, now = linear_sum_assignment(cost)
        near = cost[before, now] < 1e6
        before, now = before[near], now[near]
        ids = np.zeros(len(places), int)
        ids[now] = self._ids[before]
        new = np.flatnonzero(ids == 0)  # in the order given, so the best first
        ids[new] = self._next + np.arange(len(new))
        self._next += len(new)
        lost = np.setdiff1d(np.arange(len(self._ids)), before)
        lost = lost[time - self._seen[lost] < PATIENCE]
        self._places = np.concatenate([places, self._places[lost]])
        self._seen = np.concatenate([np.full(len(places), time), self._seen[lost]])
        self._ids = np.concatenate([ids, self._ids[lost]])
        return ids.tolist()

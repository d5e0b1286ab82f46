"""Kalman filter and smoother of points that move at constant velocity. NumPy, in metres and seconds, many at once.

A point's state is its position and velocity. Its acceleration is white noise of a spectral density in m²/s³, so results
hardly depend on the frame rate. Filter: Kalman (1960). Smoother: Rauch, Tung & Striebel (1965).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class State(NamedTuple):
    """Normal distributions of positions and velocities."""

    mean: Float[np.ndarray, "*N 6"]  # x, y, z in metres, then their change a second
    covariance: Float[np.ndarray, "*N 6 6"]

    @property
    def positions(self) -> Float[np.ndarray, "*N 3"]:
        return self.mean[..., :3]


def start(positions: Float[np.ndarray, "*N 3"], noise: Float[np.ndarray, "*N 3 3"], speed: float) -> State:
    """The states of points seen once, with the error's covariance `noise`. Velocities are 0 +- `speed` m/s."""
    mean = np.concatenate([positions, np.zeros_like(positions)], axis=-1)
    covariance = np.zeros((*positions.shape[:-1], 6, 6))
    covariance[..., :3, :3] = noise
    covariance[..., 3:, 3:] = speed**2 * np.eye(3)
    return State(mean, covariance)


def predict(state: State, seconds: float, density: float | Float[np.ndarray, "*N"]) -> State:
    """The states `seconds` later; `density` is that of the acceleration's noise."""
    move = _transition(seconds)
    added = seconds**3 / 3 * _PLACES + seconds**2 / 2 * _BOTH + seconds * _SPEEDS
    covariance = move @ state.covariance @ move.T + np.asarray(density)[..., None, None] * added
    return State(state.mean @ move.T, covariance)


def update(
    state: State,
    positions: Float[np.ndarray, "*N 3"],
    noise: Float[np.ndarray, "*N 3 3"],
    seen: Bool[np.ndarray, "*N"] | None = None,
) -> State:
    """The states after positions were seen with errors of the covariance `noise`. None: all are `seen`."""
    both = state.covariance[..., :3, :3] + noise
    gain = np.swapaxes(np.linalg.solve(both, state.covariance[..., :3, :]), -1, -2)
    error = positions - state.positions
    if seen is not None:
        gain = np.where(seen[..., None, None], gain, 0.0)
        error = np.where(seen[..., None], error, 0.0)
    mean = state.mean + np.einsum("...ij,...j->...i", gain, error)
    covariance = state.covariance - gain @ state.covariance[..., :3, :]
    return State(mean, (covariance + np.swapaxes(covariance, -1, -2)) / 2)


def gain(state: State, predicted: State, seconds: float) -> Float[np.ndarray, "*N 6 6"]:
    """The smoother's gain: how an error of the state `predicted` for `seconds` later changes that of `state`."""
    both = _transition(seconds) @ state.covariance
    return np.swapaxes(np.linalg.solve(predicted.covariance, both), -1, -2)


def smooth(
    filtered: Sequence[Float[np.ndarray, "*N 6"]],
    predicted: Sequence[Float[np.ndarray, "*N 6"]],
    gains: Sequence[Float[np.ndarray, "*N 6 6"]],
) -> list[Float[np.ndarray, "*N 6"]]:
    """The means of the states of T times, given the positions seen at all of them.

    `filtered` are the means after each time's `update`. `predicted` are those of `predict` from each of the first T - 1
    times to the next, and `gains` belong to these.
    """
    means = [filtered[-1]]
    for now, later, change in zip(filtered[-2::-1], predicted[::-1], gains[::-1]):
        means.append(now + np.einsum("...ij,...j->...i", change, means[-1] - later))
    return means[::-1]


def _transition(seconds: float) -> np.ndarray:
    return _SAME + seconds * _STEP


_SAME, _STEP = np.eye(6), np.eye(6, k=3)  # places change by speed times seconds
# Where the acceleration's noise goes: the covariance of places, of places and speeds, and of speeds.
_PLACES, _SPEEDS = np.diag([1.0] * 3 + [0.0] * 3), np.diag([0.0] * 3 + [1.0] * 3)
_BOTH = _STEP + _STEP.T

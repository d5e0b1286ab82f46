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
    """Points that were seen once, with the error's covariance `noise`. Their velocity is 0 +- `speed` m/s."""
    mean = np.concatenate([positions, np.zeros_like(positions)], axis=-1)
    covariance = np.zeros((*positions.shape[:-1], 6, 6))
    covariance[..., :3, :3] = noise
    covariance[..., 3:, 3:] = speed**2 * np.eye(3)
    return State(mean, covariance)


def predict(state: State, seconds: float, density: float | Float[np.ndarray, "*N"]) -> State:
    """The states `seconds` later; `density` is that of the acceleration's noise."""
    move = _transition(seconds)
    steps = np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]])
    added = np.asarray(density)[..., None, None] * np.kron(steps, np.eye(3))
    return State(state.mean @ move.T, move @ state.covariance @ move.T + added)


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


def smooth(
    filtered: Sequence[State], predicted: Sequence[State], seconds: Sequence[float]
) -> list[Float[np.ndarray, "*N 6"]]:
    """The means of the states of T times, given the positions seen at all of them.

    `filtered` are the T states of `update`. `predicted` are the T - 1 states of `predict` from each to the next one,
    `seconds` later.
    """
    means = [filtered[-1].mean]
    for now, later, step in zip(filtered[-2::-1], predicted[::-1], seconds[::-1]):
        gain = np.swapaxes(np.linalg.solve(later.covariance, _transition(step) @ now.covariance), -1, -2)
        means.append(now.mean + np.einsum("...ij,...j->...i", gain, means[-1] - later.mean))
    return means[::-1]


def _transition(seconds: float) -> np.ndarray:
    return np.kron(np.array([[1.0, seconds], [0.0, 1.0]]), np.eye(3))

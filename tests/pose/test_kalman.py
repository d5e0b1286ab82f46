"""The filter and the smoother against the normal distribution of all states together, solved as one linear system."""

import numpy as np
import pytest

from loco_jax.pose import kalman
from loco_jax.pose.kalman import State

DENSITY, SPEED = 1.7, 1.5
STEPS = [0.1, 0.3, 0.05, 0.2]


def problem(seed=0, points=3):
    """Positions of some points at five times, the errors' covariances, and which were seen; all at the first time."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(5, points, 3, 3))
    noise = spread @ np.swapaxes(spread, -1, -2) + 0.1 * np.eye(3)
    seen = rng.random((5, points)) < 0.6
    seen[0] = True
    return rng.normal(size=(5, points, 3)), noise, seen


def run(positions, noise, seen):
    states, predicted, gains = [kalman.start(positions[0], noise[0], SPEED)], [], []
    for t, seconds in enumerate(STEPS, 1):
        predicted.append(kalman.predict(states[-1], seconds, DENSITY))
        gains.append(kalman.gain(states[-1], predicted[-1], seconds))
        states.append(kalman.update(predicted[-1], positions[t], noise[t], seen[t]))
    return states, predicted, gains


def solve(positions, noise, seen, last):
    """Mean and covariance of one point's states up to a time, from all the terms of the negative logarithm."""
    n = 6 * (last + 1)
    precision, right = np.zeros((n, n)), np.zeros(n)

    def add(rows, covariance, value):
        """A term (rows @ x - value) of this covariance."""
        inverse = np.linalg.inv(covariance)
        precision[:] += rows.T @ inverse @ rows
        right[:] += rows.T @ inverse @ value

    def of(t):
        return np.eye(n)[6 * t : 6 * t + 6]

    add(of(0)[3:], SPEED**2 * np.eye(3), np.zeros(3))
    for t in range(last + 1):
        if seen[t]:
            add(of(t)[:3], noise[t], positions[t])
        if t:
            h = STEPS[t - 1]
            move = np.block([[np.eye(3), h * np.eye(3)], [np.zeros((3, 3)), np.eye(3)]])
            q = DENSITY * np.block(
                [[h**3 / 3 * np.eye(3), h**2 / 2 * np.eye(3)], [h**2 / 2 * np.eye(3), h * np.eye(3)]]
            )
            add(of(t) - move @ of(t - 1), q, np.zeros(6))
    covariance = np.linalg.inv(precision)
    return (covariance @ right).reshape(-1, 6), covariance[-6:, -6:]


@pytest.mark.parametrize("seed", range(3))
def test_the_filter_is_the_distribution_given_what_was_seen(seed):
    given = problem(seed)
    states, *_ = run(*given)
    for t, state in enumerate(states):
        for p in range(3):
            mean, covariance = solve(*(x[:, p] for x in given), t)
            np.testing.assert_allclose(state.mean[p], mean[-1], rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(state.covariance[p], covariance, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_smoother_is_the_mean_given_everything(seed):
    given = problem(seed)
    states, predicted, gains = run(*given)
    means = kalman.smooth([state.mean for state in states], [state.mean for state in predicted], gains)
    for p in range(3):
        mean, _ = solve(*(x[:, p] for x in given), 4)
        np.testing.assert_allclose(np.stack(means)[:, p], mean, rtol=1e-8, atol=1e-8)


def test_a_prediction_does_not_depend_on_how_time_is_cut():
    state = State(np.arange(6.0), np.eye(6))
    whole, half = kalman.predict(state, 0.4, 2.0), kalman.predict(kalman.predict(state, 0.1, 2.0), 0.3, 2.0)
    np.testing.assert_allclose(whole.mean, half.mean)
    np.testing.assert_allclose(whole.covariance, half.covariance)
    np.testing.assert_allclose(whole.positions, [0 + 0.4 * 3, 1 + 0.4 * 4, 2 + 0.4 * 5])

"""A small LoCO with random weights that finds people, well or badly, in any picture."""

import jax
import numpy as np
import pytest

from loco_jax import experiment
from loco_jax.configs import loco2
from loco_jax.geometry.camera import Camera
from loco_jax.runtimes.graph import Graph

SIZE = (70, 96)  # of pictures; the network pads them


@pytest.fixture(scope="session")
def small() -> Graph:
    config = loco2.get_config("variant=patch,trunk=compact,scale=demo")
    config.volume.update(image_size=SIZE, depth_bins=16)
    config.model.update(width=8, blocks=1)
    config.predictor.update(width=8, blocks=1)
    config.update(max_peaks=4, refiner="picture", vha="")
    config.people.update(min_score=0.0, overlap=0.2)
    task = experiment.create_task(config)
    rng = np.random.default_rng(0)

    def draw(path, x):
        name = path[-1].key
        scale = 1.0 if name == "kernel" else 0.1
        fan_in = np.prod(x.shape[:-1]) if name == "kernel" else 1
        return (scale * rng.standard_normal(x.shape) / np.sqrt(fan_in) + (name == "scale")).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(task.init, jax.random.key(0)))
    return Graph(task, params, Camera(90.0, 92.0, 48.0, 35.0), "small")


@pytest.fixture(scope="session")
def shown() -> tuple[np.ndarray, np.ndarray]:
    """Three pictures of noise and their cameras."""
    rng = np.random.default_rng(1)
    cameras = np.float32([[90, 92, 48, 35], [80, 80, 50, 30], [120, 110, 40, 40]])
    return rng.integers(0, 256, (3, *SIZE, 3), np.uint8), cameras


@pytest.fixture(scope="session")
def want(small, shown) -> tuple[np.ndarray, np.ndarray]:
    """The people in those pictures."""
    return expected(small, *shown)


def expected(graph: Graph, pictures: np.ndarray, cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the task finds in JAX with its fast paths."""
    find = jax.jit(jax.vmap(graph.task.named_people, in_axes=(None, 0, 0)))
    found = jax.device_get(find(graph.params, pictures, Camera(*cameras.T)))
    return found.joints, found.scores


def assert_same(found, want, metres=1e-4, score=1e-5):
    """The same people at the same places, within metres and points of score."""
    (joints, scores), (true, confidences) = found, want
    np.testing.assert_array_equal(np.asarray(scores)[..., 0] > 0, confidences[..., 0] > 0)
    np.testing.assert_allclose(joints, true, rtol=0, atol=metres)
    np.testing.assert_allclose(scores, confidences, rtol=0, atol=score)
    assert np.shape(joints) == true.shape and np.shape(scores) == confidences.shape

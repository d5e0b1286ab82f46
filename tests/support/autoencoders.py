"""Random parameters and inputs of autoencoders."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def shapes(network: nn.Module, depth_bins: int):
    """The parameters' shapes; they do not depend on the grid."""
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 14, 16, 16, depth_bins)))


def random_params(network: nn.Module, depth_bins: int, seed: int = 0):
    """Parameters with which no layer dies out, without compiling an initialiser."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        if len(x.shape) < 2:
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32) * (1 if path[-1].key == "scale" else 0.1)
        return (rng.normal(size=x.shape) * math.sqrt(2 / np.prod(x.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(network, depth_bins))


def random_heatmaps(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def _code_and_heatmaps(network, params, heatmaps):
    code = network.apply(params, heatmaps, method="encode")
    return code, network.apply(params, code, heatmaps.shape[2:4], method="decode")


@functools.partial(jax.jit, static_argnums=0)
def code_and_heatmaps(network, params, heatmaps):
    return _code_and_heatmaps(network, params, heatmaps)


PEOPLE = 5


def random_crowd(seed, shape, *batch, chance=0.8):
    rng = np.random.default_rng(seed)
    voxels = rng.uniform(-0.1, 1.1, (*batch, PEOPLE, 14, 3)) * np.array(shape)
    return voxels.astype(np.float32), rng.random((*batch, PEOPLE, 14)) < chance

"""Trains the published VHA(2) at demo scale, for decoding to be measured on heatmaps that show people.

    python -m loco_jax.benchmark.train_published --output=FILE

How fast decoding is depends on how much of a frame is empty, so random weights will not do. The published recipe takes
days. Here are shortcuts that leave the network as it is: Muon; layers scaled to pass on what they get; gradients
through a ReLU that is shut; a loss in which people count more; in each step four joint types, as all share a decoder.
Biases stay 0: what is empty then is so at borders too, and copies of the network beside each other leave no seams.
"""

import argparse
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from loco_jax import cli, train
from loco_jax.cli import compilation
from loco_jax.configs import vha2
from loco_jax.data import crowd as crowds
from loco_jax.geometry import skeleton
from loco_jax.models import vha
from loco_jax.pose import heatmaps
from loco_jax.weights import files as weights

CROWD = crowds.DEMO
_LEVEL = 2
_SIGMAS = (4.0, 2.0)
_FIRST = 0.3  # share of steps with the first of them
_JOINTS = 4  # a step
_POSITIVE = 9.0  # a voxel counts 1 + this * target times
_SCALE = 0.5  # of the code, root mean square
_NOISE = 0.1  # on the code, of its standard deviation, at most
_EVERY = 500  # steps, a report and a file


def targets(key: jax.Array, crowd: crowds.Crowd) -> tuple[jax.Array, jax.Array]:
    """Voxels `[P, J, 3]` of a random scene's joints, and which are in view `[P, J]`."""
    scene, volume = crowds.sample_scene(key, crowd), crowd.volume
    joints_PxJx3 = scene.joints[:, skeleton.FROM_JTA]
    present_PxJ = scene.present[:, None] & volume.in_view(crowd.camera, joints_PxJx3)
    return volume.to_voxels(crowd.camera, joints_PxJx3), present_PxJ


def loss(params: dict, key: jax.Array, crowd: crowds.Crowd, sigma: float) -> jax.Array:
    """Of one scene's reconstruction: weighted squared error a joint."""
    network = _network(crowd)
    key, scene, pick, size, noise = jax.random.split(key, 5)
    voxels_PxJx3, present_PxJ = targets(scene, crowd)
    target = heatmaps.render(voxels_PxJx3, present_PxJ, crowd.volume.shape, sigma)
    code = network.apply(params, target[None], method=_encode)
    deviation = jnp.sqrt(jnp.var(code) + 1e-6)
    noise = jax.random.normal(noise, code.shape, jnp.float32) * deviation * _NOISE
    noise = noise * jax.random.uniform(size, dtype=jnp.float32)
    x_JxhxwxC = jnp.moveaxis(network.apply(params, code + noise, method="spread")[0], -1, 0)
    joints = jax.random.permutation(pick, np.arange(skeleton.NUM_JOINTS, dtype=np.int32))[:_JOINTS]
    found, target = network.apply(params, x_JxhxwxC[joints], method=_decode), target[joints]
    error = jnp.where(target > 0.01, found - target, nn.relu(found))
    scale = jnp.sqrt(jnp.mean(jnp.square(code)) + 1e-6)
    weighted = jnp.sum(jnp.square(error) * (1 + _POSITIVE * target))
    return weighted / jnp.maximum(jnp.sum(present_PxJ, dtype=jnp.int32), 1) + 30 * jnp.square(scale - _SCALE)


def _network(crowd):
    return vha.VHA(_LEVEL, crowd.volume.depth_bins)


def _leaky(x):
    """ReLU, with a tenth of the gradient where it is shut."""
    return nn.relu(x) + 0.1 * jnp.where(x < 0, x - jax.lax.stop_gradient(x), 0.0)


def _encode(network, heatmaps):
    x = heatmaps[0]
    for layer in network.encoder_2d:
        x = nn.relu(layer(x))
    x = nn.relu(network.encoder_3d[0](jnp.moveaxis(x[None], 1, -1)))
    return _leaky(network.encoder_3d[1](x))[..., 0]


def _decode(network, x):
    """Heatmaps `[J, H, W, D]` before their ReLU, of `[J, h, w, C]`."""
    for layer in network.decoder_2d[:-1]:
        x = nn.relu(vha.upsample(layer(x)))
    return network.decoder_2d[-1](x)


def scaled(params: dict, key: jax.Array, crowd: crowds.Crowd) -> dict:
    """Parameters with which every layer's results, where there are any, have a root mean square of 1."""
    network = _network(crowd)

    @jax.jit
    def results(params):
        heat = heatmaps.render(*targets(key, crowd), crowd.volume.shape, _SIGMAS[0])
        code, encoder = network.apply(params, heat[None], method="encode", capture_intermediates=True)
        x, spread = network.apply(params, code, method="spread", capture_intermediates=True)
        x = jnp.moveaxis(x[0], -1, 0)
        _, decoder = network.apply(params, x, method=_decode, capture_intermediates=True)
        return {**encoder["intermediates"], **spread["intermediates"], **decoder["intermediates"]}

    layers = dict(params["params"])
    for name in [f"{part}_{i}" for part in ("encoder_2d", "encoder_3d", "decoder_3d", "decoder_2d") for i in range(3)]:
        if name in layers:
            x = results({"params": layers})[name]["__call__"][0]
            there = jnp.abs(x) > 0.05 * jnp.max(jnp.abs(x))
            rms = jnp.sqrt(jnp.sum(jnp.square(x) * there) / jnp.sum(there))
            layers[name] = {**layers[name], "kernel": layers[name]["kernel"] / rms}
    return {"params": layers}


def train_steps(crowd: crowds.Crowd, steps: int) -> Iterator[tuple[int, dict[str, Any], float]]:
    """So many steps; from time to time, and after the last: steps done, parameters, mean loss since the time before.

    The next steps use the parameters up.
    """
    config = vha2.get_config("scale=demo")
    config.steps = steps
    config.optimizer.update({"name": "muon", "learning_rate": 0.003, "schedule": "cosine", "warmup": 100})
    optimizer = train.make_optimizer(config)

    @functools.partial(jax.jit, static_argnames="sigma", donate_argnums=(0, 1))
    def step(params, state, index, sigma):
        key = crowds.scene_key("train", index)
        value, gradient = jax.value_and_grad(loss)(params, key, crowd, sigma)
        gradient = jax.tree_util.tree_map_with_path(lambda path, x: 0 * x if path[-1].key == "bias" else x, gradient)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    like = jnp.zeros((1, skeleton.NUM_JOINTS, 8, 8, crowd.volume.depth_bins), jnp.float32)
    params = scaled(jax.jit(_network(crowd).init)(jax.random.key(0), like), crowds.scene_key("train", 0), crowd)
    state, values = optimizer.init(params), []
    for i in range(steps):
        params, state, value = step(params, state, i, _SIGMAS[i >= _FIRST * steps])
        values.append(value)
        if (i + 1) % _EVERY == 0 or i + 1 == steps:
            yield i + 1, params, float(np.mean(values))
            values = []


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loco_jax.benchmark.train_published", allow_abbrev=False)
    parser.add_argument("--output", required=True, metavar="FILE", help="of weights, kind vha")
    parser.add_argument("--steps", type=int, default=12_000)
    arguments = parser.parse_args(argv)
    try:
        return cli.call(_train, arguments.steps, arguments.output) or 0
    except (ValueError, OSError) as error:
        print(f"loco_jax: {error}", file=sys.stderr)
        return 1


def _train(steps, output):
    if steps < 1:
        raise ValueError(f"--steps={steps} must be at least 1")
    file = epath.Path(output).expanduser()
    weights.check_output(file)  # before the minutes of work
    compilation.use_cache()
    cli.check_devices()
    about = {"kind": "vha", "made_by": f"loco_jax.benchmark.train_published --steps={steps}"}
    start = time.monotonic()
    for done, params, value in train_steps(CROWD, steps):
        weights.save(file, params, about, np.float16)
        print(f"step {done}: loss {value:.3f}, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())

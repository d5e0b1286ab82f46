"""The cross-entropy of a PatchVHA's heatmaps with the true ones, without either volume.

Of -(t log s(l) + (1 - t) log(1 - s(l))) = softplus(l) - t l, the first term needs no target, and is summed over a few
cells at a time; the second is zero but for the voxels that somebody's joint owns. Gradients are those of a sum, so
they are made together with it, and no logits are kept or computed twice.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from loco_jax.models import vha
from loco_jax.ops.cpu import fast_encode
from loco_jax.pose import heatmaps

_LARGE = 2**25  # voxels; with fewer the volumes are faster, and sooner compiled
_CELLS = 4096  # at once, or a little less: their logits stay in a processor's cache


def sum_entropy(
    network: vha.PatchVHA,
    params: Any,
    x: jax.Array,
    voxels: jax.Array,
    present: jax.Array,
    shape: tuple[int, int, int],
    sigma: float = 2.0,
    subvoxel: bool = False,
    positive_weight: float = 0.0,
) -> jax.Array:
    """The sum over voxels of a batch's cross-entropy, each counting 1 + positive_weight * target times.

    On CPUs without the volumes, if they are large. Devices that share a batch do so each for its own frames, under
    `jax.shard_map`: left to the compiler, its loops would do the whole batch on each of them.

    Args:
      network, params: the autoencoder; it has gradients, as has x.
      x: what its head makes logits of, see `PatchVHA.decode_features`.
      voxels, present, shape, sigma, subvoxel: as for `heatmaps.render`, with a batch's axis; no gradients.
    """
    arguments = params["params"]["to_logits"], x, lax.stop_gradient(voxels), present
    of = _sum_entropy if network.num_joints * math.prod(shape) > _LARGE and voxels.shape[1] else at_once
    return of(*arguments, network, shape, sigma, subvoxel, positive_weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7, 8))
def _sum_entropy(params, x, voxels, present, *options):
    return _forward(params, x, voxels, present, *options)[0]


def _forward(params, x, voxels, present, *options):
    # Not measured on a GPU, where whole volumes should beat loops over parts of them.
    return lax.platform_dependent(
        params,
        x,
        voxels,
        present,
        cpu=lambda *arguments: in_parts(*arguments, *options),
        default=lambda *arguments: jax.value_and_grad(at_once, (0, 1))(*arguments, *options),
    )


def _backward(*arguments):
    gradients, gradient = arguments[-2:]
    return *jax.tree.map(lambda g: (gradient * g).astype(g.dtype), gradients), None, None


_sum_entropy.defvjp(_forward, _backward)


def at_once(params, x, voxels, present, network, shape, sigma, subvoxel, positive_weight):
    """`sum_entropy` by way of the volumes."""
    cell, options = 2**network.level, {"sigma": sigma, "subvoxel": subvoxel, "dtype": network.dtype}
    render = functools.partial(heatmaps.render_cells, shape=shape, cell=cell, **options)
    return of_targets(network, {"params": params}, x, jax.vmap(render)(voxels, present), positive_weight)


def of_targets(network, params, x, target, positive_weight):
    """The sum of the cross-entropy of the head's logits of `x` with `target`, both in cells."""
    target = target.astype(jnp.float32)
    logits = network.head.apply(params, x).astype(jnp.float32)
    entropy = nn.softplus(logits) - logits * target
    if positive_weight:
        entropy = entropy * (1 + positive_weight * target)
    return jnp.sum(entropy)


def in_parts(params, x, voxels, present, network, shape, sigma, subvoxel, positive_weight):
    """`sum_entropy` without the volumes, and its gradients with respect to `params` and `x`."""
    total, of_params, of_x = _everywhere(network.head, params, x)
    find = functools.partial(heatmaps.find_cubes, shape=shape, sigma=sigma, subvoxel=subvoxel)
    cubes = jax.vmap(find)(voxels, present)
    cell = 2**network.level
    last = params["Dense_1"]
    of_joints = {  # the last layer of each joint
        "kernel": jnp.moveaxis(last["kernel"].reshape(-1, network.num_joints, cell**3), 1, 0),
        "bias": last["bias"].reshape(network.num_joints, cell**3),
    }
    head = network.head.clone(voxels=cell**3)

    def entropy(params, windows, values):
        logits = head.apply({"params": params}, windows).astype(jnp.float32)
        weighted = positive_weight * values
        return jnp.sum(weighted * nn.softplus(logits) - (1 + weighted) * values * logits)

    def of_frame(sums, frame):
        x, of_x, cubes = frame

        def of_joint(sums, joint):
            last, cubes = joint
            with_last = {**params, "Dense_1": last}

            def some(i, sums):
                total, of_x, of_params = sums
                first, values = fast_encode.cells_of_people(i, cubes, cell, shape, sigma)
                values = values.transpose(0, 5, 1, 3, 2, 4, 6)
                n, d, h, w = values.shape[:4]
                windows = fast_encode.cell_windows(x, first, (d, h, w))
                value, (by_params, by_windows) = jax.value_and_grad(entropy, (0, 1))(
                    with_last, windows, values.reshape(n, d, h, w, -1)
                )
                of_x = fast_encode.add_cell_windows(of_x, first, by_windows)
                return total + value, of_x, jax.tree.map(jnp.add, of_params, by_params)

            total, of_x, of_rest = sums
            start = total, of_x, {**of_rest, "Dense_1": jax.tree.map(jnp.zeros_like, last)}
            total, of_x, of_params = fast_encode.over_people(cubes, some, start)
            of_last = of_params.pop("Dense_1")
            return (total, of_x, of_params), of_last

        total, of_rest, of_last = sums
        (total, of_x, of_rest), by_last = lax.scan(of_joint, (total, of_x, of_rest), (of_joints, cubes))
        return (total, of_rest, jax.tree.map(jnp.add, of_last, by_last)), of_x

    of_rest = {name: value for name, value in of_params.items() if name != "Dense_1"}
    start = total, of_rest, jax.tree.map(jnp.zeros_like, of_joints)
    (total, of_rest, by_last), of_x = lax.scan(of_frame, start, (x, of_x, cubes))
    by_last = {"kernel": jnp.moveaxis(by_last["kernel"], 0, 1), "bias": by_last["bias"]}
    of_last = jax.tree.map(lambda a, b: a + b.reshape(a.shape), of_params["Dense_1"], by_last)
    return total, ({**of_rest, "Dense_1": of_last}, of_x)


def _everywhere(head, params, x):
    """The sum of all voxels' softplus, and its gradients."""
    batch, d, h, w, width = x.shape
    together = max(n for n in range(1, batch * d + 1) if (batch * d) % n == 0 and (n == 1 or n * h * w <= _CELLS))

    def softplus(params, x):
        return jnp.sum(nn.softplus(head.apply({"params": params}, x).astype(jnp.float32)))

    def some(sums, x):
        value, (by_params, by_x) = jax.value_and_grad(softplus, (0, 1))(params, x)
        return jax.tree.map(jnp.add, sums, (value, by_params)), by_x

    start = jnp.float32(0), jax.tree.map(jnp.zeros_like, params)
    (total, of_params), of_x = lax.scan(some, start, x.reshape(-1, together * h * w, width))
    return total, of_params, of_x.reshape(x.shape)

"""The cross-entropy of a PatchVHA's heatmaps with the true ones, without either volume.

In -(t log s(l) + (1 - t) log(1 - s(l))) = softplus(l) - t l, the first term does not depend on the target and is summed
over a few cells at a time. The second is zero except in voxels that a joint owns. Gradients are computed together with
the sum, so no logits are kept or computed twice.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from loco_jax.geometry.arrays import Array
from loco_jax.models import patch_vha
from loco_jax.ops.cpu import encoding
from loco_jax.pose import heatmaps

_CELLS = 4096  # computed at once, or a little less, so that their logits stay in the cache


def value_and_gradients(
    params: Any,
    x: Float[Array, "B D h w C"],
    voxels: Float[Array, "B P J 3"],
    present: Bool[Array, "B P J"],
    *,
    network: patch_vha.PatchVHA,
    shape: tuple[int, int, int],
    sigma: float,
    subvoxel: bool,
    positive_weight: float,
) -> tuple[Float[jax.Array, ""], tuple[Any, Float[jax.Array, "B D h w C"]]]:
    """The sum of `ops.sum_entropy` for the head's parameters `params`, and the gradients of `params` and `x`."""
    total, of_params, of_x = _everywhere(network.head, params, x)
    find = functools.partial(heatmaps.find_cubes, shape=shape, sigma=sigma, subvoxel=subvoxel)
    cubes = jax.vmap(find)(voxels, present)
    cell = 2**network.level
    last = params["Dense_1"]
    of_joints = {  # the last layer, split by joints
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
                first, values = encoding.cells_of_people(i, cubes, cell, shape, sigma)
                values = values.transpose(0, 5, 1, 3, 2, 4, 6)
                n, d, h, w = values.shape[:4]
                windows = encoding.windows_of(x, first, (d, h, w), encoding.CELL_AXES)
                value, (by_params, by_windows) = jax.value_and_grad(entropy, (0, 1))(
                    with_last, windows, values.reshape(n, d, h, w, -1)
                )
                of_x = encoding.add_windows(of_x, first, by_windows, encoding.CELL_AXES)
                return total + value, of_x, jax.tree.map(jnp.add, of_params, by_params)

            total, of_x, of_rest = sums
            start = total, of_x, {**of_rest, "Dense_1": jax.tree.map(jnp.zeros_like, last)}
            total, of_x, of_params = encoding.over_people(cubes, some, start)
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
    """The sum of softplus over all voxels, and its gradients."""
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

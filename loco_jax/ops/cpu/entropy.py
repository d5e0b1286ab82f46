"""The cross-entropy of a PatchVHA's heatmaps on CPUs, without a volume of logits."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from loco_jax.geometry.arrays import Array

_CELLS = 4096  # computed at once, or a little less, so that their logits stay in the cache


def total(
    entropy: Callable[..., jax.Array], params: Any, x: Float[Array, "B D h w C"], target: Float[Array, "B D h w V"]
) -> Float[jax.Array, ""]:
    """`entropy(params, x, target)`, which is a sum over cells. There are gradients of `params` and `x`.

    On CPUs the gradients are computed together with the sum, some cells at a time, so that no logits are kept or
    computed twice.
    """

    @jax.custom_vjp
    def way(*arguments):
        return both(*arguments)[0]

    def both(*arguments):
        in_parts, whole = functools.partial(_in_parts, entropy), jax.value_and_grad(entropy, (0, 1))
        return lax.platform_dependent(*arguments, cpu=in_parts, default=whole)

    def backward(gradients, change):
        return *jax.tree.map(lambda g: (change * g).astype(g.dtype), gradients), None

    way.defvjp(both, backward)
    return way(params, x, target)


def _in_parts(entropy, params, x, target):
    batch, d, h, w = x.shape[:4]
    together = max(n for n in range(1, batch * d + 1) if (batch * d) % n == 0 and (n == 1 or n * h * w <= _CELLS))

    def some(sums, part):
        value, (by_params, by_x) = jax.value_and_grad(entropy, (0, 1))(params, *part)
        return jax.tree.map(jnp.add, sums, (value, by_params)), by_x

    parts = tuple(cells.reshape(-1, together, h, w, cells.shape[-1]) for cells in (x, target))
    start = jnp.float32(0), jax.tree.map(jnp.zeros_like, params)
    (value, of_params), of_x = lax.scan(some, start, parts)
    return value, (of_params, of_x.reshape(x.shape))

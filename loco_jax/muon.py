"""Muon (Jordan 2024): gradient descent with momentum whose matrices are made nearly orthogonal.

The results are those of `optax.contrib.muon`. For oblong kernels the iteration is on the small Gram matrix, which
takes less than half the operations for a 3x3 convolution.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Float

_THIN = 8  # matrices with at most so many rows or columns are not orthogonalised
_DECAY = 0.95  # of the momentum
_RMS = 0.2  # root mean square of an update's entries, as large as Adam's usual ones
_STEPS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration


class MomentumState(NamedTuple):
    """Number of updates so far, int32, and the moving average of the gradients."""

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    average: Any


def muon(rate: optax.Schedule, dtype: DTypeLike = jnp.float32) -> optax.GradientTransformation:
    """Muon for matrices and convolutions; Adam at a fifth of the rate for thin matrices and vectors.

    `dtype` is the type of the orthogonalisation, float32 or bfloat16.
    """

    def label(kernel):
        matrix = kernel.ndim >= 2 and min(math.prod(kernel.shape[:-1]), kernel.shape[-1]) > _THIN
        return "muon" if matrix else "adam"

    directions = optax.stateless(lambda updates, _: jax.tree.map(lambda x: _RMS * _direction(x, dtype), updates))
    return optax.partition(
        {
            "muon": optax.chain(_momentum(), directions, optax.scale_by_learning_rate(rate)),
            "adam": optax.nadam(lambda count: rate(count) / 5),
        },
        lambda params: jax.tree.map(label, params),
    )


def orthogonalise(matrix: Float[jax.Array, "M N"], dtype: DTypeLike = jnp.float32) -> Float[jax.Array, "M N"]:
    """The matrix with singular values near 1 (0.7 to 1.2), by five Newton-Schulz steps.

    A step takes X to (a + bA + cA²)X with A = XXᵀ, so all five are a product of small square matrices, times X. That
    product costs less than five steps on X if one side is at least twice the other. In bfloat16 it would diverge, so
    there the steps are on X.
    """
    a, b, c = _COEFFICIENTS
    x = (matrix / (jnp.linalg.norm(matrix) + 1e-8)).astype(dtype)
    rows, columns = x.shape
    wide = rows <= columns
    multiply = lambda p, q: jnp.matmul(p, q, precision="highest")  # noqa: E731
    apply = (lambda q, x: multiply(q, x)) if wide else (lambda q, x: multiply(x, q))
    gram = lambda x: multiply(x, x.T) if wide else multiply(x.T, x)  # noqa: E731
    eye = jnp.eye(min(rows, columns), dtype=x.dtype)

    def factor(g):
        return a * eye + b * g + c * multiply(g, g)

    if dtype != jnp.float32 or max(rows, columns) < 2 * min(rows, columns):
        for _ in range(_STEPS):
            x = apply(factor(gram(x)), x)
        return x.astype(matrix.dtype)
    g = gram(x)
    product = q = factor(g)
    for _ in range(_STEPS - 1):  # all factors are polynomials of the first Gram matrix, so they commute
        g = multiply(q, multiply(g, q))
        q = factor(g)
        product = multiply(q, product)
    return apply(product, x)


def _direction(update, dtype):
    matrix = update.reshape(-1, update.shape[-1])
    return math.sqrt(max(matrix.shape)) * orthogonalise(matrix, dtype).reshape(update.shape)


def _momentum() -> optax.GradientTransformation:
    """Nesterov's momentum, with Adam's bias correction."""

    def update(grads, state, params=None):
        average = optax.tree.update_moment(grads, state.average, _DECAY, 1)
        count = optax.safe_increment(state.count)
        ahead = optax.tree.bias_correction(average, _DECAY, optax.safe_increment(count))
        now = optax.tree.bias_correction(grads, _DECAY, count)
        momentum = jax.tree.map(lambda m, g: _DECAY * m + (1 - _DECAY) * g, ahead, now)
        return momentum, MomentumState(count, average)

    return optax.GradientTransformation(
        lambda params: MomentumState(jnp.int32(0), optax.tree.zeros_like(params)), update
    )

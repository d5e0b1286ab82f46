"""Lower bounds of a function's work, counted from shapes: arithmetic operations and bytes of its arrays."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def operations(function: Callable[..., Any], *args: Any) -> float:
    """Arithmetic operations of the convolutions and matrix products in `function(*args)`.

    A multiplication with its addition counts as two. Multiplications by padding count. Those by the zeros between the
    cells of a transposed convolution do not. `args` are arrays or their shapes; nothing is computed.
    """
    return _operations(jax.make_jaxpr(function)(*args).jaxpr)


def num_bytes(*trees: Any) -> float:
    """Bytes of all arrays, or shapes, in the trees."""
    return float(sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(trees)))


def _operations(jaxpr: Any) -> float:
    total = 0.0
    for step in jaxpr.eqns:
        name, params = step.primitive.name, step.params
        if name == "conv_general_dilated":
            kernel = step.invars[1].aval.shape
            out_features = kernel[params["dimension_numbers"].rhs_spec[0]]
            each = math.prod(kernel) / out_features / math.prod(params["lhs_dilation"])
            total += 2 * each * math.prod(step.outvars[0].aval.shape)
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = step.invars[0].aval.shape
            total += 2 * math.prod(left[axis] for axis in contracted) * math.prod(step.outvars[0].aval.shape)
        inner = [_operations(x) for x in _inner(params)]
        if name == "cond" and inner:  # one of the branches runs
            # Branches for platforms compute the same result, and the default one counts.
            platforms = params.get("branches_platforms")
            total += inner[platforms.index(None)] if platforms and None in platforms else max(inner)
        else:
            total += sum(inner) * (params["length"] if name == "scan" else 1)
    return total


def _inner(params: dict[str, Any]) -> list[Any]:
    values = [v for value in params.values() for v in (value if isinstance(value, tuple | list) else (value,))]
    jaxprs = [getattr(value, "jaxpr", value) for value in values]
    return [x for x in jaxprs if hasattr(x, "eqns")]

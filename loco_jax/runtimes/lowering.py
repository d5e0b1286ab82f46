"""Programs of JAX in the operations that ONNX's converter and ONNX Runtime have.

jax2onnx 0.13 changes functions of JAX while it traces a program, and these fail under `vmap` in JAX 0.10. So programs
are traced first, and their operations are then passed to it one by one. `rewrite` replaces those that jax2onnx does
not convert, or converts wrongly, or for which ONNX Runtime has no implementation. Values do not change.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core


def rewrite(function: Callable[..., Any], inputs: Sequence[jax.ShapeDtypeStruct]) -> Callable[..., list[jax.Array]]:
    """A function with the same results, as a list, whose operations can be converted. Inputs may be symbolic."""
    first = jax.make_jaxpr(function)(*inputs)
    program = jax.make_jaxpr(functools.partial(_run, first))(*inputs)
    return functools.partial(_bind, program)


def _bind(program: core.ClosedJaxpr, *args: Any) -> list[Any]:
    """The results of a program, operation by operation as they are."""
    return _walk(program, args, lambda operation, values: operation.primitive.bind(*values, **operation.params))


def _run(program: core.ClosedJaxpr, *args: Any) -> list[Any]:
    """The results of a program, with the rules below in place of some operations."""

    def compute(operation, values):
        inner = operation.params.get("jaxpr", operation.params.get("call_jaxpr"))
        rule = _RULES.get(operation.primitive.name)
        if rule is not None:
            return rule(*values, **operation.params)
        if operation.primitive.name in _CALLS:
            return _run(inner, *values)
        return operation.primitive.bind(*values, **operation.params)

    return _walk(program, args, compute)


def _walk(program, args, compute):
    jaxpr = program.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *args]))

    def read(variable):
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for operation in jaxpr.eqns:
        made = compute(operation, [read(variable) for variable in operation.invars])
        values.update(zip(operation.outvars, made if isinstance(made, list | tuple) else [made]))
    return [read(variable) for variable in jaxpr.outvars]


def _stack(*parts, axis, **_):
    return lax.concatenate([lax.expand_dims(part, [axis]) for part in parts], axis)


def _select(which, *cases):
    """ONNX Runtime does not choose between booleans."""
    if cases[0].dtype == bool and which.dtype == bool:
        return (which & cases[1]) | (~which & cases[0])
    return lax.select_n(which, *cases)


def _remainder(x, y):
    """jax2onnx gives the parts of its remainder a shape that has to be known."""
    return x - y * lax.div(x, y) if jnp.issubdtype(x.dtype, jnp.integer) else lax.rem(x, y)


def _pad(x, value, *, padding_config):
    """jax2onnx pads only arrays whose shape is known."""
    if all(isinstance(size, int) for size in x.shape) or any(min(sides) < 0 or sides[2] for sides in padding_config):
        return lax.pad(x, value, padding_config)
    for axis, (low, high, _) in enumerate(padding_config):
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in (low, high)]
        before, after = (lax.broadcast(value, shape) for shape in shapes)
        parts = [part for part, size in ((before, low), (x, 1), (after, high)) if size]
        x = lax.concatenate(parts, axis) if len(parts) > 1 else x
    return x


def _broadcast(x, *, shape, broadcast_dimensions, **_):
    """A new first axis of unknown size gets a wrong size from jax2onnx. It is added as the last axis, and moved."""
    if isinstance(shape[0], int) or 0 in broadcast_dimensions or not broadcast_dimensions:
        return lax.broadcast_in_dim(x, shape, broadcast_dimensions)
    rotated = lax.broadcast_in_dim(x, (*shape[1:], shape[0]), [axis - 1 for axis in broadcast_dimensions])
    return lax.transpose(rotated, (len(shape) - 1, *range(len(shape) - 1)))


def _while(*args, cond_nconsts, body_nconsts, cond_jaxpr, body_jaxpr):
    """A loop under `vmap` has a condition for each member of the batch. It goes on for those whose condition holds."""
    of_condition, args = args[:cond_nconsts], args[cond_nconsts:]
    of_body, state = args[:body_nconsts], args[body_nconsts:]

    def goes_on(state):
        return _run(cond_jaxpr, *of_condition, *state)[0]

    def turn(state):
        goes, new = goes_on(state), _run(body_jaxpr, *of_body, *state)
        if not goes.ndim:
            return tuple(new)
        axes = tuple(range(goes.ndim))
        wide = [_broadcast(goes, shape=x.shape, broadcast_dimensions=axes) for x in new]
        return tuple(_select(which, old, x) for which, old, x in zip(wide, state, new))

    # Not jnp.any, which jax2onnx makes a maximum: that of no picture at all would be true.
    return list(lax.while_loop(lambda state: jnp.sum(goes_on(state), dtype=jnp.int32) > 0, turn, tuple(state)))


_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
_RULES: dict[str, Callable[..., Any]] = {
    "stack": _stack,
    "select_n": _select,
    "rem": _remainder,
    "pad": _pad,
    "broadcast_in_dim": _broadcast,
    "while": _while,
}

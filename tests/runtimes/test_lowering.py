"""Operations that are replaced for ONNX have the same values as JAX's own."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from loco_jax.runtimes import lowering

RNG = np.random.default_rng(0)
FLOATS = RNG.normal(size=(2, 3, 5)).astype(np.float32)
WHOLE = RNG.integers(-20, 20, (2, 3, 5)).astype(np.int32)


def collatz(number):
    """The steps of a number to 1, which differ from number to number."""
    return lax.while_loop(
        lambda s: s[0] > 1,
        lambda s: (jnp.where(s[0] % 2 == 0, s[0] // 2, 3 * s[0] + 1), s[1] + 1),
        (number, jnp.int32(0)),
    )[1]


CASES = {
    "stack": (lambda x: jnp.stack([x, 2 * x], axis=1), FLOATS),
    "booleans": (lambda x: jnp.where(x > 0, x < 1, x > -1), FLOATS),
    "select": (lambda x: jnp.where(x > 0, x, -1.0), FLOATS),
    "remainder of whole numbers": (lambda x: lax.rem(x, jnp.full_like(x, 7)), WHOLE),
    "remainder": (lambda x: lax.rem(x, jnp.full_like(x, 0.3)), FLOATS),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (2, 0), (1, 3)), constant_values=7), FLOATS),
    "no padding": (lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0))) + 1, FLOATS),
    "cut and interior padding": (lambda x: lax.pad(x, jnp.float32(3), ((0, 0, 0), (-1, 2, 0), (1, 0, 1))), FLOATS),
    "a new first axis": (lambda x: jax.vmap(lambda y: jnp.where(y > 0, jnp.arange(5.0), y))(x), FLOATS),
    "functions of functions": (lambda x: jax.nn.gelu(jax.nn.relu(x)), FLOATS),
    "a loop": (lambda x: collatz(jnp.abs(x[0, 0, 0]) + 5), WHOLE),
    "loops of a batch": (lambda x: jax.vmap(collatz)(jnp.abs(x).reshape(-1) + 1), WHOLE),
}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_values_stay(name, symbolic):
    function, x = CASES[name]
    sizes = jax.export.symbolic_shape("B") if symbolic else x.shape[:1]
    program = lowering.rewrite(function, [jax.ShapeDtypeStruct((*sizes, *x.shape[1:]), x.dtype)])
    # A program for any size is run for the size of x.
    found = (
        jax.jit(program)
        if not symbolic
        else jax.export.export(jax.jit(program))(jax.ShapeDtypeStruct((*sizes, *x.shape[1:]), x.dtype)).call
    )
    np.testing.assert_allclose(found(x)[0], function(x), rtol=1e-6)


def test_the_loops_of_a_batch_stop_one_by_one():
    program = lowering.rewrite(jax.vmap(collatz), [jax.ShapeDtypeStruct((4,), jnp.int32)])
    assert program(np.int32([1, 6, 27, 8]))[0].tolist() == [0, 8, 111, 3]
    text = str(jax.make_jaxpr(program)(np.zeros(4, np.int32)))
    assert "while" in text and "pjit" not in text

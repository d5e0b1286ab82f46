"""Random numbers, and the colours to choose from."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Float[jax.Array, "..."]:
    """Random float32 from `low` to `high`."""
    return jax.random.uniform(key, shape, jnp.float32, low, high)


def rgb(*colours: str) -> Float[np.ndarray, "N 3"]:
    """Colours in linear light, of "rrggbb" as on a screen."""
    values = np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in colours])
    return (values**2.2).astype(np.float32)


def choose(key: PRNGKeyArray, table: Float[np.ndarray, "N 3"], count: int) -> Float[jax.Array, "{count} 3"]:
    """Random rows of a table of colours."""
    return jnp.asarray(table)[jax.random.randint(key, (count,), 0, len(table), jnp.int32)]


SKIN = rgb("f1c9a5", "e0ac69", "c68642", "8d5524", "5c3a1e", "ffdbac")
HAIR = rgb("1c1410", "3b2716", "6a4a2a", "a07a45", "8a8a8a", "0e0e10", "7a2e1d")
TOPS = rgb(
    "1b1f2a", "2f3e5c", "7a1f24", "e8e6df", "56683b", "b5894a", "3f3f44", "9aa3ad", "1d5c63", "d8b13c", "c44f38",
    "6d4c7d", "f3f3f3", "111111", "2757a5", "84a9c0",
)  # fmt: skip
BOTTOMS = rgb("1a2238", "2b3a55", "3c3c40", "111114", "6b5a45", "9b8a6c", "4a5568", "556070", "dcd5c4", "27402f")
SHOES = rgb("111111", "e9e9e9", "5a3b22", "2a2a33", "a03030")
WALLS = rgb("b7a58c", "c9bda6", "8f6a55", "a8a8a3", "d8cfbf", "7c7f84", "9a4f3a", "c4a878")
CARS = rgb("c9ccd1", "16181c", "7f1d1d", "1f3f77", "f1f1f1", "4b4f55", "31543d", "b39b6b")
POLES = rgb("55585c", "8b8f92", "2c3a33")
BINS = rgb("2f4f3a", "4c4f55", "7a3b2a")
LEAVES, TRUNK, WHEEL, WOOD = rgb("3f5d2a", "5d4a38", "17181a", "6b5136")

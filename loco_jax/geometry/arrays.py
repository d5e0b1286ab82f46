"""What annotations call an array: `Float[Array, "B J 3"]`, of JAX or of NumPy."""

import jax
import numpy as np

Array = jax.Array | np.ndarray

"""The array type of annotations such as `Float[Array, "B J 3"]`: an array of JAX or of NumPy."""

import jax
import numpy as np

Array = jax.Array | np.ndarray

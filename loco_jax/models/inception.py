"""Inception v3 without its classifiers, the trunk of the published Code Predictor (method section 4).

Layers have torchvision's names, so that files of ImageNet weights fit.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from loco_jax.geometry.arrays import Array

STRIDE = 32  # pixels from one cell of the features to the next
MARGIN = 43  # n cells need 32 n + 43 pixels: the stem does not pad


class Inception(nn.Module):
    """From a picture to the 2048 channels of the last mixed block, Mixed_7c.

    Normalisation uses fixed statistics, in training too, because the batches are too small for statistics of their own.
    They are variables of the collection "batch_stats"; scale and bias are parameters, in float32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Shaped[Array, "*B H W C"]) -> Float[jax.Array, "B h w 2048"]:
        """Features `[B, (H - 43) // 32, (W - 43) // 32, 2048]` of pictures in 0 to 255.

        Raises ValueError for pictures smaller than 75 x 75, which have no features.
        """
        if image.ndim != 4 or image.shape[-1] != 3 or min(image.shape[1:3]) < STRIDE + MARGIN:
            least = STRIDE + MARGIN
            raise ValueError(f"Inception needs pictures [B, H, W, 3] of at least {least} x {least}; have {image.shape}")
        # torchvision normalises with ImageNet's mean and deviation. Its transform_input then changes these to 0.5 and
        # 0.5, with which the weights were trained. This line does both.
        x = image.astype(self.dtype) / 127.5 - 1
        x = ConvNorm(32, (3, 3), 2, "VALID", self.dtype, name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, (3, 3), 1, "VALID", self.dtype, name="Conv2d_2a_3x3")(x)
        x = ConvNorm(64, (3, 3), 1, "SAME", self.dtype, name="Conv2d_2b_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = ConvNorm(80, (1, 1), 1, "VALID", self.dtype, name="Conv2d_3b_1x1")(x)
        x = ConvNorm(192, (3, 3), 1, "VALID", self.dtype, name="Conv2d_4a_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, (pool, *branches) in BLOCKS.items():
            x = Mixed(tuple(branches), pool, self.dtype, name=name)(x)
        return x


# A mixed block joins the channels of its branches. A layer is (name, channels, kernel, stride). The last element of a
# branch may be a fork, a tuple of layers whose results are joined. One more branch pools over 3 x 3 cells: the mean,
# followed by a 1 x 1 convolution to `pool` channels, or the maximum with stride 2 if `pool` is 0.
def _layers(name: str, *layers: tuple[int, ...]) -> tuple:
    """Layers of (channels, rows and columns of the kernel, stride if it is not 1), called name_1, name_2, ..."""
    return tuple((f"{name}_{i}", n, (h, w), *(stride or [1])) for i, (n, h, w, *stride) in enumerate(layers, 1))


def _fork(name: str) -> tuple:
    return (f"{name}a", 384, (1, 3), 1), (f"{name}b", 384, (3, 1), 1)


def _a(pool: int) -> tuple:
    double = _layers("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3))
    return pool, (("branch1x1", 64, (1, 1), 1),), _layers("branch5x5", (48, 1, 1), (64, 5, 5)), double


def _c(width: int) -> tuple:
    single = _layers("branch7x7", (width, 1, 1), (width, 1, 7), (192, 7, 1))
    double = _layers("branch7x7dbl", (width, 1, 1), (width, 7, 1), (width, 1, 7), (width, 7, 1), (192, 1, 7))
    return 192, (("branch1x1", 192, (1, 1), 1),), single, double


_B = 0, (("branch3x3", 384, (3, 3), 2),), _layers("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3, 2))
_D = (
    0,
    _layers("branch3x3", (192, 1, 1), (320, 3, 3, 2)),
    _layers("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)),
)
_E = (
    192,
    (("branch1x1", 320, (1, 1), 1),),
    (*_layers("branch3x3", (384, 1, 1)), _fork("branch3x3_2")),
    (*_layers("branch3x3dbl", (448, 1, 1), (384, 3, 3)), _fork("branch3x3dbl_3")),
)
BLOCKS = {
    **{"Mixed_5b": _a(32), "Mixed_5c": _a(64), "Mixed_5d": _a(64), "Mixed_6a": _B, "Mixed_6b": _c(128)},
    **{"Mixed_6c": _c(160), "Mixed_6d": _c(160), "Mixed_6e": _c(192), "Mixed_7a": _D, "Mixed_7b": _E, "Mixed_7c": _E},
}


class Mixed(nn.Module):
    """The joined channels of branches, as `BLOCKS` lists them."""

    branches: tuple
    pool: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[jax.Array, "B k l F"]:
        def layer(x, name, features, kernel, stride):
            return ConvNorm(features, kernel, stride, "SAME" if stride == 1 else "VALID", self.dtype, name=name)(x)

        results = []
        for branch in self.branches:
            y = x
            for step in branch:
                fork = isinstance(step[0], tuple)
                y = jnp.concatenate([layer(y, *s) for s in step], axis=-1) if fork else layer(y, *step)
            results.append(y)
        mean = ConvNorm(self.pool, (1, 1), 1, "SAME", self.dtype, mean=True, name="branch_pool")
        results.append(mean(x) if self.pool else nn.max_pool(x, (3, 3), (2, 2)))
        return jnp.concatenate(results, axis=-1)


class ConvNorm(nn.Module):
    """A convolution without bias, normalisation with given statistics, and ReLU.

    With `mean`, the input of the 1 x 1 convolution is the mean over 3 x 3 cells, with zeros around the grid. Both are
    linear, so the mean is computed second, on fewer channels.
    """

    features: int
    kernel: tuple[int, int]
    stride: int
    padding: str
    dtype: DTypeLike
    mean: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[jax.Array, "B k l F"]:
        x = nn.Conv(
            self.features,
            self.kernel,
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.mean:
            x = nn.avg_pool(x, (3, 3), (1, 1), padding="SAME", count_include_pad=True)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, dtype=self.dtype, name="bn")(x))

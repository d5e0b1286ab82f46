"""Inception v3 without its classifiers: the trunk of the published Code Predictor (method section 4).

Layers carry the names that torchvision gave them, so that a file of ImageNet weights can be told what it lacks.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from loco_jax.ops.cpu import matmul_conv

STRIDE = 32  # pixels from one cell of the features to the next
MARGIN = 43  # n cells need 32 n + 43 pixels: the stem does not pad


class Inception(nn.Module):
    """From a picture to the 2048 channels of the last mixed block, Mixed_7c.

    Normalisation uses its statistics as they are, in training too: the batches are too small for statistics of their
    own. They are variables of the collection "batch_stats"; scale and bias are parameters.

    Attributes:
      dtype: of the arithmetic; parameters stay float32.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Features `[B, (H - 43) // 32, (W - 43) // 32, 2048]` of pictures `[B, H, W, 3]` in 0 to 255.

        Raises ValueError for pictures that have no features: those smaller than 75 x 75.
        """
        if image.ndim != 4 or image.shape[-1] != 3 or min(image.shape[1:3]) < STRIDE + MARGIN:
            least = STRIDE + MARGIN
            raise ValueError(f"Inception wants pictures [B, H, W, 3] of at least {least} x {least}; have {image.shape}")
        # ImageNet's mean and standard deviation go in, and torchvision's transform_input takes them out again in favour
        # of 0.5 and 0.5, which is what these weights were trained with: together they come to this.
        x = image.astype(self.dtype) / 127.5 - 1
        x = ConvNorm(32, (3, 3), 2, "VALID", self.dtype, name="Conv2d_1a_3x3")(x)
        x = ConvNorm(32, (3, 3), 1, "VALID", self.dtype, name="Conv2d_2a_3x3")(x)
        x = ConvNorm(64, (3, 3), 1, "SAME", self.dtype, name="Conv2d_2b_3x3")(x)
        x = matmul_conv.max_pool(x)
        x = ConvNorm(80, (1, 1), 1, "VALID", self.dtype, name="Conv2d_3b_1x1")(x)
        x = ConvNorm(192, (3, 3), 1, "VALID", self.dtype, name="Conv2d_4a_3x3")(x)
        x = matmul_conv.max_pool(x)
        for name, branches, pool in BLOCKS:
            x = Mixed(branches, pool, self.dtype, name=name)(x)
        return x


# A mixed block runs branches beside each other and joins their channels. A layer is (name, channels, kernel, stride);
# a tuple of layers in the last place of a branch is a fork, whose results are joined. The last branch pools: over 3 x 3
# cells, the mean followed by a 1 x 1 convolution of so many channels, or the maximum with stride 2 if that is 0.
def _block_a(pool: int):
    branches = (
        (("branch1x1", 64, (1, 1), 1),),
        (("branch5x5_1", 48, (1, 1), 1), ("branch5x5_2", 64, (5, 5), 1)),
        (("branch3x3dbl_1", 64, (1, 1), 1), ("branch3x3dbl_2", 96, (3, 3), 1), ("branch3x3dbl_3", 96, (3, 3), 1)),
    )
    return branches, pool


def _block_b():
    branches = (
        (("branch3x3", 384, (3, 3), 2),),
        (("branch3x3dbl_1", 64, (1, 1), 1), ("branch3x3dbl_2", 96, (3, 3), 1), ("branch3x3dbl_3", 96, (3, 3), 2)),
    )
    return branches, 0


def _block_c(width: int):
    branches = (
        (("branch1x1", 192, (1, 1), 1),),
        (("branch7x7_1", width, (1, 1), 1), ("branch7x7_2", width, (1, 7), 1), ("branch7x7_3", 192, (7, 1), 1)),
        (
            ("branch7x7dbl_1", width, (1, 1), 1),
            ("branch7x7dbl_2", width, (7, 1), 1),
            ("branch7x7dbl_3", width, (1, 7), 1),
            ("branch7x7dbl_4", width, (7, 1), 1),
            ("branch7x7dbl_5", 192, (1, 7), 1),
        ),
    )
    return branches, 192


def _block_d():
    branches = (
        (("branch3x3_1", 192, (1, 1), 1), ("branch3x3_2", 320, (3, 3), 2)),
        (
            ("branch7x7x3_1", 192, (1, 1), 1),
            ("branch7x7x3_2", 192, (1, 7), 1),
            ("branch7x7x3_3", 192, (7, 1), 1),
            ("branch7x7x3_4", 192, (3, 3), 2),
        ),
    )
    return branches, 0


def _block_e():
    branches = (
        (("branch1x1", 320, (1, 1), 1),),
        (
            ("branch3x3_1", 384, (1, 1), 1),
            (("branch3x3_2a", 384, (1, 3), 1), ("branch3x3_2b", 384, (3, 1), 1)),
        ),
        (
            ("branch3x3dbl_1", 448, (1, 1), 1),
            ("branch3x3dbl_2", 384, (3, 3), 1),
            (("branch3x3dbl_3a", 384, (1, 3), 1), ("branch3x3dbl_3b", 384, (3, 1), 1)),
        ),
    )
    return branches, 192


BLOCKS = (
    ("Mixed_5b", *_block_a(32)),
    ("Mixed_5c", *_block_a(64)),
    ("Mixed_5d", *_block_a(64)),
    ("Mixed_6a", *_block_b()),
    ("Mixed_6b", *_block_c(128)),
    ("Mixed_6c", *_block_c(160)),
    ("Mixed_6d", *_block_c(160)),
    ("Mixed_6e", *_block_c(192)),
    ("Mixed_7a", *_block_d()),
    ("Mixed_7b", *_block_e()),
    ("Mixed_7c", *_block_e()),
)


class Mixed(nn.Module):
    """Branches beside each other, as BLOCKS lists them, their channels joined."""

    branches: tuple
    pool: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(x, name, features, kernel, stride):
            return ConvNorm(features, kernel, stride, "SAME" if stride == 1 else "VALID", self.dtype, name=name)(x)

        results = []
        for branch in self.branches:
            y = x
            for step in branch:
                fork = isinstance(step[0], tuple)
                y = jnp.concatenate([layer(y, *s) for s in step], axis=-1) if fork else layer(y, *step)
            results.append(y)
        if self.pool:
            results.append(ConvNorm(self.pool, (1, 1), 1, "SAME", self.dtype, mean=True, name="branch_pool")(x))
        else:
            results.append(matmul_conv.max_pool(x))
        return jnp.concatenate(results, axis=-1)


class ConvNorm(nn.Module):
    """A convolution without bias, normalisation with given statistics, ReLU.

    XLA makes one pass of the last two, so that folding the statistics into the kernel would save nothing.

    With `mean`, the convolution, 1 x 1, is of the mean over 3 x 3 cells, zeros around counted in. Both are linear, so
    the mean comes second: it has fewer channels to go over.
    """

    features: int
    kernel: tuple[int, int]
    stride: int
    padding: str
    dtype: jnp.dtype
    mean: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.features,
            self.kernel,
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            conv_general_dilated=matmul_conv.convolve,
            name="conv",
        )(x)
        if self.mean:
            x = nn.avg_pool(x, (3, 3), (1, 1), padding="SAME", count_include_pad=True)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, dtype=self.dtype, name="bn")(x))

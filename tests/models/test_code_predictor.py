"""The published Code Predictor: its sizes, its number of parameters, its start, its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from loco_jax.models import code_predictor
from loco_jax.models.code_predictor import CodePredictor
from loco_jax.models.inception import BLOCKS, ConvNorm, Inception

FULL, DEMO = (1080, 1920), (270, 480)
# docs/method.md, sections 3 and 4, for full HD; at demo scale ceil(40 / 2^k) x ceil(60 / 2^k) x 80 / 2^k.
CODES = [
    (1, 316, FULL, (68, 120, 158)),
    (2, 316, FULL, (34, 60, 79)),
    (3, 316, FULL, (17, 30, 39)),
    (1, 80, DEMO, (20, 30, 40)),
    (2, 80, DEMO, (10, 15, 20)),
    (3, 80, DEMO, (5, 8, 10)),
    (2, 316, (64, 64), (2, 2, 79)),  # the least
    (1, 316, (107, 106), (8, 7, 158)),  # 107 = 64 + 43: its features just suffice
    (3, 17, (65, 640), (2, 10, 2)),
    (2, 80, (1088, 1984), (34, 62, 20)),
]


def pictures(*size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)


def shapes(network, example):
    return jax.eval_shape(network.init_with_output, jax.random.key(0), example)


def random_variables(network, example, seed: int = 0):
    """Variables with which activations keep their scale, without compiling an initialiser."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        if path[-1].key == "kernel":
            return (rng.standard_normal(x.shape, np.float32) * np.sqrt(2 / np.prod(x.shape[:-1]))).astype(np.float32)
        at = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return (at + 0.1 * rng.uniform(-1, 1, x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(network.init, jax.random.key(0), example))


@pytest.mark.parametrize("level, bins, size, code", CODES)
def test_code_has_the_volumes_grid(level, bins, size, code):
    assert shapes(CodePredictor(level, bins), pictures(*size))[0].shape == (1, *code)


def test_features_of_full_hd_are_the_published_ones():
    features, _ = shapes(Inception(), pictures(*FULL))
    assert features.shape == (1, 32, 58, 2048)  # 2048 x 16 x 29 after pooling by 2


def test_features_have_the_size_of_unpadded_convolutions():
    for size in (75, 106, 107, 299):
        n = size
        for kernel, stride in ((3, 2), (3, 1), (3, 2), (3, 1), (3, 2), (3, 2), (3, 2)):  # what is not padded
            n = (n - kernel) // stride + 1
        assert shapes(Inception(), pictures(size, 75))[0].shape == (1, n, 1, 2048)


def test_number_of_parameters():
    _, variables = shapes(CodePredictor(2, 316), pictures(64, 64))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 65_847_855
    # Two statistics for each channel that is normalised, whose scale and bias are parameters.
    statistics = {path[:-1] for path, _ in jax.tree_util.tree_leaves_with_path(variables["batch_stats"])}
    assert len(statistics) == 94
    scales = sum(x.size for p, x in jax.tree_util.tree_leaves_with_path(variables["params"]) if p[-1].key == "scale")
    assert sum(x.size for x in jax.tree.leaves(variables["batch_stats"])) == 2 * scales


def test_padding_is_never_more_than_the_features_need():
    for size in range(64, 2000):
        padded = max(code_predictor.least_size(size), size)
        cells = (padded - 43) // 64  # after pooling by 2
        assert cells + 1 >= size / 64  # level 3; the grids of the others are 2 and 4 times as fine
        assert padded - size <= 43
        assert padded == size or (size - 43) // 64 + 1 < max(size / 64, 2)  # the head needs one cell at least


@pytest.mark.parametrize(
    "network, shape, message",
    [
        (CodePredictor(2, 316), (1, 63, 500, 3), "at least 64 x 64"),
        (CodePredictor(2, 316), (1, 500, 63, 3), "at least 64 x 64"),
        (CodePredictor(2, 316), (1, 500, 500, 4), r"\[B, H, W, 3\]"),
        (CodePredictor(2, 316), (500, 500, 3), r"\[B, H, W, 3\]"),
        (CodePredictor(0, 316), (1, 100, 100, 3), "level=0"),
        (CodePredictor(4, 316), (1, 100, 100, 3), "level=4"),
        (CodePredictor(3, 7), (1, 100, 100, 3), "depth_bins=7"),
        (Inception(), (1, 74, 100, 3), "at least 75 x 75"),
        (Inception(), (1, 100, 100), r"\[B, H, W, 3\]"),
    ],
)
def test_impossible_requests(network, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes(network, jax.ShapeDtypeStruct(shape, jnp.uint8))


def test_mixed_blocks_have_torchvisions_names():
    assert list(BLOCKS) == [f"Mixed_{x}" for x in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()]


# ---- Numbers


@pytest.fixture(scope="module")
def small():
    """A predictor, its variables, a picture, its code."""
    network = CodePredictor(2, 16)
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), np.uint8)
    variables = random_variables(network, pictures(64, 64))
    return network, variables, image, np.asarray(jax.jit(network.apply)(variables, image))


def test_all_parameters_learn_and_statistics_stay(small):
    network, variables, image, code = small

    @jax.jit
    def gradient(params):
        def loss(params):
            code, changed = network.apply({**variables, "params": params}, image, mutable=["batch_stats"])
            return jnp.sum(code * jnp.cos(jnp.arange(code.size).reshape(code.shape))), changed

        return jax.grad(loss, has_aux=True)(params)

    gradients, changed = gradient(variables["params"])
    for path, x in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(x).all() and np.any(np.asarray(x)), path
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
    assert code.std() > 0.01


def test_statistics_are_used(small):
    network, variables, image, code = small
    variables = {**variables, "batch_stats": jax.tree.map(lambda x: x + 0.5, variables["batch_stats"])}
    assert np.abs(jax.jit(network.apply)(variables, image) - code).max() > 0.1 * np.abs(code).max()


def test_bfloat16(small):
    _, variables, image, code = small
    rough = jax.jit(CodePredictor(2, 16, dtype=jnp.bfloat16).apply)(variables, image)
    assert rough.dtype == jnp.bfloat16
    error = np.asarray(rough, np.float32) - code
    assert 0 < np.linalg.norm(error) < 0.05 * np.linalg.norm(code)
    _, variables = shapes(CodePredictor(2, 16, dtype=jnp.bfloat16), pictures(64, 64))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_convolutions_start_with_their_inputs_scale():
    """Of an input with mean square 1, ReLU leaves half of a variance of 2."""
    x = np.abs(np.random.default_rng(0).normal(size=(4, 12, 12, 96))).astype(np.float32)
    layer = ConvNorm(256, (3, 3), 1, "VALID", jnp.float32)
    y, _ = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    assert np.mean(np.square(y)) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("level", [1, 3])
def test_head_starts_with_its_inputs_scale(level):
    """Its last layer, without ReLU, has a variance of 1 for a mean square of 1; the border is left out."""
    x = np.repeat(np.repeat(np.random.default_rng(0).normal(size=(1, 8, 8, 512)), 2, axis=1), 2, axis=2)
    head = code_predictor.Head(level, 64, jnp.float32)
    y, _ = jax.jit(head.init_with_output)(jax.random.key(0), x.astype(np.float32))
    edge = y.shape[1] // 3
    assert np.mean(np.square(y[:, edge:-edge, edge:-edge])) == pytest.approx(1, rel=0.35)

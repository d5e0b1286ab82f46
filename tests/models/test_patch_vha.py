"""PatchVHA: cells, the code's reach, and the names and shapes of its parameters."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from loco_jax.models import patch_vha
from tests.support.autoencoders import code_and_heatmaps, random_heatmaps, random_params, shapes


def test_fold_puts_a_cells_voxels_into_its_channels():
    heatmaps = random_heatmaps(2, 3, 5, 4, 7)
    cells = np.asarray(patch_vha.fold(heatmaps, 2))
    assert cells.shape == (2, 4, 3, 2, 3 * 8)
    for b, j, r, c, d in np.ndindex(2, 3, 6, 4, 8):
        channel = ((j * 2 + r % 2) * 2 + c % 2) * 2 + d % 2
        inside = r < 5 and d < 7
        assert cells[b, d // 2, r // 2, c // 2, channel] == (heatmaps[b, j, r, c, d] if inside else 0)


@pytest.mark.parametrize("cell", [2, 4, 8])
def test_unfold_is_the_inverse_of_fold(cell):
    heatmaps = random_heatmaps(1, 14, 9, 8, 15)
    whole = np.asarray(patch_vha.unfold(patch_vha.fold(heatmaps, cell), cell))
    np.testing.assert_array_equal(whole[:, :, :9, :8, :15], heatmaps)
    assert all(size % cell == 0 for size in whole.shape[2:])
    assert np.count_nonzero(whole) == np.count_nonzero(heatmaps)


@pytest.mark.parametrize("level, depth_bins", [(1, 16), (2, 18), (3, 20)])
def test_patch_heatmaps_are_probabilities(level, depth_bins):
    network = patch_vha.PatchVHA(level, depth_bins, width=8, blocks=1)
    params = random_params(network, depth_bins)
    heatmaps = random_heatmaps(1, 14, 10, 13, depth_bins)
    code, found = code_and_heatmaps(network, params, heatmaps)
    assert found.shape == heatmaps.shape and 0 <= found.min() < found.max() <= 1
    assert np.isfinite(code).all() and float(jnp.std(code)) > 1e-3
    # What does not fill a cell is padded with zeros.
    padded = np.pad(heatmaps, [(0, 0)] * 2 + [(0, -10 % 2**level), (0, -13 % 2**level), (0, 0)])
    again, _ = code_and_heatmaps(network, params, padded)
    np.testing.assert_allclose(again, code, rtol=1e-5, atol=1e-5)


def test_patch_code_is_local():
    """A voxel reaches as far as the 3x3x3 convolutions that it passes: one a block, and the last."""
    network, cell, reach = patch_vha.PatchVHA(1, 24, width=8, blocks=2), 2, 3
    params = random_params(network, 24)
    heatmaps = np.zeros((1, 14, 24, 24, 24), np.float32)
    changed = heatmaps.copy()
    changed[0, 5, 10, 13, 12] = 1
    code, _ = code_and_heatmaps(network, params, heatmaps)
    other, _ = code_and_heatmaps(network, params, changed)
    where = np.argwhere(np.asarray(code != other)[0]) - np.array([10, 13, 12]) // cell
    assert abs(where).max() == reach


@pytest.mark.parametrize("padding", [(1, 1), (1, 0), (1, 2)])
def test_cells_are_convolved_in_three_dimensions(padding):
    """Against SciPy, with the kernel in the layout of the files: row, column, (depth, channel), feature."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4, 6, 3)).astype(np.float32)
    kernel, bias = rng.normal(size=(3, 3, 9, 2)).astype(np.float32), rng.normal(size=2).astype(np.float32)
    params = {"params": {"Conv_0": {"kernel": kernel, "bias": bias}}}
    found = patch_vha.CellConv(2, depth_padding=padding).apply(params, x)
    taps = kernel.astype(np.float64).reshape(3, 3, 3, 3, 2).transpose(2, 0, 1, 3, 4)
    padded = np.pad(x, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
    assert found.shape == (2, 3 + sum(padding), 4, 6, 2)
    for b, f in np.ndindex(2, 2):
        want = sum(ndimage.correlate(padded[b, ..., c], taps[..., c, f], mode="constant") for c in range(3))
        np.testing.assert_allclose(found[b, ..., f], want[1:-1] + bias[f], rtol=1e-4, atol=1e-4)


def test_parameters_have_the_names_and_shapes_of_files():
    params = shapes(patch_vha.PatchVHA(2, 18, width=8, blocks=1), 18)["params"]
    assert set(params) == {"embed", "encoder_0", "code_norm", "to_code", "from_code", "decoder_0", "to_logits"}
    assert set(params["decoder_0"]) == {"RMSNorm_0", "RMSNorm_1", "CellConv_0", "Dense_0", "Dense_1"}
    assert params["decoder_0"]["CellConv_0"]["Conv_0"]["kernel"].shape == (3, 3, 24, 8)
    assert params["from_code"]["Conv_0"]["kernel"].shape == (3, 3, 3, 8)
    assert set(params["to_logits"]) == {"RMSNorm_0", "Dense_0", "Dense_1"}

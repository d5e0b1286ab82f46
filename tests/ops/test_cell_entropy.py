"""The cross-entropy in parts against that of whole volumes, checked in tests/tasks/test_vha.py against the formula."""

import functools

import jax
import numpy as np
import pytest

from loco_jax.models import vha
from loco_jax.ops.cpu import cell_entropy, fast_encode
from tests.ops.test_fast_encode import SHAPE, random_crowd
from tests.tasks.test_vha import random_params


@pytest.fixture(autouse=True)
def several_turns(monkeypatch):
    """Loops that a few people in a small volume would leave after one turn."""
    monkeypatch.setattr(fast_encode, "_PEOPLE", 2)
    monkeypatch.setattr(cell_entropy, "_CELLS", 100)


@pytest.mark.parametrize("level, weight, subvoxel", [(2, 3.0, True), (1, 0.0, False)])
def test_parts_are_the_whole(level, weight, subvoxel):
    network = vha.PatchVHA(level, SHAPE[2], width=8, blocks=1)
    params = random_params(network, SHAPE[2])
    voxels, present = random_crowd(0, SHAPE, 2)
    voxels[:, 1] = voxels[:, 0] + 1  # overlap
    voxels[:, 2] = voxels[:, 0]  # coincide
    cells = tuple(-(-size // 2**level) for size in SHAPE)
    x = np.random.default_rng(1).normal(size=(2, cells[2], *cells[:2], 8)).astype(np.float32)

    arguments = params["params"]["to_logits"], x, voxels, present
    options = {"network": network, "shape": SHAPE, "sigma": 2.0, "subvoxel": subvoxel, "positive_weight": weight}
    parts = jax.jit(functools.partial(cell_entropy.in_parts, **options))
    whole = jax.jit(jax.value_and_grad(functools.partial(cell_entropy.at_once, **options), (0, 1)))
    (total, (of_params, of_x)), (want, (want_params, want_x)) = parts(*arguments), whole(*arguments)
    assert total == pytest.approx(float(want), rel=1e-5)
    got, want = jax.tree.leaves((of_params, of_x)), jax.tree.leaves((want_params, want_x))
    for one, other in zip(got, want, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
    nobody = np.zeros_like(present)
    empty = parts(*arguments[:3], nobody)[0]
    assert empty == pytest.approx(float(whole(*arguments[:3], nobody)[0]), rel=1e-5) and empty != total


def test_large_volumes_go_in_parts(monkeypatch):
    """And give the same loss and the same gradient of it, scaled."""
    network = vha.PatchVHA(2, SHAPE[2], width=8, blocks=1)
    params = random_params(network, SHAPE[2])
    crowd = random_crowd(2, SHAPE, 1)
    x = np.random.default_rng(3).normal(size=(1, 8, 5, 7, 8)).astype(np.float32)

    def loss(params, x):
        return 0.5 * cell_entropy.sum_entropy(network, params, x, *crowd, SHAPE, subvoxel=True)

    found = []
    for large in (2**25, 0):
        monkeypatch.setattr(cell_entropy, "_LARGE", large)
        of = jax.value_and_grad(lambda params, x: loss(params, x), (0, 1))
        assert ("while" in str(jax.make_jaxpr(of)(params, x))) == (large == 0)
        found.append(jax.jit(of)(params, x))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())

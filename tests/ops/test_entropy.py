"""The cross-entropy in parts against that of whole volumes, whose formula tests/tasks/test_vha.py checks."""

import jax
import numpy as np
import pytest

from loco_jax import ops
from loco_jax.models import patch_vha
from loco_jax.ops.cpu import entropy
from tests.support.autoencoders import random_crowd, random_params

SHAPE = (20, 26, 30)


@pytest.fixture(autouse=True)
def several_turns(monkeypatch):
    """Of a loop that a small volume would leave after one turn."""
    monkeypatch.setattr(entropy, "_CELLS", 100)


@pytest.mark.parametrize("level, subvoxel", [(2, True), (1, False)])
def test_large_volumes_go_in_parts(level, subvoxel, monkeypatch):
    """The same value and the same gradients, scaled; also where nobody is."""
    network = patch_vha.PatchVHA(level, SHAPE[2], width=8, blocks=1)
    params = random_params(network, SHAPE[2])
    voxels, present = random_crowd(0, SHAPE, 2)
    voxels[:, 1] = voxels[:, 0] + 1  # overlap
    voxels[:, 2] = voxels[:, 0]  # coincide
    cells = tuple(-(-size // 2**level) for size in SHAPE)
    x = np.random.default_rng(1).normal(size=(2, cells[2], *cells[:2], 8)).astype(np.float32)

    annotated = np.ones((2, 14), bool)
    annotated[0, 2:5] = False

    def loss(params, x, present):
        options = {"shape": SHAPE, "subvoxel": subvoxel, "annotated": annotated}
        return 0.5 * ops.sum_entropy(network, params, x, voxels, present, **options)

    found = []
    for least in (2**25, 0):
        monkeypatch.setattr(ops, "_LEAST_TO_SUM", least)
        of = jax.value_and_grad(lambda *arguments: loss(*arguments), (0, 1))
        assert ("scan" in str(jax.make_jaxpr(of)(params, x, present))) == (least == 0)
        of = jax.jit(of)
        found.append((of(params, x, present), of(params, x, np.zeros_like(present))))
    for parts, whole in zip(found[1], found[0], strict=True):
        for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
    (total, (of_params, of_x)), (empty, _) = found[1]
    assert total != empty
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves((of_params["params"]["to_logits"], of_x)))

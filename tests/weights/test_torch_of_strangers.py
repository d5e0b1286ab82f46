"""PyTorch's files by strangers; see support/strangers.py."""

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_jax import weights
from tests.support.strangers import damaged, damages, fuzz, read_or_refused


@pytest.fixture(scope="module")
def torch_files(folder):
    torch = pytest.importorskip("torch")
    state = {f"mlp.{i}.{n}": torch.zeros(s) for i, (o, j) in zip((0, 2, 4), ((128, 39), (128, 128), (39, 128)))
             for n, s in (("weight", (o, j)), ("bias", (o,)))}  # fmt: skip
    contents = []
    for new in (True, False):
        torch.save({"model": state, "epoch": 3}, folder / "w.pth", _use_new_zipfile_serialization=new)
        contents.append((folder / "w.pth").read_bytes())
    return contents


def load_torch(path, kind="refiner"):
    from loco_jax.weights import torch as torch_weights

    return torch_weights.load(path, kind)


@fuzz(100)
@given(st.integers(0, 1), damages, st.booleans())
def test_damaged_torch_files(folder, torch_files, which, damage, late):
    """Also in the pickle, of which the archive keeps a sum, so that damage there needs another sum: none is checked."""
    content = torch_files[which]
    part = content[:3000] if late else content
    path = folder / "damaged.pth"
    path.write_bytes(damaged(part, damage) + content[len(part) :])
    variables = read_or_refused(load_torch, path, weights.WeightsError)
    if variables is not None:
        assert variables["params"]["Dense_0"]["kernel"].shape == (39, 128)


SHAPES = [(0,), (3, 0), (2**20, 2**20), (0, 0, 5, 5), (2**28, 1, 5, 5), (1, 2**28, 5, 5), (1,), (2**14, 2**14, 1, 1)]


@pytest.mark.parametrize("kind", ["vha", "code_predictor", "refiner", "inception"])
def test_torch_tensors_that_cannot_be(tmp_path, kind):
    """Of any shape with one number in the file; without numbers; of endless names; too many."""
    torch = pytest.importorskip("torch")
    path, one = tmp_path / "w.pth", torch.ones(1)
    cases = [{"a.weight": one.expand(shape) if 0 not in shape else torch.ones(shape)} for shape in SHAPES]
    cases += [{"a.weight": one.half().expand(10**5, 10**6)}, {"a.weight": torch.ones(3, device="meta")}]
    cases += [
        {f"{'.'.join('a' * 30_000)}.weight": one},
        {"a\nb.weight": one},
        {f"{i}.weight": one for i in range(11_000)},
    ]
    cases += [{"k" * 9000: 1, ("a", 1): 2, "b\nc": 3}, {"a" * 9000: {"x": one}, "b\n": {"x": one}}]
    for content in cases:
        torch.save(content, path)
        assert read_or_refused(lambda path: load_torch(path, kind), path, weights.WeightsError) is None


def test_torch_archives_that_would_unpack_to_more(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a.weight": torch.zeros(10**6)}, tmp_path / "plain.pth")
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(tmp_path / "plain.pth") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert path.stat().st_size < 20_000
    with pytest.raises(weights.WeightsError, match="w.pth: would unpack to 4,"):
        load_torch(path)

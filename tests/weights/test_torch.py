"""PyTorch's files: the same weights give the same outputs in both frameworks, and bad files say what is wrong."""

import io
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from loco_jax import weights  # noqa: E402
from loco_jax.benchmark import torch_reference as torch_modules  # noqa: E402
from loco_jax.models import code_predictor, inception, refiner, vha  # noqa: E402
from loco_jax.weights import torch as torch_weights  # noqa: E402

torch.set_num_threads(2)


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """With weights that keep the activations' scale, and statistics far from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(x, low, high):
        x.copy_(low + (high - low) * torch.rand(x.shape, generator=generator))

    with torch.no_grad():
        for name, x in module.state_dict().items():
            if x.ndim > 1:
                fan_in = x[0].numel() if not name.startswith("main.0") else x[:, 0].numel() / 4
                x.copy_(torch.randn(x.shape, generator=generator) * (2 / fan_in) ** 0.5)
            elif name.endswith(("running_var", "bn.weight")):
                uniform(x, 0.5, 1.5)
            elif x.is_floating_point():
                uniform(x, -0.2, 0.2)
    return module.eval()


def assert_close(ours, theirs, relative=1e-4):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-3
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


def saved(tmp_path, state, name="weights.pth", **options) -> str:
    torch.save(state, tmp_path / name, **options)
    return str(tmp_path / name)


def numbered(module_of) -> dict[str, torch.Tensor]:
    """A state dict of the right shapes, each tensor full of a number of its own; it takes no room."""
    with torch.device("meta"):
        state = module_of().state_dict()
    return {name: torch.tensor(i + 1.0).expand(x.shape) for i, (name, x) in enumerate(state.items())}


class Refiner(torch.nn.Module):
    """Normalised offsets `[B, 39]` to better ones (method section 5)."""

    def __init__(self):
        super().__init__()
        linear = torch.nn.Linear
        self.fc1, self.fc2, self.fc3 = (torch.nn.Sequential(linear(*io)) for io in ((39, 128), (128, 128), (128, 39)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(self.fc2(self.fc1(x).relu()).relu()) + x.relu()


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def same_module(a: torch.nn.Module, b: torch.nn.Module):
    """Their tensors are the same: the way back from our variables is exact."""
    same(*({name: x.numpy() for name, x in module.state_dict().items()} for module in (a, b)))


# ---- Parity


@pytest.mark.parametrize("level", [1, 2, 3])
def test_vha_agrees(tmp_path, level):
    bins = 17
    theirs = randomised(torch_modules.Vha(level, bins))
    variables, about = torch_weights.read(saved(tmp_path, theirs.state_dict()), "vha")
    assert about == {"kind": "vha", "level": level, "depth_bins": bins, "source": "weights.pth"}
    same_module(torch_modules.load(torch_modules.Vha(level, bins), variables), theirs)
    ours = vha.VHA(level, bins)
    heatmaps = np.random.default_rng(0).uniform(0, 1, (2, 14, 16, 24, bins)).astype(np.float32)
    with torch.no_grad():
        code = theirs.encode(torch.from_numpy(np.moveaxis(heatmaps, -1, 2).copy()))
        decoded = theirs.decode(code)
    our_code = jax.jit(lambda x: ours.apply(variables, x, method="encode"))(heatmaps)
    assert_close(our_code, np.moveaxis(code[:, 0].numpy(), 1, -1))
    our_decoded = jax.jit(lambda x: ours.apply(variables, x, method="decode"))(our_code)
    assert_close(our_decoded, np.moveaxis(decoded.numpy(), 2, -1))


@pytest.fixture(scope="module")
def trunk():
    return randomised(torch_modules.Inception(), seed=1)


def test_inception_agrees(tmp_path, trunk):
    path = saved(tmp_path, trunk.state_dict())
    variables = torch_weights.load(path, "inception")
    os.remove(path)
    image = np.random.default_rng(0).integers(0, 256, (1, 139, 203, 3), np.uint8)
    mean, deviation = torch_modules.imagenet()
    with torch.no_grad():
        theirs = trunk((torch.from_numpy(image).permute(0, 3, 1, 2) / 255 - mean) / deviation)
    ours = jax.jit(inception.Inception().apply)(variables, image)
    assert_close(ours, theirs.permute(0, 2, 3, 1))


def test_code_predictor_agrees(tmp_path, trunk):
    theirs = randomised(torch_modules.CodePredictor(2, 5), seed=2)
    theirs.features = trunk
    path = saved(tmp_path, theirs.state_dict())
    variables, about = torch_weights.read(path, "code_predictor")
    os.remove(path)  # 260 MB
    assert about == {"kind": "code_predictor", "level": 2, "depth_bins": 20, "source": "weights.pth"}
    same_module(torch_modules.load(torch_modules.CodePredictor(2, 5), variables), theirs)
    image = np.random.default_rng(0).integers(0, 256, (1, 100, 150, 3), np.uint8)
    padded = np.full((1, 107, 171, 3), 127.5, np.float32)  # 64 n + 43
    padded[:, :100, :150] = image
    with torch.no_grad():
        code = theirs(torch.from_numpy(padded).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert code.shape == (1, 4, 6, 5)
    ours = jax.jit(code_predictor.CodePredictor(2, 20).apply)(variables, image)
    assert_close(ours, code[:, :4, :5])  # 100 pixels are 13 voxels, padded to 16; 150 are 19: 4 and 5 cells


@pytest.mark.parametrize("level", [1, 3])
def test_heads_of_other_levels_agree(tmp_path, level):
    with torch.device("meta"):
        theirs = torch_modules.CodePredictor(level, 5).main
    torch.manual_seed(level)
    # The same for all channels that go into a transposed convolution or come out of another: it takes less room.
    state = {name: torch.randn(1, *x.shape[1:]).expand(x.shape) for name, x in theirs.state_dict().items()}
    theirs.load_state_dict(state, assign=True)
    state = {f"main.{name}": x for name, x in state.items()}
    path = saved(tmp_path, {**numbered(torch_modules.Inception), **state})
    variables, about = torch_weights.read(path, "code_predictor")
    assert (about["level"], about["depth_bins"]) == (level, 5 * 2**level)
    features = np.random.default_rng(0).normal(size=(1, 2, 4, 2048)).astype(np.float32)
    with torch.no_grad():
        code = theirs(torch.nn.functional.avg_pool2d(torch.from_numpy(features).permute(0, 3, 1, 2), 2))
    ours = code_predictor.Head(level, 5, np.float32).apply({"params": variables["params"]["head"]}, features)
    assert_close(ours, code.permute(0, 2, 3, 1))


def test_refiner_agrees(tmp_path):
    theirs = randomised(Refiner())
    variables = torch_weights.load(saved(tmp_path, theirs.state_dict()), "refiner")
    x = np.random.default_rng(0).uniform(-1, 1, (50, 39)).astype(np.float32)
    with torch.no_grad():
        assert_close(refiner.Refiner().apply(variables, x), theirs(torch.from_numpy(x)))


# ---- Names and orders

AUTHORS = {  # the layers of the published networks in the authors' releases
    "vha": "encoder.0 encoder.2 encoder.4 fuser.0 fuser.2 defuser.0 defuser.2 decoder.0 decoder.3 decoder.6",
    "code_predictor": "main.0.main.0 main.1.main.1 main.2.main.1 main.3",
}


def layers_of(state):
    return {name.rpartition(".")[0] for name in state if "features." not in name}


def test_vha_with_the_authors_names_in_any_order(tmp_path):
    state = numbered(lambda: torch_modules.Vha(2, 316))
    assert layers_of(state) == set(AUTHORS["vha"].split())
    plain = torch_weights.load(saved(tmp_path, state), "vha")
    other = {f"module.{name}": x for name, x in reversed(state.items())}
    same(torch_weights.load(saved(tmp_path, other), "vha"), plain)
    assert sum(x.size for x in jax.tree.leaves(plain)) == 3_448_442


def test_code_predictor_with_the_authors_names(tmp_path):
    state = numbered(lambda: torch_modules.CodePredictor(2, 79))
    assert layers_of(state) == set(AUTHORS["code_predictor"].split())
    plain, about = torch_weights.read(saved(tmp_path, state), "code_predictor")
    assert about["level"] == 2 and about["depth_bins"] == 316
    other = {f"module.{name.replace('features.', 'f_extractor.')}": x for name, x in state.items()}
    same(torch_weights.load(saved(tmp_path, other), "code_predictor"), plain)
    like = jax.eval_shape(
        code_predictor.CodePredictor(2, 316).init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.uint8)
    )
    weights.check_fit(plain, like, "")


@pytest.mark.parametrize("level, depth, bins", [(3, 39, 316), (1, 158, 316), (2, 78, 312)])
def test_depth_bins_of_a_code_predictor(tmp_path, level, depth, bins):
    path = saved(tmp_path, numbered(lambda: torch_modules.CodePredictor(level, depth)))
    about = torch_weights.read(path, "code_predictor")[1]
    assert (about["level"], about["depth_bins"]) == (level, bins)
    assert depth == bins // 2**level


def test_classifiers_are_ignored(tmp_path):
    state = numbered(torch_modules.Inception)
    plain = torch_weights.load(saved(tmp_path, state), "inception")
    more = {"AuxLogits.conv0.conv.weight": torch.ones(128, 768, 1, 1), "AuxLogits.fc.bias": torch.ones(1000)}
    more |= {"fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}
    same(torch_weights.load(saved(tmp_path, {**more, **state}), "inception"), plain)
    weights.check_fit(
        plain,
        jax.eval_shape(inception.Inception().init, jax.random.key(0), np.zeros((1, 75, 75, 3), np.uint8)),
        "",
    )


# ---- Files


@pytest.fixture(scope="module")
def small():
    """A refiner's state dict and what is read from it."""
    state = randomised(Refiner()).state_dict()
    kernels = [state[f"fc{i}.0.weight"].numpy().T for i in (1, 2, 3)]
    biases = [state[f"fc{i}.0.bias"].numpy() for i in (1, 2, 3)]
    layers = {f"Dense_{i}": {"kernel": k, "bias": b} for i, (k, b) in enumerate(zip(kernels, biases))}
    return state, {"params": layers}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("key", ["model", "state_dict", "model_state", "model_state_dict", "refiner", "something"])
def test_training_checkpoints(tmp_path, small, key, old_format):
    state, variables = small
    checkpoint = {
        "epoch": 12,
        key: {f"module.{name}": x for name, x in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1}]},
        "best_f1": np.mean([0.5, 0.6]),  # NumPy's own kind of number
        "best_loss": np.float32(0.5),
    }
    path = saved(tmp_path, checkpoint, _use_new_zipfile_serialization=not old_format)
    same(torch_weights.load(path, "refiner"), variables)


@pytest.mark.parametrize("where", ["beside the weights", "in a checkpoint"])
def test_counters_are_no_weights(tmp_path, small, where):
    """Of averages of models, PyTorch's own and others'."""
    state, variables = small
    average = torch.optim.swa_utils.AveragedModel(Refiner())
    counters = {name: x for name, x in average.state_dict().items() if not name.startswith("module.")}
    assert counters.keys() == {"n_averaged"}
    counters |= {"initted": torch.tensor([True]), "step": torch.tensor([7]), "decay": torch.tensor(0.999)}
    counters["module.fc1.0.num_updates"] = torch.tensor(5)
    whole = {**counters, **{f"module.{name}": x for name, x in state.items()}}
    path = saved(tmp_path, whole if where == "beside the weights" else {"epoch": 3, "state_dict": whole})
    same(torch_weights.load(path, "refiner"), variables)
    assert "unexpected: extra [1]" in fails(saved(tmp_path, {**whole, "extra": torch.ones(1)}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path, small, dtype):
    state, variables = small
    loaded = torch_weights.load(saved(tmp_path, {name: x.to(dtype) for name, x in state.items()}), "refiner")
    for ours, exact in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables)):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, rtol=2**-8)


def test_parameters_that_want_gradients(tmp_path, small):
    state, variables = small
    state = {name: torch.nn.Parameter(x) for name, x in state.items()}
    same(torch_weights.load(saved(tmp_path, state), "refiner"), variables)


def fails(path, kind="refiner") -> str:
    with pytest.raises(ValueError) as raised:
        torch_weights.load(path, kind)
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "holds a list"),
        (torch.ones(3), "holds a Tensor"),
        ({}, "has none"),
        ({"epoch": 1, "loss": 0.5}, "has none, and the keys epoch, loss"),
        ({"a": {"w.bias": torch.ones(1)}, "b": {"w.bias": torch.ones(1)}}, r"has several (a, b)"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, message):
    assert message in fails(saved(tmp_path, content))


def test_no_file(tmp_path):
    assert "no such file" in fails(tmp_path / "absent.pth")
    assert "no such file" in fails(tmp_path)
    with pytest.raises(ValueError, match="kind='resnet'; there are vha, "):
        torch_weights.load(tmp_path / "absent.pth", "resnet")


@pytest.mark.parametrize("old_format", [False, True])
def test_truncated_files(tmp_path, small, old_format):
    path = saved(tmp_path, small[0], _use_new_zipfile_serialization=not old_format)
    with open(path, "rb") as file:
        whole = file.read()
    for length in (0, 1, 10, 30, 200, 1000, 5000, len(whole) // 2, len(whole) - 1000, len(whole) - 1):
        with open(path, "wb") as file:
            file.write(whole[:length])
        assert fails(path).startswith("is damaged, or ")


def test_other_files(tmp_path):
    for content in (b"hello world", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(100), b"PK\x03\x04" + bytes(50)):
        (tmp_path / "a.pth").write_bytes(content)
        assert "is damaged, or not a PyTorch file" in fails(tmp_path / "a.pth")


class Payload:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("form", ["zip", "old", "pickle", "inside a state dict"])
def test_files_that_would_run_code(tmp_path, small, form):
    path, mark = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"model": small[0], "best": Payload(mark)} if form == "inside a state dict" else Payload(mark)
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "old")
    assert "mkdir" in fails(path) or form == "pickle"
    assert not mark.exists()
    if form != "pickle":
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
        assert mark.exists()  # so it would have


def test_whole_modules_are_not_loaded(tmp_path):
    message = fails(saved(tmp_path, Refiner()))
    assert "tests.weights.test_torch.Refiner" in message and "state_dict()" in message


def test_numbers_that_are_none(tmp_path, small):
    state = {name: x.clone() for name, x in small[0].items()}
    state["fc2.0.bias"][7] = torch.nan
    assert "not finite: fc2.0.bias" in fails(saved(tmp_path, state))
    state["fc2.0.bias"] = torch.ones(128, dtype=torch.int64)
    assert "fc2.0.bias is a tensor of torch.int64" in fails(saved(tmp_path, state))


# ---- Files of another network


def test_each_missing_tensor_is_named(tmp_path):
    state = numbered(lambda: torch_modules.Vha(2, 16))
    for name, x in state.items():
        message = fails(saved(tmp_path, {n: t for n, t in state.items() if n != name}), "vha")
        assert f"missing: {name} {list(x.shape)}" in message and "unexpected" not in message


def test_unexpected_tensors_are_named(tmp_path):
    state = numbered(lambda: torch_modules.Vha(2, 16))
    message = fails(saved(tmp_path, {**state, "extra.weight": torch.ones(3, 4)}), "vha")
    assert "unexpected: extra.weight [3, 4]" in message and "missing" not in message
    state = numbered(torch_modules.Inception)
    message = fails(saved(tmp_path, {**state, "Mixed_5b.extra.weight": torch.ones(3)}), "inception")
    assert message.endswith("unexpected: Mixed_5b.extra.weight [3]")


def test_other_shapes_are_named(tmp_path, small):
    state = {**small[0], "fc2.0.weight": torch.ones(128, 127)}
    assert "fc2.0.weight has [128, 127], not [128, 128]" in fails(saved(tmp_path, state))
    state = numbered(torch_modules.Inception) | {"Mixed_7a.branch3x3_2.conv.weight": torch.ones(320, 192, 3, 1)}
    message = fails(saved(tmp_path, state), "inception")
    assert message.endswith(
        "of another shape: Mixed_7a.branch3x3_2.conv.weight has [320, 192, 3, 1], not [320, 192, 3, 3]"
    )


def test_lacking_inceptions(tmp_path):
    state = numbered(torch_modules.Inception)
    for name in ("Conv2d_1a_3x3.conv.weight", "Mixed_6e.branch7x7dbl_5.bn.running_var", "Mixed_7c.branch_pool.bn.bias"):
        less = {f"trunk.{n}": x for n, x in state.items() if n != name}
        message = fails(saved(tmp_path, less), "inception")
        assert message.endswith(f"missing: {name} {list(state[name].shape)}")
    less = {name: x for name, x in state.items() if not name.startswith("Mixed_7")}
    assert "more" in fails(saved(tmp_path, less), "inception")


def test_code_predictor_without_head_or_trunk(tmp_path):
    state = numbered(lambda: torch_modules.CodePredictor(2, 79))
    trunk = {name: x for name, x in state.items() if name.startswith("features")}
    assert "main.0.main.0.weight [2048, 1024, 4, 4]" in fails(saved(tmp_path, trunk), "code_predictor")
    head = {name: x for name, x in state.items() if not name.startswith("features")}
    assert "missing: Conv2d_1a_3x3." in fails(saved(tmp_path, head), "code_predictor")


@pytest.mark.parametrize("kind", ["vha", "code_predictor", "inception"])
def test_a_file_of_another_kind(tmp_path, small, kind):
    message = fails(saved(tmp_path, small[0]), kind)
    assert "missing: " in message and "unexpected: fc1.0.weight [128, 39]" in message
    state = numbered(lambda: torch_modules.Vha(1, 4) if kind != "vha" else torch_modules.Inception())
    assert "fc1.0.weight [128, 39]" in fails(saved(tmp_path, state), "refiner")


# ---- Without PyTorch, and the command


def test_without_pytorch(tmp_path, small, monkeypatch):
    path = saved(tmp_path, small[0])
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'torch>=2.10'"):
        torch_weights.load(path, "refiner")


def test_convert(tmp_path):
    path = saved(tmp_path, numbered(lambda: torch_modules.Vha(2, 16)), "vha.pth")
    line = torch_weights.convert(path, "vha", tmp_path / "out" / "vha2.safetensors")
    assert "vha of level 2, 16 depth bins" in line
    params, about = weights.load(tmp_path / "out" / "vha2.safetensors")
    assert about == {"kind": "vha", "level": 2, "depth_bins": 16, "source": "vha.pth"}
    same(params, torch_weights.load(path, "vha"))
    like = jax.eval_shape(vha.VHA(2, 16).init, jax.random.key(0), np.zeros((1, 14, 8, 8, 16), np.float32))
    same(weights.read("vha", str(tmp_path / "out" / "vha2.safetensors"), like), params)


def test_command(tmp_path, small):
    path, output = saved(tmp_path, small[0]), tmp_path / "refiner.safetensors"
    command = [sys.executable, "-m", "loco_jax.torch_weights", path]
    commands = [*command, "--kind=refiner", f"--output={output}"], [*command, "--kind=vha", f"--output={output}.no"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    good, bad = [subprocess.Popen(c, **pipes) for c in commands]
    stdout, stderr = good.communicate(timeout=120)
    assert good.returncode == 0, stderr
    assert stdout == f"refiner: 26,663 parameters, written to {output}\n"
    same(weights.load(output)[0], small[1])
    stdout, stderr = bad.communicate(timeout=120)
    assert bad.returncode == 1 and not stdout
    assert stderr.startswith(f"loco_jax: {path}: not the weights of this network") and stderr.count("\n") == 1

"""The published networks in PyTorch, from the method's tables: what our own are compared with, and timed beside.

Nothing here is shared with the Flax modules, and names are chosen anew, but for torchvision's in Inception v3.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Vha(nn.Module):
    """Heatmaps `[B, 14, D, H, W]` to a code `[B, 1, d, h, w]` and back (method section 3)."""

    def __init__(self, level: int, depth_bins: int):
        super().__init__()
        d = [depth_bins // 2**k for k in range(level + 1)]
        halving = [nn.Conv2d(d[k], d[k + 1], 5, stride=2, padding=2) for k in range(level)]
        self.squeeze = nn.ModuleList([*halving, nn.Conv2d(d[level], d[level], 5, padding=2)])
        self.fuse = nn.ModuleList([nn.Conv3d(14, 4, 5, padding=2), nn.Conv3d(4, 1, 5, padding=2)])
        self.spread = nn.ModuleList([nn.Conv3d(1, 4, 5, padding=2), nn.Conv3d(4, 14, 5, padding=2)])
        channels = [d[level], *d[::-1]]  # at level 2: D/4 -> D/4, D/4 -> D/2, D/2 -> D
        self.expand = nn.ModuleList([nn.Conv2d(i, o, 5, padding=2) for i, o in zip(channels, channels[1:])])

    def encode(self, heatmaps: torch.Tensor) -> torch.Tensor:
        alone = []
        for joint in range(14):
            x = heatmaps[:, joint]
            for layer in self.squeeze:
                x = F.relu(layer(x))
            alone.append(x)
        x = torch.stack(alone, dim=1)
        for layer in self.fuse:
            x = F.relu(layer(x))
        return x

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Heatmaps `[B, 14, D, H, W]`. After layers in channels_last, their memory has the depth innermost too."""
        x = code
        for layer in self.spread:
            x = F.relu(layer(x))
        alone = []
        for joint in range(14):
            y = x[:, joint]
            for layer in self.expand[:-1]:
                y = F.relu(F.interpolate(layer(y), scale_factor=2, mode="bilinear", align_corners=False))
            alone.append(F.relu(self.expand[-1](y)))
        if alone[0].is_contiguous():
            return torch.stack(alone, dim=1)
        return torch.stack([y.movedim(1, -1) for y in alone], dim=1).movedim(-1, 2)  # channels_last


class ConvNorm(nn.Module):
    """torchvision's BasicConv2d."""

    def __init__(self, fan_in: int, fan_out: int, kernel, stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(fan_out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """A mixed block: a chain of layers for each branch, and how the last one pools."""

    def __init__(self, fan_in: int, branches: dict[str, list[tuple]], pool: int):
        super().__init__()
        self.chains = [[name for name, *_ in chain] for chain in branches.values()]
        for chain in branches.values():
            channels = fan_in
            for name, fan_out, kernel, stride in chain:
                kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
                padding = (kernel[0] // 2, kernel[1] // 2) if stride == 1 else 0
                self.add_module(name, ConvNorm(channels, fan_out, kernel, stride, padding))
                if not name.endswith("a"):  # 2a and 2b, 3a and 3b see the same
                    channels = fan_out
        if pool:
            self.branch_pool = ConvNorm(fan_in, pool, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        results = []
        for chain in self.chains:
            y = x
            for name in chain:
                layer = getattr(self, name)
                if name.endswith("a"):
                    results.append(layer(y))
                else:
                    y = layer(y)
            results.append(y)
        if hasattr(self, "branch_pool"):
            mean = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=True)
            results.append(self.branch_pool(mean))
        else:
            results.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(results, dim=1)


def _grid35(fan_in: int, pool: int) -> Block:
    branches = {
        "1x1": [("branch1x1", 64, 1, 1)],
        "5x5": [("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1)],
        "3x3dbl": [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 1)],
    }
    return Block(fan_in, branches, pool)


def _grid17(c: int) -> Block:
    across, down = (1, 7), (7, 1)
    names = [("branch7x7dbl_1", c, 1), ("branch7x7dbl_2", c, down), ("branch7x7dbl_3", c, across)]
    names += [("branch7x7dbl_4", c, down), ("branch7x7dbl_5", 192, across)]
    branches = {
        "1x1": [("branch1x1", 192, 1, 1)],
        "7x7": [("branch7x7_1", c, 1, 1), ("branch7x7_2", c, across, 1), ("branch7x7_3", 192, down, 1)],
        "7x7dbl": [(*layer, 1) for layer in names],
    }
    return Block(768, branches, 192)


def _grid8(fan_in: int) -> Block:
    across, down = (1, 3), (3, 1)
    branches = {
        "1x1": [("branch1x1", 320, 1, 1)],
        "3x3": [("branch3x3_1", 384, 1, 1), ("branch3x3_2a", 384, across, 1), ("branch3x3_2b", 384, down, 1)],
        "3x3dbl": [
            ("branch3x3dbl_1", 448, 1, 1),
            ("branch3x3dbl_2", 384, 3, 1),
            ("branch3x3dbl_3a", 384, across, 1),
            ("branch3x3dbl_3b", 384, down, 1),
        ],
    }
    return Block(fan_in, branches, 192)


class Inception(nn.Module):
    """Pictures `[B, 3, H, W]`, ImageNet-normalised, to `[B, 2048, h, w]`."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = _grid35(192, 32)
        self.Mixed_5c = _grid35(256, 64)
        self.Mixed_5d = _grid35(288, 64)
        dbl = [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 2)]
        self.Mixed_6a = Block(288, {"3x3": [("branch3x3", 384, 3, 2)], "3x3dbl": dbl}, 0)
        self.Mixed_6b = _grid17(128)
        self.Mixed_6c = _grid17(160)
        self.Mixed_6d = _grid17(160)
        self.Mixed_6e = _grid17(192)
        down = {
            "3x3": [("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2)],
            "7x7x3": [
                ("branch7x7x3_1", 192, 1, 1),
                ("branch7x7x3_2", 192, (1, 7), 1),
                ("branch7x7x3_3", 192, (7, 1), 1),
                ("branch7x7x3_4", 192, 3, 2),
            ],
        }
        self.Mixed_7a = Block(768, down, 0)
        self.Mixed_7b = _grid8(1280)
        self.Mixed_7c = _grid8(2048)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # transform_input: from ImageNet's mean and deviation to a mean of 0.5 and a deviation of 0.5.
        mean, deviation = (m.to(x) for m in imagenet())
        x = (x * deviation + mean - 0.5) / 0.5
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x


def imagenet() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of ImageNet's colours in 0 to 1, `[3, 1, 1]`."""
    return tuple(torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class CodePredictor(nn.Module):
    """Pictures `[B, 3, H, W]` in 0 to 255 to codes `[B, d, h, w]` (method section 4, level 2).

    Level 1 has a second transposed convolution, with padding 1, in the place of the first convolution with padding;
    level 3 a convolution with zeros of width 2 around in the place of the transposed one.
    """

    def __init__(self, level: int, depth: int):
        super().__init__()
        self.features = Inception()
        keep = nn.ZeroPad2d((1, 2, 1, 2))
        if level == 3:
            first = [nn.Conv2d(2048, 1024, 4, padding=2)]
        else:
            first = [nn.ConvTranspose2d(2048, 1024, 4, stride=2)]
        if level == 1:
            second = [nn.ConvTranspose2d(1024, 512, 4, stride=2, padding=1)]
        else:
            second = [keep, nn.Conv2d(1024, 512, 4)]
        self.regress = nn.Sequential(
            *first, nn.ReLU(), *second, nn.ReLU(), keep, nn.Conv2d(512, 256, 4), nn.ReLU(), nn.Conv2d(256, depth, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean, deviation = (m.to(image) for m in imagenet())
        x = self.features((image / 255 - mean) / deviation)
        return self.regress(F.avg_pool2d(x, 2))


class Refiner(nn.Module):
    """Normalised offsets `[B, 39]` to better ones (method section 5)."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(39, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 39))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x) + F.relu(x)


# ---- Our variables in these modules


def load_vha(module: Vha, variables: Mapping[str, Any]) -> Vha:
    """The module with the variables of a Flax VHA."""
    parts = {"squeeze": "encoder_2d", "fuse": "encoder_3d", "spread": "decoder_3d", "expand": "decoder_2d"}
    state = {}
    for theirs, ours in parts.items():
        for i in range(len(getattr(module, theirs))):
            layer = variables["params"][f"{ours}_{i}"]
            # Depth comes last with us, in 3D kernels as everywhere.
            order = (3, 2, 0, 1) if layer["kernel"].ndim == 4 else (4, 3, 2, 0, 1)
            state[f"{theirs}.{i}.weight"] = np.transpose(layer["kernel"], order)
            state[f"{theirs}.{i}.bias"] = layer["bias"]
    return _load(module, state)


def load_code_predictor(module: CodePredictor, variables: Mapping[str, Any]) -> CodePredictor:
    """The module with the variables of a Flax CodePredictor."""
    params, statistics = variables["params"], variables["batch_stats"]["trunk"]
    state = {}

    def trunk(layers, means, name):
        if "conv" not in layers:
            for part in layers:
                trunk(layers[part], means[part], f"{name}.{part}")
            return
        state[f"{name}.conv.weight"] = np.transpose(layers["conv"]["kernel"], (3, 2, 0, 1))
        state[f"{name}.bn.weight"], state[f"{name}.bn.bias"] = layers["bn"]["scale"], layers["bn"]["bias"]
        state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"] = means["bn"]["mean"], means["bn"]["var"]

    trunk(params["trunk"], statistics, "features")
    convolutions = [(i, m) for i, m in enumerate(module.regress) if hasattr(m, "weight")]
    for layer, (i, convolution) in enumerate(convolutions):
        kernel = np.asarray(params["head"][f"layer_{layer}"]["kernel"])
        if isinstance(convolution, nn.ConvTranspose2d):  # scatters where ours gathers: the kernel is turned round
            kernel = np.transpose(kernel[::-1, ::-1], (2, 3, 0, 1))
        else:
            kernel = np.transpose(kernel, (3, 2, 0, 1))
        state[f"regress.{i}.weight"], state[f"regress.{i}.bias"] = kernel, params["head"][f"layer_{layer}"]["bias"]
    return _load(module, state)


def _load(module: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    have = module.state_dict()
    tensors = {name: torch.from_numpy(np.array(x, np.float32)) for name, x in state.items()}
    counters = {name: x for name, x in have.items() if name.endswith("num_batches_tracked")}
    module.load_state_dict({**counters, **tensors})
    return module.eval()


# ---- Running them fast


class Runner:
    """PyTorch with its fastest settings here: inference_mode and channels_last; on CUDA compiled too.

    On CPUs torch.compile took 5 times as long as eager when tried, so it is left out there.
    """

    def __init__(self, bfloat16: bool = False):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if bfloat16 else torch.float32

    def place(self, x: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """An array on the device, of the arithmetic's type unless told otherwise."""
        x = np.asarray(x)
        x = x.astype(np.float32) if x.dtype.name == "bfloat16" else x.copy()  # a type of JAX's
        return torch.from_numpy(x).to(self.device, self.dtype if dtype is None else dtype)

    def prepare(self, module: nn.Module, channels_last: bool = True) -> nn.Module:
        """A network, ready to run."""
        module = module.to(self.device, self.dtype)
        for m in module.modules() if channels_last else ():  # modules of 3D convolutions have a layout of their own
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                m.to(memory_format=torch.channels_last)
        return module

    def infer(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """What runs `function(*args)` without gradients and waits until it is done."""
        if self.device.type == "cuda":
            function = torch.compile(function)

        def run():
            with torch.inference_mode():
                made = function(*args)
            self.wait()
            return made

        return run

    def train(
        self, module: nn.Module, loss: Callable[..., torch.Tensor], *args: Any, rate: float, clip_norm: float
    ) -> Callable[[], torch.Tensor]:
        """What takes a step of Adam to make `loss(*args)` less, waits until it is done, and returns the loss.

        Parameters are float32; in bfloat16 the arithmetic is done under autocast.
        """
        optimizer = torch.optim.Adam(module.parameters(), lr=rate, fused=True)
        if self.device.type == "cuda":
            loss = torch.compile(loss)

        def run():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                value = loss(*args)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
            optimizer.step()
            self.wait()
            return value.detach()

        return run

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def render(voxels_PxJx3: torch.Tensor, present_PxJ: torch.Tensor, shape: tuple[int, int, int], sigma: float):
    """Heatmaps `[J, D, H, W]`: into zeros, cube by cube, the maximum with each joint's Gaussian."""
    rows, columns, bins = shape
    people, joints = present_PxJ.shape
    heatmaps = torch.zeros(joints, bins, rows, columns, device=voxels_PxJx3.device)
    half = int(np.ceil(5 * sigma)) // 2
    at = torch.arange(-half, half + 1, device=voxels_PxJx3.device)
    squares = at[:, None, None] ** 2 + at[None, :, None] ** 2 + at[None, None, :] ** 2
    cube = torch.exp(-squares / sigma**2)
    places = torch.round(voxels_PxJx3).long().tolist()
    for person in range(people):
        for joint in range(joints):
            if present_PxJ[person, joint]:
                row, column, depth = places[person][joint]
                spans = [(c - half, c + half + 1, size) for c, size in ((depth, bins), (row, rows), (column, columns))]
                inside = tuple(slice(max(low, 0), max(min(high, size), 0)) for low, high, size in spans)
                of_cube = tuple(slice(max(-low, 0), max(min(high, size) - low, 0)) for low, high, size in spans)
                part = heatmaps[joint][inside]
                torch.maximum(part, cube[of_cube], out=part)
    return heatmaps


def peaks_by_pooling(heatmaps: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices `[N, 4]` of voxels above the threshold and not below any of their 26 neighbours.

    The last three axes are the volume's, in any order; the order that memory has is several times as fast as another.
    """
    highest = F.max_pool3d(heatmaps[None], 3, stride=1, padding=1)[0]
    return torch.nonzero((heatmaps >= highest) & (heatmaps > threshold))


def peaks_by_comparing(heatmaps: torch.Tensor, threshold: float) -> torch.Tensor:
    """The same for voxels above each of the 26 neighbours, one comparison after the other."""
    padded = F.pad(heatmaps, (1, 1, 1, 1, 1, 1))
    size = heatmaps.shape[1:]
    peak = heatmaps > threshold
    for z, y, x in np.ndindex(3, 3, 3):
        if (z, y, x) != (1, 1, 1):
            peak &= heatmaps > padded[:, z : z + size[0], y : y + size[1], x : x + size[2]]
    return torch.nonzero(peak)


def peaks_of_few(heatmaps: torch.Tensor, threshold: float) -> torch.Tensor:
    """As `peaks_by_comparing`, but only voxels above the threshold are compared: of heatmaps those are few."""
    found = torch.nonzero(heatmaps > threshold)
    joint, *at = found.T
    values = heatmaps[tuple(found.T)]
    peak = torch.ones_like(values, dtype=torch.bool)
    for step in np.ndindex(3, 3, 3):
        if step != (1, 1, 1):
            moved = [a + s - 1 for a, s in zip(at, step)]
            sizes = heatmaps.shape[1:]
            inside = functools.reduce(torch.logical_and, ((0 <= a) & (a < n) for a, n in zip(moved, sizes)))
            around = heatmaps[(joint, *(a.clamp(0, n - 1) for a, n in zip(moved, sizes)))]
            peak &= values > torch.where(inside, around, 0)
    return found[peak]

"""The published networks in PyTorch, written from the method's tables, for parity tests and the benchmark.

Nothing here is shared with the Flax modules. Tensors have the names of the authors' releases and of torchvision.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from loco_jax.weights.torch import tensors_of


class Vha(nn.Module):
    """Heatmaps `[B, 14, D, H, W]` to a code `[B, 1, d, h, w]` and back (method section 3)."""

    def __init__(self, level: int, depth_bins: int):
        super().__init__()
        d = [depth_bins // 2**k for k in range(level + 1)]
        halving = [nn.Conv2d(d[k], d[k + 1], 5, stride=2, padding=2) for k in range(level)]
        self.encoder = _with_relu(*halving, nn.Conv2d(d[level], d[level], 5, padding=2))
        self.fuser = _with_relu(nn.Conv3d(14, 4, 5, padding=2), nn.Conv3d(4, 1, 5, padding=2))
        self.defuser = _with_relu(nn.Conv3d(1, 4, 5, padding=2), nn.Conv3d(4, 14, 5, padding=2))
        channels = [d[level], *d[:0:-1]]  # at level 2: D/4 -> D/4, D/4 -> D/2
        doubling: list[nn.Module] = []
        for i, o in zip(channels, channels[1:]):
            doubling += [nn.Conv2d(i, o, 5, padding=2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU()]
        self.decoder = nn.Sequential(*doubling, nn.Conv2d(d[1], d[0], 5, padding=2), nn.ReLU())

    def encode(self, heatmaps: torch.Tensor) -> torch.Tensor:
        return self.fuser(torch.stack([self.encoder(heatmaps[:, joint]) for joint in range(14)], dim=1))

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Heatmaps `[B, 14, D, H, W]`. With layers in channels_last, depth is the innermost axis in memory."""
        x = self.defuser(code)
        alone = [self.decoder(x[:, joint]) for joint in range(14)]
        if alone[0].is_contiguous():
            return torch.stack(alone, dim=1)
        return torch.stack([y.movedim(1, -1) for y in alone], dim=1).movedim(-1, 2)


def _with_relu(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))


class ConvNorm(nn.Module):
    """torchvision's BasicConv2d."""

    def __init__(self, fan_in: int, fan_out: int, kernel: int | tuple[int, int], stride: int = 1, padding: Any = 0):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(fan_out, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


ACROSS_7, DOWN_7, BOTH_3 = (1, 7), (7, 1), ((1, 3), (3, 1))


class Block(nn.Module):
    """A mixed block: each branch is a chain of layers (channels, kernel).

    `BOTH_3` as kernel stands for two layers side by side. `pool` channels come from the branch that takes the mean;
    with 0, the block halves rows and columns: the last layers have stride 2, and the branch takes the maximum.
    """

    def __init__(self, fan_in: int, pool: int, **branches: list[tuple[int, Any]]):
        super().__init__()
        self.chains: list[list[list[str]]] = []
        for branch, layers in branches.items():
            channels, chain = fan_in, []
            for i, (fan_out, kernel) in enumerate(layers, start=1):
                halves = not pool and i == len(layers)
                name = f"{branch}_{i}" if len(layers) > 1 else branch
                kernels = {f"{name}a": kernel[0], f"{name}b": kernel[1]} if kernel is BOTH_3 else {name: kernel}
                for one, size in kernels.items():
                    rows, columns = (size, size) if isinstance(size, int) else size
                    padding = 0 if halves else (rows // 2, columns // 2)
                    self.add_module(one, ConvNorm(channels, fan_out, (rows, columns), 1 + halves, padding))
                chain.append(list(kernels))
                channels = fan_out
            self.chains.append(chain)
        if pool:
            self.branch_pool = ConvNorm(fan_in, pool, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        results = []
        for chain in self.chains:
            y = x
            for names in chain[:-1]:
                y = getattr(self, names[0])(y)
            results += [getattr(self, name)(y) for name in chain[-1]]
        if hasattr(self, "branch_pool"):
            mean = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=True)
            results.append(self.branch_pool(mean))
        else:
            results.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(results, dim=1)


def _grid35(fan_in: int, pool: int) -> Block:
    triple = [(64, 1), (96, 3), (96, 3)]
    return Block(fan_in, pool, branch1x1=[(64, 1)], branch5x5=[(48, 1), (64, 5)], branch3x3dbl=triple)


def _grid17(c: int) -> Block:
    single = [(c, 1), (c, ACROSS_7), (192, DOWN_7)]
    double = [(c, 1), (c, DOWN_7), (c, ACROSS_7), (c, DOWN_7), (192, ACROSS_7)]
    return Block(768, 192, branch1x1=[(192, 1)], branch7x7=single, branch7x7dbl=double)


def _grid8(fan_in: int) -> Block:
    single, double = [(384, 1), (384, BOTH_3)], [(448, 1), (384, 3), (384, BOTH_3)]
    return Block(fan_in, 192, branch1x1=[(320, 1)], branch3x3=single, branch3x3dbl=double)


class Inception(nn.Module):
    """Pictures `[B, 3, H, W]`, ImageNet-normalised, to `[B, 2048, h, w]`."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _grid35(192, 32), _grid35(256, 64), _grid35(288, 64)
        self.Mixed_6a = Block(288, 0, branch3x3=[(384, 3)], branch3x3dbl=[(64, 1), (96, 3), (96, 3)])
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d = _grid17(128), _grid17(160), _grid17(160)
        self.Mixed_6e = _grid17(192)
        sevens = [(192, 1), (192, ACROSS_7), (192, DOWN_7), (192, 3)]
        self.Mixed_7a = Block(768, 0, branch3x3=[(192, 1), (320, 3)], branch7x7x3=sevens)
        self.Mixed_7b, self.Mixed_7c = _grid8(1280), _grid8(2048)

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
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return torch.tensor(mean).view(3, 1, 1), torch.tensor(deviation).view(3, 1, 1)


class CodePredictor(nn.Module):
    """Pictures `[B, 3, H, W]` in 0 to 255 to codes `[B, d, h, w]` (method section 4, level 2).

    Level 1 replaces the first padded convolution by a second transposed one with padding 1. Level 3 replaces the
    transposed convolution by a convolution with padding 2.
    """

    def __init__(self, level: int, depth: int):
        super().__init__()
        self.features = Inception()
        keep = nn.ZeroPad2d((1, 2, 1, 2))
        first: list[nn.Module] = [nn.ConvTranspose2d(2048, 1024, 4, stride=2)]
        second: list[nn.Module] = [keep, nn.Conv2d(1024, 512, 4)]
        if level == 1:
            second = [nn.ConvTranspose2d(1024, 512, 4, stride=2, padding=1)]
        if level == 3:
            first = [nn.ZeroPad2d(2), nn.Conv2d(2048, 1024, 4)]
        parts = [Part(*first, nn.ReLU()), Part(*second, nn.ReLU()), Part(keep, nn.Conv2d(512, 256, 4), nn.ReLU())]
        self.main = nn.Sequential(*parts, nn.Conv2d(256, depth, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean, deviation = (m.to(image) for m in imagenet())
        x = self.features((image / 255 - mean) / deviation)
        return self.main(F.avg_pool2d(x, 2))


class Part(nn.Module):
    """Layers in a sequence."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.main(x)


def load(module: Any, variables: Mapping[str, Any], level: int = 2) -> Any:
    """The module with the variables of our network."""
    ours = tensors_of(variables, level)
    names = [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]
    state = {name: torch.from_numpy(np.array(ours[name.removeprefix("features.")], np.float32)) for name in names}
    module.load_state_dict(state, strict=False)  # our networks do not count batches
    return module.eval()


# ---- Running them fast


class Runner:
    """PyTorch with inference_mode and channels_last; on CUDA also compiled, which on CPUs was slower than eager."""

    def __init__(self, bfloat16: bool = False):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if bfloat16 else torch.float32

    def place(self, x: Any) -> torch.Tensor:
        """An array on the device, in the arithmetic's type."""
        return torch.from_numpy(np.array(x, np.float32)).to(self.device, self.dtype)

    def prepare(self, module: Any) -> Any:
        """A network on the device, with 2D layers in channels_last."""
        module = module.to(self.device, self.dtype)
        layers: list[Any] = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for layer in layers:
            layer.to(memory_format=torch.channels_last)
        return module

    def infer(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """A function that runs `function(*args)` without gradients and waits until it is done."""
        if self.device.type == "cuda":
            function = torch.compile(function)

        def run():
            with torch.inference_mode():
                made = function(*args)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return made

        return run


def find_peaks(heatmaps: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices of voxels above the threshold and above all neighbours; only those above the threshold are compared."""
    found = torch.nonzero(heatmaps > threshold)
    joint, *at = found.T
    values, sizes = heatmaps[tuple(found.T)], heatmaps.shape[1:]
    peak = torch.ones_like(values, dtype=torch.bool)
    for step in np.ndindex(3, 3, 3):
        if step != (1, 1, 1):
            moved = [a + s - 1 for a, s in zip(at, step)]
            inside = functools.reduce(torch.logical_and, ((0 <= a) & (a < n) for a, n in zip(moved, sizes)))
            around = heatmaps[(joint, *(a.clamp(0, n - 1) for a, n in zip(moved, sizes)))]
            peak &= values > torch.where(inside, around, 0)
    return found[peak]

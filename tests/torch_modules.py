"""The published networks in PyTorch, from the method's tables: what our own are compared with.

Nothing here is shared with the Flax modules, and names are chosen anew, but for torchvision's in Inception v3.
"""

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
        x = code
        for layer in self.spread:
            x = F.relu(layer(x))
        alone = []
        for joint in range(14):
            y = x[:, joint]
            for layer in self.expand[:-1]:
                y = F.relu(F.interpolate(layer(y), scale_factor=2, mode="bilinear", align_corners=False))
            alone.append(F.relu(self.expand[-1](y)))
        return torch.stack(alone, dim=1)


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
        mean, deviation = imagenet()
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
        mean, deviation = imagenet()
        x = self.features((image / 255 - mean) / deviation)
        return self.regress(F.avg_pool2d(x, 2))


class Refiner(nn.Module):
    """Normalised offsets `[B, 39]` to better ones (method section 5)."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(39, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 39))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x) + F.relu(x)

"""PyTorch's files of weights as variables of our networks: the authors' releases, and torchvision's Inception v3.

    python -m loco_jax.torch_weights vha.pth --kind=vha --output=vha2.safetensors

This needs PyTorch: pip install torch. Tensors are found by the names in the authors' releases, with any prefix. The
files do not hold paddings and strides: the published ones are assumed.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from loco_jax import weights
from loco_jax.models import code_predictor, inception, refiner, vha
from loco_jax.weights import WeightsError, state_dict

KINDS = ("vha", "code_predictor", "refiner", "inception")

_PUBLISHED_BINS = 316


def load(path: os.PathLike | str, kind: str) -> dict[str, Any]:
    """Variables of one of our networks, nested dicts of float32 NumPy arrays, from a PyTorch file.

    Args:
      path: of a state dict, or of a training checkpoint that holds one.
      kind: one of KINDS.

    Returns:
      The argument of the module's `apply`: {"params": ...}, and "batch_stats" if the network has an Inception trunk.
      "inception" gives those of `models.inception.Inception`, without the classifiers.

    Raises WeightsError (a ValueError) if the file cannot be read, or does not hold this network: then it names the
    tensors that are missing, unexpected or of another shape. Raises ModuleNotFoundError without PyTorch.
    """
    return read(path, kind)[0]


def read(path: os.PathLike | str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of `load`, and facts about it: kind, level, depth_bins, source.

    A Code Predictor's file says only how many channels the code has. The paper's 316 bins are assumed if they give that
    many, else the fewest bins that do.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; there are {', '.join(KINDS)}")
    tensors = state_dict.read(path, kind)
    facts, plan = _best_plan(tensors, kind)
    if plan.num_wrong:
        raise WeightsError(f"{path}: not the weights of this network ({_title(kind, facts)}): {plan.complaints()}")
    variables = traverse_util.unflatten_dict(plan.variables)
    return variables, {"kind": kind, **facts, "source": os.path.basename(path)}


def convert(path: os.PathLike | str, kind: str, output: os.PathLike | str) -> str:
    """Writes a PyTorch file's weights as safetensors, see `weights.save`. Returns a line that describes them."""
    variables, about = read(path, kind)
    weights.save(output, variables, about)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    return f"{_title(kind, about)}: {count:,} parameters, written to {output}"


def tensors_of(variables: Mapping[str, Any], level: int = 2) -> dict[str, np.ndarray]:
    """The tensors of one of our networks under PyTorch's names and with its axes, without prefix; as `load` reads."""
    flat = traverse_util.flatten_dict(variables)
    places = _places(flat, level)
    return {name: np.asarray(flat[p.path]).transpose(p.axes)[p.order] for name, p in places.items()}


# ---- Names and axes of tensors in PyTorch

# By our names of the autoencoder's layers: the authors', and how many modules of a sequence a layer takes there.
_VHA = {
    "encoder_2d": ("encoder", 2),
    "encoder_3d": ("fuser", 2),
    "decoder_3d": ("defuser", 2),
    "decoder_2d": ("decoder", 3),
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# The axes of our kernels in PyTorch's order, by their number. Ours are rows, columns, depth if there is any, in, out.
# PyTorch's volumes have the depth first.
_AXES = {2: (1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 2, 0, 1)}


class Place(NamedTuple):
    """Where a tensor of PyTorch's belongs in our variables.

    Attributes:
      path: of our tensor.
      axes: of our tensor in PyTorch's order.
      order: of the elements along PyTorch's axes.
    """

    path: tuple[str, ...]
    axes: tuple[int, ...]
    order: tuple[slice, ...] = ()


def _places(flat: Mapping[tuple[str, ...], Any], level: int) -> dict[str, Place]:
    """The places of a network's tensors by their names in PyTorch. `flat` has tensors, or their shapes, by path."""
    places = {}
    for path, x in flat.items():
        name, transposed = _layer_name(path[1:-1], level)
        axes = _AXES[len(x.shape)] if path[-1] == "kernel" else tuple(range(len(x.shape)))
        place = Place(path, axes)
        if transposed and path[-1] == "kernel":
            # PyTorch's is the gradient of a convolution, so its kernel is reversed, from results to inputs.
            place = Place(path, (2, 3, 0, 1), (slice(None), slice(None), slice(None, None, -1), slice(None, None, -1)))
        places[f"{name}.{_LEAVES[path[-1]]}"] = place
    return places


def _layer_name(path: tuple[str, ...], level: int) -> tuple[str, bool]:
    """A module's name in the authors' release or in torchvision, and whether it is a transposed convolution there."""
    part, _, number = path[-1].rpartition("_")
    if part in _VHA:
        theirs, step = _VHA[part]
        return f"{theirs}.{step * int(number)}", False
    if part == "Dense":
        return f"fc{int(number) + 1}.0", False
    if part == "layer" and number != "3":
        doubles, _ = code_predictor.PLANS[level][int(number)]
        return f"main.{number}.main.{int(not doubles)}", doubles
    return "main.3" if part == "layer" else ".".join(path).removeprefix("trunk."), False


@functools.cache
def _shapes(kind: str, level: int, bins: int) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """The shapes of a network's variables by path."""
    least = inception.STRIDE + inception.MARGIN
    picture = jax.ShapeDtypeStruct((1, least, least, 3), jnp.uint8)
    network, like = {
        "vha": (vha.VHA(level, bins), jax.ShapeDtypeStruct((1, 14, 16, 16, bins), jnp.float32)),
        "code_predictor": (code_predictor.CodePredictor(level, bins), picture),
        "refiner": (refiner.Refiner(), jax.ShapeDtypeStruct((1, 39), jnp.float32)),
        "inception": (inception.Inception(), picture),
    }[kind]
    variables = jax.eval_shape(network.init, jax.random.key(0), like)
    return traverse_util.flatten_dict(variables)


# ---- From a file's tensors to a network's


class Plan(NamedTuple):
    """The variables by path that a file gives, and what does not fit: tensors by name, with shapes."""

    variables: dict[tuple[str, ...], np.ndarray]
    missing: list[str]
    unexpected: list[str]
    different: list[str]

    @property
    def num_wrong(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.different)

    def complaints(self) -> str:
        sorts = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.different}
        return "; ".join(f"{sort}: {state_dict.listed(names)}" for sort, names in sorts.items() if names)


def _best_plan(tensors: Mapping[str, np.ndarray], kind: str) -> tuple[dict[str, int], Plan]:
    """Level and depth bins, if the network has such, and the plan that fits best."""
    if kind in ("refiner", "inception"):
        return {}, _plan(tensors, kind, 2, _PUBLISHED_BINS)
    if kind == "vha":
        bins = max((n for t in tensors.values() if t.ndim == 4 for n in t.shape[:2]), default=_PUBLISHED_BINS)
        bins_of = dict.fromkeys((2, 1, 3), max(bins, 2))
    else:
        last = (t.shape[0] for name, t in tensors.items() if f".{name}".endswith(".main.3.weight"))
        depth = next(last, 0) or _PUBLISHED_BINS // 4
        published = {level: _PUBLISHED_BINS // 2**level == depth for level in (2, 1, 3)}
        bins_of = {level: _PUBLISHED_BINS if same else depth * 2**level for level, same in published.items()}
    plans: list[tuple[dict[str, int], Plan]] = []
    for level, bins in bins_of.items():
        if bins >= 2**level and not (plans and plans[-1][1].num_wrong == 0):
            plans.append(({"level": level, "depth_bins": bins}, _plan(tensors, kind, level, bins)))
    return min(plans, key=lambda p: p[1].num_wrong)


def _plan(tensors: Mapping[str, np.ndarray], kind: str, level: int, bins: int) -> Plan:
    """A plan by the tensors' names, of which the classifiers' are ignored."""
    shapes = _shapes(kind, level, bins)
    places = _places(shapes, level)
    plan = Plan({}, [], [], [])
    for name, tensor in tensors.items():
        parts = name.split(".")
        ends = (".".join(parts[i:]) for i in range(len(parts)))
        place = next((places.pop(end) for end in ends if end in places), None)
        if place is None:
            if "AuxLogits" not in parts and "fc" not in parts:
                plan.unexpected.append(f"{name} {_size(tensor.shape)}")
            continue
        shape = tuple(shapes[place.path].shape[axis] for axis in place.axes)
        if tensor.shape == shape:
            plan.variables[place.path] = np.ascontiguousarray(tensor[place.order].transpose(np.argsort(place.axes)))
        else:
            plan.different.append(f"{name} has {_size(tensor.shape)}, not {_size(shape)}")
    for name, place in places.items():
        plan.missing.append(f"{name} {_size([shapes[place.path].shape[axis] for axis in place.axes])}")
    return plan


def _size(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _title(kind: str, facts: Mapping[str, Any]) -> str:
    return f"{kind} of level {facts['level']}, {facts['depth_bins']} depth bins" if "level" in facts else kind

"""PyTorch's files of weights as variables of our networks: the authors' releases, and torchvision's Inception v3.

    python -m loco_jax.torch_weights vha.pth --kind=vha --output=vha2.safetensors

This needs PyTorch: pip install torch. Layers are found by the names in the authors' releases, with any common prefix;
or else, except for the trunk, by their order and shapes. The files do not hold paddings and strides: the published ones
are assumed.
"""

import difflib
import itertools
import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from loco_jax import weights
from loco_jax.models import code_predictor, inception, refiner, vha
from loco_jax.weights import WeightsError, state_dict
from loco_jax.weights.state_dict import Tensors

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
    layers = state_dict.read(path, kind)
    facts, plan = _best_plan(path, layers, kind)
    if not plan.fits:
        raise WeightsError(f"{path}: not the weights of this network ({_title(kind, facts)}): {plan.complaints()}")
    return plan.variables(), {"kind": kind, **facts, "source": os.path.basename(path)}


def convert(path: os.PathLike | str, kind: str, output: os.PathLike | str) -> str:
    """Writes a PyTorch file's weights as safetensors, see `weights.save`. Returns a line that describes them."""
    variables, about = read(path, kind)
    weights.save(output, variables, about)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    return f"{_title(kind, about)}: {count:,} parameters, written to {output}"


# ---- Names and shapes of a network's layers in PyTorch


class Layer(NamedTuple):
    """A layer with parameters.

    Attributes:
      path: of the module in our variables.
      name: in the authors' release, or in torchvision.
      form: conv, transposed (a transposed convolution), dense or norm.
      shapes: of its tensors as PyTorch has them, by their last name.
    """

    path: tuple[str, ...]
    name: str
    form: str
    shapes: dict[str, tuple[int, ...]]


def _vha_parts(level: int, bins: int) -> list[list[Layer]]:
    network = vha.VHA(level, bins)
    shapes = _shapes(network, jax.ShapeDtypeStruct((1, 14, 16, 16, bins), jnp.float32))
    # (our name, the authors' name, how many, how many modules of a sequence a layer takes there)
    plan = [("encoder_2d", "encoder", level + 1, 2), ("encoder_3d", "fuser", 2, 2)]
    plan += [("decoder_3d", "defuser", 2, 2), ("decoder_2d", "decoder", level + 1, 3)]
    return [
        [_layer(shapes, (f"{ours}_{i}",), f"{theirs}.{step * i}", "conv") for i in range(count)]
        for ours, theirs, count, step in plan
    ]


def _head_parts(level: int, depth: int) -> list[list[Layer]]:
    head = code_predictor.Head(level, depth, jnp.float32)
    shapes = _shapes(head, jax.ShapeDtypeStruct((1, 2, 2, 2048), jnp.float32), "head")
    names = [f"main.{i}.main.{int(not doubles)}" for i, (doubles, _) in enumerate(code_predictor.PLANS[level])]
    forms = ["transposed" if doubles else "conv" for doubles, _ in code_predictor.PLANS[level]]
    layers = zip([*names, "main.3"], [*forms, "conv"])
    return [[_layer(shapes, ("head", f"layer_{i}"), name, form) for i, (name, form) in enumerate(layers)]]


def _refiner_parts() -> list[list[Layer]]:
    shapes = _shapes(refiner.Refiner(), jax.ShapeDtypeStruct((1, 39), jnp.float32))
    return [[_layer(shapes, (f"Dense_{i}",), f"fc{i + 1}.0", "dense") for i in range(3)]]


def _trunk_layers(*root: str) -> list[Layer]:
    least = inception.STRIDE + inception.MARGIN
    shapes = _shapes(inception.Inception(), jax.ShapeDtypeStruct((1, least, least, 3), jnp.float32), *root)
    paths = dict.fromkeys(path[1:-1] for path in shapes)  # the names are torchvision's
    return [_layer(shapes, path, ".".join(path[len(root) :]), "norm" if path[-1] == "bn" else "conv") for path in paths]


def _shapes(network: Any, example: jax.ShapeDtypeStruct, *root: str) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Shapes of a network's variables by path, as if it were the submodule `root` of another network."""
    variables = jax.eval_shape(network.init, jax.random.key(0), example)
    flat = traverse_util.flatten_dict(variables)
    return {(path[0], *root, *path[1:]): x.shape for path, x in flat.items()}


# By a tensor's last name in PyTorch: its collection and its last name here.
_LEAVES = {
    "conv": {"weight": ("params", "kernel"), "bias": ("params", "bias")},
    "norm": {
        "weight": ("params", "scale"),
        "bias": ("params", "bias"),
        "running_mean": ("batch_stats", "mean"),
        "running_var": ("batch_stats", "var"),
    },
}
_LEAVES["transposed"] = _LEAVES["dense"] = _LEAVES["conv"]

# The axes of our kernels in PyTorch's order, by form and number of axes. Ours are rows, columns, depth if there is any,
# in, out. PyTorch's volumes have the depth first.
_AXES = {
    ("dense", 2): (1, 0),
    ("conv", 4): (3, 2, 0, 1),
    ("conv", 5): (4, 3, 2, 0, 1),
    ("transposed", 4): (2, 3, 0, 1),
}


def _layer(shapes: Mapping[tuple[str, ...], tuple[int, ...]], path: tuple[str, ...], name: str, form: str) -> Layer:
    theirs = {}
    for leaf, (collection, ours) in _LEAVES[form].items():
        shape = shapes.get((collection, *path, ours))
        if shape is not None:
            axes = _AXES[form, len(shape)] if ours == "kernel" else range(len(shape))
            theirs[leaf] = tuple(shape[a] for a in axes)
    return Layer(path, name, form, theirs)


def _ours(layer: Layer, leaf: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor of PyTorch's with its axes as in our modules."""
    if leaf != "weight" or layer.form == "norm":
        return tensor
    if layer.form == "transposed":  # PyTorch's is the gradient of a convolution, so its kernel is reversed
        tensor = tensor[:, :, ::-1, ::-1]
    return np.ascontiguousarray(tensor.transpose(np.argsort(_AXES[layer.form, tensor.ndim])))


# ---- From a file's layers to a network's


class Plan(NamedTuple):
    """Which layer of a file is which of the network, and what does not fit: tensors by name, with shapes."""

    matched: list[tuple[Layer, dict[str, np.ndarray]]]
    missing: list[str]
    unexpected: list[str]
    different: list[str]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.different)

    def complaints(self) -> str:
        sorts = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.different}
        return "; ".join(f"{sort}: {state_dict.listed(names)}" for sort, names in sorts.items() if names)

    def variables(self) -> dict[str, Any]:
        flat = {}
        for layer, tensors in self.matched:
            for leaf, tensor in tensors.items():
                collection, name = _LEAVES[layer.form][leaf]
                flat[collection, *layer.path, name] = _ours(layer, leaf, tensor)
        return traverse_util.unflatten_dict(flat)


def _best_plan(path: os.PathLike | str, layers: Tensors, kind: str) -> tuple[dict[str, int], Plan]:
    """Level and depth bins, if the network has such, and the plan that fits best."""
    if kind == "refiner":
        return {}, _match(layers, _refiner_parts())
    if kind == "inception":
        trunk, rest = _split_trunk(layers, _trunk_layers())
        return {}, trunk._replace(unexpected=trunk.unexpected + _names(rest))
    if kind == "vha":
        bins = max((n for t in _weights(layers, 4) for n in t.shape[:2]), default=_PUBLISHED_BINS)
        plans = [
            ({"level": level, "depth_bins": bins}, _match(layers, _vha_parts(level, bins)))
            for level in (2, 1, 3)
            if bins >= 2**level
        ]
    else:
        trunk, rest = _split_trunk(layers, _trunk_layers("trunk"))
        depth = next((t.shape[0] for t in _weights(rest, 4) if t.shape[2:] == (1, 1)), _PUBLISHED_BINS // 4)
        plans = []
        for level in (2, 1, 3):
            published = _PUBLISHED_BINS // 2**level == depth
            bins = _PUBLISHED_BINS if published else depth * 2**level
            head = _match(rest, _head_parts(level, depth))
            plans.append(({"level": level, "depth_bins": bins}, Plan(*map(operator.add, trunk, head))))
    if not plans:
        raise WeightsError(f"{path}: no network has convolutions of at most {bins} channels; this is no {kind}")
    return min(plans, key=lambda p: len(p[1].missing) + len(p[1].unexpected) + len(p[1].different))


def _match(layers: Tensors, parts: list[list[Layer]]) -> Plan:
    """A plan by the known names if they are all there, else by the layers' order and shapes.

    The parts may come in any order. At most one order fits, since no part's shapes begin like another's.
    """
    wanted = list(itertools.chain(*parts))
    named = _match_names(layers, wanted)
    if named.fits:
        return named
    have = [{leaf: t.shape for leaf, t in tensors.items()} for tensors in layers.values()]
    for ordered in itertools.permutations(parts):
        order = list(itertools.chain(*ordered))
        if have == [layer.shapes for layer in order]:
            return Plan(list(zip(order, layers.values())), [], [], [])
    return named if 2 * len(named.matched) >= len(wanted) else _align(layers, wanted)


def _match_names(layers: Tensors, wanted: Sequence[Layer]) -> Plan:
    """A plan by names, which may all have the same prefix."""
    prefix = _prefix(layers, wanted)
    found, missing, different = {}, [], []
    for layer in wanted:
        have = layers.get(prefix + layer.name, {})
        for leaf, shape in layer.shapes.items():
            name = f"{prefix}{layer.name}.{leaf}"
            if leaf not in have:
                missing.append(f"{name} {_size(shape)}")
            elif have[leaf].shape != shape:
                different.append(f"{name} has {_size(have[leaf].shape)}, not {_size(shape)}")
        if have:
            found[prefix + layer.name] = layer
    unexpected = [
        f"{_full_name(name, leaf)} {_size(tensor.shape)}"
        for name, tensors in layers.items()
        for leaf, tensor in tensors.items()
        if name not in found or leaf not in found[name].shapes
    ]
    return Plan([(layer, layers[name]) for name, layer in found.items()], missing, unexpected, different)


def _align(layers: Tensors, wanted: Sequence[Layer]) -> Plan:
    """A plan by the shapes of the layers in their order, for the complaints."""
    plan, names = Plan([], [], [], []), list(layers)
    want = [tuple(sorted(layer.shapes.items())) for layer in wanted]
    have = [tuple(sorted((leaf, t.shape) for leaf, t in tensors.items())) for tensors in layers.values()]
    for what, i, j, k, l in difflib.SequenceMatcher(None, want, have, autojunk=False).get_opcodes():
        if what == "equal":
            plan.matched.extend((wanted[a], layers[names[b]]) for a, b in zip(range(i, j), range(k, l)))
        elif j - i == l - k and all(w.shapes.keys() == layers[n].keys() for w, n in zip(wanted[i:j], names[k:l])):
            for layer, name in zip(wanted[i:j], names[k:l]):
                for leaf, shape in layer.shapes.items():
                    size = layers[name][leaf].shape
                    if size != shape:
                        plan.different.append(f"{name}.{leaf} has {_size(size)}, not {_size(shape)}")
        else:
            for layer in wanted[i:j]:
                plan.missing.extend(f"{layer.name}.{leaf} {_size(shape)}" for leaf, shape in layer.shapes.items())
            plan.unexpected.extend(_names({name: layers[name] for name in names[k:l]}))
    return plan


def _split_trunk(layers: Tensors, wanted: Sequence[Layer]) -> tuple[Plan, Tensors]:
    """The plan of the trunk without its classifiers, and the layers that belong to neither."""
    prefix = _prefix(layers, wanted)
    own = tuple(f"{prefix}{first}." for first in dict.fromkeys(layer.name.split(".")[0] for layer in wanted))
    ignored = (f"{prefix}AuxLogits.", f"{prefix}fc.")
    trunk = {name: tensors for name, tensors in layers.items() if f"{name}.".startswith(own)}
    rest = {n: t for n, t in layers.items() if n not in trunk and not f"{n}.".startswith(ignored)}
    return _match_names(trunk, wanted), rest


def _prefix(layers: Iterable[str], wanted: Sequence[Layer]) -> str:
    """The prefix of most of the wanted names, such as "module."."""
    ends = {layer.name for layer in wanted}
    found: Counter[str] = Counter()
    for name in layers:
        steps = name.split(".")
        for i in range(len(steps)):
            if ".".join(steps[i:]) in ends:
                found[".".join([*steps[:i], ""])] += 1
    return found.most_common(1)[0][0] if found else ""


def _weights(layers: Tensors, ndim: int) -> list[np.ndarray]:
    return [t["weight"] for t in layers.values() if "weight" in t and t["weight"].ndim == ndim]


def _names(layers: Tensors) -> list[str]:
    return [f"{_full_name(name, n)} {_size(t.shape)}" for name, tensors in layers.items() for n, t in tensors.items()]


def _full_name(layer: str, leaf: str) -> str:
    return f"{layer}.{leaf}" if layer else leaf


def _size(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _title(kind: str, facts: Mapping[str, Any]) -> str:
    return f"{kind} of level {facts['level']}, {facts['depth_bins']} depth bins" if "level" in facts else kind
